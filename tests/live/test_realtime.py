"""Settings of the process while audio runs, and that they are put back whatever happens."""

from __future__ import annotations

import gc
import os
import sys
import time
import weakref
from contextlib import ExitStack
from threading import Event, Thread, get_native_id

import pytest

from streamproc.live.realtime import FIFO_PRIORITY, NICE, raise_priority, realtime

linux = pytest.mark.skipif(sys.platform != "linux", reason="Linux only")


class Sleeper:
    """A thread with a native id that can be looked at from outside."""

    def __enter__(self) -> int:
        self._end, ready = Event(), Event()
        self.id = 0

        def run() -> None:
            self.id = get_native_id()
            ready.set()
            self._end.wait()

        self._thread = Thread(target=run)
        self._thread.start()
        assert ready.wait(10)
        return self.id

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()


def settings() -> tuple[float, bool, int]:
    return sys.getswitchinterval(), gc.isenabled(), gc.get_freeze_count()


def test_settings_change_and_come_back() -> None:
    before = settings()
    with realtime() as report:
        assert sys.getswitchinterval() == pytest.approx(0.0001)
        assert not gc.isenabled()
        assert gc.get_freeze_count() > 1000
        assert report().switch_interval_ms == pytest.approx(0.1)
    assert settings() == before


def test_settings_come_back_after_an_error() -> None:
    before = settings()
    with pytest.raises(KeyboardInterrupt), realtime():
        raise KeyboardInterrupt
    assert settings() == before


def test_one_inside_another() -> None:
    before = settings()
    with realtime():
        inside = settings()
        with realtime():
            pass
        assert settings()[:2] == inside[:2]
        assert gc.get_freeze_count() > 1000
    assert settings() == before


def test_a_shorter_interval_stays() -> None:
    before = sys.getswitchinterval()
    sys.setswitchinterval(0.00005)
    try:
        with realtime():
            assert sys.getswitchinterval() == pytest.approx(0.00005)
    finally:
        sys.setswitchinterval(before)


def test_a_collector_that_was_off_stays_off() -> None:
    gc.disable()
    try:
        with realtime():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


class Knot:
    """Garbage that only the collector can free."""

    def __init__(self) -> None:
        self.self = self


@pytest.mark.parametrize("generation", [0, 1, 2])
def test_garbage_is_collected_all_the_same(monkeypatch: pytest.MonkeyPatch, generation: int) -> None:
    monkeypatch.setattr(sys.modules[realtime.__module__], "_MIDDLE_EVERY", 3)
    monkeypatch.setattr(sys.modules[realtime.__module__], "_FULL_EVERY", 7)
    with realtime(collect_every_s=0.002) as report:
        knot = Knot()
        for _ in range(generation):
            gc.collect(generation)  # grows old
        seen = weakref.ref(knot)
        del knot
        deadline = time.monotonic() + 20
        while seen() is not None and time.monotonic() < deadline:
            time.sleep(0.005)
        assert seen() is None
        assert report().collections > 0
        assert report().pause_max_ms > 0


@linux
def test_priority_of_a_thread_is_raised_as_far_as_allowed_and_restored() -> None:
    with Sleeper() as thread:
        before = os.sched_getscheduler(thread), os.getpriority(os.PRIO_PROCESS, thread)
        with realtime(lambda: [thread], collect_every_s=0.002) as report:
            deadline = time.monotonic() + 20
            while not report().priorities and time.monotonic() < deadline:
                time.sleep(0.005)
            (line,) = report().priorities
            if line.startswith("real-time"):
                assert os.sched_getscheduler(thread) & ~os.SCHED_RESET_ON_FORK == os.SCHED_FIFO
                assert os.sched_getparam(thread).sched_priority == FIFO_PRIORITY
            else:
                assert "ulimit" in line
        assert (os.sched_getscheduler(thread), os.getpriority(os.PRIO_PROCESS, thread)) == before


@linux
def test_without_the_right_to_real_time_a_better_nice_value_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "sched_setscheduler", refuse)
    changed: list[tuple[int, ...]] = []
    monkeypatch.setattr(os, "setpriority", lambda *values: changed.append(values))
    with Sleeper() as thread, ExitStack() as restore:
        nice = os.getpriority(os.PRIO_PROCESS, thread)
        assert f"nice {min(nice, NICE)}" in raise_priority(thread, restore)
        restore.close()
        assert changed == [(os.PRIO_PROCESS, thread, min(nice, NICE)), (os.PRIO_PROCESS, thread, nice)]
        monkeypatch.setattr(os, "setpriority", refuse)
        assert "neither" in raise_priority(thread, restore)


@linux
def test_a_thread_that_has_ended_is_no_error() -> None:
    with Sleeper() as thread:
        pass
    time.sleep(0.05)
    with ExitStack() as restore:
        assert raise_priority(thread, restore).startswith("unchanged")


def test_priorities_are_left_alone_where_asked() -> None:
    asked = []
    with realtime(lambda: asked.append(1) or [], priority=False, collect_every_s=0.001):  # type: ignore[func-returns-value]
        time.sleep(0.05)
    assert not asked
