"""``streamproc pipe``: raw samples from stdin to stdout."""

from __future__ import annotations

import sys
from enum import StrEnum
from typing import Annotated, Any, BinaryIO, cast

import typer

from ..errors import ConfigError
from . import options
from .console import ExitCode, command, complain, note
from .processing import Processing


class RawFormat(StrEnum):
    """Raw sample formats, little-endian."""

    S16 = "s16"
    S24 = "s24"
    S32 = "s32"
    F32 = "f32"


@command(
    """
    arecord -t raw -f S16_LE -r 48000 -c 1 | streamproc pipe --rate 48000 --channels 1 | aplay -t raw -f S16_LE -r 48000
    ffmpeg -i talk.mkv -f f32le -ar 48000 -ac 2 - | streamproc pipe -r 48000 -c 2 --sample-format f32 > clean.f32
    """
)
def pipe(
    rate: Annotated[
        int,
        typer.Option("--rate", "-r", min=1, max=options.LARGEST_RATE, metavar="HZ", help="Sample rate of the stream."),
    ],
    channels: Annotated[int, typer.Option("--channels", "-c", min=1, metavar="N", help="Channels, interleaved.")],
    sample_format: Annotated[
        RawFormat, typer.Option("--sample-format", "-f", help="Little-endian; s24 is packed into three bytes.")
    ] = RawFormat.S16,
    align: Annotated[
        bool,
        typer.Option(
            "--align/--no-align",
            help="Hold the first samples back until the latency has filled, so that the output lines up with the input "
            "and is as long; or begin at once with the latency as silence, as a device does.",
        ),
    ] = True,
    block: Annotated[
        int,
        typer.Option(
            "--block", "-b", min=1, max=options.LARGEST_BLOCK, metavar="N", help="Most frames that are taken at once."
        ),
    ] = 4096,
    model: options.ModelOption = None,
    attenuation_limit: options.AttenuationLimitOption = None,
    mix: options.MixOption = 1.0,
    highpass: options.HighPassOption = None,
    chain: options.ChainOption = None,
    channel_mode: options.ChannelModeOption = None,
    quiet: options.QuietOption = False,
) -> None:
    """Process raw samples from stdin to stdout as they come.

    Whatever arrives is processed and passed on at once, in pieces of any size; nothing is held back but the latency,
    which is printed on stderr. Nothing but sound goes to stdout.
    """
    for stream, name, advice in ((sys.stdin, "stdin", "pipe sound into it"), (sys.stdout, "stdout", "send it on")):
        if stream is None:
            raise ConfigError(f"{name} is closed, and raw samples go through it; {advice}")
        if stream.isatty():
            raise ConfigError(f"{name} is a terminal, and raw samples are nothing to type or read; {advice}")
    from ..engine import Engine
    from ..pipe import PipeReport, run_pipe
    from ..text import counted

    processing = Processing(model, attenuation_limit, mix, highpass, chain, channel_mode)
    engine = Engine(processing.build(), rate, channels, max_block=block)
    if not quiet:
        latency_ms = engine.latency.ms(rate)["total"]
        note(
            f"{processing} · {rate} Hz, {counted(channels, 'channel')}, {sample_format.value} · "
            f"latency {counted(engine.latency_samples, 'sample')}, {latency_ms:.1f} ms"
        )
    report = PipeReport()
    try:
        run_pipe(engine, _raw(sys.stdin), _raw(sys.stdout), sample_format.value, align, block, report)
    finally:
        if not quiet:
            statistics = engine.snapshot()
            note(
                f"{report.n_frames_in / rate:.2f} s in, {report.n_frames_out / rate:.2f} s out · "
                f"rtf {statistics.rtf:.3f} · {counted(statistics.silenced_samples, 'sample')} silenced, "
                f"{statistics.clamped_samples} clamped"
            )
    if report.trailing_bytes:
        complain(
            f"the stream ended in the middle of a frame, what was left over is not in the output "
            f"({counted(report.trailing_bytes, 'byte')}); check --channels and --sample-format",
            "warning",
        )
        raise typer.Exit(ExitCode.FAILED)


def _raw(stream: Any) -> BinaryIO:
    """Return the binary stream under a text stream, without the buffer that would wait until it is full."""
    return cast(BinaryIO, getattr(stream.buffer, "raw", stream.buffer))
