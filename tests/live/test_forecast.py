"""`on_miss="predict"`: what is heard in a gap, that nothing else changes, and that the callback never waits for it."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import noise, varying_blocks
from hypothesis import given, settings
from hypothesis import strategies as st

from streamproc.dsp.delay import Delay
from streamproc.errors import ConfigError
from streamproc.live import LiveConfig, LiveEngine
from streamproc.live.engine import FADE_MS
from streamproc.live.forecast import FULL_MS, HORIZON_MS, RENEW_MS, Continuation, Forecaster
from streamproc.processor import BaseProcessor, Chain, Passthrough, Processor
from streamproc.spec import Block
from streamproc.testing import FailingProcessor, FakeStream

RATE = 8000
BLOCK = 40
FADE = round(RATE * FADE_MS / 1000)
HORIZON, FULL = (round(RATE * ms / 1000) for ms in (HORIZON_MS, FULL_MS))


class Invert(BaseProcessor):
    def process(self, x: Block, out: Block) -> None:
        np.negative(x, out=out)


class Ramp:
    """A predictor whose samples say which forecast they are of, and how old they are: count + age / 1000, over 100."""

    def __init__(self) -> None:
        self.heard = self.forecasts = 0
        self.in_callback = False
        self.called_in_callback = False

    def prepare(self, sample_rate: int, n_channels: int, max_block: int) -> None:
        self.heard = 0

    def hear(self, y: Block) -> None:
        self.called_in_callback |= self.in_callback
        self.heard += y.shape[1]

    def predict(self, out: Block) -> None:
        self.called_in_callback |= self.in_callback
        self.forecasts += 1
        out[:] = (self.forecasts + np.arange(out.shape[1]) / 1000) / 100

    def reset(self) -> None:
        self.heard = 0


def engine_with(predictor: object, processor: Processor | None = None, **given_settings: object) -> LiveEngine:
    usual = {"fixed_block": BLOCK, "tolerated_share": 0.99, "burst_ms": 1e6, "on_miss": "predict"}
    engine = LiveEngine(
        processor or Passthrough(),
        LiveConfig(RATE, **(usual | given_settings)),  # type: ignore[arg-type]
        predictor=predictor,  # type: ignore[arg-type]
    )
    engine.start(own_thread=False)
    return engine


def play(engine: LiveEngine, x: Block, miss: range | set[int], blocks: int | list[int] = BLOCK) -> Block:
    """Run; after the blocks in `miss` the worker does nothing."""
    stream = FakeStream(engine.callback, RATE)
    return stream.run(x, blocks, between=lambda index: None if index in miss else engine.work())


def tone(n: int, hz: float = 440.0) -> Block:
    return (0.4 * np.sin(2 * np.pi * hz * np.arange(n) / RATE)).astype(np.float32)[None]


def shifted(x: Block, by: int) -> Block:
    return np.concatenate([np.zeros((x.shape[0], by), np.float32), x], axis=1)[:, : x.shape[1]]


# --- what is heard --------------------------------------------------------------------------------------------------


def test_a_tone_goes_on_through_a_gap() -> None:
    x = tone(100 * BLOCK)
    engine = engine_with(None, Invert())
    heard = play(engine, x, range(60, 62))
    wet = -shifted(x, BLOCK)
    gap = slice(61 * BLOCK, 63 * BLOCK)
    outside = np.ones(x.shape[1], bool)
    outside[gap.start : gap.stop + FADE] = False
    np.testing.assert_array_equal(heard[:, outside], wet[:, outside])
    assert np.sqrt(np.mean((heard - wet)[:, gap] ** 2)) < 0.35 * np.sqrt(np.mean(wet[:, gap] ** 2))
    assert engine.snapshot().missed_samples == engine.snapshot().predicted_samples == 2 * BLOCK
    assert np.abs(np.diff(heard)).max() < 1.1 * np.abs(np.diff(x)).max()


def test_a_forecast_fades_into_dry_sound_which_then_stays() -> None:
    x = noise(1, 100 * BLOCK, level=0.05)
    predictor = Ramp()
    heard = play(engine_with(predictor, Invert()), x, range(40, 60))
    dry, first = shifted(x, BLOCK), 41 * BLOCK
    forecast = (41 + np.arange(HORIZON) / 1000) / 100  # one after each of the blocks 0 to 39, but none after the start
    forecast -= 0.01 * round((forecast[FADE + 1] - heard[0, first + FADE + 1]) * 100)
    np.testing.assert_allclose(heard[0, first + FADE : first + FULL], forecast[FADE:FULL], atol=1e-6)
    weight = 0.5 + 0.5 * np.cos(np.pi * np.arange(1, HORIZON - FULL + 1) / (HORIZON - FULL))
    fading = slice(first + FULL, first + HORIZON)
    np.testing.assert_allclose(heard[0, fading], weight * forecast[FULL:] + (1 - weight) * dry[0, fading], atol=1e-6)
    np.testing.assert_array_equal(heard[:, first + HORIZON : 61 * BLOCK], dry[:, first + HORIZON : 61 * BLOCK])


def test_what_is_held_does_not_change_while_the_worker_catches_up() -> None:
    """The worker comes back in the middle of the gap and makes new forecasts; the one that is heard stays."""
    x = noise(1, 60 * BLOCK, level=0.05)
    predictor = Ramp()
    engine = engine_with(predictor, queue=3 * BLOCK)
    count_at_gap = 0

    def between(index: int) -> None:
        nonlocal count_at_gap
        if index < 30:
            engine.work()
            count_at_gap = predictor.forecasts
        elif index == 35 or index >= 37:
            engine.work(2 if index == 35 else None)

    heard = FakeStream(engine.callback, RATE).run(x, BLOCK, between=between)
    # Processed sound of the blocks 0 to 29 is heard until block 33; blocks 30 and 31 come after block 35, too late.
    first = 33 * BLOCK
    expected = (count_at_gap + np.arange(HORIZON) / 1000) / 100
    stop = 37 * BLOCK
    np.testing.assert_allclose(heard[0, first + FADE : stop], expected[FADE : stop - first], atol=1e-6)
    assert predictor.forecasts > count_at_gap


def test_two_gaps_have_two_forecasts() -> None:
    x = noise(1, 80 * BLOCK, level=0.05)
    heard = play(engine_with(Ramp()), x, {20, 50})
    counts = [round(float(heard[0, (index + 2) * BLOCK - 1]) * 100) for index in (20, 50)]
    assert counts[1] == counts[0] + 29


def test_nothing_was_heard_yet() -> None:
    """A stream whose first block is missed has dry sound, as there is nothing to go on from."""
    x = noise(1, 20 * BLOCK)
    heard = play(engine_with(Ramp(), Invert()), x, range(20))
    np.testing.assert_array_equal(heard[:, BLOCK + FADE :], shifted(x, BLOCK)[:, BLOCK + FADE :])


def test_bypass_is_dry_whatever_is_missed() -> None:
    x = noise(1, 60 * BLOCK, level=0.05)
    engine = engine_with(Ramp(), Invert())
    engine.bypass = True
    heard = play(engine, x, {30, 31, 40})
    np.testing.assert_array_equal(heard[:, FADE:], shifted(x, BLOCK)[:, FADE:])
    assert engine.snapshot().missed_samples == 3 * BLOCK
    assert engine.snapshot().predicted_samples == 0


def test_a_processor_that_fails_is_continued_too() -> None:
    x = tone(60 * BLOCK)
    engine = engine_with(None, FailingProcessor(Invert(), [40]))
    heard = play(engine, x, set())
    dry, first = shifted(x, BLOCK), 41 * BLOCK
    assert engine.snapshot().bypass == "failed"
    beginning = slice(first, first + RATE // 100)
    assert np.sqrt(np.mean((heard + dry)[:, beginning] ** 2)) < 0.35 * np.sqrt(np.mean(dry[:, beginning] ** 2))
    np.testing.assert_array_equal(heard[:, first + HORIZON :], dry[:, first + HORIZON :])


# --- what does not change -------------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(
    work=st.lists(st.sampled_from([0, 0, 1, 2, 100, 100, 100]), min_size=20, max_size=60),
    resets=st.sets(st.integers(0, 30), max_size=2),
    seed=st.integers(0, 99),
    fixed=st.booleans(),
)
def test_only_gaps_sound_different_and_every_count_is_the_same(
    work: list[int], resets: set[int], seed: int, fixed: bool
) -> None:
    work = [*work, *[100] * 30]
    x = noise(2, len(work) * BLOCK, seed)
    blocks = [BLOCK] * len(work) if fixed else varying_blocks(x.shape[1], seed, BLOCK)
    heard, counted = {}, {}
    for on_miss in ("dry", "predict"):
        predictor = Ramp() if on_miss == "predict" else None
        engine = engine_with(
            predictor, Chain([Delay(23), Invert()]), on_miss=on_miss, n_channels=2,
            fixed_block=BLOCK if fixed else None, max_block=BLOCK,
        )  # fmt: skip

        def between(index: int, engine: LiveEngine = engine) -> None:
            if index in resets:
                engine.reset()
            engine.work(work[min(index, len(work) - 1)])

        heard[on_miss] = FakeStream(engine.callback, RATE).run(x, blocks, between=between)
        counted[on_miss] = engine.snapshot()
        engine.raise_if_failed()
    names = ("missed", "late", "lost", "owed", "skipped", "bypassed")
    for name in (*(f"{name}_samples" for name in names), "misses", "callbacks", "latency_samples"):
        assert getattr(counted["dry"], name) == getattr(counted["predict"], name), name
    assert counted["predict"].predicted_samples <= sum(
        getattr(counted["predict"], f"{name}_samples") for name in ("missed", "skipped", "bypassed")
    )
    # Where both are not the same there is a forecast, and that is never far from processed sound.
    wet = -shifted(x, counted["dry"].latency_samples)
    differs = np.any(heard["dry"] != heard["predict"], axis=0)
    gaps = np.any(heard["dry"] != wet, axis=0)
    near = np.convolve(gaps, np.ones(2 * FADE + 1), "same") > 0
    assert not np.any(differs & ~near)
    np.testing.assert_array_equal(heard["predict"][:, -BLOCK:], wet[:, -BLOCK:])


def test_the_same_schedule_gives_the_same_sound() -> None:
    x = noise(1, 80 * BLOCK)
    miss = {20, 21, 35, 50}
    np.testing.assert_array_equal(play(engine_with(None), x, miss), play(engine_with(None), x, miss))


# --- when the work is done ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", [8, 40, 100])
def test_forecasts_are_made_by_the_worker_and_not_more_often_than_agreed(block: int) -> None:
    x = noise(1, RATE)
    predictor = Ramp()
    engine = engine_with(predictor, fixed_block=block)

    def callback(*arguments: object) -> None:
        predictor.in_callback = True
        engine.callback(*arguments)  # type: ignore[arg-type]
        predictor.in_callback = False

    def between(index: int) -> None:
        if index % 10:
            engine.work()

    FakeStream(callback, RATE).run(x, block, between=between)
    assert not predictor.called_in_callback
    assert predictor.heard == RATE // block * block - (block if (RATE // block - 1) % 10 == 0 else 0)
    assert 0 < predictor.forecasts <= RATE / max(block, RATE * RENEW_MS / 1000) + 1


def test_sound_that_waits_comes_before_forecasts() -> None:
    x = noise(1, 40 * BLOCK)
    predictor = Ramp()
    engine = engine_with(predictor)
    play(engine, x, range(40))
    for _ in range(39):
        assert engine.work(1) == 1
        assert predictor.forecasts == 0
    assert engine.work(1) == 1
    assert predictor.forecasts == 1


def test_a_forecast_that_is_not_finite_is_never_heard() -> None:
    class Unstable(Ramp):
        def predict(self, out: Block) -> None:
            super().predict(out)
            out[:, 3] = np.nan

    engine = engine_with(Unstable())
    stream = FakeStream(engine.callback, RATE)
    x = noise(1, 60 * BLOCK)
    y = stream.run(x, BLOCK, between=lambda index: index % 7 and engine.work())
    assert engine.snapshot().misses > 3
    assert np.isfinite(y).all()
    assert np.isfinite(engine.snapshot().output_dbfs)


def test_a_forecast_that_was_overwritten_while_it_was_copied_is_not_heard() -> None:
    forecaster = Forecaster(Ramp(), RATE, 1, BLOCK)
    continuation = Continuation(forecaster, RATE, 1, BLOCK)
    dry = np.zeros((1, BLOCK), np.float32)
    number = 0

    def renew() -> None:
        nonlocal number
        number += BLOCK
        forecaster.renew(number)

    for _ in range(9):
        renew()
    continuation.hold()
    assert continuation.over(dry, number, 0, 0) is not dry

    class Restless(Forecaster):
        """The worker makes forecasts while the callback copies: between its two looks at the count."""

        def __init__(self, source: Forecaster, meanwhile: int) -> None:
            self.slots, self.starts = source.slots, source.starts
            self._counts = iter((source.count, source.count + meanwhile))

        @property
        def count(self) -> int:  # type: ignore[override]
            return next(self._counts)

    for meanwhile, usable in ((0, True), (2, True), (3, False), (9, False)):
        continuation._source = Restless(forecaster, meanwhile)
        continuation.hold()
        assert (continuation.over(dry, number, 0, 0) is not dry) == usable


def test_settings_that_do_not_go_together_are_refused() -> None:
    with pytest.raises(ConfigError, match="predict"):
        engine_with(Ramp(), on_miss="dry")
    with pytest.raises(ConfigError, match="mode='worker'"):
        engine_with(Ramp(), mode="inline")
