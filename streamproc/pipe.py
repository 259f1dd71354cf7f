"""Raw samples from one stream to another, as they come."""

from __future__ import annotations

import select
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from .engine import Engine
from .offline import aligned
from .pcm import SampleFormat, bytes_per_sample, decode, encode
from .spec import Block

LARGEST_READ = 4096
"""Frames taken at once where more are waiting. What is there is taken at once, however little it is."""


class Source(Protocol):
    """Where bytes come from: an unbuffered binary stream, whose `read` returns what is there."""

    def read(self, size: int, /) -> bytes | None:
        """Return at most `size` bytes, at least one unless the stream has ended; None where none are ready yet."""

    def fileno(self) -> int:
        """Return the descriptor to wait for; asked only after a None."""


class Sink(Protocol):
    """Where bytes go."""

    def write(self, data: memoryview, /) -> int | None:
        """Take some of `data` and return how many bytes; None where none can be taken yet."""

    def fileno(self) -> int:
        """Return the descriptor to wait for; asked only after a None."""


@dataclass
class PipeReport:
    """What went through a pipe."""

    n_frames_in: int = 0
    n_frames_out: int = 0
    trailing_bytes: int = 0
    """Bytes after the last whole frame, which were left out."""


def run_pipe(
    engine: Engine,
    source: Source,
    sink: Sink,
    sample_format: SampleFormat = "s16",
    align: bool = True,
    largest_read: int = LARGEST_READ,
    report: PipeReport | None = None,
) -> PipeReport:
    """Process raw samples until the source ends.

    Parameters
    ----------
    engine : Engine
        Its rate and channels describe the samples.
    source, sink : unbuffered binary streams
        Every piece that arrives is processed and passed on before the next is waited for, so nothing is held back but
        the latency of the processor.
    sample_format : SampleFormat
    align : bool
        True: the output lines up with the input and is as long, as for files; the first samples are held back until
        the latency has filled, and come out when the source ends. False: as on a device, the output begins at once with
        `latency_samples` frames of silence, and what is inside when the source ends stays there.
    largest_read : int
        Most frames per piece; smaller pieces mean less delay where a lot is waiting, and more work.
    report : PipeReport, optional
        Filled in while the pipe runs, for those who look at it after an interruption.

    Returns
    -------
    PipeReport

    Raises
    ------
    BrokenPipeError
        If whoever reads the output has gone.
    """
    report = report or PipeReport()
    blocks = _read_blocks(source, engine.config.n_channels, sample_format, largest_read, report)
    processed = aligned(engine, blocks) if align else map(engine.process, blocks)
    for block in processed:
        _write_all(sink, encode(block, sample_format))
        report.n_frames_out += block.shape[1]
    return report


def _read_blocks(
    source: Source, n_channels: int, sample_format: SampleFormat, largest_read: int, report: PipeReport
) -> Iterator[Block]:
    """Yield what arrives as blocks of whole frames."""
    frame_bytes = bytes_per_sample(sample_format) * n_channels
    pending = bytearray()
    while True:
        data = source.read(largest_read * frame_bytes - len(pending))
        if data is None:
            select.select([source], [], [])
            continue
        if not data:
            break
        pending += data
        whole = len(pending) - len(pending) % frame_bytes
        if whole:
            block = decode(bytes(pending[:whole]), sample_format, n_channels)
            del pending[:whole]
            report.n_frames_in += block.shape[1]
            yield block
    report.trailing_bytes = len(pending)


def _write_all(sink: Sink, data: bytes) -> None:
    """Write everything, however little the other side takes at a time."""
    view = memoryview(data)
    while view:
        n_written = sink.write(view)
        if n_written is None:
            select.select([], [sink], [])
        else:
            view = view[n_written:]
