"""``python -m export recipe``: one founding experiment from end to end."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from ..recipes import RECIPES

_LISTING = "; ".join(f"{recipe.name}: {recipe.summary}" for recipe in RECIPES.values())


def recipe(
    name: Annotated[str, typer.Argument(help=f"{_LISTING}.")],
    quick: Annotated[bool, typer.Option("--quick", help="A minute: shows that it works, gives no figures.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the results. [dim]default: runs/recipes/NAME, or NAME-quick[/dim]")
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Number of seeds. [dim]default: the recipe's own[/dim]")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume/--fresh", help="Go on from the parts that are done, or begin again.")
    ] = True,
    data: Annotated[Path | None, typer.Option(help="Folder of data, for recipes that read any.")] = None,
    minutes: Annotated[float | None, typer.Option(min=0, help="Begin no part after this time; go on later.")] = None,
    docs: Annotated[
        Path | None, typer.Option(help="Page that takes the report between <!-- report: NAME --> and <!-- /report -->.")
    ] = None,
) -> None:
    """Run a recipe: data, training, figures, a table beside the published numbers, and an exported model."""
    from streamproc.errors import ConfigError

    from ..recipes import find_recipe

    found = find_recipe(name)
    if docs and quick:
        raise ConfigError("a quick run has no figures for a page: leave out --quick or --docs")
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when the libraries below load
    import torch
    from rich.console import Console

    from ..memory import keep_freed_memory
    from ..recipes.job import RecipeJob
    from ..recipes.report import insert_report
    from ..run_folder import environment

    keep_freed_memory()
    torch.set_num_threads(1)  # a second thread costs more to wake than it gains on networks this small
    run = found.load()
    job = RecipeJob(
        name,
        out or Path("runs/recipes", f"{name}-quick" if quick else name),
        quick,
        range(seeds or (1 if quick else found.n_seeds)),
        resume,
        data,
        minutes,
        Console() if sys.stdout.isatty() else Console(width=120),
    )
    job.finish(run(job), shlex.join(["python", "-m", "export", *sys.argv[1:]]), environment())
    if docs:
        insert_report((job.out / "report.md").read_text(), name, docs)
