"""``streamproc inspect``: what a model file is, and proof that it runs as it did when it was made."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from ..errors import GoldenMismatch, ModelFileError
from . import options
from .console import ExitCode, command, complain, stdout

if TYPE_CHECKING:
    from ..model import FrameModel
    from ..model_processor import ModelProcessor
    from ..spec import ModelSpec
    from ..verify import Comparison


@command(
    """
    streamproc inspect denoise
    streamproc inspect my_model.onnx --verify
    streamproc inspect my_model.onnx --json | jq .latency_samples
    """
)
def inspect(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Name of a shipped model, or a model file.")],
    verify: Annotated[
        bool, typer.Option("--verify", help="Run the golden record of the file and compare, tensor by tensor.")
    ] = False,
    as_json: options.JsonOption = False,
) -> None:
    """Show what a model file is, carries and needs.

    With --verify, the recorded input that the file holds is run, and every output and the final state are compared
    with what they were when the file was made.
    """
    from ..loading import load
    from ..verify import check_golden

    try:
        processor = load(model)
    except ModelFileError as error:
        complain(error)
        # A name that means no file can be corrected; a file that is there was looked into.
        raise typer.Exit(ExitCode.FAILED if os.path.isfile(model) else ExitCode.REFUSED) from error
    comparison, problem = None, None
    if verify:
        try:
            comparison = check_golden(processor.model)
        except ModelFileError as error:  # no record, or a mismatch
            problem = error
    if as_json:
        stdout.print_json(json.dumps(_document(processor, verify, comparison, problem)), ensure_ascii=True)
    else:
        stdout.print(_overview(processor))
        if comparison is not None:
            stdout.print(_proof(comparison))
    if problem is not None:
        complain(problem, "mismatch" if isinstance(problem, GoldenMismatch) else "error")
        raise typer.Exit(ExitCode.FAILED)


def _overview(processor: ModelProcessor) -> Group:
    """Everything the file says, for people."""
    model, spec = processor.model, processor.model.spec
    title = Text.assemble((spec.name, "bold cyan"), f" {spec.version}")
    if spec.description:
        title.append(f"\n{spec.description}")
    facts = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column(overflow="fold")
    for name, value in _facts(model).items():
        facts.add_row(name, Text(value))
    parts: list[Text | Table] = [title, Text(), facts]
    if spec.states:
        parts.append(_states(spec))
    if processor.parameters:
        parts.append(_parameters(processor))
    if spec.metrics:
        parts.append(_metrics(spec.metrics))
    return Group(*parts)


def _facts(model: FrameModel) -> dict[str, str]:
    spec = model.spec

    def samples(n: int) -> str:
        return f"{n} samples, {1000 * n / spec.sample_rate:.2f} ms"

    facts = {
        "source": model.source,
        "runs in": type(model).__name__.removesuffix("Model"),
        "sample rate": f"{spec.sample_rate} Hz",
        "in and out": spec.io,
        "hop": samples(spec.hop),
        "window": samples(spec.window),
    }
    if spec.io == "spectrum":
        facts["analysis window"] = f"{samples(spec.fft_size)}, {spec.n_bins} bins, {spec.window_kind}"
    if spec.lookahead:
        facts["lookahead"] = f"{spec.lookahead} hops, {1000 * spec.lookahead * spec.hop / spec.sample_rate:.2f} ms"
    facts |= {
        "latency": f"{samples(spec.latency)} (algorithmic)",
        "frame latency": f"{samples(spec.hop + spec.latency)} (with the hop that has to be gathered)",
        "products": "8 bits, added up in float32" if spec.precision == "int8" else spec.precision,
        "channels": "any number" if spec.channels is None else "any number, each with a run of its own",
        "state": f"{spec.n_state_values:,} values per channel in {len(spec.states)} tensors",
        "licence of weights": spec.weights_licence,
        "training data": spec.training_data or "not stated",
        "golden record": "none" if model.golden is None else f"{len(model.golden.frames)} steps",
    }
    return facts


def _states(spec: ModelSpec) -> Table:
    table = Table("state", "shape per channel", "type", "starts at", box=box.SIMPLE_HEAD, pad_edge=False)
    for state in spec.states:
        table.add_row(state.name, str(list(state.shape)), state.dtype, f"{state.init:g}")
    return table


def _parameters(processor: ModelProcessor) -> Table:
    table = Table("parameter", "default", "range", "meaning", box=box.SIMPLE_HEAD, pad_edge=False)
    for name, smoothed in processor.parameters.items():
        about = smoothed.parameter
        unit = f" {about.unit}" if about.unit else ""
        # Text, not markup: units stand in brackets.
        cells = f"{about.default:g}{unit}", f"{about.minimum:g} to {about.maximum:g}{unit}", about.description
        table.add_row(name, *map(Text, cells))
    return table


def _metrics(metrics: dict[str, Any]) -> Table:
    table = Table("metric", "value", box=box.SIMPLE_HEAD, pad_edge=False)
    for name, value in metrics.items():
        text = f"{value:g}" if isinstance(value, float) else value if isinstance(value, str) else json.dumps(value)
        table.add_row(Text(name), Text(text))
    return table


def _proof(comparison: Comparison) -> Group:
    """Say what was compared, and how far it was off."""
    table = Table("tensor", "differs by", "allowed", box=box.SIMPLE_HEAD, pad_edge=False)
    for tensor in comparison.tensors.values():
        table.add_row(tensor.name, f"{tensor.error:.1e}", f"{tensor.tolerance:.1e}")
    steps = f"{comparison.n_steps} steps"
    return Group(Text(f"✓ runs as it did when it was made ({steps})", style="bold green"), table)


def _document(
    processor: ModelProcessor, verify: bool, comparison: Comparison | None, problem: ModelFileError | None
) -> dict[str, Any]:
    """Everything the file says, for programs."""
    model, spec = processor.model, processor.model.spec
    document: dict[str, Any] = {
        **asdict(spec),
        "source": model.source,
        "latency_samples": spec.latency,
        "latency_ms": 1000 * spec.latency / spec.sample_rate,
        "frame_latency_samples": spec.hop + spec.latency,
        "n_state_values": spec.n_state_values,
        "golden_steps": 0 if model.golden is None else len(model.golden.frames),
    }
    if verify:
        document["verified"] = problem is None
        document["problem"] = None if problem is None else str(problem)
        tensors = comparison.tensors.values() if comparison else ()
        document["differences"] = {tensor.name: tensor.error for tensor in tensors}
    return document
