"""Means with confidence intervals, over all clips and over groups of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .mixtures import MixtureRow
from .runner import Outcome

N_RESAMPLES = 2000
CONFIDENCE = 0.95


class Interval(NamedTuple):
    """A mean with its confidence interval over `n` clips; all NaN where no clip has the figure."""

    mean: float
    low: float
    high: float
    n: int

    @property
    def half_width(self) -> float:
        """Half of the interval's width."""
        return (self.high - self.low) / 2


class Results:
    """Outcomes of one evaluation, ready to be asked.

    Parameters
    ----------
    outcomes : sequence of Outcome
        One for each mixture, all with the same systems.
    """

    def __init__(self, outcomes: Sequence[Outcome]) -> None:
        self.outcomes = list(outcomes)
        self.systems = list(self.outcomes[0].scores)

    def values(self, system: str, metric: str, versus: str | None = None) -> npt.NDArray[np.float64]:
        """Return one figure of one system, clip by clip; less that of the system `versus` on the same clip."""
        own = np.array([outcome.scores[system].get(metric, math.nan) for outcome in self.outcomes])
        return own - self.values(versus, metric) if versus else own

    def mean(self, system: str, metric: str, versus: str | None = None) -> Interval:
        """Return the mean over all clips."""
        return bootstrap(self.values(system, metric, versus))

    def course(self, system: str) -> list[Interval]:
        """Return `metrics.course_db` over all clips, second by second."""
        clips = [outcome.course[system] for outcome in self.outcomes]
        return [bootstrap(np.array(second)) for second in zip(*clips, strict=True)]

    def has(self, metric: str) -> bool:
        """Say whether any clip has this figure."""
        return any(np.isfinite(self.values(system, metric)).any() for system in self.systems)

    def rtf(self, system: str) -> float:
        """Processor time over audio time."""
        return float(np.mean([outcome.rtf[system] for outcome in self.outcomes]))

    def split(self, key: Callable[[MixtureRow], Hashable]) -> dict[Hashable, Results]:
        """Return the results of each group of mixtures, groups in order."""
        groups = sorted({key(outcome.row) for outcome in self.outcomes}, key=lambda value: (str(type(value)), value))
        return {group: Results([outcome for outcome in self.outcomes if key(outcome.row) == group]) for group in groups}


def bootstrap(values: npt.NDArray[np.float64], seed: int = 0) -> Interval:
    """Return the mean of the values that are finite, and its percentile bootstrap interval [1]_ at 95 %.

    References
    ----------
    .. [1] B. Efron and R. J. Tibshirani, "An introduction to the bootstrap", 1993, chapter 13.
    """
    values = np.asarray(values, np.float64)
    values = values[np.isfinite(values)]
    if not values.size:
        return Interval(math.nan, math.nan, math.nan, 0)
    drawn = np.random.default_rng(seed).integers(values.size, size=(N_RESAMPLES, values.size))
    means = values[drawn].mean(axis=1)
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(means, [tail, 100 - tail])
    return Interval(float(values.mean()), float(low), float(high), int(values.size))
