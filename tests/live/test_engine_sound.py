"""What is heard: the processor, sample by sample, at the latency declared; everything else without clicks."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import RecurrentSpectrum, block_splits, noise, run_blocks, varying_blocks
from hypothesis import given
from hypothesis import strategies as st

from streamproc.dsp.delay import Delay
from streamproc.errors import ConfigError
from streamproc.live import LiveConfig, LiveEngine
from streamproc.live.engine import FADE_MS
from streamproc.live.statistics import Mode
from streamproc.model_processor import ModelProcessor
from streamproc.processor import BaseProcessor, Chain, Passthrough, Processor
from streamproc.spec import Block, StreamConfig
from streamproc.testing import FakeStream

RATE = 48_000
FADE = round(RATE * FADE_MS / 1000)


class Scale(BaseProcessor):
    def __init__(self, factor: float) -> None:
        self.factor = np.float32(factor)

    def process(self, x: Block, out: Block) -> None:
        np.multiply(x, self.factor, out=out)


def running(processor: Processor, config: LiveConfig) -> tuple[LiveEngine, FakeStream]:
    engine = LiveEngine(processor, config)
    engine.start(own_thread=False)
    return engine, FakeStream(engine.callback, config.sample_rate)


def shifted(x: Block, by: int) -> Block:
    return np.concatenate([np.zeros((x.shape[0], by), np.float32), x], axis=1)[:, : x.shape[1]]


def sine(n: int, hz: float = 500.0, level: float = 0.5) -> Block:
    return (level * np.sin(2 * np.pi * hz * np.arange(n) / RATE)).astype(np.float32)[None]


def largest_step(x: Block) -> float:
    return float(np.abs(np.diff(x)).max())


# --- the processor is heard -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["worker", "inline"])
@pytest.mark.parametrize("block", [64, 100, 128, 480])
def test_a_model_is_heard_as_offline_but_later(mode: Mode, block: int) -> None:
    x = noise(2, 40 * block)
    offline = ModelProcessor(RecurrentSpectrum(RATE, hop=128))
    offline.prepare(StreamConfig(RATE, 2, max_block=block, fixed_block=block))
    expected = run_blocks(offline, x, [block] * 40)
    engine, stream = running(
        ModelProcessor(RecurrentSpectrum(RATE, hop=128)), LiveConfig(RATE, 2, fixed_block=block, mode=mode)
    )
    heard = stream.run(x, block, between=lambda _: engine.work())
    queue = block if mode == "worker" else 0
    assert engine.latency_samples == offline.latency_samples + queue
    assert engine.latency.queue == queue
    np.testing.assert_array_equal(heard, shifted(expected, queue))
    assert engine.snapshot().missed_samples == 0


@given(blocks=block_splits(4000, largest=512), seed=st.integers(0, 99))
@pytest.mark.parametrize("mode", ["worker", "inline"])
def test_blocks_of_any_size(mode: Mode, blocks: list[int], seed: int) -> None:
    x = noise(1, sum(blocks), seed)
    engine, stream = running(Chain([Delay(71), Scale(-0.5)]), LiveConfig(RATE, max_block=512, mode=mode))
    heard = stream.run(x, blocks, between=lambda _: engine.work())
    assert engine.latency_samples == 71 + (512 if mode == "worker" else 0)
    np.testing.assert_array_equal(heard, shifted(x * np.float32(-0.5), engine.latency_samples))


def test_a_callback_larger_than_promised_is_worked_off_in_pieces() -> None:
    x = noise(1, 4096)
    engine, stream = running(Scale(-1), LiveConfig(RATE, max_block=128, queue=1024))
    heard = stream.run(x, 1024, between=lambda _: engine.work())
    np.testing.assert_array_equal(heard, shifted(-x, 1024))
    assert engine.snapshot().callbacks == 4


def test_a_longer_queue_gives_the_worker_time() -> None:
    x = noise(1, 128 * 60)
    engine, stream = running(Scale(-1), LiveConfig(RATE, fixed_block=128, queue=3 * 128))
    # The worker only comes every third block.
    heard = stream.run(x, 128, between=lambda index: engine.work() if index % 3 == 2 else None)
    np.testing.assert_array_equal(heard, shifted(-x, 3 * 128))
    assert engine.snapshot().misses == 0


# --- channels, guard, levels ----------------------------------------------------------------------------------------


def test_one_channel_fans_out_and_several_become_their_mean() -> None:
    x = noise(1, 512)
    engine = LiveEngine(Passthrough(), LiveConfig(RATE, 1, fixed_block=128, mode="inline"))
    engine.start()
    fanned = FakeStream(engine.callback, RATE, n_outputs=2).run(x, 128)
    np.testing.assert_array_equal(fanned, np.repeat(x, 2, axis=0))
    two = noise(2, 512)
    mean = FakeStream(engine.callback, RATE, n_outputs=1).run(two, 128)
    np.testing.assert_allclose(mean, two.mean(axis=0, keepdims=True), atol=1e-7)


def test_no_bad_sample_gets_in_or_out() -> None:
    x = noise(1, 1280)
    bad = x.copy()
    bad[0, [130, 300, 301]] = np.nan, np.inf, -1e20
    x[0, [130, 300, 301]] = 0.0
    engine, stream = running(Scale(8), LiveConfig(RATE, fixed_block=128))
    heard = stream.run(bad, 128, between=lambda _: engine.work())
    np.testing.assert_array_equal(heard, shifted(np.clip(8 * x, -1, 1), 128))
    snapshot = engine.snapshot()
    assert snapshot.silenced_samples == 3
    assert snapshot.clamped_samples == np.count_nonzero(np.abs(8 * x) > 1)


def test_bad_samples_stay_out_of_the_dry_sound_too() -> None:
    bad = np.full((1, 1280), 3.0, np.float32)
    bad[0, 700] = np.nan
    engine, stream = running(Passthrough(), LiveConfig(RATE, fixed_block=128))
    engine.bypass = True
    heard = stream.run(bad, 128, between=lambda _: engine.work())
    assert np.isfinite(heard).all()
    assert heard.max() == 1.0


def test_levels_and_what_was_removed() -> None:
    engine, stream = running(Scale(0.1), LiveConfig(RATE, fixed_block=480))
    assert engine.snapshot().input_dbfs == -np.inf
    assert engine.snapshot().removed_db == 0.0
    stream.run(sine(RATE * 3), 480, between=lambda _: engine.work())
    snapshot = engine.snapshot()
    assert snapshot.input_dbfs == pytest.approx(20 * np.log10(0.5) - 3.01, abs=0.05)
    assert snapshot.output_dbfs == pytest.approx(20 * np.log10(0.05) - 3.01, abs=0.05)
    assert snapshot.removed_db == pytest.approx(20.0, abs=0.1)


# --- transitions ----------------------------------------------------------------------------------------------------


def test_before_start_and_after_stop_the_sound_is_dry_and_as_late() -> None:
    x = noise(1, 1280)
    engine = LiveEngine(Chain([Delay(10), Scale(-1)]), LiveConfig(RATE, fixed_block=128))
    stream = FakeStream(engine.callback, RATE)
    before = stream.run(x, 128)
    assert engine.snapshot().bypass == "stopped"
    np.testing.assert_array_equal(before[:, FADE:], shifted(x, 138)[:, FADE:])
    engine.start(own_thread=False)
    during = stream.run(np.zeros_like(x), 128, between=lambda _: engine.work())
    np.testing.assert_array_equal(during[:, :138], x[:, -138:])
    assert engine.snapshot().skipped_samples == 138
    assert engine.stop()
    after = stream.run(x, 128)
    np.testing.assert_array_equal(after[:, FADE + 138 :], shifted(x, 138)[:, FADE + 138 :])
    assert engine.snapshot().missed_samples == 0


def test_bypass_is_aligned_and_does_not_click() -> None:
    x = sine(128 * 200)
    engine, stream = running(Chain([Delay(37), Scale(0.2)]), LiveConfig(RATE, fixed_block=128))

    def between(index: int) -> None:
        engine.work()
        engine.bypass = 50 <= index < 100

    heard = stream.run(x, 128, between=between)
    dry = shifted(x, engine.latency_samples)
    start, stop = 51 * 128, 101 * 128
    np.testing.assert_array_equal(heard[:, :start], dry[:, :start] * np.float32(0.2))
    np.testing.assert_array_equal(heard[:, start + FADE : stop], dry[:, start + FADE : stop])
    np.testing.assert_array_equal(heard[:, stop + FADE :], dry[:, stop + FADE :] * np.float32(0.2))
    assert largest_step(heard) < 1.1 * largest_step(x)
    assert engine.snapshot().missed_samples == 0


@pytest.mark.parametrize("on_miss", ["dry", "silence"])
def test_a_miss_does_not_click(on_miss: str) -> None:
    x = sine(128 * 100)
    wet = 0.2
    engine, stream = running(
        Scale(wet),
        LiveConfig(RATE, fixed_block=128, on_miss=on_miss),  # type: ignore[arg-type]
    )
    heard = stream.run(x, 128, between=lambda index: engine.work() if not 40 <= index < 50 else None)
    first, back = 41 * 128, 51 * 128
    dry = shifted(x, 128)
    assert engine.snapshot().missed_samples == 10 * 128
    assert engine.snapshot().late_samples == 10 * 128
    expected = dry if on_miss == "dry" else 0 * dry
    np.testing.assert_array_equal(heard[:, first + FADE : back], expected[:, first + FADE : back])
    for outside in (slice(0, first), slice(back + FADE, None)):
        np.testing.assert_array_equal(heard[:, outside], dry[:, outside] * np.float32(wet))
    assert largest_step(heard) < 1.1 * largest_step(x)
    # The replacement is there at full level at once; what fades is the jump.
    fading = heard[:, first : first + FADE] - expected[:, first : first + FADE]
    jump = heard[:, first - 1] - expected[:, first]
    fall = 0.5 + 0.5 * np.cos(np.pi * np.arange(1, FADE + 1) / FADE)
    np.testing.assert_allclose(fading[0], jump[0] * fall, atol=1e-6)


def test_where_the_processor_changes_nothing_bypass_changes_nothing() -> None:
    x = noise(2, 128 * 60)
    engine, stream = running(Delay(10), LiveConfig(RATE, 2, fixed_block=128))

    def between(index: int) -> None:
        engine.work()
        engine.bypass = index % 7 < 4

    np.testing.assert_allclose(stream.run(x, 128, between=between), shifted(x, 138), atol=1e-6)


def test_the_user_hears_dry_sound_in_bypass_even_where_misses_are_silent() -> None:
    x = sine(128 * 40)
    engine, stream = running(Scale(0.2), LiveConfig(RATE, fixed_block=128, on_miss="silence"))
    engine.bypass = True
    heard = stream.run(x, 128, between=lambda index: engine.work() if index % 2 else None)
    np.testing.assert_array_equal(heard[:, FADE:], shifted(x, 128)[:, FADE:])


def test_a_reset_costs_the_latency_and_no_more() -> None:
    x = noise(1, 128 * 40)
    engine, stream = running(Chain([Delay(300), Scale(-1)]), LiveConfig(RATE, fixed_block=128))

    def between(index: int) -> None:
        engine.work()
        if index == 9:
            engine.reset()

    heard = stream.run(x, 128, between=between)
    dry, late = shifted(x, 428), engine.latency_samples
    assert late == 428
    reset_at = 10 * 128
    np.testing.assert_array_equal(heard[:, :reset_at], -dry[:, :reset_at])
    np.testing.assert_array_equal(
        heard[:, reset_at + FADE : reset_at + late], dry[:, reset_at + FADE : reset_at + late]
    )
    np.testing.assert_array_equal(heard[:, reset_at + late + FADE :], -dry[:, reset_at + late + FADE :])
    snapshot = engine.snapshot()
    assert (snapshot.skipped_samples, snapshot.missed_samples) == (late, 0)


def test_parameters_are_those_of_the_processor() -> None:
    processor = ModelProcessor(RecurrentSpectrum())
    engine = LiveEngine(processor, LiveConfig(RATE))
    assert engine.parameters == processor.parameters


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"mode": "fast"}, "worker, inline"),
        ({"on_miss": "guess"}, "dry, silence, predict"),
        ({"on_miss": "predict", "mode": "inline"}, "needs a worker"),
        ({"mode": "inline", "queue": 64}, "queue must be 0"),
        ({"fixed_block": 128, "queue": 64}, "at least one block"),
        ({"tolerated_share": 1.0}, "tolerated_share"),
        ({"burst_ms": 0.0}, "burst_ms"),
        ({"rest_s": -1.0}, "rest_s"),
        ({"sample_rate": 0}, "sample_rate"),
    ],
)
def test_settings_that_cannot_work_are_refused(wrong: dict[str, object], words: str) -> None:
    settings: dict[str, object] = {"sample_rate": RATE, **wrong}
    with pytest.raises(ConfigError) as caught:
        LiveEngine(Passthrough(), LiveConfig(**settings))  # type: ignore[arg-type]
    assert words in str(caught.value)


def test_varying_blocks_with_a_model_at_another_rate() -> None:
    blocks = varying_blocks(RATE // 4, seed=5, largest=400)
    x = noise(1, sum(blocks))
    offline = ModelProcessor(RecurrentSpectrum(16_000, hop=128))
    offline.prepare(StreamConfig(RATE, 1, max_block=400))
    expected = run_blocks(offline, x, blocks)
    engine, stream = running(ModelProcessor(RecurrentSpectrum(16_000, hop=128)), LiveConfig(RATE, max_block=400))
    heard = stream.run(x, blocks, between=lambda _: engine.work())
    np.testing.assert_allclose(heard, shifted(expected, 400), atol=1e-5)
