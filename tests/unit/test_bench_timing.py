"""The bench tells the truth: what takes a known time, or has a known delay, is reported with it.

Machines that run tests are busy, so nothing here says that something is fast: only that it is not reported faster than
it can have been.
"""

from __future__ import annotations

import gc
import os
from dataclasses import replace
from itertools import groupby, pairwise
from time import perf_counter_ns

import numpy as np
import pytest

from streamproc.bench import timing
from streamproc.bench.cases import Case, Suite, callback_case
from streamproc.bench.report import Row
from streamproc.bench.runner import run_suite
from streamproc.bench.timing import Distribution, Effort, time_hot, time_paced, undisturbed
from streamproc.dsp.delay import Delay
from streamproc.processor import BaseProcessor
from streamproc.spec import Block

BRIEF = Effort(hot_s=0.01, most_hot=100, paced=20, longest_pause_s=0.0)


def busy_for(microseconds: float) -> None:
    done = perf_counter_ns() + round(1e3 * microseconds)
    while perf_counter_ns() < done:
        pass


class Busy(BaseProcessor):
    """Takes a known time, and every so many calls a longer one."""

    def __init__(self, us: float, slow_us: float = 0.0, every: int = 10) -> None:
        self.us, self.slow_us, self.every = us, slow_us, every
        self.calls = 0

    def process(self, x: Block, out: Block) -> None:
        self.calls += 1
        busy_for(self.slow_us if self.slow_us and self.calls % self.every == 0 else self.us)
        np.copyto(out, x)


def measured(case: Case, effort: Effort = BRIEF) -> Row:
    return run_suite(Suite("test", lambda: [case]), effort)[0]


# --- known cost, known delay ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("us", [300.0, 1500.0])
def test_nothing_is_reported_faster_than_it_is(us: float) -> None:
    row = measured(callback_case("busy", Busy(us), 48_000, 480))
    for times in (row.hot, row.paced):
        assert times.p50_us >= us
        assert times.mean_us >= us
        assert times.max_us >= times.p99_us >= times.p95_us >= times.p50_us
        assert times.histogram[0][0] * times.bin_width >= us
    assert row.audio_us == pytest.approx(10_000.0)
    assert row.rtf >= us / 10_000.0
    assert row.load(row.paced.p50_us) >= us / 10_000.0


def test_rare_slow_calls_are_not_averaged_away() -> None:
    row = measured(callback_case("busy", Busy(20.0, slow_us=2000.0), 48_000, 480))
    for times in (row.hot, row.paced):
        assert times.p99_us >= 1000.0
        assert times.max_us >= 2000.0


def test_calls_that_are_always_late_are_all_missed() -> None:
    late = measured(callback_case("busy", Busy(1100.0), 48_000, 48))
    assert late.misses == late.paced.n == BRIEF.paced


def test_calls_that_cannot_be_late_are_not() -> None:
    assert measured(Case("free", lambda: None, audio_s=3600.0)).misses == 0


@pytest.mark.parametrize("delay", [0, 1, 1234])
def test_a_known_delay_is_reported_exactly(delay: int) -> None:
    facts = callback_case("delay", Delay(delay), 48_000, 128).facts
    assert facts["latency_samples"] == delay
    assert facts["latency_ms"].get("total", 0.0) == 1000.0 * delay / 48_000


def test_two_costs_are_told_apart_in_one_run() -> None:
    cases = [callback_case(f"{us}", Busy(us), 48_000, 480) for us in (50.0, 1000.0)]
    quick, slow = run_suite(Suite("test", lambda: cases), BRIEF)
    assert slow.hot.p50_us >= 1000.0
    assert min(edge for edge, _ in quick.hot.histogram) < 1000.0


# --- how it is timed ------------------------------------------------------------------------------------------------


def test_paced_calls_come_at_the_pace_of_their_blocks_and_undisturbed_by_each_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    order: list[str] = []
    slept: list[float] = []
    monkeypatch.setattr(timing, "sleep", slept.append)
    calls = [lambda: order.append("a"), lambda: order.append("b")]
    times = time_paced(calls, [0.01, 0.5], replace(BRIEF, paced=60, longest_pause_s=0.1))
    turns = [(name, len(list(group))) for name, group in groupby(order)]
    assert [name for name, _ in turns] == ["a", "b"] * 20
    # Of every burst some calls are recorded, and some before them are not.
    assert {length for _, length in turns} == {3 + 8}
    assert [one.size for one in times] == [60, 60]
    assert max(slept[:11]) == pytest.approx(0.01)
    assert max(slept[11:22]) == pytest.approx(0.1)


def test_paced_calls_are_due_one_period_after_the_last_began(monkeypatch: pytest.MonkeyPatch) -> None:
    clock_ns = [0]
    monkeypatch.setattr(timing, "sleep", lambda seconds: clock_ns.__setitem__(0, clock_ns[0] + round(1e9 * seconds)))
    monkeypatch.setattr(timing, "perf_counter_ns", lambda: clock_ns[0])
    began_ms: list[float] = []

    def call() -> None:
        began_ms.append(clock_ns[0] / 1e6)
        clock_ns[0] += 4_000_000 if len(began_ms) != 3 else 30_000_000

    time_paced([call], [0.01], replace(BRIEF, paced=1, longest_pause_s=1.0))
    assert began_ms[:5] == [10.0, 20.0, 30.0, 60.0, 70.0]


def test_hot_calls_take_turns_in_bursts() -> None:
    order: list[str] = []
    times = time_hot([lambda: order.append("a"), lambda: order.append("b")], BRIEF)
    changes = sum(one != other for one, other in pairwise(order))
    # To and fro in every round, and once more while the costs are estimated.
    assert changes == 2 * 20 + 1
    assert all(np.all(one > 0.0) for one in times)


def test_progress_ends_at_one() -> None:
    shares: list[float] = []
    run_suite(Suite("test", lambda: [Case("free", lambda: None, 1.0)]), BRIEF, shares.append)
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1.0)


def test_a_bench_leaves_the_process_as_it_was() -> None:
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    with undisturbed() as core:
        assert not gc.isenabled()
        if cores is not None:
            assert os.sched_getaffinity(0) == {core}
    assert gc.isenabled()
    if cores is not None:
        assert os.sched_getaffinity(0) == cores


def test_a_distribution_says_only_what_it_can() -> None:
    times = np.random.default_rng(0).lognormal(3.0, 1.0, 999)
    few, many = Distribution.of(times), Distribution.of(np.append(times, 1.0))
    assert few.p99_9_us is None
    assert many.p99_9_us == pytest.approx(np.percentile(np.append(times, 1.0), 99.9))
    assert sum(count for _, count in few.histogram) == few.n == 999
    for edge, count in few.histogram:
        assert np.count_nonzero((times >= edge * 0.999) & (times < edge * few.bin_width * 1.001)) >= count
