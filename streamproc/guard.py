"""What keeps bad samples out of a stream, and counts them."""

from __future__ import annotations

from math import isfinite

import numpy as np
from numpy import vdot

from .spec import Block

_MAX_MAGNITUDE = 1e6
"""Input above this (120 dB over full scale) is not sound; it is treated like a sample that is not finite."""

_MAX_ENERGY = _MAX_MAGNITUDE**2


def all_finite(block: Block) -> bool:
    """Whether no sample is infinite or NaN: their energy is finite, one dot product instead of a test per sample."""
    return isfinite(vdot(block, block))


class Guard:
    """Silence what comes in bad, clamp what goes out too loud.

    Thread: audio or worker, one at a time. Allocates only when there is something to mend.

    Attributes
    ----------
    silenced, clamped : int
        Samples so far.
    """

    def __init__(self, n_channels: int, max_block: int) -> None:
        self._clean: Block = np.zeros((n_channels, max_block), np.float32)
        self.silenced = 0
        self.clamped = 0

    def clean(self, x: Block) -> Block:
        """Return `x`, or a copy with silence in the place of bad samples (valid until the next call)."""
        if vdot(x, x) <= _MAX_ENERGY:  # then no sample is larger; NaN fails every comparison
            return x
        clean = self._clean[:, : x.shape[1]]
        np.copyto(clean, x)
        with np.errstate(invalid="ignore"):
            bad = ~(np.abs(clean) <= _MAX_MAGNITUDE)
        clean[bad] = 0.0
        self.silenced += int(bad.sum())
        return clean

    def clamp(self, out: Block) -> bool:
        """Limit `out` to [-1, 1] in place.

        Returns
        -------
        bool
            False, and nothing was done, where a sample is infinite or NaN.
        """
        # To find where the extremes are costs a third of asking for their values: numpy's path is shorter. A NaN is
        # both extremes at once, and fails every comparison.
        if not out.size or (out.item(out.argmax()) <= 1.0 and out.item(out.argmin()) >= -1.0):
            return True
        if not np.isfinite(out).all():
            return False
        self.clamped += int(np.count_nonzero(np.abs(out) > 1.0))
        np.clip(out, -1.0, 1.0, out=out)
        return True

    def clear_statistics(self) -> None:
        """Start counting anew."""
        self.silenced = self.clamped = 0
