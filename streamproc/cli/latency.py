"""``streamproc latency``: where the latency comes from, and proof by measurement."""

from __future__ import annotations

import json
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from ..errors import ConfigError
from . import options
from .console import ExitCode, command, complain, note, stderr, stdout

if TYPE_CHECKING:
    from ..latency import HostPath, LatencyMeasurement
    from ..loopback import Loopback
    from ..spec import LatencyBreakdown

MEANING = {
    "device_in": "until a block has been recorded",
    "resample": "two filters between the rates",
    "reblock": "gathering blocks into hops",
    "algorithmic": "the model's window and lookahead",
    "queue": "time for the worker thread",
    "device_out": "blocks that wait to be played",
}

_PATH, _MODEL = "everything but the model", "with the model"

_BESIDE_BAR = 70
"""Columns of the table beside the bar."""


class ModeName(StrEnum):
    """Where the model runs."""

    WORKER = "worker"
    INLINE = "inline"


@command(
    """
    streamproc latency
    streamproc latency --model my_model.onnx --rate 44100 --block 256 --measure
    streamproc latency --loopback --input line-in --output line-out
    """
)
def latency(
    model: Annotated[
        str, typer.Option("--model", "-m", metavar="NAME|FILE", help="Shipped model or model file.")
    ] = "denoise",
    rate: Annotated[
        int,
        typer.Option("--rate", "-r", min=1, max=options.LARGEST_RATE, metavar="HZ", help="Sample rate of the stream."),
    ] = 48_000,
    block: Annotated[
        int,
        typer.Option(
            "--block",
            "-b",
            min=0,
            max=options.LARGEST_BLOCK,
            metavar="N",
            help="Frames per block; 0: no device, any size.",
        ),
    ] = 128,
    channels: Annotated[int, typer.Option("--channels", "-c", min=1, metavar="N", help="Channels.")] = 1,
    mode: Annotated[
        ModeName,
        typer.Option(
            "--mode",
            help="[cyan]worker[/cyan]: a thread computes and has a block of time for it; "
            "[cyan]inline[/cyan]: the callback computes.",
        ),
    ] = ModeName.WORKER,
    measure: Annotated[
        bool, typer.Option("--measure", help="Send a probe through the whole path and look when it comes out.")
    ] = False,
    loopback: Annotated[
        bool,
        typer.Option("--loopback", help="Play a sweep and record it: the output has to be connected to the input."),
    ] = False,
    repeats: Annotated[int, typer.Option("--repeats", min=1, metavar="N", help="Sweeps of --loopback.")] = 5,
    input_device: Annotated[
        str | None, typer.Option("--input", "-i", metavar="WORDS", help="Words that choose the input.")
    ] = None,
    output_device: Annotated[
        str | None, typer.Option("--output", "-o", metavar="WORDS", help="Words that choose the output.")
    ] = None,
    plot: Annotated[Path | None, typer.Option("--plot", metavar="PNG", help="Draw the budget.")] = None,
    as_json: options.JsonOption = False,
) -> None:
    """Show where the latency from microphone to loudspeaker comes from, part by part.

    With --measure, a sweep is sent through exactly this path with a model that changes nothing in the model's place,
    which proves everything but the model to the sample; then a voice through the model itself. With --loopback, the
    devices are measured as well, through a cable or the air between them.
    """
    from ..latency import HostPath, budget, least_device, measure_model, measure_path
    from ..loading import load
    from ..plots import require_matplotlib, require_png

    if plot is not None:
        require_png(plot)
        require_matplotlib()
    processor = load(model)
    path = HostPath(rate, block or None, channels, mode.value)
    device, looped = least_device(path), None
    remark = "device in is the least that any device needs; most keep more in stock: --loopback measures yours"
    if (loopback or input_device or output_device) and not block:
        raise ConfigError("devices have no blocks of any size: give a --block")
    if loopback:
        from ..loopback import measure_loopback

        with stderr.status("playing sweeps and listening", spinner="dots"):
            looped = measure_loopback(input_device, output_device, rate, block, repeats)
        # JACK's block is the server's, whatever was asked for.
        path, device, remark = replace(path, block=looped.block), looped.as_device(), ""
    elif input_device or output_device:
        from ..loopback import declared_latency

        names, device = declared_latency(input_device, output_device, rate)
        remark = f"device in and out are what {names} say about themselves: --loopback measures them"
    parts = budget(processor, path, device)
    measurements: dict[str, LatencyMeasurement] = {}
    if measure:
        with stderr.status("measuring", spinner="dots"):
            measurements = {_PATH: measure_path(processor, path), _MODEL: measure_model(processor, path)}
    if as_json:
        document = _document(processor.model.spec.name, path, parts, measurements)
        if looped is not None:
            document["loopback"] = looped.document()
        stdout.print_json(json.dumps(document))
    else:
        where = "mono" if channels == 1 else f"{channels} channels"
        blocks = f"blocks of {path.block}" if path.block else "blocks of any size"
        stdout.print(Text.assemble((processor.model.spec.name, "bold cyan"), f" · {rate} Hz, {where}, {blocks}"))
        stdout.print(_table(parts, rate))
        if block and remark:
            stdout.print(Text(remark, "dim"), soft_wrap=True)
        for what, found in measurements.items():
            stdout.print(_verdict(what, found))
        if looped is not None:
            stdout.print(_round_trip(looped), soft_wrap=True)
    if plot is not None:
        from ..bench.plots import save_budget

        save_budget(
            {f"{rate} Hz, block {path.block or 'any'}": parts.ms(rate)},
            plot,
            f"Latency with {processor.model.spec.name}, {mode.value}",
        )
        note(str(plot))
    if measurements and not measurements[_PATH].agrees:
        complain("measured and declared latency differ; this is a bug in streamproc, please report it")
        raise typer.Exit(ExitCode.FAILED)


