"""``python -m export train``: train a denoiser on folders of sound."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from ._shared import NOISE, ROOMS, SPEECH, VAL_NOISE, VAL_SPEECH


def train(
    name: Annotated[str, typer.Option(help="Folder of the run below --runs; an old run of this name goes on.")],
    minutes: Annotated[float | None, typer.Option(help="Training time over all sessions.")] = None,
    steps: Annotated[int | None, typer.Option(help="Or: number of steps (reproducible to the bit).")] = None,
    speech: Annotated[list[Path], typer.Option(help="Folder of clean speech; may be given again.")] = SPEECH,
    noise: Annotated[list[Path], typer.Option(help="Folder of noise; may be given again.")] = NOISE,
    rooms: Annotated[
        Path | None,
        typer.Option(help=f"Folder of measured room responses. [dim]default: {ROOMS}, where it is there[/dim]"),
    ] = None,
    val_speech: Annotated[
        Path | None, typer.Option(help=f"Speech never trained on. [dim]default: {VAL_SPEECH}, where it is there[/dim]")
    ] = None,
    val_noise: Annotated[
        Path | None, typer.Option(help=f"Noise never trained on. [dim]default: {VAL_NOISE}, where it is there[/dim]")
    ] = None,
    cache: Annotated[Path, typer.Option(help="Where decoded sound is kept.")] = Path("cache"),
    runs: Annotated[Path, typer.Option(help="Where runs are kept.")] = Path("runs"),
    model: Annotated[str, typer.Option(help="denoise (answers after 10.7 ms) or denoise-hq (21.3 ms).")] = "denoise",
    core: Annotated[
        Literal["gru", "lstm", "sfm", "asfm"],
        typer.Option(help="What recurs: gated layers, or state-frequency memories of fixed or adaptive frequencies."),
    ] = "gru",
    model_config: Annotated[str, typer.Option(help="Fields of the model's configuration to change, as JSON.")] = "{}",
    loss: Annotated[str, typer.Option(help="Fields of the loss to change, as JSON.")] = "{}",
    start: Annotated[
        Path | None,
        typer.Option(help="Checkpoint to begin from, larger or smaller; what it lacks starts silent.", dir_okay=False),
    ] = None,
    teacher: Annotated[
        Path | None, typer.Option(help="Checkpoint whose output is a second target.", dir_okay=False)
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Items per step.")] = 16,
    seconds: Annotated[float, typer.Option(help="Length of an item.")] = 8.0,
    lr: Annotated[float, typer.Option(help="Peak learning rate.")] = 1.5e-3,
    optimiser: Annotated[
        Literal["adamw", "soap"], typer.Option(help="soap gets on faster from --start, and more slowly without it.")
    ] = "adamw",
    ema: Annotated[
        float, typer.Option(help="Decay of the averaged weights; 0.998 for a stage of 3,000 steps.", min=0.0, max=1.0)
    ] = 0.999,
    seed: Annotated[
        int | None, typer.Option(help="Of weights and mixtures; unless given 1, or one more than that of --start.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Threads, one core each; 1 on cuda.")] = 2,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    fresh: Annotated[bool, typer.Option("--fresh", help="Begin again instead of going on.")] = False,
) -> None:
    """Train a denoiser; stop with Ctrl-C and go on with the same command."""
    from ..data.mix_config import MixConfig
    from ..losses import LossConfig
    from ..models import DENOISERS
    from ..train import TrainConfig, fresh_seed
    from ..train import train as run_training

    if model not in DENOISERS:
        raise typer.BadParameter(f"{model!r} is unknown; known are {', '.join(DENOISERS)}", param_hint="--model")
    try:
        (measured,) = _where_there("rooms are simulated ones alone", ("--rooms", rooms, ROOMS))
        never_heard = _where_there(
            "nothing is validated", ("--val-speech", val_speech, VAL_SPEECH), ("--val-noise", val_noise, VAL_NOISE)
        )
        config = TrainConfig(
            name=name, minutes=minutes, steps=steps, speech=tuple(map(str, speech)), noise=tuple(map(str, noise)),
            rooms=measured, val_speech=never_heard[0], val_noise=never_heard[1], cache_dir=str(cache),
            runs_dir=str(runs),
            model_config={**asdict(DENOISERS[model]), "core": core, **json.loads(model_config)},
            start=str(start or ""), teacher=str(teacher or ""), mix=MixConfig(seconds=seconds),
            loss=LossConfig(**json.loads(loss)), batch=batch, lr=lr, optimiser=optimiser, ema=ema,
            seed=fresh_seed(start) if seed is None else seed, workers=workers, device=device,
        )  # fmt: skip
        run_training(config, resume=not fresh, report=lambda line: typer.echo(line))
    except (TypeError, ValueError, OSError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error


def _where_there(without: str, *options: tuple[str, Path | None, Path]) -> list[str]:
    """Return folders that training can do without: all of them, or empty names where one is missing.

    Parameters
    ----------
    without : str
        What becomes of a run that lacks them.
    *options : (str, Path or None, Path)
        Name of an option, what was given to it, and its default. What one was given for has to be there, and so has
        whatever it needs beside it.
    """
    folders = {option: default if given is None else given for option, given, default in options}
    missing = [option for option, folder in folders.items() if not folder.is_dir()]
    if not missing:
        return [str(folder) for folder in folders.values()]
    asked_for = [option for option, given, _ in options if given is not None]
    first = next((option for option in missing if option in asked_for), missing[0])
    if asked_for:
        raise ValueError(
            f"{first}: {folders[first]} is not a folder; give a folder of sound files, "
            f"or leave out {' and '.join(asked_for)}"
        )
    typer.echo(f"note: {folders[first]} is not there ({first} takes another folder): {without}", err=True)
    return [""] * len(folders)
