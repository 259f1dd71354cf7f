"""Test processors and live engines without hardware and without waiting.

A `FakeStream` calls an audio callback as a device would, on a `ManualClock`, from a script: block sizes, xruns, time
stamps, a server that vanishes. Nothing sleeps, and the worker works when it is told to, so that every run is the same::

    class Invert(BaseProcessor):
        def process(self, x, out):
            np.negative(x, out=out)

    def test_a_slow_moment_costs_sound_but_not_latency():
        engine = LiveEngine(Invert(), LiveConfig(48000, fixed_block=128))
        engine.start(own_thread=False)
        stream = FakeStream(engine.callback, 48000)

        def work_but_not_after_block_7(index):
            if index != 7:
                engine.work()

        x = np.random.default_rng(0).uniform(-1, 1, (1, 4096)).astype(np.float32)
        heard = stream.run(x, 128, between=work_but_not_after_block_7)
        late = engine.latency_samples
        assert late == 128 and engine.snapshot().missed_samples == 128
        assert np.array_equal(heard[:, late:1024], -x[:, : 1024 - late])  # before the miss
        assert np.array_equal(heard[:, 2048:], -x[:, 2048 - late : -late])  # and after it: as late as ever

Processors that misbehave: `SlowProcessor`, `FailingProcessor`. A processor with a known latency and no other effect is
`streamproc.dsp.delay.Delay`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import repeat
from time import sleep

import numpy as np

from .live.drift import DuplexCallback
from .processor import Processor, Wrapper
from .spec import Block, StreamConfig


class ManualClock:
    """A clock that moves when it is told to. Callable, like `time.perf_counter`: returns seconds."""

    def __init__(self, now_s: float = 0.0) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        """Return the time."""
        return self.now_s

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now_s += seconds


@dataclass
class FakeTime:
    """Time stamps of one callback in seconds, with PortAudio's names."""

    inputBufferAdcTime: float = 0.0  # noqa: N815
    currentTime: float = 0.0  # noqa: N815
    outputBufferDacTime: float = 0.0  # noqa: N815


@dataclass
class FakeStatus:
    """What a device reports with a callback; truthy when it reports anything."""

    input_underflow: bool = False
    input_overflow: bool = False
    output_underflow: bool = False
    output_overflow: bool = False

    def __bool__(self) -> bool:
        return self.input_underflow or self.input_overflow or self.output_underflow or self.output_overflow


class ServerVanished(Exception):
    """What a fake stream raises when its script says that the audio server dies."""


class FakeStream:
    """A duplex device made of arrays.

    Parameters
    ----------
    callback : callable
        As of `LiveEngine.callback`.
    sample_rate : float
        True rate of the device, in Hz of the clock.
    clock : ManualClock, optional
        Moved to the moment of every callback: when the last sample of its block has been captured.
    jitter_s : float
        Standard deviation of the time stamps.
    n_outputs : int, optional
        Channels of the output; those of the input unless given.
    """

    def __init__(
        self,
        callback: DuplexCallback,
        sample_rate: float,
        clock: ManualClock | None = None,
        jitter_s: float = 0.0,
        n_outputs: int | None = None,
    ) -> None:
        self.callback = callback
        self.sample_rate = sample_rate
        self.clock = clock if clock is not None else ManualClock()
        self._n_outputs = n_outputs
        self._jitter_s = jitter_s
        self._random = np.random.default_rng(0)
        self._now_s = self.clock.now_s

    def run(
        self,
        x: Block,
        blocks: int | Iterable[int],
        status: Mapping[int, FakeStatus] | None = None,
        gaps: Mapping[int, int] | None = None,
        vanish_at: int | None = None,
        between: Callable[[int], object] | None = None,
    ) -> Block:
        """Play `x` through the callback and return what it answered.

        Parameters
        ----------
        x : float32 [channels, n]
        blocks : int or iterable of int
            One size for all blocks (what does not fill the last one is left out), or the size of each.
        status : dict, optional
            Report with the block of that index.
        gaps : dict, optional
            Samples of time that pass unheard before the block of that index.
        vanish_at : int, optional
            Raise `ServerVanished` instead of playing the block of that index.
        between : callable, optional
            Called with the index of every block after it was played: run the worker, press a button, let time pass.

        Returns
        -------
        float32 [channels, n]

        Raises
        ------
        AssertionError
            If the callback raises, or leaves samples unfilled.
        """
        sizes = repeat(blocks, x.shape[1] // blocks) if isinstance(blocks, int) else blocks
        status, gaps = status or {}, gaps or {}
        answers = []
        start = 0
        for index, n in enumerate(sizes):
            if index == vanish_at:
                raise ServerVanished(f"the fake server vanished before block {index}")
            indata = np.ascontiguousarray(x[:, start : start + n].T)
            outdata = np.full((n, self._n_outputs or x.shape[0]), np.nan, np.float32)
            self._now_s += (n + gaps.get(index, 0)) / self.sample_rate
            self.clock.now_s = max(self.clock.now_s, self._now_s)
            try:
                self.callback(indata, outdata, n, self._time_stamps(n), status.get(index))
            except Exception as error:
                raise AssertionError(f"the callback raised at block {index}; a device would end the stream") from error
            if np.isnan(outdata).any():
                raise AssertionError(f"the callback left samples of block {index} unfilled")
            answers.append(outdata.T)
            start += n
            if between is not None:
                between(index)
        return np.concatenate(answers, axis=1) if answers else np.zeros((self._n_outputs or x.shape[0], 0), np.float32)

    def _time_stamps(self, n: int) -> FakeTime:
        now_s = self._now_s + self._jitter_s * self._random.standard_normal()
        return FakeTime(now_s - n / self.sample_rate, now_s, now_s + n / self.sample_rate)


class _Disturbed(Wrapper):
    """A processor with something done to it."""

    def __init__(self, inner: Processor) -> None:
        super().__init__(inner)
        self._calls = 0

    def prepare(self, config: StreamConfig) -> None:
        """Prepare `inner`; calls are counted from here."""
        super().prepare(config)
        self._calls = 0

    def process(self, x: Block, out: Block) -> None:
        """Disturb, then process one block."""
        self.disturb(self._calls)
        self._calls += 1
        self.inner.process(x, out)

    def disturb(self, call: int) -> None:
        """Do it, before the call of this index. A reset does not begin the count anew."""


class FailingProcessor(_Disturbed):
    """Raise at some calls.

    Parameters
    ----------
    inner : Processor
    fail_at : iterable of int
        Indices of the calls that raise instead of processing.
    error : type of Exception
    """

    def __init__(self, inner: Processor, fail_at: Iterable[int], error: type[Exception] = RuntimeError) -> None:
        super().__init__(inner)
        self._fail_at = frozenset(fail_at)
        self._error = error

    def disturb(self, call: int) -> None:
        """Raise where it was asked for."""
        if call in self._fail_at:
            self._calls += 1
            raise self._error(f"call {call} fails on purpose")


class SlowProcessor(_Disturbed):
    """Take `inner` as it is, but take time.

    Parameters
    ----------
    inner : Processor
    seconds : callable
        Time to take at the call of this index.
    sleep : callable
        `time.sleep`, or ``ManualClock.advance``.
    """

    def __init__(
        self, inner: Processor, seconds: Callable[[int], float], sleep: Callable[[float], object] = sleep
    ) -> None:
        super().__init__(inner)
        self._seconds = seconds
        self._sleep = sleep

    def disturb(self, call: int) -> None:
        """Sleep."""
        self._sleep(self._seconds(call))
