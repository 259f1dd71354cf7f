"""The noise gate: when it opens and closes, how fast, and how far."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import noise, prepared, run_blocks, varying_blocks

from streamproc.dsp import NoiseGate
from streamproc.errors import ConfigError
from streamproc.spec import StreamConfig

RATE = 48000
MS = RATE // 1000
LOUD, QUIET = 0.1, 0.001  # -20 and -60 dB


def staircase(*parts: tuple[float, float]) -> np.ndarray:
    """Constant levels, each for so many milliseconds: output over input then shows the gain itself."""
    return np.concatenate([np.full(round(ms * MS), level, np.float32) for level, ms in parts])[np.newaxis]


def gain_db(gate: NoiseGate, x: np.ndarray) -> np.ndarray:
    gate.prepare(StreamConfig(RATE, x.shape[0]))
    y = run_blocks(gate, x, varying_blocks(x.shape[1]))
    delay = gate.latency_samples
    return 20 * np.log10(y[0, delay:] / x[0, : x.shape[1] - delay])


@pytest.mark.parametrize(
    ("attack_ms", "hold_ms", "release_ms"), [(2.0, 20.0, 50.0), (0.5, 0.0, 5.0), (10.0, 7.5, 100.0)]
)
def test_attack_hold_and_release_take_their_time(attack_ms, hold_ms, release_ms):
    gate = NoiseGate(-40.0, attack_ms, hold_ms, release_ms, range_db=60.0)
    gain = gain_db(gate, staircase((QUIET, 50), (LOUD, 100), (QUIET, 300)))
    assert gain[: 50 * MS] == pytest.approx(-60.0, abs=1e-3)
    opening = np.flatnonzero(gain > -59.999)[0]
    opened = np.flatnonzero(gain == 0.0)[0]
    assert 50 * MS <= opening <= 51 * MS  # decided within a millisecond
    assert opened - opening == pytest.approx(attack_ms * MS, abs=1.5)
    closing = opened + np.flatnonzero(gain[opened:] < 0.0)[0]
    assert hold_ms * MS <= closing - 150 * MS <= (max(hold_ms, 1.0) + 1.0) * MS
    closed = closing + np.flatnonzero(gain[closing:] < -59.999)[0]
    assert closed - closing == pytest.approx(release_ms * MS, abs=1.5)
    assert (gain[opened:closing] == 0.0).all()


def test_ramps_are_straight_in_db():
    gain = gain_db(NoiseGate(-40.0, 10.0, 0.0, 100.0, range_db=40.0), staircase((QUIET, 20), (LOUD, 50), (QUIET, 200)))
    moving = (gain > -39.9) & (gain < -0.1)
    slopes = np.diff(gain)[moving[:-1] & moving[1:]]
    rising, falling = slopes[slopes > 0], slopes[slopes < 0]
    np.testing.assert_allclose(rising, 40.0 / (10 * MS), atol=1e-3)
    np.testing.assert_allclose(falling, -40.0 / (100 * MS), atol=1e-3)


def test_hysteresis_keeps_it_open():
    middle = 10 ** (-43 / 20)  # below the threshold, above threshold - hysteresis
    gain = gain_db(NoiseGate(-40.0, hold_ms=0.0, hysteresis_db=6.0), staircase((middle, 50), (LOUD, 20), (middle, 200)))
    assert (gain[: 50 * MS] < -59.9).all()
    assert (gain[60 * MS :] == 0.0).all()
    gain = gain_db(NoiseGate(-40.0, hold_ms=0.0, hysteresis_db=2.0), staircase((LOUD, 20), (middle, 400)))
    assert gain[-1] == pytest.approx(-60.0, abs=1e-3)


def test_look_ahead_keeps_the_onset_whole():
    gate = NoiseGate(-40.0, attack_ms=2.0, lookahead_ms=3.0)
    for onset_ms in (50.0, 50.37, 50.98):
        x = staircase((QUIET, onset_ms), (LOUD, 100))
        gain = gain_db(gate, x)
        assert (gain[round(onset_ms * MS) :] == 0.0).all()
    assert gate.latency_samples == 3 * MS


def test_channels_open_together():
    x = np.concatenate([noise(1, 20_000, level=1e-4), noise(1, 20_000, 1, level=0.2)])
    gate = prepared(lambda: NoiseGate(-30.0), StreamConfig(RATE, 2))
    y = run_blocks(gate, x, varying_blocks(20_000))
    np.testing.assert_array_equal(y[:, 1000:], x[:, 1000:])


def test_a_low_tone_does_not_flutter():
    x = (0.1 * np.sin(2 * np.pi * 40 * np.arange(RATE) / RATE)).astype(np.float32)[np.newaxis]
    y = run_blocks(prepared(lambda: NoiseGate(-30.0), StreamConfig(RATE)), x, varying_blocks(RATE))
    np.testing.assert_array_equal(y[:, RATE // 2 :], x[:, RATE // 2 :])


def test_moving_the_range_of_a_closed_gate_does_not_click():
    gate = prepared(lambda: NoiseGate(0.0), StreamConfig(RATE))
    x = np.full((1, 4800), 0.5, np.float32)
    run_blocks(gate, x, [4800])
    gate.parameters["range"].set(0.0)
    y = run_blocks(gate, x, varying_blocks(4800))
    assert np.abs(np.diff(y)).max() < 0.5 * 60.0 / 960 / 8.68 * 1.05  # the slope of exp at its end
    np.testing.assert_array_equal(y[:, 960:], x[:, 960:])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"threshold_db": 1.0}, "threshold must lie between -100 and 0 dB"),
        ({"attack_ms": 0.0}, "attack must lie between 0.1 and 500 ms"),
        ({"hold_ms": -1.0}, "hold must lie"),
        ({"release_ms": 0.5}, "release must lie"),
        ({"range_db": 101.0}, "range must lie"),
        ({"hysteresis_db": -1.0}, "hysteresis must lie"),
        ({"lookahead_ms": 51.0}, "lookahead must lie between 0 and 50 ms"),
    ],
)
def test_settings_out_of_range(settings, message):
    with pytest.raises(ConfigError, match=message):
        NoiseGate(**settings)
