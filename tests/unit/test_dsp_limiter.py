"""The limiter: its guarantee on hostile input, and that it is gentle where it can be."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import block_splits, floats, noise, prepared, run_blocks, seeds, varying_blocks
from hypothesis import given
from hypothesis import strategies as st

from streamproc.dsp import Limiter
from streamproc.dsp.limiter import sliding_maximum
from streamproc.errors import ConfigError
from streamproc.spec import Block, StreamConfig

RATE = 48000


@st.composite
def hostile(draw) -> Block:
    """Noise of any level, with single samples, steps and bursts of any size; up to 200 dB over full scale."""
    rng = np.random.default_rng(draw(seeds))
    n = 4000
    x = rng.normal(0.0, 10.0 ** draw(floats(-3.0, 2.0)), (2, n))
    for _ in range(draw(st.integers(0, 12))):
        start, length = rng.integers(0, n), draw(st.sampled_from([1, 2, 100, 1000]))
        x[rng.integers(0, 2), start : start + length] = rng.choice([-1.0, 1.0]) * 10.0 ** draw(floats(-2.0, 10.0))
    return x.astype(np.float32)


@given(
    x=hostile(),
    blocks=block_splits(4000),
    ceiling_db=floats(-40.0, 0.0),
    release_ms=floats(1.0, 5000.0),
    lookahead_ms=floats(0.0, 20.0),
    rate=st.sampled_from([8000, 48000, 96000]),
)
def test_no_sample_exceeds_the_ceiling(x, blocks, ceiling_db, release_ms, lookahead_ms, rate):
    limiter = prepared(lambda: Limiter(ceiling_db, release_ms, lookahead_ms), StreamConfig(rate, 2, 8193))
    y = run_blocks(limiter, x, blocks)
    assert np.abs(y.astype(np.float64)).max() <= 10.0 ** (ceiling_db / 20)


@given(x=hostile(), blocks=block_splits(4000), at=st.integers(0, 23), before_db=floats(-40.0, 0.0))
def test_ceiling_holds_while_it_moves(x, blocks, at, before_db):
    limiter = prepared(lambda: Limiter(before_db), StreamConfig(RATE, 2, 8193))
    first, rest = blocks[:at], blocks[at:]
    y = run_blocks(limiter, x, first)
    limiter.parameters["ceiling"].set(-20.0)
    y = np.concatenate([y, run_blocks(limiter, x[:, sum(first) :], rest)], axis=1)
    ramp = np.concatenate([np.full(sum(first), before_db), np.linspace(before_db, -20.0, 961)[1:]])
    bound = np.concatenate([np.full(limiter.latency_samples, 0.0), ramp, np.full(4000, -20.0)])[: y.shape[1]]
    assert (np.abs(y) <= 10 ** (bound / 20) * (1 + 1e-6)).all()


@pytest.mark.parametrize("ceiling_db", [0.0, -1.0, -6.0])
def test_what_stays_below_passes_exactly(ceiling_db):
    x = noise(2, 5000)
    x *= np.float32(0.999999 * 10 ** (ceiling_db / 20)) / np.abs(x).max()
    limiter = prepared(lambda: Limiter(ceiling_db), StreamConfig(RATE, 2))
    y = run_blocks(limiter, x, varying_blocks(5000))
    delay = limiter.latency_samples
    assert delay == 144
    np.testing.assert_array_equal(y[:, delay:], x[:, :-delay])


def gain_around_a_peak(release_ms: float, lookahead_ms: float = 3.0) -> tuple[np.ndarray, int]:
    """Gain on a constant of -26 dB with one peak 12 dB over the ceiling of -12 dB, and where the peak leaves."""
    x = np.full((1, RATE), 0.05, np.float32)
    x[0, 5000] = 1.0
    limiter = prepared(lambda: Limiter(-12.0, release_ms, lookahead_ms), StreamConfig(RATE))
    y = run_blocks(limiter, x, varying_blocks(RATE))[0]
    delay = limiter.latency_samples
    return y[delay:].astype(np.float64) / x[0, : RATE - delay], 5000


def test_gain_falls_smoothly_within_the_look_ahead():
    gain, peak = gain_around_a_peak(80.0)
    needed = 10 ** (-12 / 20)
    assert (gain[: peak - 144] == 1.0).all()
    assert gain[peak] <= needed
    assert gain[peak] == pytest.approx(needed, abs=1e-3)
    fall = np.diff(gain[peak - 145 : peak + 1])
    assert (fall <= 1e-6).all()
    assert fall.min() > -2.2 * (1 - needed) / 145  # a Hann window's slope is twice the mean at most


def test_gain_recovers_with_its_time_constant():
    for release_ms in (20.0, 200.0):
        gain, peak = gain_around_a_peak(release_ms)
        after = peak + 1000
        time_constant = RATE * release_ms / 1000
        later = after + round(time_constant)
        assert (1 - gain[later]) / (1 - gain[after]) == pytest.approx(np.exp(-1), rel=0.01)
    assert (gain_around_a_peak(20.0)[0][-1000:] == 1.0).all()


def test_channels_share_one_gain():
    x = noise(2, 5000, level=0.1)
    x[1] = 0.05
    x[0, 2000:3000] *= 20.0
    limiter = prepared(lambda: Limiter(-3.0), StreamConfig(RATE, 2))
    y = run_blocks(limiter, x, varying_blocks(5000))
    delay = limiter.latency_samples
    gain = y[:, delay:].astype(np.float64) / x[:, :-delay]
    assert gain[1].min() < 0.5
    clipped = np.abs(y[0, delay:]) >= 10 ** (-3 / 20) * (1 - 1e-6)
    np.testing.assert_allclose(gain[0, ~clipped], gain[1, ~clipped], rtol=1e-5)


@given(x=hostile(), lookahead_ms=floats(0.0, 0.5), blocks=block_splits(4000))
def test_the_gain_itself_is_low_enough(x, lookahead_ms, blocks):
    """Nothing is left to clip: a second channel, far below the ceiling, shows the gain."""
    x = np.clip(x, -100.0, 100.0)
    x[1] = 1e-3
    limiter = prepared(lambda: Limiter(-6.0, 1.0, lookahead_ms), StreamConfig(RATE, 2, 8193))
    y = run_blocks(limiter, x, blocks)
    delay = limiter.latency_samples
    gain = y[1, delay:] / x[1, : 4000 - delay]
    assert np.abs(gain * x[0, : 4000 - delay]).max() <= 10 ** (-6 / 20) * (1 + 1e-5)


def test_limiting_a_steady_tone_does_not_bend_it():
    t = np.arange(RATE) / RATE
    x = (2.0 * np.sin(2 * np.pi * 1000 * t)).astype(np.float32)[np.newaxis]
    y = run_blocks(prepared(lambda: Limiter(0.0), StreamConfig(RATE)), x, varying_blocks(RATE))[0, RATE // 2 :]
    spectrum = np.abs(np.fft.rfft(y * np.hanning(y.size))) ** 2
    tone = spectrum[490:511].sum()
    assert 10 * np.log10((spectrum.sum() - tone) / tone) < -60.0


@given(values=st.lists(floats(0.0, 1.0), min_size=1, max_size=60), data=st.data())
def test_sliding_maximum(values, data):
    width = data.draw(st.integers(1, len(values)))
    result = sliding_maximum(np.array(values), width, np.empty((2, 60)))
    np.testing.assert_array_equal(result, [max(values[i : i + width]) for i in range(len(values) - width + 1)])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ceiling_db": 0.1}, "ceiling must lie between -40 and 0 dB"),
        ({"release_ms": 0.0}, "release must lie between 1 and 5000 ms"),
        ({"lookahead_ms": 21.0}, "lookahead must lie between 0 and 20 ms"),
    ],
)
def test_settings_out_of_range(settings, message):
    with pytest.raises(ConfigError, match=message):
        Limiter(**settings)
