"""What goes wrong in the audio path: the stream lives on at the same latency, and the control thread is told."""

from __future__ import annotations

from threading import Event

import numpy as np
import pytest
from helpers import noise

from streamproc.dsp.delay import Delay
from streamproc.errors import EngineError
from streamproc.live import LiveConfig, LiveEngine
from streamproc.live.engine import BACKLOG_MS, FADE_MS
from streamproc.live.statistics import Mode
from streamproc.processor import BaseProcessor, Chain, Passthrough, Processor
from streamproc.spec import Block
from streamproc.testing import FailingProcessor, FakeStatus, FakeStream, ManualClock, SlowProcessor

RATE = 48_000
BLOCK = 128
FADE = round(RATE * FADE_MS / 1000)


class Invert(BaseProcessor):
    def process(self, x: Block, out: Block) -> None:
        np.negative(x, out=out)


class Poisoned(BaseProcessor):
    """Gives NaN until it is reset."""

    def __init__(self) -> None:
        self.ill = False
        self.resets = 0

    def process(self, x: Block, out: Block) -> None:
        np.copyto(out, np.nan if self.ill else x)

    def reset(self) -> None:
        self.ill = False
        self.resets += 1


class Stuck(BaseProcessor):
    """Does not return before it is let go."""

    def __init__(self) -> None:
        self.entered, self.let_go = Event(), Event()

    def process(self, x: Block, out: Block) -> None:
        self.entered.set()
        self.let_go.wait(30)
        np.copyto(out, x)


def running(processor: Processor, mode: Mode = "worker", **settings: object) -> tuple[LiveEngine, FakeStream]:
    engine = LiveEngine(processor, LiveConfig(RATE, fixed_block=BLOCK, mode=mode, **settings))  # type: ignore[arg-type]
    engine.start(own_thread=False)
    return engine, FakeStream(engine.callback, RATE)


def shifted(x: Block, by: int) -> Block:
    return np.concatenate([np.zeros((x.shape[0], by), np.float32), x], axis=1)[:, : x.shape[1]]


# --- exceptions -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["worker", "inline"])
@pytest.mark.parametrize("on_miss", ["dry", "silence"])
def test_an_exception_in_the_processor(mode: Mode, on_miss: str) -> None:
    x = noise(1, 60 * BLOCK)
    processor = FailingProcessor(Chain([Delay(50), Invert()]), [10, 40], ZeroDivisionError)
    engine, stream = running(processor, mode, on_miss=on_miss)
    engine.raise_if_failed()

    def between(index: int) -> None:
        engine.work()
        if index == 29:
            with pytest.raises(EngineError, match="ZeroDivisionError: call 10 fails") as caught:
                engine.raise_if_failed()
            assert isinstance(caught.value.__cause__, ZeroDivisionError)
            assert caught.value.snapshot is not None
            assert caught.value.snapshot.bypass == "failed"
            assert "reset" in caught.value.snapshot.advice
            engine.reset()

    heard = stream.run(x, BLOCK, between=between)
    late = engine.latency_samples
    assert late == 50 + (BLOCK if mode == "worker" else 0)
    dry = shifted(x, late)
    replacement = dry if on_miss == "dry" else 0 * dry
    failed = 10 * BLOCK + engine.config.queue
    reset = 30 * BLOCK
    np.testing.assert_array_equal(heard[:, :failed], -dry[:, :failed])
    np.testing.assert_array_equal(heard[:, failed + FADE : reset], replacement[:, failed + FADE : reset])
    again = slice(reset + late + FADE, 39 * BLOCK)
    np.testing.assert_array_equal(heard[:, again], -dry[:, again])
    # The processor was called with the first 11 blocks, and from block 30 on: call 40 got the last one.
    assert isinstance(engine.failure, ZeroDivisionError)


def test_only_the_first_exception_is_kept() -> None:
    engine, stream = running(FailingProcessor(Passthrough(), range(5)))
    stream.run(noise(1, 20 * BLOCK), BLOCK, between=lambda _: engine.work())
    assert str(engine.failure) == "call 0 fails on purpose"


