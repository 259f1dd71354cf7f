"""The part that computes: the same body in a thread of its own or, in inline mode, in the callback."""

from __future__ import annotations

from threading import Lock, Thread, get_native_id
from time import perf_counter_ns

import numpy as np

from ..engine import Engine
from ..spec import Block
from ..stats import Histogram
from .forecast import Forecaster
from .ring import Ring

_LISTEN_S = 0.05
"""How long the worker sleeps at most before it looks whether it should end."""


class Bell:
    """Wakes one thread from another that must not wait.

    A bare lock used as a binary semaphore. On a shared two-core machine, beside a busy Python thread, ringing it takes
    6 us (p99 19) because releasing a lock never gives up the interpreter. Writing to a pipe or an eventfd does: that
    took the *ringing* thread up to 3 ms. `threading.Event` and `threading.Semaphore` take a second lock inside, and
    polling every 0.25 ms costs 160 us of delay and a core that never sleeps.
    """

    def __init__(self) -> None:
        self._gate = Lock()
        self._gate.acquire()

    def ring(self) -> None:
        """Wake the sleeper, or let it not fall asleep. Thread: audio, and no other."""
        # Only this thread opens the gate, and whoever finds it open has yet to come through and see what was written
        # before: no call is lost.
        if self._gate.locked():
            self._gate.release()

    def wait(self, timeout_s: float) -> bool:
        """Sleep until the bell rings; False when it did not. Thread: worker."""
        return self._gate.acquire(timeout=timeout_s)


class Worker:
    """Carries samples from one ring through the processor to another, in order and without ever skipping one.

    The callback begins a *segment* by writing `segment_start` and then `segment`; the worker follows by resetting the
    processor, moving to that sample, and answering with its own `following`. Only then do the samples in `output`
    belong to the segment. So one thread decides, the other obeys, and neither waits.

    Parameters
    ----------
    engine : Engine
        The processor with its guard and its statistics.
    source : Ring
        What the callback appends to.
    queue : int
        Samples that output may be ahead of the reader.
    forecaster : Forecaster, optional
        Hears everything that is processed, and writes a forecast whenever nothing else is to be done: sound that waits
        always comes first.

    Attributes
    ----------
    output : Ring
        Processed samples; those before ``output.written`` are there.
    failure : Exception or None
        What the processor raised; no further call is made until a new segment begins.
    overtaken : bool
        Whether the source has overwritten what was to be processed next. A new segment is needed.
    resting : bool
        Set by the callback: do nothing until a new segment begins.
    """

    def __init__(self, engine: Engine, source: Ring, queue: int, forecaster: Forecaster | None = None) -> None:
        config = engine.config
        self._engine = engine
        self._source = source
        self._forecaster = forecaster
        self._fixed_block = config.fixed_block
        self._max_block = config.max_block
        self._x: Block = np.zeros((config.n_channels, config.max_block), np.float32)
        self._y: Block = np.zeros((config.n_channels, config.max_block), np.float32)
        self._position = 0
        self.output = Ring(config.n_channels, queue + config.max_block, config.max_block)
        self.segment = self.following = 0
        self.segment_start = 0
        self.resting = True
        self.overtaken = False
        self.failure: Exception | None = None

    @property
    def is_following(self) -> bool:
        """Whether the worker has come to the segment that was begun last; only then its state says anything."""
        return self.following == self.segment

    def begin(self, start: int) -> None:
        """Begin a new segment with the sample of this number. Thread: audio."""
        self.segment_start = start
        self.resting = False
        self.segment += 1

    def work(self, max_blocks: int | None = None) -> int:
        """Process what has come in; return how many blocks that were. Thread: worker, or audio in inline mode."""
        done = 0
        try:
            while done != max_blocks:
                if not self.is_following:
                    self._follow()
                n = 0 if self.resting or self.failure or self.overtaken else self._n_ready()
                if n == 0:
                    break
                self._process(n)
                done += 1
            if self._forecaster is not None and done and self._is_idle:
                self._forecaster.renew(self._position)
        except Exception as error:
            self.failure = error
        return done

    def _follow(self) -> None:
        segment = self.segment  # read before the start, which is written before it
        self._position = self.segment_start
        self.output.jump(self._position)
        if self._forecaster is not None:
            self._forecaster.begin(self._position)
        self.overtaken = False
        self.failure = None
        self.following = segment
        self._engine.reset()

    def _n_ready(self) -> int:
        waiting = self._source.written - self._position
        if self._fixed_block is None:
            return min(waiting, self._max_block)
        return self._fixed_block if waiting >= self._fixed_block else 0

    @property
    def _is_idle(self) -> bool:
        return self.is_following and not (self.resting or self.failure or self.overtaken) and self._n_ready() == 0

    def _process(self, n: int) -> None:
        x, y = self._x[:, :n], self._y[:, :n]
        if not self._source.read(self._position, x):
            self.overtaken = True
            return
        self._engine.process(x, y)
        self.output.append(y)
        self._position += n
        if self._forecaster is not None:
            self._forecaster.hear(y)


class WorkerThread:
    """A thread that does a worker's work whenever the bell rings."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._bell = Bell()
        self._called_ns = 0
        self._alive = True
        self._thread = Thread(target=self._run, name="streamproc worker", daemon=True)
        self.native_id: int | None = None
        self.wake_times = Histogram()
        """From the callback's call to the worker's first instruction, where it was asleep."""

    def start(self) -> None:
        """Start. Thread: control."""
        self._thread.start()

    def call(self) -> None:
        """Say that there is work. Thread: audio."""
        self._called_ns = perf_counter_ns()
        self._bell.ring()

    def stop(self, timeout_s: float) -> bool:
        """End after the block at work; False if that took longer than `timeout_s`. Thread: control."""
        self._alive = False
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def _run(self) -> None:
        self.native_id = get_native_id()
        while self._alive:
            if not self._bell.wait(0.0):
                if not self._bell.wait(_LISTEN_S):
                    continue
                self.wake_times.record(perf_counter_ns() - self._called_ns)
            self._worker.work()
