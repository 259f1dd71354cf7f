"""Many files, one after another or side by side, of which none stops the others."""

from __future__ import annotations

import signal
import traceback
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from ctypes import c_bool, c_double
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.sharedctypes import RawArray, RawValue
from typing import Any

from ..errors import StreamprocError
from ..interrupts import signals_ignored
from ..offline import FileReport, process_file
from ..processor import Processor
from .console import MEMORY_IS_SHORT, exit_on_signals, in_words
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
) -> Generator[tuple[int, Outcome], None, None]:
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
    generator of (int, Outcome)
        The number of each job in `jobs` and how it ended, as it ends. Closing the generator, or an interrupt inside it,
        ends the jobs that run at their next block; they leave nothing. A process that dies fails the job that it was
        working on, and another takes its place.

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


def _run_here(
    jobs: Sequence[Job], processor: Processor, on_progress: OnProgress
) -> Generator[tuple[int, Outcome], None, None]:
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
    except StreamprocError as error:
        return Outcome(job, report, _naming_the_file(job, str(error)))
    except OSError as error:
        return Outcome(job, report, _naming_the_file(job, in_words(error)))
    except MemoryError:
        return Outcome(job, report, f"{job.source}: {MEMORY_IS_SHORT}; try fewer --jobs")
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


class _Worker:
    """A process that runs one job after another, seen from the process that hands them out.

    Not one of `ProcessPoolExecutor`: there one process that dies takes the jobs of all others along.
    """

    def __init__(self, processing: Processing, shares: Any, stop: Any) -> None:
        # Not forked: a copy of a process with threads (onnxruntime, progress display) may hang.
        context = get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.number = -1
        """The job that it works on."""
        self._process = context.Process(target=_work, args=(theirs, processing, shares, stop), daemon=True)
        with signals_ignored(signal.SIGINT):
            self._process.start()
        theirs.close()

    def begin(self, number: int, job: Job) -> None:
        """Hand out a job; whether it was taken shows when its outcome is received."""
        self.number = number
        with suppress(OSError):
            self.connection.send((number, job))

    def receive(self) -> Outcome | str:
        """Return the outcome of its job, or how the process ended without one."""
        try:
            outcome = self.connection.recv()
        except (EOFError, OSError):
            self.end()
            code = self._process.exitcode or 0
            return f"by signal {-code}" if code < 0 else f"with exit code {code}"
        assert isinstance(outcome, Outcome)
        return outcome

    def end(self) -> None:
        """Let it end, and wait until it has: after its job, or at the next block where the batch is stopped."""
        self.connection.close()
        self._process.join()


def _work(connection: Connection, processing: Processing, shares: Any, stop: Any) -> None:
    """Run jobs until no more come; the body of a process."""
    # Ctrl-C reaches every process of a terminal; the parent decides what it means, and sets the flag.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    processor = processing.build()
    # Only now: a process that is still loading has nothing to tidy up, and may die on the spot.
    exit_on_signals()

    def progress(number: int, share: float) -> None:
        shares[number] = share
        if stop.value:
            raise _Stopped

    # The other side closes the connection when there is nothing left to do, or has gone.
    with suppress(EOFError, OSError, _Stopped):
        while True:
            number, job = connection.recv()
            connection.send(_attempt(job, processor, partial(progress, number)))


def _run_in_processes(
    jobs: Sequence[Job], processing: Processing, n_processes: int, on_progress: OnProgress
) -> Generator[tuple[int, Outcome], None, None]:
    shares = RawArray(c_double, len(jobs))
    stop = RawValue(c_bool, False)
    waiting = deque(enumerate(jobs))
    workers: dict[Any, _Worker] = {}

    def hand_out(worker: _Worker) -> None:
        workers[worker.connection] = worker
        worker.begin(*waiting.popleft())

    try:
        while waiting or workers:
            while waiting and len(workers) < n_processes:
                hand_out(_Worker(processing, shares, stop))
            ready = wait(list(workers), _POLL_S)
            for number, share in enumerate(shares):
                on_progress(number, share)
            for connection in ready:
                worker = workers.pop(connection)
                number, outcome = worker.number, worker.receive()
                if isinstance(outcome, str):
                    outcome = _death(jobs[number], outcome)
                elif waiting:
                    hand_out(worker)
                else:
                    worker.end()
                yield number, outcome
    finally:
        stop.value = True
        for worker in workers.values():
            worker.end()


def _death(job: Job, how: str) -> Outcome:
    return Outcome(job, error=f"{job.source}: its process ended {how}; try fewer --jobs if memory is short")
