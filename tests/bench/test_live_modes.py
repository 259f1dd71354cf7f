"""Both modes of the live engine in real time: what is missed, beside nothing, a busy Python thread, a busy native one.

Reports, never asserts: ``make bench``, or for this table alone ::

    OMP_NUM_THREADS=1 python -m pytest -m bench -s tests/bench/test_live_modes.py

A thread that sleeps until each block is due plays the device. A block is an *xrun* when its callback ends after the
next block was due: what a device with two buffers would report. A *miss* is a block for which the worker was late.
Either is heard; `bad` counts both. The first half second does not count: priorities are being set.

Seconds per row: STREAMPROC_BENCH_S (4); model: STREAMPROC_BENCH_MODEL (denoise); switch interval:
STREAMPROC_BENCH_SWITCH_MS (0.1).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from threading import Event, Thread
from time import perf_counter, perf_counter_ns, sleep

import numpy as np
import pytest
from rich.console import Console
from rich.table import Table

import streamproc
from streamproc.live import LiveConfig, LiveEngine, LiveSnapshot, realtime
from streamproc.stats import Histogram

pytestmark = [pytest.mark.bench, pytest.mark.timeout(3600)]

RATE = 48_000
BLOCKS = (64, 128, 256, 512)
SECONDS = float(os.environ.get("STREAMPROC_BENCH_S", "4"))
SWITCH_MS = float(os.environ.get("STREAMPROC_BENCH_SWITCH_MS", "0.1"))
WARM_UP_S = 0.5
# The system stops threads of real-time priority that take more than 95 % of a core, all of them at once.
BUSY_S, BREATH_S = 0.045, 0.005
MODEL = os.environ.get("STREAMPROC_BENCH_MODEL", "denoise")


def nothing(ending: Event) -> None:
    """Keep nobody waiting."""
    ending.wait()


def busy_python(ending: Event) -> None:
    """Hold the interpreter for as long as it is allowed to, with a breath now and then."""
    count = 0
    while not ending.is_set():
        until_s = perf_counter() + BUSY_S
        while perf_counter() < until_s:
            count += 1
        sleep(BREATH_S)


def busy_native(ending: Event) -> None:
    """Compute without the interpreter, with a breath now and then."""
    a = np.random.default_rng(0).random((500, 500))
    b = np.empty_like(a)
    while not ending.is_set():
        until_s = perf_counter() + BUSY_S
        while perf_counter() < until_s:
            np.matmul(a, a, out=b)
        sleep(BREATH_S)


@dataclass
class Result:
    snapshot: LiveSnapshot
    lateness: Histogram
    """Of the callback's first instruction."""
    xruns: int
    bad: int


def play(config: LiveConfig, load: Callable[[Event], None], priority: bool) -> Result:
    """Run the engine in real time for a while."""
    block = config.fixed_block
    assert block is not None
    engine = LiveEngine(streamproc.load(MODEL), config)
    n_warm_up = round(WARM_UP_S * RATE / block)
    n_blocks = round(SECONDS * RATE / block) + n_warm_up
    rng = np.random.default_rng(0)
    x = (0.1 * rng.standard_normal((n_blocks, block, 1))).astype(np.float32)
    outdata = np.zeros((block, 1), np.float32)
    lateness = Histogram()
    counts = [0, 0]

    def device() -> None:
        start_s = perf_counter() + 0.05
        for index in range(n_blocks):
            if index == n_warm_up:
                engine.clear_statistics()
                lateness.clear()
                counts[:] = 0, 0
            due_s = start_s + index * block / RATE
            wait_s = due_s - perf_counter()
            if wait_s > 0:
                sleep(wait_s)
            late_ns = int((perf_counter() - due_s) * 1e9)
            lateness.record(max(0, late_ns))
            misses = engine._ledger.misses
            engine.callback(x[index], outdata, block)
            xrun = perf_counter() > due_s + block / RATE
            counts[0] += xrun
            counts[1] += xrun or engine._ledger.misses > misses

    ending = Event()
    with ExitStack() as stack:
        stack.enter_context(realtime(lambda: engine.audio_threads, SWITCH_MS, 0.1, priority))
        neighbour = Thread(target=_keep_a_core if priority else load, args=(ending, load)[: 1 + priority], daemon=True)
        neighbour.start()
        stack.callback(neighbour.join)
        stack.callback(ending.set)
        engine.start()
        thread = Thread(target=device)
        thread.start()
        thread.join()
        engine.stop()
    engine.raise_if_failed()
    return Result(engine.snapshot(), lateness, *counts)


