"""Delay by a whole number of samples."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import ConfigError
from ..processor import BaseProcessor
from ..spec import Block, LatencyBreakdown, StreamConfig


class DelayLine:
    """The recent past of a signal, always in one piece.

    Parameters
    ----------
    n_channels : int
    delay : int
        Samples of the past that are kept; may be 0.
    max_block : int
        Largest block that `push` will be given.
    dtype : numpy dtype
        float32 unless given.

    Notes
    -----
    A ring that never wraps: blocks are written one after another into ``2 * delay + max_block`` samples, and when the
    next one would not fit, the last `delay` samples move to the front. What `push` returns is therefore a plain view,
    and nothing is copied to read the past. At least `delay` samples are written between two moves, so a sample moves
    once at most, and source and target of a move never overlap.
    """

    def __init__(self, n_channels: int, delay: int, max_block: int, dtype: npt.DTypeLike = np.float32) -> None:
        self.delay = delay
        self._samples: npt.NDArray[Any] = np.zeros((n_channels, 2 * delay + max_block), dtype)
        self._end = delay

    def push(self, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Store a block and return it together with what came before.

        Parameters
        ----------
        x : [channels, n]
            Copied, so that it may be overwritten afterwards.

        Returns
        -------
        view [channels, delay + n]
            The last `delay` samples before the block, then the block; its first `n` samples are the delayed block.
            Valid until the next call.
        """
        n = x.shape[1]
        if self._end + n > self._samples.shape[1]:
            for channel in self._samples:
                channel[: self.delay] = channel[self._end - self.delay : self._end]
            self._end = self.delay
        start, self._end = self._end, self._end + n
        self._samples[:, start : self._end] = x
        return self._samples[:, start - self.delay : self._end]

    def reset(self) -> None:
        """Forget the past: it was silent."""
        self._samples.fill(0)
        self._end = self.delay


class Delay(BaseProcessor):
    """Delay a signal and declare it as latency: aligns parallel paths, and stands in for slower processors in tests.

    Parameters
    ----------
    delay : int
        Samples at the host rate, at least 0.

    Raises
    ------
    ConfigError
        If `delay` is negative or not whole.
    """

    def __init__(self, delay: int) -> None:
        if not isinstance(delay, int) or delay < 0:
            raise ConfigError(f"delay must be a whole number of samples, at least 0, found {delay!r}")
        self.delay = delay
        self._line = DelayLine(1, delay, 1)

    def prepare(self, config: StreamConfig) -> None:
        """Allocate the line."""
        self._line = DelayLine(config.n_channels, self.delay, config.max_block)

    @property
    def latency(self) -> LatencyBreakdown:
        """`delay`, all of it algorithmic."""
        return LatencyBreakdown(algorithmic=Fraction(self.delay))

    def process(self, x: Block, out: Block) -> None:
        """Delay one block."""
        np.copyto(out, self._line.push(x)[:, : x.shape[1]])

    def reset(self) -> None:
        """Forget all audio."""
        self._line.reset()
