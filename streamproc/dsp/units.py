"""Decibels to amplitudes, milliseconds to samples."""

from __future__ import annotations

from math import log
from typing import overload

import numpy as np
import numpy.typing as npt

_NEPER_PER_DB = log(10.0) / 20.0


@overload
def amplitude(level_db: float) -> float: ...
@overload
def amplitude(level_db: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]: ...
def amplitude(level_db: float | npt.NDArray[np.float64]) -> float | npt.NDArray[np.float64]:
    """Return the amplitude ratio of a level in dB; 0 dB gives exactly 1.

    An array is overwritten with its amplitudes, because the audio path has no memory to give away.
    """
    if not isinstance(level_db, np.ndarray):
        return float(10.0 ** (level_db / 20.0))
    level_db *= _NEPER_PER_DB
    return np.exp(level_db, out=level_db)


def samples(duration_ms: float, sample_rate: int) -> int:
    """Return the whole number of samples nearest to a duration."""
    return round(sample_rate * duration_ms / 1000.0)