def _keep_a_core(ending: Event, load: Callable[[Event], None]) -> None:
    """Be the neighbour with a real-time priority below that of audio.

    On a busy machine the neighbour would hold the interpreter while other programs hold its core, and their number
    would decide the result. Like this the row shows what it shows on an idle machine.
    """
    with suppress(AttributeError, OSError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    load(ending)


def configurations(block: int) -> list[tuple[str, LiveConfig]]:
    # Overload would hide misses: it must not happen here.
    common = {"fixed_block": block, "tolerated_share": 0.99, "burst_ms": 1e9}
    return [
        ("inline", LiveConfig(RATE, mode="inline", **common)),  # type: ignore[arg-type]
        ("worker, queue 1 block", LiveConfig(RATE, mode="worker", **common)),  # type: ignore[arg-type]
        ("worker, queue 2 blocks", LiveConfig(RATE, mode="worker", queue=2 * block, **common)),  # type: ignore[arg-type]
    ]


@pytest.mark.parametrize("load", [nothing, busy_python, busy_native])
@pytest.mark.parametrize("priority", [True, False], ids=["priority", "ordinary"])
def test_modes(priority: bool, load: Callable[[Event], None]) -> None:
    table = Table(
        *("block", "mode", "latency ms", "bad", "bad %", "xruns", "misses"),
        *("callback late us p50/p99/max", "worker wake us p50/p99/max", "load p50/p99"),
        title=f"{MODEL}, {SECONDS:g} s a row, beside {load.__name__.replace('_', ' ')}, "
        f"real-time priority {'asked for' if priority else 'not asked for'}, switch interval {SWITCH_MS:g} ms",
    )
    for block in BLOCKS:
        for name, config in configurations(block):
            result = play(config, load, priority)
            s, late = result.snapshot, result.lateness
            table.add_row(
                str(block),
                name,
                f"{1000 * s.latency_samples / RATE:.1f}",
                str(result.bad),
                f"{100 * result.bad / s.callbacks:.2f}",
                str(result.xruns),
                str(s.misses),
                "/".join(f"{late.percentile_ns(p) / 1e3:.0f}" for p in (50, 99, 100)),
                f"{s.wake_p50_us:.0f}/{s.wake_p99_us:.0f}/{s.wake_max_us:.0f}" if s.mode == "worker" else "",
                f"{s.load_p50:.2f}/{s.load_p99:.2f}",
            )
    Console(width=150).print(table)


def test_what_waking_costs() -> None:
    """The bell alone: what ringing takes, and how long the sleeper sleeps on."""
    from streamproc.live.worker import Bell

    table = Table("beside", "ring us p50/p99", "wake us p50/p99/max", title="waking the worker, every 2.7 ms")
    for load in (nothing, busy_python, busy_native):
        bell, rings, wakes, ending = Bell(), Histogram(), Histogram(), Event()
        rung_ns = [0]

        def sleeper(
            bell: Bell = bell, wakes: Histogram = wakes, rung: list[int] = rung_ns, end: Event = ending
        ) -> None:
            while not end.is_set():
                if bell.wait(0.05):
                    wakes.record(perf_counter_ns() - rung[0])

        with realtime(switch_interval_ms=SWITCH_MS, priority=False):
            threads = [Thread(target=sleeper), Thread(target=load, args=(ending,))]
            for thread in threads:
                thread.start()
            for _ in range(round(SECONDS / 0.0027)):
                sleep(0.0027)
                rung_ns[0] = perf_counter_ns()
                bell.ring()
                rings.record(perf_counter_ns() - rung_ns[0])
            ending.set()
            for thread in threads:
                thread.join()
        table.add_row(
            load.__name__.replace("_", " "),
            "/".join(f"{rings.percentile_ns(p) / 1e3:.0f}" for p in (50, 99)),
            "/".join(f"{wakes.percentile_ns(p) / 1e3:.0f}" for p in (50, 99, 100)),
        )
    Console(width=120).print(table)
