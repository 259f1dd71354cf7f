"""The delay line, `Delay` and `Gain`."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import block_splits, noise, prepared, run_blocks
from hypothesis import given
from hypothesis import strategies as st

from streamproc.dsp import Delay, DelayLine, Gain
from streamproc.errors import ConfigError
from streamproc.spec import StreamConfig


@given(delay=st.integers(0, 300), blocks=block_splits(1500, largest=700))
def test_line_returns_past_and_block_in_one_piece(delay, blocks):
    x = noise(2, 1500)
    padded = np.concatenate([np.zeros((2, delay), np.float32), x], axis=1)
    line = DelayLine(2, delay, max_block=700)
    start = 0
    for size in blocks:
        window = line.push(x[:, start : start + size])
        np.testing.assert_array_equal(window, padded[:, start : start + delay + size])
        start += size


@pytest.mark.parametrize("delay", [-1, 1.5, "3"])
def test_delay_must_be_whole(delay):
    with pytest.raises(ConfigError, match="whole number of samples"):
        Delay(delay)


@pytest.mark.parametrize("gain_db", [-100.0, -6.0, 0.0, 40.0])
def test_gain(gain_db):
    x = noise(2, 1000)
    y = run_blocks(prepared(lambda: Gain(gain_db), StreamConfig(48000, 2)), x, [1000])
    np.testing.assert_allclose(y, x * 10 ** (gain_db / 20), rtol=1e-6)
    assert gain_db != 0.0 or np.array_equal(x, y)


def test_gain_moves_straight_in_db():
    gain = prepared(lambda: Gain(-20.0), StreamConfig(48000))
    gain.parameters["gain"].set(0.0)
    y = run_blocks(gain, np.ones((1, 1200), np.float32), [100, 0, 1, 1099])[0]
    np.testing.assert_allclose(20 * np.log10(y[:960]), np.linspace(-20.0, 0.0, 961)[1:], atol=1e-4)
    assert (y[960:] == 1.0).all()


def test_gain_out_of_range():
    with pytest.raises(ConfigError, match="gain must lie between -100 and 40 dB, found 41"):
        Gain(41.0)
