"""How calls are timed: in turns, on one core, hot and paced.

*Hot*: back to back, all caches warm; what a file or a busy server sees. *Paced*: at the pace of the sound, as under a
sound card: asleep until the next block is due; other programs have used the caches and the core has slowed down
meanwhile. Paced is what a live callback sees, and often several times as long.

Calls of one run take turns in bursts, so that whatever else the machine does meets all of them - their ratios hold
where their times do not - and yet none of them meets the others: a live stream is alone with other programs, not with
twelve more engines that throw its weights out of the caches.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter_ns, sleep

import numpy as np
import numpy.typing as npt

Call = Callable[[], object]

OnProgress = Callable[[float], None]
"""Called between two timed calls, with the share of the work that is done."""

Times = npt.NDArray[np.float64]
"""Microseconds, one value per call."""

LEAST_FOR_P99_9 = 1000
"""Below so many calls the 99.9th percentile is only another word for the maximum."""

_ROUNDS = 20
_UNRECORDED = 8
"""Calls at the start of a burst that do not count: blocks of an eighth of a hop have met the model by then."""
_BINS_PER_OCTAVE = 8


@dataclass(frozen=True)
class Effort:
    """How long to measure.

    Parameters
    ----------
    hot_s : float
        Time for each case, hot, in seconds.
    most_hot : int
        Most calls of each case, hot.
    paced : int
        Most calls of each case, paced: as many as fill bursts of one length.
    longest_pause_s : float
        Most that is slept before a paced call, in seconds, however long its block.
    """

    hot_s: float = 1.0
    most_hot: int = 20_000
    paced: int = 1000
    longest_pause_s: float = 0.02


THOROUGH = Effort()
QUICK = Effort(hot_s=0.1, most_hot=2000, paced=100, longest_pause_s=0.001)


@dataclass(frozen=True)
class Distribution:
    """What the times of many calls looked like, in microseconds."""

    n: int
    mean_us: float
    p50_us: float
    p95_us: float
    p99_us: float
    p99_9_us: float | None
    """None below `LEAST_FOR_P99_9` calls."""
    max_us: float
    histogram: tuple[tuple[float, int], ...]
    """Lower edge of each bin that holds any, in microseconds, and how many; eight bins per octave."""

    @classmethod
    def of(cls, times: Times) -> Distribution:
        """Summarise the times of at least one call."""
        p50, p95, p99, p99_9 = np.percentile(times, [50.0, 95.0, 99.0, 99.9])
        bins, counts = np.unique(np.floor(_BINS_PER_OCTAVE * np.log2(np.maximum(times, 1e-3))), return_counts=True)
        return cls(
            n=times.size,
            mean_us=float(times.mean()),
            p50_us=float(p50),
            p95_us=float(p95),
            p99_us=float(p99),
            p99_9_us=float(p99_9) if times.size >= LEAST_FOR_P99_9 else None,
            max_us=float(times.max()),
            histogram=tuple(
                (round(float(edge), 4), int(count))
                for edge, count in zip(2.0 ** (bins / _BINS_PER_OCTAVE), counts, strict=True)
            ),
        )

    @property
    def bin_width(self) -> float:
        """Upper over lower edge of every bin of the histogram."""
        return float(2.0 ** (1.0 / _BINS_PER_OCTAVE))


def time_hot(calls: Sequence[Call], effort: Effort, on_progress: OnProgress = lambda _: None) -> list[Times]:
    """Time calls back to back, in bursts that take turns.

    The first calls of every burst warm the caches up and do not count.
    """
    bursts = [max(5, round(min(effort.most_hot, effort.hot_s * 1e6 / _typical_us(call)) / _ROUNDS)) for call in calls]
    times = [np.empty((_ROUNDS, burst)) for burst in bursts]
    for turn in range(_ROUNDS):
        for call, burst, record in zip(calls, bursts, times, strict=True):
            for _ in range(_UNRECORDED):
                call()
            row = record[turn]
            for index in range(burst):
                started = perf_counter_ns()
                call()
                row[index] = perf_counter_ns() - started
        on_progress((turn + 1) / _ROUNDS)
    return [record.ravel() / 1e3 for record in times]


def time_paced(
    calls: Sequence[Call], periods_s: Sequence[float], effort: Effort, on_progress: OnProgress = lambda _: None
) -> list[Times]:
    """Time calls one by one, each as soon as its period since the one before is over, in bursts that take turns.

    The first calls of every burst find the caches as the case before left them, and do not count.

    Parameters
    ----------
    calls : sequence of callable
    periods_s : sequence of float
        From one call to the next, in seconds: the length of a block.
    effort : Effort
    on_progress : callable, optional
    """
    rounds = min(_ROUNDS, effort.paced)
    times = np.empty((len(calls), rounds, effort.paced // rounds))
    for turn in range(rounds):
        for call, period_s, record in zip(calls, periods_s, times[:, turn], strict=True):
            pause_s = min(period_s, effort.longest_pause_s)
            took_s = 0.0
            for index in range(-_UNRECORDED, record.size):
                sleep(max(0.0, pause_s - took_s))
                started = perf_counter_ns()
                call()
                took = perf_counter_ns() - started
                took_s = took / 1e9
                if index >= 0:
                    record[index] = took
        on_progress((turn + 1) / rounds)
    return list(times.reshape(len(calls), -1) / 1e3)


def _typical_us(call: Call, n: int = 5) -> float:
    """Return about how long a call takes, in microseconds; the first ones do not count."""
    for _ in range(n):
        call()
    started = perf_counter_ns()
    for _ in range(n):
        call()
    return max(0.1, (perf_counter_ns() - started) / 1e3 / n)


@contextmanager
def undisturbed() -> Iterator[int | None]:
    """Stay on one core, where the system can be told so, and keep the garbage collector away, as live audio does.

    Yields
    ------
    int or None
        The core.
    """
    collecting = gc.isenabled()
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    # The first core serves most interrupts.
    core = max(cores, default=None)
    if core is not None:
        os.sched_setaffinity(0, {core})
    gc.collect()
    gc.disable()
    try:
        yield core
    finally:
        if collecting:
            gc.enable()
        if core is not None:
            os.sched_setaffinity(0, cores)
