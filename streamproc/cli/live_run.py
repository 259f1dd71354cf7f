"""A live session from the first sound to the exit code: time, keys, signals."""

from __future__ import annotations

import math
import signal
import time
from contextlib import nullcontext, suppress
from dataclasses import replace

from ..errors import StreamprocError
from ..interrupts import signals_ignored
from ..live.process import LiveProcess
from ..live.session import SessionStatus
from ..mix import NO_LIMIT_DB
from .console import ENDING_SIGNALS, ExitCode, complain
from .live_report import Reporter

LIMIT_STEP_DB = 3.0
LARGEST_LIMIT_DB = 48.0


def run(process: LiveProcess, reporter: Reporter, duration: float | None) -> ExitCode:
    """Report until the end, whatever ends it; return how it went.

    Parameters
    ----------
    process : LiveProcess
        Started. It is stopped at the end.
    reporter : Reporter
    duration : float, optional
        In seconds.
    """
    code, stopped = ExitCode.DONE, False
    try:
        with reporter:
            _watch(process, reporter, duration)
    except (KeyboardInterrupt, SystemExit) as ending:
        stopped = True
        # Without a duration this is how it is meant to end.
        if duration is not None:
            code = ExitCode.INTERRUPTED if isinstance(ending, KeyboardInterrupt) else ExitCode(int(ending.code or 0))
    except StreamprocError as error:
        complain(error)
        code = ExitCode.FAILED
    with signals_ignored(signal.SIGINT, *ENDING_SIGNALS):
        silent = process.outage is not None
        last = process.stop()
        # Who stopped it may have closed the terminal.
        with suppress(OSError) if stopped else nullcontext():
            reporter.summarise(last, process.totals)
    problems = list(last.problems) if last else []
    if silent:
        problems.append("it ended in silence: the device had not come back")
    for problem in problems:
        complain(problem)
    return ExitCode.FAILED if problems and code is ExitCode.DONE else code


def _watch(process: LiveProcess, reporter: Reporter, duration: float | None) -> None:
    end = time.monotonic() + (math.inf if duration is None else duration)
    while (left := end - time.monotonic()) > 0.0:
        now = process.poll()
        reporter.report(now, process.totals)
        for key in reporter.keys(min(reporter.period_s, left)):
            if key == "q":
                return
            if isinstance(now, SessionStatus):
                now = _obey(key, process, now)


def _obey(key: str, process: LiveProcess, now: SessionStatus) -> SessionStatus:
    """Do what a key says; return what the status will be, for the keys that follow before it is known."""
    if key == "b":
        now = replace(now, bypass=not now.bypass)
        process.set_bypass(now.bypass)
    elif key in "+=-" and now.attenuation_limit_db is not None:
        limit_db = next_limit_db(now.attenuation_limit_db, up=key != "-")
        now = replace(now, attenuation_limit_db=limit_db)
        process.set_attenuation_limit(limit_db)
    return now


def next_limit_db(limit_db: float, up: bool) -> float:
    """Return the next attenuation limit in steps of 3 dB; above the largest there is none."""
    if up:
        return limit_db + LIMIT_STEP_DB if limit_db + LIMIT_STEP_DB <= LARGEST_LIMIT_DB else NO_LIMIT_DB
    return max(0.0, min(limit_db, LARGEST_LIMIT_DB + LIMIT_STEP_DB) - LIMIT_STEP_DB)
