"""The fakes that users test with: they do what they say, and they do not let errors pass."""

from __future__ import annotations

from textwrap import dedent

import numpy as np
import pytest
from helpers import noise

from streamproc import testing
from streamproc.live import LiveConfig, LiveEngine
from streamproc.processor import BaseProcessor, Passthrough
from streamproc.spec import Block, StreamConfig
from streamproc.testing import (
    FailingProcessor,
    FakeStatus,
    FakeStream,
    FakeTime,
    ManualClock,
    ServerVanished,
    SlowProcessor,
)


def test_the_example_of_the_module() -> None:
    assert testing.__doc__ is not None
    example = testing.__doc__.split("::\n", 1)[1].split("\nProcessors that", 1)[0]
    names = {"np": np, "BaseProcessor": BaseProcessor, "LiveEngine": LiveEngine, "LiveConfig": LiveConfig}
    names["FakeStream"] = FakeStream
    exec(dedent(example), names)
    names["test_a_slow_moment_costs_sound_but_not_latency"]()  # type: ignore[operator]


def test_a_script_is_played() -> None:
    seen: list[tuple[int, bool, float, float]] = []
    clock = ManualClock(100.0)

    def callback(indata: Block, outdata: Block, frames: int, time_info: FakeTime, status: FakeStatus | None) -> None:
        outdata[:] = -indata
        seen.append((frames, bool(status), time_info.inputBufferAdcTime, clock()))

    x = noise(2, 450)
    stream = FakeStream(callback, 100.0, clock)  # type: ignore[arg-type]
    heard = stream.run(x, [100, 0, 150, 200], status={2: FakeStatus(input_overflow=True)}, gaps={3: 50})
    np.testing.assert_array_equal(heard, -x)
    assert seen == [(100, False, 100, 101), (0, False, 101, 101), (150, True, 101, 102.5), (200, False, 103, 105)]


def test_a_server_vanishes() -> None:
    indices: list[int] = []
    stream = FakeStream(lambda i, o, *_: np.copyto(o, i), 48_000)  # type: ignore[arg-type]
    with pytest.raises(ServerVanished, match="before block 3"):
        stream.run(noise(1, 1000), 100, vanish_at=3, between=indices.append)
    assert indices == [0, 1, 2]
    assert stream.run(noise(1, 1000), 100).shape == (1, 1000)


def test_callbacks_that_raise_or_forget_samples_are_found_out() -> None:
    def forgets(indata: Block, outdata: Block, *_: object) -> None:
        outdata[:-1] = 0.0

    def raises(*_: object) -> None:
        raise ZeroDivisionError

    with pytest.raises(AssertionError, match="unfilled"):
        FakeStream(forgets, 48_000).run(noise(1, 100), 50)  # type: ignore[arg-type]
    with pytest.raises(AssertionError, match="block 0") as caught:
        FakeStream(raises, 48_000).run(noise(1, 100), 50)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_nothing_to_play() -> None:
    assert FakeStream(lambda *_: None, 48_000).run(noise(2, 10), []).shape == (2, 0)


def process(processor: BaseProcessor, calls: int) -> None:
    processor.prepare(StreamConfig(48_000))
    for _ in range(calls):
        processor.process(np.zeros((1, 4), np.float32), np.zeros((1, 4), np.float32))


def test_slow_processor_takes_its_time() -> None:
    clock = ManualClock()
    process(SlowProcessor(Passthrough(), lambda call: 0.5 * call, clock.advance), 4)
    assert clock() == 3.0


def test_failing_processor_counts_failed_calls_too() -> None:
    processor = FailingProcessor(Passthrough(), [1, 2], OSError)
    process(processor, 1)
    x = np.zeros((1, 4), np.float32)
    for call in (1, 2):
        with pytest.raises(OSError, match=f"call {call} fails"):
            processor.process(x, x)
    processor.process(x, x)
    assert processor.latency_samples == processor.tail_samples == 0
    assert not processor.parameters
