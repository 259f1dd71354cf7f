"""Test processors and live engines without hardware and without waiting.

A `FakeStream` calls an audio callback as a device would, on a `ManualClock`, from a script: block sizes, xruns, time
stamps, a server that vanishes. Nothing sleeps, so a test of ten minutes of audio takes as long as its computation::

    def test_my_processor_survives_a_slow_moment():
        engine = LiveEngine(SlowProcessor(MyProcessor(), clock), LiveConfig(48000, fixed_block=128))
        engine.start(own_thread=False)
        stream = FakeStream(engine.callback, 48000)
        out = stream.run(x, 128, between=lambda index: engine.work() if index != 7 else None)
        assert engine.snapshot().missed_samples == 128
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from .live.drift import DuplexCallback
from .processor import BaseProcessor, Processor
from .spec import Block


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
        True rate of the device in Hz of the clock.
    clock : ManualClock, optional
        Advanced by the duration of every block.
    jitter_s : float
        Standard deviation of the time stamps.
    """

    def __init__(
        self, callback: DuplexCallback, sample_rate: float, clock: ManualClock | None = None, jitter_s: float = 0.0
    ) -> None:
        raise NotImplementedError

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
            One size for every block, or the size of each; the last may be cut short where `x` ends.
        status : dict, optional
            Report with the block of that index.
        gaps : dict, optional
            Samples of time that pass unheard before the block of that index.
        vanish_at : int, optional
            Raise `ServerVanished` instead of playing this block.
        between : callable, optional
            Called with its index after each block: run the worker, press a button, let time pass.

        Returns
        -------
        float32 [channels, n]
        """
        raise NotImplementedError


class DelayProcessor(BaseProcessor):
    """A pure delay, with the latency that it says it has."""

    def __init__(self, delay: int) -> None:
        self.delay = delay

    def process(self, x: Block, out: Block) -> None:
        """Delay one block."""


class FailingProcessor(BaseProcessor):
    """Pass `inner` through and raise at the calls of the given indices."""

    def __init__(self, inner: Processor, fail_at: Iterable[int], error: type[Exception] = RuntimeError) -> None:
        self.inner = inner

    def process(self, x: Block, out: Block) -> None:
        """Process one block, or raise."""


class SlowProcessor(BaseProcessor):
    """Take `inner` as it is, but take time.

    Parameters
    ----------
    inner : Processor
    sleep : callable
        ``time.sleep``, or ``ManualClock.advance``.
    seconds : callable
        Time to take at the call of this index.
    """

    def __init__(self, inner: Processor, sleep: Callable[[float], object], seconds: Callable[[int], float]) -> None:
        self.inner = inner

    def process(self, x: Block, out: Block) -> None:
        """Process one block, slowly."""
