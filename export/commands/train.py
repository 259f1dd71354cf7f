"""``python -m export train``: train a denoiser on folders of sound."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from ._shared import NOISE, SPEECH


def train(
    name: Annotated[str, typer.Option(help="Folder of the run below --runs; an old run of this name goes on.")],
    minutes: Annotated[float | None, typer.Option(help="Training time over all sessions.")] = None,
    steps: Annotated[int | None, typer.Option(help="Or: number of steps (reproducible to the bit).")] = None,
    speech: Annotated[list[Path], typer.Option(help="Folder of clean speech; may be given again.")] = SPEECH,
    noise: Annotated[list[Path], typer.Option(help="Folder of noise; may be given again.")] = NOISE,
    rooms: Annotated[Path, typer.Option(help="Folder of measured room responses.")] = Path("../shared/data/rir"),
    val_speech: Annotated[Path, typer.Option(help="Speech never trained on.")] = Path("../shared/data/val/speech"),
    val_noise: Annotated[Path, typer.Option(help="Noise never trained on.")] = Path("../shared/data/val/noise"),
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
        Path | None, typer.Option(help="Checkpoint to begin from; what it lacks starts silent.", dir_okay=False)
    ] = None,
    teacher: Annotated[
        Path | None, typer.Option(help="Checkpoint whose output is a second target.", dir_okay=False)
    ] = None,
    batch: Annotated[int, typer.Option(min=1)] = 24,
    seconds: Annotated[float, typer.Option(help="Length of an item.")] = 3.0,
    lr: Annotated[float, typer.Option(help="Peak learning rate.")] = 1.5e-3,
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
    from ..data.mixing import MixConfig
    from ..losses import LossConfig
    from ..models import DENOISERS
    from ..train import TrainConfig, fresh_seed
    from ..train import train as run_training

    if model not in DENOISERS:
        raise typer.BadParameter(f"{model!r} is unknown; known are {', '.join(DENOISERS)}", param_hint="--model")
    try:
        config = TrainConfig(
            name=name, minutes=minutes, steps=steps, speech=tuple(map(str, speech)), noise=tuple(map(str, noise)),
            rooms=str(rooms) if rooms.is_dir() else "", val_speech=str(val_speech) if val_speech.is_dir() else "",
            val_noise=str(val_noise), cache_dir=str(cache), runs_dir=str(runs),
            model_config={**asdict(DENOISERS[model]), "core": core, **json.loads(model_config)},
            start=str(start or ""), teacher=str(teacher or ""), mix=MixConfig(seconds=seconds),
            loss=LossConfig(**json.loads(loss)), batch=batch, lr=lr, ema=ema,
            seed=fresh_seed(start) if seed is None else seed, workers=workers, device=device,
        )  # fmt: skip
        run_training(config, resume=not fresh, report=lambda line: typer.echo(line))
    except (TypeError, ValueError, FileNotFoundError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error
