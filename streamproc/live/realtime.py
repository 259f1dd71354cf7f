"""Make this process fit for audio for a while, and put everything back afterwards.

Python can keep audio waiting in three ways, and each has a remedy that costs something elsewhere:

- Another thread computes in Python. It is asked to let go only after the *switch interval*, 5 ms by default.
- The garbage collector looks at every object while nothing else runs: milliseconds, at any moment.
- The system gives the processor to another program. Threads with real-time priority are served first.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from threading import Event, Thread
from time import perf_counter_ns

from ..stats import Histogram

FIFO_PRIORITY = 10
"""Above every ordinary thread, below the sound servers (20 and up) and the kernel's own (50)."""

NICE = -11

_EAGER_LOOK_S = 0.02
_EAGER_LOOKS = 500

_MIDDLE_EVERY = 10
_FULL_EVERY = 240
"""Two minutes, at two collections a second."""


@dataclass(frozen=True)
class RealtimeReport:
    """What was asked for and what the system allowed."""

    switch_interval_ms: float
    priorities: tuple[str, ...]
    """For every audio thread what it got, or why it got nothing."""
    collections: int
    """Garbage collections so far."""
    pause_p99_ms: float
    pause_max_ms: float
    """How long everything stood still for one of them."""


@contextmanager
def realtime(
    audio_threads: Callable[[], Iterable[int]] = tuple,
    switch_interval_ms: float = 0.1,
    collect_every_s: float = 0.5,
    priority: bool = True,
) -> Iterator[Callable[[], RealtimeReport]]:
    """Shorten the interpreter's switch interval, keep garbage collection out of the audio path, raise priorities.

    Parameters
    ----------
    audio_threads : callable
        Native ids of the threads to raise, asked for again and again because a callback's thread is known only once it
        has run: ``lambda: engine.audio_threads``.
    switch_interval_ms : float
        A shorter one that is set already stays. Beside a busy Python thread, blocks of 64 samples and the shipped
        model, 0.5 ms lost a quarter of all blocks and 0.1 ms one in a thousand (tests/bench/test_live_modes.py).
    collect_every_s : float
        Garbage is collected this often, by a thread of its own. Everything that exists now is left out for good
        (`gc.freeze`), and most collections look at the newest objects only, so one takes microseconds; the audio
        threads themselves never collect.
    priority : bool

    Yields
    ------
    callable
        Returns a `RealtimeReport`. Thread: any but audio.

    Examples
    --------
    >>> with realtime(lambda: engine.audio_threads) as report:
    ...     run_the_stream()
    ...     print(report())
    """
    with ExitStack() as restore:
        before_s = sys.getswitchinterval()
        restore.callback(_set_switch_interval, before_s)
        _set_switch_interval(min(before_s, switch_interval_ms / 1000.0))
        _tame_collector(restore)
        caretaker = _Caretaker(audio_threads if priority else tuple, collect_every_s)
        restore.callback(caretaker.stop)
        caretaker.start()
        yield caretaker.report


def _set_switch_interval(seconds: float) -> None:
    # The interpreter cuts to whole microseconds; half of one more makes that the nearest.
    sys.setswitchinterval(seconds + 0.5e-6)


def _tame_collector(restore: ExitStack) -> None:
    """Collect once, set what is left aside, and never again collect by chance."""
    if gc.isenabled():
        restore.callback(gc.enable)
    if gc.get_freeze_count() == 0:
        restore.callback(gc.unfreeze)
    gc.collect()
    gc.freeze()
    gc.disable()


class _Caretaker:
    """The thread that collects garbage and looks after priorities while audio runs."""

    def __init__(self, audio_threads: Callable[[], Iterable[int]], every_s: float) -> None:
        self._audio_threads = audio_threads
        self._every_s = every_s
        self._restore_priorities = ExitStack()
        self._priorities: dict[int, str] = {}
        self._pauses = Histogram()
        self._ending = Event()
        self._thread = Thread(target=self._run, name="streamproc caretaker", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._ending.set()
        self._thread.join()
        self._restore_priorities.close()

    def _run(self) -> None:
        rounds = looks = 0
        since_collection_s = 0.0
        while True:
            # The first blocks are missed most easily: until there are audio threads, they are looked for often.
            eager = not self._priorities and looks < _EAGER_LOOKS
            pause_s = min(_EAGER_LOOK_S, self._every_s) if eager else self._every_s
            if self._ending.wait(pause_s):
                return
            looks += 1
            self._look_after_priorities()
            since_collection_s += pause_s
            if since_collection_s >= self._every_s:
                since_collection_s = 0.0
                rounds += 1
                self._collect(2 if rounds % _FULL_EVERY == 0 else 1 if rounds % _MIDDLE_EVERY == 0 else 0)

    def _collect(self, generation: int) -> None:
        started_ns = perf_counter_ns()
        gc.collect(generation)
        self._pauses.record(perf_counter_ns() - started_ns)

    def _look_after_priorities(self) -> None:
        for thread in self._audio_threads():
            if thread not in self._priorities:
                self._priorities[thread] = raise_priority(thread, self._restore_priorities)

    def report(self) -> RealtimeReport:
        return RealtimeReport(
            switch_interval_ms=1000.0 * sys.getswitchinterval(),
            priorities=tuple(self._priorities.values()),
            collections=self._pauses.count,
            pause_p99_ms=self._pauses.percentile_ns(99) / 1e6,
            pause_max_ms=self._pauses.max_ns / 1e6,
        )


def raise_priority(thread: int, restore: ExitStack) -> str:
    """Ask for real-time priority for one thread of this process, or for a better nice value. Thread: any.

    Parameters
    ----------
    thread : int
        Native id.
    restore : ExitStack
        Gets what undoes it.

    Returns
    -------
    str
        What the thread has now, and why where it is less than was asked for.
    """
    if sys.platform != "linux":
        return "unchanged: only Linux lets a program raise its threads from outside; elsewhere the sound system does it"
    try:
        policy = os.sched_getscheduler(thread)
        if policy & ~os.SCHED_RESET_ON_FORK in (os.SCHED_FIFO, os.SCHED_RR):
            return f"real-time, priority {os.sched_getparam(thread).sched_priority}, from the sound system"
        before = os.sched_getparam(thread)
        # Programs started from such a thread begin as ordinary ones.
        os.sched_setscheduler(thread, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(FIFO_PRIORITY))
        restore.callback(_while_it_lives, os.sched_setscheduler, thread, policy, before)
        return f"real-time, priority {FIFO_PRIORITY}"
    except PermissionError:
        pass
    except OSError as error:
        return f"unchanged: {error.strerror}"
    try:
        nice = os.getpriority(os.PRIO_PROCESS, thread)
        os.setpriority(os.PRIO_PROCESS, thread, min(nice, NICE))
        restore.callback(_while_it_lives, os.setpriority, os.PRIO_PROCESS, thread, nice)
        return f"nice {min(nice, NICE)}: real-time priority is not allowed (ulimit -r)"
    except OSError:
        return "unchanged: neither real-time priority nor a better nice value is allowed (ulimit -r, ulimit -e)"


def _while_it_lives(change: Callable[..., object], *values: object) -> None:
    """Undo a change to a thread that may have ended, or that the system no longer lets us touch."""
    try:
        change(*values)
    except OSError:
        return