def _table(parts: LatencyBreakdown, rate: int) -> Table:
    """Return the budget: each part with a bar that begins where the one before it ends."""
    from ..bench.plots import PART_COLOURS

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("part", no_wrap=True)
    for name in ("samples", "ms"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("", style="dim", no_wrap=True)
    milliseconds, begin = parts.ms(rate), 0.0
    total = max(1, parts.total)
    width = min(48, max(8, stdout.width - _BESIDE_BAR))
    for name, samples in parts.parts().items():
        if not samples:
            continue
        start, stop = (round(width * float(at) / total) for at in (begin, begin + samples))
        bar = Text(" " * start + "█" * max(1, stop - start), PART_COLOURS[name])
        table.add_row(name.replace("_", " "), f"{float(samples):.4g}", f"{milliseconds[name]:.2f}", bar, MEANING[name])
        begin += float(samples)
    table.add_section()
    table.add_row("total", str(parts.total), f"{milliseconds['total']:.2f}", "", "", style="bold")
    return table


def _verdict(what: str, found: LatencyMeasurement) -> Text:
    if not found.certain:
        words = f"the probe comes out too much altered to tell (correlation {found.correlation:.2f})"
        return Text.assemble(("? ", "yellow"), f"{what}: {words}")
    words = f"{found.samples} samples measured, {found.declared} declared (correlation {found.correlation:.3f})"
    if found.agrees:
        return Text.assemble(("✓ ", "bold green"), f"{what}: {words}")
    if what == _MODEL:
        words += "; the model itself moves or echoes sound, or its file says a wrong latency"
        return Text.assemble(("≠ ", "bold yellow"), f"{what}: {words}")
    return Text.assemble(("✗ ", "bold red"), f"{what}: {words}")


def _round_trip(looped: Loopback) -> Text:
    milliseconds = 1e3 * looped.round_trip / looped.sample_rate
    agrees = looped.difference == 0
    text = Text.assemble(
        ("✓ " if agrees else "≠ ", "bold green" if agrees else "bold yellow"),
        f"round trip through {looped.sink} and {looped.source}: {looped.round_trip} samples, {milliseconds:.2f} ms; ",
        f"jitter {looped.jitter} over {len(looped.measurements)} of {looped.n_sweeps} sweeps; ",
        f"the devices say {looped.declared} ({looped.difference:+d})",
    )
    if looped.inside_graph:
        text.append(f"\n  connected inside JACK: a program hears itself one block of {looped.block} later", "dim")
    if looped.xruns:
        text.append(f"\n  {looped.xruns} xruns meanwhile: figures may be off", "yellow")
    return text


def _document(
    name: str, path: HostPath, parts: LatencyBreakdown, measurements: dict[str, LatencyMeasurement]
) -> dict[str, Any]:
    document: dict[str, Any] = {
        "model": name,
        "sample_rate": path.sample_rate,
        "block": path.block,
        "n_channels": path.n_channels,
        "mode": path.mode if path.block else None,
        "latency_samples": {name: float(value) for name, value in parts.parts().items()} | {"total": parts.total},
        "latency_ms": parts.ms(path.sample_rate),
    }
    if measurements:
        document["measured"] = {
            what.replace(" ", "_"): {
                "samples": found.samples,
                "declared": found.declared,
                "correlation": found.correlation,
                "agrees": found.agrees,
            }
            for what, found in measurements.items()
        }
    return document
