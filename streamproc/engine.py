"""The engine: runs a processor on a stream of blocks, keeps bad samples out and counts what happens.

Everything that moves audio - files, pipes, devices - drives a processor through this one class.
"""

from __future__ import annotations

from time import perf_counter_ns

import numpy as np

from .errors import ConfigError
from .guard import Guard
from .processor import Processor, latency_of
from .spec import Block, LatencyBreakdown, StreamConfig, positive_integer
from .stats import Histogram, Snapshot

_FLOAT32 = np.dtype(np.float32)


class Engine:
    """A processor prepared for one stream, guarded and measured.

    Parameters
    ----------
    processor : Processor
        Owned by the engine from here on.
    sample_rate : int
        Rate of the stream in Hz.
    n_channels : int
    fixed_block : int, optional
        Promise that every block has this many frames, in exchange for less latency.
    max_block : int
        Larger blocks are worked off in pieces of this size; without effect on the sound.

    Examples
    --------
    >>> engine = streamproc.Engine(streamproc.load("denoise"), sample_rate=48000)
    >>> while (block := microphone.read()).size:  # float32 [1, n], any n
    ...     speaker.write(engine.process(block))
    """

    def __init__(
        self,
        processor: Processor,
        sample_rate: int,
        n_channels: int = 1,
        fixed_block: int | None = None,
        max_block: int = 8192,
    ) -> None:
        self.processor = processor
        if fixed_block is not None:
            fixed_block = positive_integer("fixed_block", fixed_block)
            max_block = max(positive_integer("max_block", max_block), fixed_block)
        self.config = StreamConfig(sample_rate, n_channels, max_block, fixed_block)
        processor.prepare(self.config)
        self._guard = Guard(n_channels, self.config.max_block)
        self._times = Histogram()
        self._blocks = self._frames = 0
        self._recoveries = 0
        self._usual_shape: tuple[int, ...] | None = None  # of blocks that need not be looked at again

    @property
    def latency(self) -> LatencyBreakdown:
        """Latency by parts, in samples at the stream's rate."""
        return latency_of(self.processor)

    @property
    def latency_samples(self) -> int:
        """``out[:, t]`` describes ``x[:, t - latency_samples]``."""
        return self.processor.latency_samples

    def process(self, x: Block, out: Block | None = None) -> Block:
        """Process one block. Thread: audio or worker.

        Parameters
        ----------
        x : float32 [channels, n]
            Nominal range [-1, 1], any ``n >= 0``, or exactly `fixed_block` where that was promised.
            Samples that are not finite count as silence.
        out : float32 [channels, n], optional
            Filled entirely, and clamped to [-1, 1]. May be `x`. A new array where it is left out.

        Returns
        -------
        float32 [channels, n]
            `out`.

        Raises
        ------
        ConfigError
            If a block has the wrong type, shape or size.
        """
        if out is None:
            out = np.empty_like(x)
        if not (
            type(x) is type(out) is np.ndarray
            and x.shape == out.shape == self._usual_shape
            and x.dtype is out.dtype is _FLOAT32
        ):
            self._check(x, out)
            if x.shape[1] > self.config.max_block:
                self._process_pieces(x, out)
                return out
            self._usual_shape = x.shape
        self._process_piece(x, out)
        return out

    def _process_pieces(self, x: Block, out: Block) -> None:
        n, limit = x.shape[1], self.config.max_block
        for start in range(0, n, limit):
            self._process_piece(x[:, start : start + limit], out[:, start : start + limit])

    def _process_piece(self, x: Block, out: Block) -> None:
        started = perf_counter_ns()
        self.processor.process(self._guard.clean(x), out)
        if not self._guard.clamp(out):
            out.fill(0.0)
            self.processor.reset()
            self._recoveries += 1
        self._blocks += 1
        self._frames += x.shape[1]
        self._times.record(perf_counter_ns() - started)

    def _check(self, x: Block, out: Block) -> None:
        config = self.config
        for name, block in (("x", x), ("out", out)):
            if not isinstance(block, np.ndarray) or block.dtype != np.float32:
                kind = getattr(block, "dtype", type(block).__name__)
                raise ConfigError(
                    f"{name} must be a float32 array in [-1, 1], found {kind}; scale integers to +-1 first"
                )
            if block.ndim != 2 or block.shape[0] != config.n_channels:
                raise ConfigError(
                    f"{name} must have the shape [channels, frames] with {config.n_channels} channels, "
                    f"found {list(block.shape)}"
                )
        if x.shape != out.shape:
            raise ConfigError(f"out must have the shape of x, {list(x.shape)}, found {list(out.shape)}")
        if config.fixed_block is not None and x.shape[1] != config.fixed_block:
            raise ConfigError(
                f"this stream was promised blocks of exactly {config.fixed_block} frames, found {x.shape[1]}; "
                "leave fixed_block out to send blocks of any size"
            )

    def reset(self) -> None:
        """Forget all audio; parameters and statistics stay."""
        self.processor.reset()

    def snapshot(self) -> Snapshot:
        """Return the statistics so far. Thread: any."""
        times = self._times
        audio_s = self._frames / self.config.sample_rate
        processing_s = times.total_ns / 1e9
        return Snapshot(
            blocks=self._blocks,
            frames=self._frames,
            audio_s=audio_s,
            processing_s=processing_s,
            rtf=processing_s / audio_s if audio_s else 0.0,
            block_p50_us=times.percentile_ns(50) / 1e3,
            block_p99_us=times.percentile_ns(99) / 1e3,
            block_max_us=times.max_ns / 1e3,
            silenced_samples=self._guard.silenced,
            clamped_samples=self._guard.clamped,
            recoveries=self._recoveries,
        )

    def clear_statistics(self) -> None:
        """Start counting anew; audio and state are not touched."""
        self._times.clear()
        self._blocks = self._frames = self._recoveries = 0
        self._guard.clear_statistics()