@pytest.mark.parametrize("mode", ["worker", "inline"])
def test_an_exception_in_the_callback_itself(mode: Mode) -> None:
    x = noise(2, 61 * BLOCK)
    lost = slice(20 * BLOCK, 21 * BLOCK)
    engine = LiveEngine(Chain([Delay(300), Invert()]), LiveConfig(RATE, 2, fixed_block=BLOCK, mode=mode))
    engine.start(own_thread=False)
    stream = FakeStream(engine.callback, RATE)
    heard = [stream.run(x[:, : lost.start], BLOCK, between=lambda _: engine.work())]

    answer = np.full((BLOCK, 2), np.nan, np.float32)
    engine.callback(np.zeros((BLOCK, 3), np.float32), answer, BLOCK)
    heard.append(answer.T)
    with pytest.raises(EngineError, match="ValueError"):
        engine.raise_if_failed()

    heard.append(stream.run(x[:, lost.stop : 40 * BLOCK], BLOCK, between=lambda _: engine.work()))
    assert engine.snapshot().bypass == "failed"
    engine.reset()
    heard.append(stream.run(x[:, 40 * BLOCK :], BLOCK, between=lambda _: engine.work()))
    engine.raise_if_failed()

    whole = np.concatenate(heard, axis=1)
    x[:, lost] = 0.0
    dry = shifted(x, engine.latency_samples)
    np.testing.assert_array_equal(whole[:, : lost.start], -dry[:, : lost.start])
    np.testing.assert_array_equal(whole[:, lost], 0.0)
    # Sound that was on its way when it happened comes when it is due.
    failed = slice(lost.stop + BLOCK + FADE, 40 * BLOCK)
    np.testing.assert_array_equal(whole[:, failed], dry[:, failed])
    np.testing.assert_array_equal(whole[:, 50 * BLOCK :], -dry[:, 50 * BLOCK :])


def test_a_processor_that_loses_its_state_recovers() -> None:
    processor = Poisoned()
    engine, stream = running(processor)
    x = noise(1, 20 * BLOCK)
    resets = processor.resets

    def between(index: int) -> None:
        processor.ill |= index == 9
        engine.work()

    heard = stream.run(x, BLOCK, between=between)
    assert engine.snapshot().recoveries == 1
    assert processor.resets == resets + 2  # one for the start
    expected = shifted(x, BLOCK)
    expected[:, 10 * BLOCK : 11 * BLOCK] = 0.0
    np.testing.assert_array_equal(heard, expected)


# --- too slow -------------------------------------------------------------------------------------------------------


def test_too_many_misses_turn_processing_off_and_a_rest_on_again() -> None:
    engine, stream = running(Invert(), burst_ms=100, rest_s=0.5)
    x = noise(1, RATE * 3)
    slow = True
    seen: list[tuple[str, int]] = []

    def between(index: int) -> None:
        if not slow:
            engine.work()
        if not seen or seen[-1][0] != engine.snapshot().bypass:
            seen.append((engine.snapshot().bypass, index * BLOCK))

    first = stream.run(x[:, :RATE], BLOCK, between=between)
    snapshot = engine.snapshot()
    assert snapshot.overloads >= 1
    assert "lighter model" in snapshot.advice
    assert "tried again" in snapshot.advice
    assert [reason for reason, _ in seen[:3]] == ["", "overload", ""]
    stalled = seen[1][1]
    assert stalled == pytest.approx(0.1 / 0.95 * RATE, abs=3 * BLOCK)
    assert seen[2][1] - stalled == pytest.approx(0.5 * RATE, abs=3 * BLOCK)
    np.testing.assert_array_equal(first[:, BLOCK + FADE :], shifted(x, BLOCK)[:, BLOCK + FADE : RATE - RATE % BLOCK])

    slow = False
    second = stream.run(x, BLOCK, between=between)
    snapshot = engine.snapshot()
    assert snapshot.bypass == ""
    assert snapshot.advice == ""
    np.testing.assert_array_equal(second[:, -RATE:], -shifted(x, BLOCK)[:, : second.shape[1]][:, -RATE:])
    assert snapshot.missed_samples == snapshot.late_samples + snapshot.lost_samples + snapshot.owed_samples


