"""What the export commands have in common: their arguments, and what they print."""

from __future__ import annotations

import json
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from streamproc.verify import Comparison

    from ..model_file import StepModule

SPEECH = [Path("../shared/data/train/speech")]
NOISE = [Path("../shared/data/train/noise")]
"""What is trained on unless said otherwise."""
ROOMS = Path("../shared/data/rir")
VAL_SPEECH = Path("../shared/data/val/speech")
VAL_NOISE = Path("../shared/data/val/noise")
"""What training uses where it is there."""

Target = Annotated[str, typer.Argument(help="A model of this project (denoise), or package.module:callable.")]
Checkpoint = Annotated[Path | None, typer.Option(help="Trained weights; without them the model is untrained.")]
Models = Annotated[
    list[str] | None,
    typer.Option(help="Name or file of a model, as often as needed. [dim]default: all that ship[/dim]"),
]
Checkpoints = Annotated[
    list[Path] | None, typer.Option(help="Weights from training (runs/NAME/ema.pt); may be given more than once.")
]
Io = Annotated[
    Literal["as-is", "waveform"],
    typer.Option(help="waveform puts analysis and synthesis of a spectrum model into the file."),
]
Steps = Annotated[int, typer.Option(min=500, help="Steps of the parity check.")]
ModelVersion = Annotated[str | None, typer.Option(help="Version of the model, written into the file.")]
TrainingData = Annotated[str | None, typer.Option(help="What it was trained on, written into the file.")]
Metrics = Annotated[
    Path | None,
    typer.Option(
        help="Measured figures, written into the file: any JSON, or an evaluation.json that holds this model "
        "(under the name of the checkpoint's run, or its own)."
    ),
]

Weights = Annotated[
    Literal["float32", "float16", "int8"],
    typer.Option(
        help="float16: rounded and stored in 16 bits, half the ONNX file, the same speed. "
        "int8: rounded, stored and multiplied in 8 bits, a quarter and faster; ONNX only."
    ),
]


def load_module(
    target: str,
    checkpoint: Path | None,
    io: str = "as-is",
    version: str | None = None,
    training_data: str | None = None,
    metrics: Path | None = None,
    weights: str = "float32",
) -> StepModule:
    """Make the module that the arguments describe."""
    from streamproc.errors import ConfigError

    from ..eight_bit import round_to_8_bits
    from ..evaluate.report import is_record, model_metrics
    from ..half import round_weights
    from ..models import training_record
    from ..target import SHIPPED, load_target
    from ..waveform import WaveformModel

    try:
        figures = json.loads(metrics.read_text()) if metrics else None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{metrics}: not a JSON file that can be read ({error})") from error
    if is_record(figures):
        run = checkpoint.absolute().parent.name if checkpoint else target
        figures = model_metrics(figures, run if run in figures["summary"] else target)
        if checkpoint:
            figures["training"] = training_record(checkpoint)
    if target in SHIPPED and checkpoint is None:
        typer.secho("warning: no --checkpoint, the weights are untrained", fg="yellow", err=True)
    given: dict[str, Any] = {"version": version, "training_data": training_data, "metrics": figures}
    module = load_target(target, checkpoint, **{name: value for name, value in given.items() if value is not None})
    if weights == "float16":
        round_weights(module)
    elif weights == "int8":
        round_to_8_bits(module)
    return WaveformModel(module).eval() if io == "waveform" else module


@contextmanager
def warnings_as_lines() -> Iterator[None]:
    """Print what is warned of inside in one line each: there is a user, and no programmer."""
    with warnings.catch_warnings(record=True) as caught:
        try:
            yield
        finally:
            for found in caught:
                where = f"{Path(found.filename).name}, line {found.lineno}"
                typer.secho(f"warning: {where}: {found.message}", fg="yellow", err=True)


def export_and_report(
    export: Callable[[StepModule, Path, int], dict[str, Comparison]], module: StepModule, out: Path, steps: int
) -> None:
    """Export, print the proof, and say what was written."""
    from rich.console import Console
    from rich.text import Text

    from ..verify import print_table

    console = Console()
    # Text, not markup: names may hold brackets.
    with warnings_as_lines(), console.status(Text(f"exporting {module.spec.name} and proving {steps} steps")):
        comparisons = export(module, out, steps)
    print_table(comparisons, console)
    spec = module.spec
    frame_latency_ms = 1000 * (spec.hop + spec.latency) / spec.sample_rate
    figures = (
        f" ({out.stat().st_size / 1e6:.2f} MB): {spec.name} {spec.version}, {spec.io}, {spec.sample_rate} Hz, "
        f"hop {spec.hop}, frame latency {frame_latency_ms:.1f} ms"
    )
    console.print(Text.assemble("wrote ", (str(out), "bold"), figures))
