"""Linear prediction over 16 ms: equal to its normal equations, right for tones, quiet for noise, and never wild."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import noise

from streamproc.errors import ConfigError
from streamproc.live.predictor import WienerPredictor
from streamproc.spec import Block

RATE = 16_000


def predicted(x: Block, n: int, rate: int = RATE, **settings: float) -> Block:
    predictor = WienerPredictor(**settings)  # type: ignore[arg-type]
    predictor.prepare(rate, x.shape[0], 512)
    for start in range(0, x.shape[1], 512):
        predictor.hear(x[:, start : start + 512])
    out = np.full((x.shape[0], n), np.nan, np.float32)
    predictor.predict(out)
    return out


def error_db(found: Block, expected: Block) -> float:
    return float(10 * np.log10(np.mean((found - expected) ** 2) / np.mean(expected**2)))


def tones(n: int, rate: int, *hz: float) -> Block:
    t = np.arange(n) / rate
    return sum(0.2 * np.sin(2 * np.pi * f * t + f) for f in hz).astype(np.float32)[None]  # type: ignore[union-attr]


def chord(n: int, rate: int) -> Block:
    return tones(n, rate, 220.0, 440.0, 660.0, 1245.0)


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100, 48_000])
def test_a_chord_goes_on(rate: int) -> None:
    n, ahead = rate // 5, rate // 100
    x = chord(n + ahead, rate)
    found, expected = predicted(x[:, :n], ahead, rate), x[:, n:]
    assert error_db(found, expected) < -12
    assert error_db(found[:, : ahead // 2], expected[:, : ahead // 2]) < -18


def test_a_voice_goes_on() -> None:
    """Pulses of 120 Hz, which short linear prediction cannot foresee."""
    pulses = np.zeros(RATE // 4)
    pulses[:: RATE // 120] = 1.0
    x = np.convolve(pulses, np.exp(-np.arange(60) / 8) * np.cos(np.arange(60)))[None, : len(pulses)].astype(np.float32)
    long = error_db(predicted(x[:, :-160], 160), x[:, -160:])
    short = error_db(predicted(x[:, :-160], 160, order=16), x[:, -160:])
    assert long < -8
    assert short > -3


def test_noise_dies_away() -> None:
    x = noise(1, RATE)
    y = predicted(x, 320)
    assert 10 * np.log10(np.mean(y**2) / np.mean(x**2)) < -3
    assert np.abs(y[:, 160:]).mean() <= np.abs(y[:, :160]).mean()


def test_it_is_the_solution_of_the_normal_equations() -> None:
    """Each sample ahead has the least expected square error under the windowed autocorrelation, by dense algebra."""
    x = (chord(400, 4000) + noise(1, 400, level=0.02)).astype(np.float64)[0]
    order, n = 24, 4000 * 64 // 1000
    rise, fall = np.arange(n - n // 16) / (n - n // 16), np.arange(n // 16) / (n // 16)
    window = np.concatenate([0.5 - 0.5 * np.cos(np.pi * rise), 0.5 + 0.5 * np.cos(np.pi * fall)])
    windowed = x[-n:] * window
    r = np.array([windowed[: n - lag] @ windowed[lag:] for lag in range(n)])
    matrix = np.array([[r[abs(i - j)] for j in range(order)] for i in range(order)])
    matrix += np.eye(order) * (WienerPredictor.FLOOR * r[0])
    newest_first = x[::-1][:order]
    expected = [np.linalg.solve(matrix, r[k + 1 : k + 1 + order]) @ newest_first for k in range(40)]
    found = predicted(x[None].astype(np.float32), 40, rate=4000, order=order, spacing_hz=4000)
    np.testing.assert_allclose(found[0], expected, atol=2e-4)


def test_loudness_changes_nothing_and_silence_stays() -> None:
    x = chord(4000, RATE) + noise(1, 4000, level=0.01)
    loud, quiet = predicted(x, 160), predicted(0.01 * x, 160)
    np.testing.assert_allclose(100 * quiet, loud, atol=1e-3)
    np.testing.assert_array_equal(predicted(0 * x, 160), 0)


@pytest.mark.parametrize("seed", range(6))
def test_it_never_gets_louder_than_what_was_heard(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.normal(0, 1, (1, 3000)) * np.exp(rng.uniform(-8, 8) * np.linspace(0, 1, 3000))
    x[:, rng.integers(0, 3000, 3)] *= 50
    x = (x / np.abs(x).max()).astype(np.float32)
    y = predicted(x, 800)
    assert np.isfinite(y).all()
    assert np.abs(y).max() <= np.abs(x[:, -1024:]).max()


def test_channels_are_independent_and_blocks_do_not_matter() -> None:
    x = np.concatenate([chord(5000, RATE), noise(1, 5000)])
    both = predicted(x, 160)
    for channel in range(2):
        np.testing.assert_array_equal(both[channel : channel + 1], predicted(x[channel : channel + 1], 160))
    predictor = WienerPredictor()
    predictor.prepare(RATE, 2, 5000)
    predictor.hear(np.ones((2, 700), np.float32))
    predictor.reset()
    for start, stop in ((0, 1), (1, 1), (1, 4000), (4000, 5000)):
        predictor.hear(x[:, start:stop])
    out = np.empty((2, 160), np.float32)
    predictor.predict(out)
    np.testing.assert_array_equal(out, both)


@pytest.mark.parametrize("setting", ["order", "spacing_hz", "window_ms"])
def test_settings_of_nothing_are_refused(setting: str) -> None:
    with pytest.raises(ConfigError, match=setting):
        WienerPredictor(**{setting: 0})  # type: ignore[arg-type]
