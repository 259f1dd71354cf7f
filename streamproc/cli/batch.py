"""Many files, one after another or side by side, of which none stops the others."""

from __future__ import annotations

import signal
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from ctypes import c_bool, c_double
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from typing import Any

from ..errors import StreamprocError
from ..interrupts import signals_ignored
from ..offline import FileReport, process_file
from ..processor import Processor
from .console import exit_on_signal
from .plan import Job
from .processing import Processing

OnProgress = Callable[[int, float], None]
"""Called with the number of a job and the share of it that is done."""

_POLL_S = 0.1


@dataclass(frozen=True)
class Outcome:
    """How one job ended: with a report, with an error, or with both where only its picture failed."""

    job: Job
    report: FileReport | None = None
    error: str | None = None


def run_batch(
    jobs: Sequence[Job], processing: Processing, n_processes: int, on_progress: OnProgress
) -> Iterator[tuple[int, Outcome]]:
    """Run jobs one after another, or some at a time.

    Parameters
    ----------
    jobs : sequence of Job
    processing : Processing
    n_processes : int
        1: all in this process. More: in so many others.
    on_progress : callable

    Returns
    -------
    iterator of (int, Outcome)
        The number of each job in `jobs` and how it ended, as it ends. Closing the iterator, or an interrupt inside it,
        ends the jobs that run at their next block; they leave nothing.

    Raises
    ------
    StreamprocError
        If the processing cannot work, before any file is touched.
    """
    processor = processing.build()
    n_processes = min(n_processes, len(jobs))
    if n_processes > 1:
        return _run_in_processes(jobs, processing, n_processes, on_progress)
    return _run_here(jobs, processor, on_progress)


def _run_here(jobs: Sequence[Job], processor: Processor, on_progress: OnProgress) -> Iterator[tuple[int, Outcome]]:
    for number, job in enumerate(jobs):
        yield number, _attempt(job, processor, partial(on_progress, number))


def _attempt(job: Job, processor: Processor, progress: Callable[[float], None]) -> Outcome:
    """Run one job; whatever is wrong with it becomes its outcome."""
    report = None
    try:
        if job.make_folder:
            job.target.parent.mkdir(parents=True, exist_ok=True)
        report = process_file(job.source, job.target, processor, progress)
        if job.picture is not None:
            from ..plots import save_comparison

            save_comparison(job.source, job.target, job.picture)
    except (StreamprocError, OSError) as error:
        return Outcome(job, report, _naming_the_file(job, str(error)))
    except Exception as error:
        return Outcome(job, report, f"{job.source}: {type(error).__name__}: {error}\n{traceback.format_exc()}")
    return Outcome(job, report)


def _naming_the_file(job: Job, message: str) -> str:
    """Put the file's name before a message that does not hold it: among many files it must say which."""
    named = any(str(path) in message for path in (job.source, *job.outputs))
    return message if named else f"{job.source}: {message}"


# --- in other processes ---------------------------------------------------------------------------------------------


class _Stopped(BaseException):
    """Ends a job whose batch was interrupted."""


@dataclass
class _Worker:
    """What a process of the pool keeps from job to job."""

    processor: Processor
    shares: Any
    """Shared array: the share of each job that is done."""
    stop: Any
    """Shared flag: the batch was interrupted."""

    def run(self, number: int, job: Job) -> Outcome:
        def progress(share: float) -> None:
            self.shares[number] = share
            if self.stop.value:
                raise _Stopped

        return _attempt(job, self.processor, progress)


_worker: _Worker | None = None


def _start_worker(processing: Processing, shares: Any, stop: Any) -> None:
    global _worker
    # Ctrl-C reaches every process of a terminal; the parent decides what it means, and sets the flag.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _worker = _Worker(processing.build(), shares, stop)
    # Only now: a process that is still loading has nothing to tidy up, and may die on the spot.
    signal.signal(signal.SIGTERM, exit_on_signal)


def _work(number: int, job: Job) -> Outcome | None:
    assert _worker is not None, "the pool starts every process with _start_worker"
    try:
        return _worker.run(number, job)
    except _Stopped:
        return None


def _run_in_processes(
    jobs: Sequence[Job], processing: Processing, n_processes: int, on_progress: OnProgress
) -> Iterator[tuple[int, Outcome]]:
    # Not forked: a copy of a process with threads (onnxruntime, progress display) may hang.
    context = get_context("spawn")
    shares = context.RawArray(c_double, len(jobs))
    stop = context.RawValue(c_bool, False)
    with ProcessPoolExecutor(n_processes, context, _start_worker, (processing, shares, stop)) as pool:
        try:
            with signals_ignored(signal.SIGINT):
                numbers = {pool.submit(_work, number, job): number for number, job in enumerate(jobs)}
            pending: set[Future[Outcome | None]] = set(numbers)
            while pending:
                done, pending = wait(pending, _POLL_S, FIRST_COMPLETED)
                for number, share in enumerate(shares):
                    on_progress(number, share)
                for future in done:
                    outcome = _outcome_of(future, jobs[numbers[future]])
                    if outcome is not None:
                        yield numbers[future], outcome
        finally:
            stop.value = True
            pool.shutdown(cancel_futures=True)


def _outcome_of(future: Future[Outcome | None], job: Job) -> Outcome | None:
    error = future.exception()
    if error is None:
        return future.result()
    return Outcome(job, error=f"{job.source}: its process died ({error}); try fewer --jobs if memory is short")
