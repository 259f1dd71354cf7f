from __future__ import annotations

import numpy as np
import pytest
from helpers import IdentitySpectrum
from memory import memory_growth

from streamproc.dsp import Biquads, HighPass
from streamproc.engine import Engine
from streamproc.errors import ConfigError
from streamproc.model_processor import ModelProcessor
from streamproc.processor import BaseProcessor, Chain, Passthrough, Processor
from streamproc.spec import Block, StreamConfig
from streamproc.stats import Histogram


class Poisoned(BaseProcessor):
    """An integrator: one bad sample stays in its state until it is reset."""

    def __init__(self, gain: float = 1.0) -> None:
        self._sum = 0.0
        self._gain = gain

    def process(self, x: Block, out: Block) -> None:
        np.cumsum(x, axis=1, out=out)
        out += np.float32(self._sum)
        self._sum = float(out[0, -1]) * self._gain

    def reset(self) -> None:
        self._sum = 0.0


def test_bad_samples_become_silence_and_are_counted() -> None:
    engine = Engine(Passthrough(), 48_000, n_channels=2)
    x = np.full((2, 64), 0.5, np.float32)
    x[0, 3], x[1, 7], x[1, 8], x[0, 9] = np.nan, np.inf, -np.inf, 1e30
    before = x.copy()
    out = engine.process(x)
    expected = np.full((2, 64), 0.5, np.float32)
    expected[0, [3, 9]] = expected[1, [7, 8]] = 0.0
    np.testing.assert_array_equal(out, expected)
    np.testing.assert_array_equal(x, before)
    assert engine.snapshot().silenced_samples == 4


@pytest.mark.parametrize("block", [16, 64])
def test_what_is_too_loud_to_be_sound_is_silenced_whatever_block_it_comes_in(block: int) -> None:
    engine = Engine(Passthrough(), 48_000)
    x = np.full((1, 64), 0.5, np.float32)
    x[0, [10, 40]] = 1e9, np.nan
    out = np.concatenate([engine.process(x[:, at : at + block]) for at in range(0, 64, block)], axis=1)
    assert np.flatnonzero(out[0] == 0.0).tolist() == [10, 40]
    assert engine.snapshot().silenced_samples == 2


def test_many_loud_samples_are_still_sound() -> None:
    engine = Engine(Passthrough(), 48_000)
    engine.process(np.full((1, 512), 9e5, np.float32))
    snapshot = engine.snapshot()
    assert (snapshot.silenced_samples, snapshot.clamped_samples) == (0, 512)


def test_output_is_clamped_and_counted() -> None:
    engine = Engine(Passthrough(), 48_000)
    out = engine.process(np.array([[1.5, -2.0, 0.25, 1.0]], np.float32))
    np.testing.assert_array_equal(out, [[1.0, -1.0, 0.25, 1.0]])
    assert engine.snapshot().clamped_samples == 2


def test_a_processor_that_loses_its_state_is_reset() -> None:
    engine = Engine(Poisoned(gain=np.inf), 48_000)
    loud = np.full((1, 4), 0.1, np.float32)
    engine.process(loud)  # leaves an infinite state behind
    np.testing.assert_array_equal(engine.process(loud), np.zeros((1, 4)))
    assert engine.snapshot().recoveries == 1
    assert np.isfinite(engine.process(loud)).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_output_that_is_not_finite_is_silence_even_beside_samples_that_are_too_loud(bad: float) -> None:
    class Broken(Passthrough):
        def process(self, x: Block, out: Block) -> None:
            out[...] = [[3.0, bad, -3.0, 0.1]]

    engine = Engine(Broken(), 48_000)
    np.testing.assert_array_equal(engine.process(np.zeros((1, 4), np.float32)), np.zeros((1, 4)))
    assert engine.snapshot().recoveries == 1
    assert engine.snapshot().clamped_samples == 0


def test_large_blocks_are_worked_off_in_pieces() -> None:
    x = np.linspace(-1, 1, 10_001, dtype=np.float32)[None]
    engine = Engine(Passthrough(), 48_000, max_block=128)
    np.testing.assert_array_equal(engine.process(x), x)
    assert engine.snapshot().frames == 10_001


