"""``python -m export gap``: how much better a denoiser is on recordings that it has learned from."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from ._shared import NOISE, SPEECH, Checkpoints, Models


def gap(
    model: Models = None,
    checkpoint: Checkpoints = None,
    against: Annotated[str, typer.Option(help="Peers to compare with, with commas between.")] = "gtcrn,ulunas",
    speech: Annotated[list[Path], typer.Option(help="Speech of the training; may be given again.")] = SPEECH,
    noise: Annotated[list[Path], typer.Option(help="Noise of the training; may be given again.")] = NOISE,
    val: Annotated[Path, typer.Option(help="Folder with speech and noise never trained on.")] = Path(
        "../shared/data/val"
    ),
    cache: Annotated[Path, typer.Option(help="Where decoded sound is kept.")] = Path("cache"),
    n: Annotated[int, typer.Option("--n", min=2, help="Mixtures of each of the four kinds.")] = 60,
    seconds: Annotated[float, typer.Option(min=1, help="Length of each.")] = 4.0,
    speech_source: Annotated[
        str | None, typer.Option(help="Collection that talkers are drawn from, heard and new; as in index.csv.")
    ] = None,
    noise_source: Annotated[
        str | None, typer.Option(help="Collection that noises are drawn from: heard and new ones of the same kinds.")
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Processes.")] = min(2, os.cpu_count() or 1),
) -> None:
    """Compare with peers on heard and new talkers, heard and new noises: a lead that shrinks was learned by heart."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when the libraries below load, here and in the workers

    from rich.console import Console
    from rich.progress import track

    from streamproc.errors import ConfigError
    from streamproc.sidecar import shipped_models

    from ..evaluate.gap import CELLS, HEARD, NEW, DrawnMixtures, tables
    from ..evaluate.runner import measure_all
    from ..evaluate.statistics import Results
    from ..evaluate.systems import candidates, peers

    console = Console() if sys.stdout.isatty() else Console(width=120)
    ours = candidates(model or ([] if checkpoint else sorted(shipped_models())), checkpoint or [])
    theirs = peers(name for name in against.split(",") if name)
    if not theirs:
        raise ConfigError("--against is empty; without a peer nobody knows which mixtures are hard")
    talkers_of = {HEARD: tuple(speech), NEW: (val / "speech",)}
    noises_of = {HEARD: tuple(noise), NEW: (val / "noise",)}
    try:
        drawn = {
            (talkers, noises): DrawnMixtures(
                n, talkers_of[talkers], noises_of[noises], cache, seconds, speech_source, noise_source
            )
            for talkers, noises in CELLS
        }
    except FileNotFoundError as error:
        raise ConfigError(f"{error}; --speech, --noise and --val say where the recordings are") from error
    except ValueError as error:
        raise ConfigError(str(error)) from error
    cells = {}
    for (talkers, noises), mixtures in drawn.items():
        outcomes = measure_all([*ours, *theirs], mixtures, False, None, jobs)
        cells[talkers, noises] = Results(
            list(track(outcomes, f"talkers {talkers}, noises {noises}", n, console=console))
        )
    for table in tables(cells, [request.name for request in ours], [request.name for request in theirs]):
        console.print(table.rich())
