"""Host blocks of any size around a processor that works one hop at a time."""

from __future__ import annotations

from fractions import Fraction
from math import gcd

import numpy as np

from .processor import BaseProcessor, Processor, latency_of
from .spec import Block, LatencyBreakdown, StreamConfig


def reblock_delay(hop: int, fixed_block: int | None) -> int:
    """Return the least delay, in samples, with which blocks can be cut into hops and put together again.

    Notes
    -----
    After ``N`` input samples ``hop * floor(N / hop)`` output samples exist and ``N`` must have been given, so the delay
    is the largest ``N mod hop`` that ever occurs at the end of a block: ``hop - 1`` when blocks may have any size. With
    a fixed block ``b`` only multiples of ``gcd(b, hop)`` occur, and the largest below ``hop`` is ``hop - gcd(b, hop)``.
    """
    return hop - (gcd(fixed_block, hop) if fixed_block else 1)


class Reblock(BaseProcessor):
    """Feed `inner` exactly `hop` samples per call, whatever the host sends.

    Parameters
    ----------
    inner : Processor
        Called with blocks of `hop` frames only.
    hop : int

    Notes
    -----
    Delay: `reblock_delay`, not one sample more. A block is cut where a hop fills up. At each cut the finished hop goes
    into one of two halves of a circle, and as many samples leave as came in. Two hops are enough: when hop ``k`` is
    written, output has reached sample ``k * hop`` at least, and hop ``k - 2`` ended before it.
    """

    def __init__(self, inner: Processor, hop: int) -> None:
        self.inner = inner
        self.hop = hop
        self._delay = hop - 1
        self._fill = self._read = self._next_half = 0
        self._allocate(1)

    def _allocate(self, n_channels: int) -> None:
        self._frame: Block = np.zeros((n_channels, self.hop), np.float32)
        self._finished: Block = np.zeros((n_channels, 2 * self.hop), np.float32)
        self._halves = (self._finished[:, : self.hop], self._finished[:, self.hop :])
        self._rewind()

    def prepare(self, config: StreamConfig) -> None:
        """Prepare `inner` for blocks of one hop, and empty the buffers."""
        self.inner.prepare(StreamConfig(config.sample_rate, config.n_channels, self.hop, self.hop))
        self._delay = reblock_delay(self.hop, config.fixed_block)
        self._allocate(config.n_channels)

    @property
    def latency(self) -> LatencyBreakdown:
        """The inner latency and the delay of this adapter."""
        return latency_of(self.inner) + LatencyBreakdown(reblock=Fraction(self._delay))

    @property
    def tail_samples(self) -> int:
        """The inner tail."""
        return self.inner.tail_samples

    def process(self, x: Block, out: Block) -> None:
        """Process one block of any size."""
        n, start = x.shape[1], 0
        if n == self.hop and not self._delay:  # all blocks are whole hops, and this is one
            self.inner.process(x, out)
            return
        if n <= self.hop - self._fill:
            self._process_piece(x, out, n)
            return
        while start < n:
            stop = min(n, start + self.hop - self._fill)
            self._process_piece(x[:, start:stop], out[:, start:stop], stop - start)
            start = stop

    def _process_piece(self, x: Block, out: Block, n: int) -> None:
        """Process a block that fills the hop up at most."""
        hop, fill = self.hop, self._fill
        filled = fill + n
        self._frame[:, fill:filled] = x
        if filled == hop:
            self.inner.process(self._frame, self._halves[self._next_half])
            self._next_half ^= 1
            filled = 0
        self._fill = filled
        read, stop, end = self._read, self._read + n, 2 * hop
        if stop <= end:
            out[...] = self._finished[:, read:stop]
        else:
            first = end - read
            out[:, :first] = self._finished[:, read:]
            out[:, first:] = self._finished[:, : n - first]
        self._read = stop % end

    def reset(self) -> None:
        """Forget all audio."""
        self.inner.reset()
        self._finished.fill(0.0)
        self._rewind()

    def _rewind(self) -> None:
        self._fill = self._next_half = 0
        # The first finished hop goes to the first half, `delay` samples after the stream began.
        self._read = (-self._delay) % (2 * self.hop)
