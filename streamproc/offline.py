"""Files through the same processor as live sound, lined up with the input and in constant memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np

from .engine import Engine
from .errors import AudioFileError, EngineError, StreamprocError
from .guard import Guard
from .levels import LevelMeter
from .processor import Processor
from .spec import Block, LatencyBreakdown
from .stats import Snapshot

BLOCK = 8192
"""Frames per block: large enough for Python not to matter, small enough for Ctrl-C and progress to be prompt."""


def aligned(engine: Engine, blocks: Iterable[Block]) -> Iterator[Block]:
    """Process a stream and take its latency out: what comes out lines up with what went in, and is as long.

    Parameters
    ----------
    engine : Engine
        Fresh or reset.
    blocks : iterable of float32 [channels, n]

    Yields
    ------
    float32 [channels, n]
        Empty while the latency fills.

    Notes
    -----
    The first `latency_samples` of output describe time before the stream began and are dropped; as many zeros follow
    the end of the input, to bring out what is still inside.
    """
    latency = to_drop = engine.latency_samples
    for x in blocks:
        y = engine.process(x)
        dropped = min(to_drop, y.shape[1])
        to_drop -= dropped
        yield y[:, dropped:]
    for start in range(0, latency, BLOCK):
        y = engine.process(np.zeros((engine.config.n_channels, min(BLOCK, latency - start)), np.float32))
        dropped = min(to_drop, y.shape[1])
        to_drop -= dropped
        yield y[:, dropped:]


@dataclass(frozen=True)
class FileReport:
    """What was done to one file.

    Levels are in dB relative to full scale, see `streamproc.levels.LevelMeter`.
    """

    source: Path
    target: Path
    sample_rate: int
    n_channels: int
    n_frames: int
    latency: LatencyBreakdown
    """Already taken out of the file."""
    wall_s: float
    """Time from opening the source to the finished target."""
    statistics: Snapshot
    level_in_db: float
    level_out_db: float
    floor_in_db: float
    floor_out_db: float

    @property
    def seconds(self) -> float:
        """Length of the sound."""
        return self.n_frames / self.sample_rate

    @property
    def speed(self) -> float:
        """Seconds of sound per second of time, reading and writing included."""
        return self.seconds / self.wall_s

    @property
    def rtf_p99(self) -> float:
        """Processing time over audio time of all but the slowest hundredth of the blocks."""
        return self.statistics.block_p99_us * 1e-6 * self.sample_rate / BLOCK

    @property
    def noise_removed_db(self) -> float:
        """How far the noise floor fell: the level of the quiet moments before, minus the same after."""
        return self.floor_in_db - self.floor_out_db


def process_file(
    source: Path,
    target: Path,
    processor: Processor,
    progress: Callable[[float], None] | None = None,
) -> FileReport:
    """Process one sound file.

    Parameters
    ----------
    source : Path
        Whatever libsndfile reads.
    target : Path
        Written as its extension says, under a temporary name until it is complete; an older file is replaced then.
    processor : Processor
        Prepared here for the rate and channels of the file.
    progress : callable, optional
        Called after every block with the share of the file that is done, 0 to 1. What it raises ends the work and
        leaves nothing behind.

    Returns
    -------
    FileReport

    Raises
    ------
    AudioFileError
        If the source cannot be read to its end, or the target cannot be written.
    EngineError
        If the processor fails.

    Notes
    -----
    The target has exactly as many frames as the source, in the same places. Samples that are not finite count as
    silence, and what the processor drives beyond full scale is clamped; the report counts both.
    """
    from .audio_files import AudioReader, create

    started = perf_counter()
    if target.exists() and source.exists() and target.samefile(source):
        raise AudioFileError(f"{source} would be written onto itself; choose another name for the output")
    with AudioReader(source) as reader:
        info = reader.info
        engine = Engine(processor, info.sample_rate, info.n_channels, max_block=BLOCK)
        guard = Guard(info.n_channels, BLOCK)  # as the engine has one, for the meter of what goes in
        level_in, level_out = LevelMeter(info.sample_rate), LevelMeter(info.sample_rate)

        def read() -> Iterator[Block]:
            for x in reader.blocks(BLOCK):
                level_in.update(guard.clean(x))
                yield x

        with create(target, info) as writer:
            for y in _guarded(aligned(engine, read())):
                writer.write(y)
                level_out.update(y)
                if progress is not None:
                    progress(min(1.0, writer.n_frames / max(1, info.n_frames)))
    return FileReport(
        source=source,
        target=target,
        sample_rate=info.sample_rate,
        n_channels=info.n_channels,
        n_frames=writer.n_frames,
        latency=engine.latency,
        wall_s=perf_counter() - started,
        statistics=engine.snapshot(),
        level_in_db=level_in.mean_db,
        level_out_db=level_out.mean_db,
        floor_in_db=level_in.floor_db,
        floor_out_db=level_out.floor_db,
    )


def _guarded(blocks: Iterator[Block]) -> Iterator[Block]:
    """Name the processor as the culprit where it fails in a way of its own."""
    try:
        yield from blocks
    except (StreamprocError, OSError, MemoryError):
        raise
    except Exception as error:
        raise EngineError(f"the processor failed: {type(error).__name__}: {error}") from error