def test_processing_stays_off_when_asked_to() -> None:
    engine, stream = running(Invert(), burst_ms=50, rest_s=None)
    stream.run(noise(1, RATE), BLOCK)
    stream.run(noise(1, 10 * RATE), BLOCK, between=lambda _: engine.work())
    assert engine.snapshot().bypass == "overload"
    assert "tried again" not in engine.snapshot().advice
    engine.reset()
    stream.run(noise(1, RATE), BLOCK, between=lambda _: engine.work())
    assert engine.snapshot().bypass == ""


def test_inline_mode_counts_callbacks_that_take_longer_than_their_block(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = ManualClock()
    monkeypatch.setattr("streamproc.live.engine.perf_counter_ns", lambda: int(clock.now_s * 1e9))
    processor = SlowProcessor(Invert(), lambda call: 0.004 if 100 <= call < 400 else 0.001, clock.advance)
    engine, stream = running(processor, "inline", burst_ms=300, rest_s=0.3)
    x = noise(1, RATE * 4)
    heard = stream.run(x, BLOCK)
    snapshot = engine.snapshot()
    assert snapshot.overloads == 2
    assert snapshot.overruns == 300
    assert snapshot.missed_samples == 0
    assert snapshot.load_p50 == pytest.approx(0.001 * RATE / BLOCK, rel=0.07)
    assert snapshot.load_max == pytest.approx(0.004 * RATE / BLOCK, rel=0.001)
    np.testing.assert_array_equal(heard[:, -RATE:], -x[:, : heard.shape[1]][:, -RATE:])


def test_a_worker_that_falls_out_of_its_window_begins_anew() -> None:
    engine, stream = running(Invert(), tolerated_share=0.99, burst_ms=1e9)
    x = noise(1, 3 * RATE)
    stall = round(2.5 * BACKLOG_MS / 1000 * RATE / BLOCK)
    heard = stream.run(x, BLOCK, between=lambda index: engine.work() if index < 10 or index > stall else None)
    dry = shifted(x, BLOCK)[:, : heard.shape[1]]
    np.testing.assert_array_equal(
        heard[:, 11 * BLOCK + FADE : stall * BLOCK], dry[:, 11 * BLOCK + FADE : stall * BLOCK]
    )
    np.testing.assert_array_equal(heard[:, (stall + 10) * BLOCK :], -dry[:, (stall + 10) * BLOCK :])
    snapshot = engine.snapshot()
    assert snapshot.lost_samples > 0
    assert snapshot.owed_samples == 0
    assert snapshot.missed_samples == snapshot.lost_samples + snapshot.late_samples


# --- start and stop -------------------------------------------------------------------------------------------------


def test_stop_while_the_worker_is_busy_is_bounded() -> None:
    processor = Stuck()
    engine = LiveEngine(processor, LiveConfig(RATE, fixed_block=BLOCK))
    engine.start()
    stream = FakeStream(engine.callback, RATE)
    x = noise(1, BLOCK * 20)
    stream.run(x, BLOCK)
    assert processor.entered.wait(10)
    assert not engine.stop(timeout_s=0.05)
    assert not engine.running
    with pytest.raises(EngineError, match="still inside the processor"):
        engine.start()
    heard = stream.run(x, BLOCK)
    np.testing.assert_array_equal(heard[:, BLOCK + FADE :], shifted(x, BLOCK)[:, BLOCK + FADE :])
    processor.let_go.set()
    assert engine.stop(timeout_s=10)
    engine.start()
    assert engine.stop(timeout_s=10)


def test_starting_twice_is_refused_and_stopping_twice_is_not() -> None:
    engine = LiveEngine(Passthrough(), LiveConfig(RATE))
    assert engine.stop()
    engine.start()
    with pytest.raises(EngineError, match="runs already"):
        engine.start()
    assert engine.stop()
    assert engine.stop()


def test_a_real_worker_thread_delivers() -> None:
    engine = LiveEngine(Invert(), LiveConfig(RATE, fixed_block=BLOCK, queue=4 * BLOCK))
    engine.start()
    x = noise(1, 200 * BLOCK)
    caught_up = Event()

    def wait_for_the_worker(_: int) -> None:
        for _ in range(2000):
            if engine._worker.output.written == engine._input.written:
                return
            caught_up.wait(0.001)

    heard = FakeStream(engine.callback, RATE).run(x, BLOCK, between=wait_for_the_worker)
    assert len(engine.audio_threads) == 2
    assert engine.stop(10)
    np.testing.assert_array_equal(heard, shifted(-x, 4 * BLOCK))
    snapshot = engine.snapshot()
    assert snapshot.missed_samples == 0
    assert snapshot.wake_max_us > 0


# --- what the device reports ----------------------------------------------------------------------------------------


def test_xruns_are_counted_and_gaps_estimated_from_the_clock() -> None:
    engine = LiveEngine(Passthrough(), LiveConfig(RATE, fixed_block=BLOCK))
    stream = FakeStream(engine.callback, RATE, jitter_s=5e-5)
    stream.run(
        noise(1, 50 * BLOCK),
        BLOCK,
        status={10: FakeStatus(input_overflow=True), 20: FakeStatus(output_underflow=True), 40: FakeStatus()},
        gaps={10: 1000, 20: 500},
    )
    snapshot = engine.snapshot()
    assert (snapshot.input_xruns, snapshot.output_xruns) == (1, 1)
    assert snapshot.gap_samples == pytest.approx(1500, abs=40)


def test_a_gap_that_nobody_reported_counts_when_it_is_long() -> None:
    engine = LiveEngine(Passthrough(), LiveConfig(RATE, fixed_block=BLOCK))
    FakeStream(engine.callback, RATE).run(noise(1, 50 * BLOCK), BLOCK, gaps={10: 100, 20: RATE})
    assert engine.snapshot().gap_samples == pytest.approx(RATE, abs=2)


def test_statistics_can_be_cleared_and_hold_no_sound() -> None:
    engine, stream = running(Invert())
    x = noise(1, 20 * BLOCK)
    stream.run(x, BLOCK, between=lambda index: engine.work() if index % 2 else None)
    engine.clear_statistics()
    snapshot = engine.snapshot()
    assert (snapshot.callbacks, snapshot.frames, snapshot.misses, snapshot.late_samples) == (0, 0, 0, 0)
    assert snapshot.missed_samples == snapshot.owed_samples
    heard = stream.run(x, BLOCK, between=lambda _: engine.work())
    np.testing.assert_array_equal(heard[:, 8 * BLOCK :], -shifted(x, BLOCK)[:, 8 * BLOCK :])
    snapshot = engine.snapshot()
    assert snapshot.missed_samples == snapshot.late_samples + snapshot.owed_samples


@pytest.mark.parametrize("mode", ["worker", "inline"])
def test_a_callback_that_was_under_way_cannot_undo_a_stop(mode: Mode) -> None:
    class Counted(Invert):
        calls = 0

        def process(self, x: Block, out: Block) -> None:
            self.calls += 1
            super().process(x, out)

    processor = Counted()
    engine, stream = running(processor, mode)
    stream.run(noise(1, 4 * BLOCK), BLOCK, between=lambda _: engine.work())
    engine.stop()
    engine._worker.begin(4 * BLOCK)  # what a callback does that found the engine running, a moment after `stop`
    stream.run(noise(1, BLOCK), BLOCK)
    before = processor.calls
    stream.run(noise(1, 4 * BLOCK), BLOCK, between=lambda _: engine.work())
    assert processor.calls == before
