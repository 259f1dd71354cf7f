"""Counters and histograms that cost the audio path well under a microsecond, and the one way to read them."""

from __future__ import annotations

from array import array
from dataclasses import dataclass

_SUB_BITS = 4  # sixteen bins per octave: a percentile is right to 6 %
_N_BINS = 40 << _SUB_BITS  # up to 2**40 ns, eighteen minutes


class Histogram:
    """Durations in nanoseconds in logarithmic bins that are allocated once.

    Thread: one writer. Readers on other threads see counts that are at most one record old.
    """

    def __init__(self) -> None:
        # Machine integers in place: a list would make a new object for every count above 256.
        self._counts = array("q", bytes(8 * _N_BINS))
        self.total_ns = 0
        self.max_ns = 0

    def record(self, duration_ns: int) -> None:
        """Count one duration."""
        shift = duration_ns.bit_length() - _SUB_BITS - 1
        index = duration_ns if shift <= 0 else (shift << _SUB_BITS) + (duration_ns >> shift)
        self._counts[index if index < _N_BINS else _N_BINS - 1] += 1
        self.total_ns += duration_ns
        if duration_ns > self.max_ns:
            self.max_ns = duration_ns

    @property
    def count(self) -> int:
        """Durations recorded."""
        return sum(self._counts)

    def percentile_ns(self, percent: float) -> int:
        """Return the upper edge of the bin that holds the given percentile, at most the maximum; 0 when empty."""
        wanted = self.count * percent / 100.0
        seen = 0
        for index, count in enumerate(self._counts):
            seen += count
            if count and seen >= wanted:
                return min(_upper_edge(index), self.max_ns)
        return self.max_ns

    def clear(self) -> None:
        """Forget everything recorded."""
        self._counts = array("q", bytes(8 * _N_BINS))
        self.total_ns = self.max_ns = 0


def _upper_edge(index: int) -> int:
    """Largest duration that falls into a bin."""
    # Above the linear start, a bin index is ``(shift << bits) + mantissa`` with the mantissa's top bit always set.
    shift = max(0, (index >> _SUB_BITS) - 1)
    mantissa = index - (shift << _SUB_BITS)
    return ((mantissa + 1) << shift) - 1


@dataclass(frozen=True)
class Snapshot:
    """Statistics of an engine at one moment.

    Times are processing time over audio time (rtf) except where the name ends in ``_us``.
    """

    blocks: int
    frames: int
    audio_s: float
    processing_s: float
    rtf: float
    block_p50_us: float
    block_p99_us: float
    block_max_us: float
    silenced_samples: int
    """Input samples that were not finite and were replaced by silence."""
    clamped_samples: int
    """Output samples outside [-1, 1] that were clamped."""
    recoveries: int
    """Times that the output was not finite: the block became silence and the processor was reset."""