@pytest.mark.parametrize(
    ("block", "words"),
    [
        (np.zeros((1, 4), np.int16), "float32"),
        (np.zeros((1, 4), np.float64), "float32"),
        (np.zeros(4, np.float32), "[channels, frames]"),
        (np.zeros((4, 1), np.float32), "1 channels"),
        ([0.0], "float32"),
    ],
)
def test_ambiguous_blocks_are_refused(block: object, words: str) -> None:
    engine = Engine(Passthrough(), 48_000)
    for _ in range(2):  # also after blocks that were as they should be
        with pytest.raises(ConfigError) as caught:
            engine.process(block, np.zeros((1, 4), np.float32))  # type: ignore[arg-type]
        assert words in str(caught.value)
        engine.process(np.zeros((1, 4), np.float32))


@pytest.mark.parametrize("out", [np.zeros((1, 4)), np.zeros((1, 5), np.float32), np.zeros(4, np.float32), [[0.0] * 4]])
def test_an_output_that_does_not_fit_is_refused(out: object) -> None:
    engine = Engine(Passthrough(), 48_000)
    x = np.zeros((1, 4), np.float32)
    for _ in range(2):
        with pytest.raises(ConfigError, match="out must"):
            engine.process(x, out)  # type: ignore[arg-type]
        engine.process(x)


def test_a_promised_block_size_is_held() -> None:
    engine = Engine(Passthrough(), 48_000, fixed_block=128)
    engine.process(np.zeros((1, 128), np.float32))
    with pytest.raises(ConfigError, match="exactly 128"):
        engine.process(np.zeros((1, 64), np.float32))


def test_integers_may_be_those_of_numpy() -> None:
    engine = Engine(Passthrough(), np.int64(48_000), np.uint8(2), np.int32(128))  # type: ignore[arg-type]
    assert engine.config == StreamConfig(48_000, 2, fixed_block=128)
    assert {type(value) for value in vars(engine.config).values()} == {int}


@pytest.mark.parametrize("name", ["sample_rate", "n_channels", "max_block", "fixed_block"])
@pytest.mark.parametrize("value", [128.0, 0, -1, "128"])
def test_what_is_no_positive_integer_is_refused(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"{name} must be a positive integer, found {value!r}"):
        StreamConfig(**{"sample_rate": 48_000, name: value})


@pytest.mark.parametrize("wrong", ["128", 1.5, 0, -1])
@pytest.mark.parametrize("name", ["max_block", "fixed_block"])
def test_sizes_of_an_engine_are_positive_integers(name: str, wrong: object) -> None:
    with pytest.raises(ConfigError, match=f"{name} must be a positive integer, found"):
        Engine(Passthrough(), 48_000, **{"fixed_block": 64, name: wrong})


def test_a_fixed_block_is_not_larger_than_the_largest() -> None:
    with pytest.raises(ConfigError, match="fixed_block must lie between 1 and max_block = 64, found 65"):
        StreamConfig(48_000, max_block=64, fixed_block=65)


@pytest.mark.parametrize(
    "processor",
    [
        ModelProcessor(IdentitySpectrum(48_000, 128)),
        ModelProcessor(IdentitySpectrum(48_000, 128), "mono"),
        HighPass(),
        Biquads([[1.0, 0.0, 0.0, 1.0, 0.5, 0.0]]),
        Chain([HighPass()]),
    ],
)
def test_calls_that_come_before_prepare_are_named(processor: Processor) -> None:
    latency = processor.latency_samples
    x = np.zeros((2, 64), np.float32)
    for call in (lambda: processor.process(x, x.copy()), processor.reset):
        with pytest.raises(ConfigError, match="prepare comes before process and reset"):
            call()
    assert processor.latency_samples == latency
    Engine(processor, 48_000, 2).process(x)


def test_empty_block() -> None:
    assert Engine(Passthrough(), 48_000).process(np.zeros((1, 0), np.float32)).shape == (1, 0)


def test_steady_state_allocates_nothing_that_grows() -> None:
    engine = Engine(Passthrough(), 48_000)
    x, out = np.full((1, 128), 0.1, np.float32), np.zeros((1, 128), np.float32)
    assert memory_growth(lambda: engine.process(x, out), 10_000) < 1024


def test_histogram_percentiles_are_right_to_one_bin() -> None:
    histogram = Histogram()
    durations = np.random.default_rng(0).lognormal(10, 1.5, 20_000).astype(int)
    for duration in durations:
        histogram.record(int(duration))
    for percent in (1, 50, 90, 99, 99.9):
        exact = np.percentile(durations, percent, method="inverted_cdf")
        assert exact <= histogram.percentile_ns(percent) <= exact * 1.07
    assert histogram.max_ns == durations.max()
    assert histogram.percentile_ns(100) == durations.max()
    assert histogram.count == durations.size
