"""Host blocks of any size around a processor that works one hop at a time."""

from __future__ import annotations

from fractions import Fraction
from math import gcd

import numpy as np
import numpy.typing as npt

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
    into one of two slots, and as many samples leave as came in. Two slots are enough: when hop ``k`` is written, output
    has reached sample ``k * hop`` at least, and hop ``k - 2`` ended before it.
    """

    def __init__(self, inner: Processor, hop: int) -> None:
        self.inner = inner
        self.hop = hop
        self._delay = hop - 1
        self._fill = 0
        self._read = 0
        self._frame: Block = np.zeros((1, hop), np.float32)
        self._slots: npt.NDArray[np.float32] = np.zeros((2, 1, hop), np.float32)
        self._next_slot = 0

    def prepare(self, config: StreamConfig) -> None:
        """Prepare `inner` for blocks of one hop, and empty the buffers."""
        self.inner.prepare(StreamConfig(config.sample_rate, config.n_channels, self.hop, self.hop))
        self._delay = reblock_delay(self.hop, config.fixed_block)
        self._frame = np.zeros((config.n_channels, self.hop), np.float32)
        self._slots = np.zeros((2, config.n_channels, self.hop), np.float32)
        self._rewind()

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
        hop, n, start = self.hop, x.shape[1], 0
        while start < n:
            stop = min(n, start + hop - self._fill)
            count = stop - start
            self._frame[:, self._fill : self._fill + count] = x[:, start:stop]
            self._fill += count
            if self._fill == hop:
                self.inner.process(self._frame, self._slots[self._next_slot])
                self._next_slot ^= 1
                self._fill = 0
            self._read_into(out[:, start:stop], count)
            start = stop

    def _read_into(self, out: Block, count: int) -> None:
        """Copy the next `count` finished samples; the two slots are read as one circle of two hops."""
        hop = self.hop
        slot, offset = divmod(self._read, hop)
        first = min(count, hop - offset)
        out[:, :first] = self._slots[slot, :, offset : offset + first]
        if first < count:
            out[:, first:] = self._slots[slot ^ 1, :, : count - first]
        self._read = (self._read + count) % (2 * hop)

    def reset(self) -> None:
        """Forget all audio."""
        self.inner.reset()
        self._slots.fill(0.0)
        self._rewind()

    def _rewind(self) -> None:
        self._fill = self._next_slot = 0
        # The first finished hop goes to slot 0, `delay` samples after the stream began.
        self._read = (-self._delay) % (2 * self.hop)
