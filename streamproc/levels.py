"""How loud a stream is, and how loud its quiet moments are, in constant memory."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .spec import Block

FRAME_MS = 50.0
"""Length of the frames among which the quiet ones are looked for."""

FLOOR_PERCENT = 10.0
"""The noise floor is the level that this share of all frames stays below: pauses, in speech and most music."""

SILENCE_DB = -120.0
"""Levels below this count as this: the last bit of 20, and no recording's own."""

LOUDEST_DB = 60.0
"""Levels above this count as this; files of floats may lie far beyond full scale."""

_STEP_DB = 0.1


class LevelMeter:
    """Mean level and noise floor of a stream, in dB relative to full scale (mean square 1 is 0 dB).

    Parameters
    ----------
    sample_rate : int

    Notes
    -----
    The noise floor is the 10th percentile of the levels of all 50 ms frames, from a histogram with bins of 0.1 dB. In
    a recording that never pauses it is the level of the programme, not of its noise.
    """

    def __init__(self, sample_rate: int) -> None:
        self._frame = max(1, round(sample_rate * FRAME_MS / 1000.0))
        self._partial: npt.NDArray[np.float64] = np.empty(0)
        self._counts = np.zeros(round((LOUDEST_DB - SILENCE_DB) / _STEP_DB) + 1, np.int64)
        self._energy = 0.0
        self._n_frames = 0

    def update(self, block: Block) -> None:
        """Take in the next block.

        Parameters
        ----------
        block : float32 [channels, n]
            Finite samples. A frame's power is the mean over channels.
        """
        power = np.mean(np.square(block, dtype=np.float64), axis=0)
        self._energy += float(power.sum())
        self._n_frames += power.size
        power = np.concatenate([self._partial, power])
        whole = power.size - power.size % self._frame
        levels = decibels(power[:whole].reshape(-1, self._frame).mean(axis=1))
        bins = np.rint((np.minimum(levels, LOUDEST_DB) - SILENCE_DB) / _STEP_DB).astype(np.int64)
        self._counts += np.bincount(bins, minlength=self._counts.size)
        self._partial = power[whole:]

    @property
    def mean_db(self) -> float:
        """Level of everything so far."""
        return float(decibels(np.asarray(self._energy / max(1, self._n_frames))))

    @property
    def floor_db(self) -> float:
        """Noise floor so far; the mean level while there is no whole frame."""
        below = np.cumsum(self._counts)
        if not below[-1]:
            return self.mean_db
        index = int(np.searchsorted(below, max(1.0, below[-1] * FLOOR_PERCENT / 100.0)))
        return round(SILENCE_DB + index * _STEP_DB, 1)


def decibels(power: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Convert mean squares to decibels, `SILENCE_DB` at least."""
    levels: npt.NDArray[np.float64] = 10.0 * np.log10(np.maximum(power, 10.0 ** (SILENCE_DB / 10.0)))
    return levels
