"""Dry and wet: alignment, the attenuation limit, bypass, and how it moves between them."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import (
    assert_processor_properties,
    block_splits,
    floats,
    noise,
    prepared,
    run_blocks,
    seeds,
    varying_blocks,
)
from hypothesis import given
from hypothesis import strategies as st

from streamproc.dsp import Delay, Gain, Limiter
from streamproc.errors import ConfigError
from streamproc.mix import NO_LIMIT_DB, Mix
from streamproc.processor import BaseProcessor, Chain
from streamproc.spec import Block, StreamConfig

CONFIG = StreamConfig(48000, 2)
RAMP = 960  # 20 ms


class Mute(Delay):
    """Removes everything, at a latency."""

    def process(self, x: Block, out: Block) -> None:
        out.fill(0.0)


class Toggle(BaseProcessor):
    """Inverts the sound and counts the samples that it has seen."""

    seen = 0

    def process(self, x: Block, out: Block) -> None:
        self.seen += x.shape[1]
        np.negative(x, out=out)


def delayed(x: Block, delay: int) -> Block:
    return np.concatenate([np.zeros((x.shape[0], delay), np.float32), x], axis=1)[:, : x.shape[1]]


@given(
    delay=st.integers(0, 700),
    mix=floats(0.0, 1.0),
    limit_db=st.none() | floats(0.0, 100.0),
    blocks=block_splits(3000),
    seed=seeds,
)
def test_where_nothing_is_changed_no_weight_changes_anything(delay, mix, limit_db, blocks, seed):
    x = noise(2, 3000, seed)
    y = run_blocks(prepared(lambda: Mix(Delay(delay), mix, limit_db), StreamConfig(48000, 2, 8193)), x, blocks)
    np.testing.assert_array_equal(y, delayed(x, delay))


@given(blocks=block_splits(3000), in_place=st.booleans())
def test_dry_is_stored_before_the_processor_writes_over_it(blocks, in_place):
    x = noise(2, 3000)
    mix = prepared(lambda: Mix(Chain([Mute(100)]), 0.25), StreamConfig(48000, 2, 8193))
    np.testing.assert_allclose(run_blocks(mix, x, blocks, in_place), 0.75 * delayed(x, 100), atol=1e-7)


@pytest.mark.parametrize("limit_db", [0.0, 6.0, 12.0, 24.0, 60.0])
def test_limit_is_what_stays_where_everything_is_removed(limit_db):
    x = noise(2, 3000)
    y = run_blocks(prepared(lambda: Mix(Mute(77), attenuation_limit_db=limit_db), CONFIG), x, [3000])
    np.testing.assert_allclose(y, delayed(x, 77) * 10 ** (-limit_db / 20), atol=1e-7)


@pytest.mark.parametrize("limit_db", [None, float("inf"), 200.0, NO_LIMIT_DB])
def test_no_limit(limit_db):
    y = run_blocks(prepared(lambda: Mix(Mute(0), attenuation_limit_db=limit_db), CONFIG), noise(2, 500), [500])
    assert not y.any()


def test_rest_is_exact_at_both_ends():
    x = noise(2, 8000)
    blocks = varying_blocks(4000)
    mix = prepared(lambda: Mix(Chain([Gain(-3.0), Delay(50)])), CONFIG)
    wet = run_blocks(prepared(lambda: Chain([Gain(-3.0), Delay(50)]), CONFIG), x, [8000])
    np.testing.assert_array_equal(run_blocks(mix, x[:, :4000], blocks), wet[:, :4000])
    mix.parameters["bypass"].set(1.0)
    y = run_blocks(mix, x[:, 4000:], blocks)
    np.testing.assert_array_equal(y[:, RAMP:], delayed(x, 50)[:, 4000 + RAMP :])
    mix.parameters["bypass"].set(0.0)
    y = run_blocks(mix, x[:, :4000], blocks)
    np.testing.assert_allclose(y[:, RAMP:], delayed(x, 50)[:, RAMP:4000] * 10 ** (-3 / 20), atol=1e-6)


def test_bypass_keeps_the_processor_running_and_the_latency():
    inner = Toggle()
    mix = prepared(lambda: Mix(inner, bypass=True), CONFIG)
    run_blocks(mix, noise(2, 1000), [1000])
    assert inner.seen == 1000
    delay = prepared(lambda: Mix(Delay(123), bypass=True), CONFIG)
    assert delay.latency_samples == 123
    delay.parameters["bypass"].set(0.0)
    assert delay.latency_samples == 123


@pytest.mark.parametrize("knob", ["bypass", "mix", "attenuation_limit"])
def test_toggling_does_not_click(knob):
    x = np.sin(2 * np.pi * 200 * np.arange(48000) / 48000, dtype=np.float32)[np.newaxis]
    mix = prepared(lambda: Mix(Toggle()), StreamConfig(48000))
    moves = {"bypass": (1.0, 0.0), "mix": (0.0, 1.0), "attenuation_limit": (0.0, NO_LIMIT_DB)}[knob]
    parts = []
    for turn, start in enumerate(range(0, 48000, 1500)):
        mix.parameters[knob].set(moves[turn % 2])
        parts.append(run_blocks(mix, x[:, start : start + 1500], [128] * 11 + [92]))
    y = np.concatenate(parts, axis=1)
    slope_of_sine = 2 * np.pi * 200 / 48000
    slope_of_weight = 2.0 / RAMP  # from +1 to -1
    assert np.abs(np.diff(y)).max() <= slope_of_sine + slope_of_weight + 1e-6
    assert np.abs(y[:, 1000:1500] - x[:, 1000:1500]).max() == 0.0
    assert np.abs(y[:, 2600:3000] + x[:, 2600:3000]).max() == 0.0


def test_two_knobs_at_once_are_one_movement():
    x = np.ones((1, 2 * RAMP), np.float32)
    mix = prepared(lambda: Mix(Mute(0)), StreamConfig(48000))
    mix.parameters["mix"].set(0.5)
    mix.parameters["attenuation_limit"].set(20.0)
    y = run_blocks(mix, x, [2 * RAMP])[0]
    weight = 0.5 * (1 - 0.1)
    np.testing.assert_allclose(y[:RAMP], 1.0 - np.linspace(1.0, weight, RAMP + 1)[1:], atol=1e-6)
    np.testing.assert_allclose(y[RAMP:], 1.0 - weight, atol=1e-6)


@given(blocks=block_splits(3000), seed=seeds)
def test_properties(blocks, seed):
    def make():
        return Mix(Chain([Gain(-6.0), Delay(33)]), 0.7, 12.0)

    assert_processor_properties(make, CONFIG, noise(2, 3000, seed), blocks)


def test_inner_parameters_are_offered():
    names = set(Mix(Chain([Gain(), Limiter()])).parameters)
    assert names == {"mix", "attenuation_limit", "bypass", "gain", "ceiling", "release"}
    assert "inner.mix" in Mix(Mix(Gain())).parameters
    assert set(Mix(IdentityProcessorWithoutParameters()).parameters) == {"mix", "attenuation_limit", "bypass"}


class IdentityProcessorWithoutParameters:
    """A processor that derives from nothing."""

    latency_samples = 0
    tail_samples = 5

    def prepare(self, config: StreamConfig) -> None: ...

    def process(self, x: Block, out: Block) -> None:
        np.copyto(out, x)

    def reset(self) -> None: ...


def test_latency_and_tail_are_those_of_the_processor():
    assert Mix(IdentityProcessorWithoutParameters()).tail_samples == 5
    assert Mix(Delay(9)).latency.algorithmic == 9


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mix": 1.2}, "mix must lie between 0 and 1, found 1.2"),
        ({"mix": float("nan")}, "mix must lie"),
        ({"attenuation_limit_db": -1.0}, "attenuation_limit must lie between 0 and 100 dB, found -1.0"),
        ({"attenuation_limit_db": float("-inf")}, "attenuation_limit"),
        ({"attenuation_limit_db": float("nan")}, "attenuation_limit"),
    ],
)
def test_settings_out_of_range(settings, message):
    with pytest.raises(ConfigError, match=message):
        Mix(Gain(), **settings)


def test_a_change_before_prepare_is_no_ramp():
    mix = Mix(Mute(0))
    mix.parameters["mix"].set(0.0)
    mix.prepare(CONFIG)
    x = noise(2, 100)
    np.testing.assert_array_equal(run_blocks(mix, x, [100]), x)
