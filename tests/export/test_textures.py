"""New noises out of two: what is taken from which, and that nothing else changes."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import signal

from export.data.textures import cross_fade, imprint

RATE = 16_000
N = 3 * RATE


def _band_noise(seed: int, low_hz: float, high_hz: float) -> np.ndarray:
    sections = signal.butter(4, [low_hz, high_hz], "bandpass", fs=RATE, output="sos")
    noise = np.random.default_rng(seed).normal(size=N)
    return (signal.sosfilt(sections, noise) + 1e-4 * noise).astype(np.float32)


def _octave_levels_db(samples: np.ndarray) -> np.ndarray:
    power = np.abs(np.fft.rfft(samples)) ** 2
    frequency = np.fft.rfftfreq(len(samples), 1 / RATE)
    edges = 62.5 * 2.0 ** np.arange(8)
    levels = [power[(frequency >= low) & (frequency < 2 * low)].sum() for low in edges[:-1]]
    return 10 * np.log10(np.array(levels) / power.sum())


def test_a_noise_takes_the_spectrum_of_another_and_keeps_its_own_course() -> None:
    rng = np.random.default_rng(0)
    swells = 0.5 + 0.5 * np.sin(2 * np.pi * 2.0 * np.arange(N) / RATE)
    samples = (swells * rng.normal(size=N)).astype(np.float32)
    model = _band_noise(1, 300.0, 1200.0)
    out = imprint(samples, model, RATE)
    assert out.shape == samples.shape
    assert out.dtype == np.float32
    loud = _octave_levels_db(model) > -25.0
    np.testing.assert_allclose(_octave_levels_db(out)[loud], _octave_levels_db(model)[loud], atol=1.0)
    course = signal.sosfilt(signal.butter(2, 8.0, fs=RATE, output="sos"), np.abs(out))
    assert np.corrcoef(course[RATE // 2 :], np.roll(swells, 200)[RATE // 2 :])[0, 1] > 0.7


def test_a_noise_imprinted_with_itself_stays_itself() -> None:
    samples = _band_noise(2, 200.0, 3000.0)
    np.testing.assert_allclose(imprint(samples, samples, RATE), samples, atol=1e-5)


@pytest.mark.parametrize("model", [np.zeros(N, np.float32), np.ones(N, np.float32), _band_noise(3, 90.0, 110.0)])
def test_whatever_is_imprinted_stays_finite_and_no_band_explodes(model: np.ndarray) -> None:
    samples = _band_noise(4, 100.0, 6000.0)
    out = imprint(samples, model, RATE)
    assert np.isfinite(out).all()
    change_db = _octave_levels_db(out) - _octave_levels_db(samples)
    assert change_db.max() - change_db.min() <= 61.0


def test_one_noise_gives_way_to_another() -> None:
    before, after = (np.full(N, value, np.float32) for value in (1.0, 2.0))
    out = cross_fade(before, after, 0.5, 0.1, RATE)
    n_fade = round(0.1 * RATE)
    np.testing.assert_allclose(out[: N // 2 - n_fade], 1.0)
    np.testing.assert_allclose(out[N // 2 + n_fade :], 2.0, rtol=1e-6)


def test_noises_that_have_nothing_in_common_keep_their_power_while_they_change() -> None:
    rng = np.random.default_rng(5)
    before, after = (rng.normal(size=N).astype(np.float32) for _ in range(2))
    power = np.square(cross_fade(before, after, 0.5, 2.0, RATE)).reshape(-1, RATE // 4).mean(1)
    np.testing.assert_allclose(power, 1.0, atol=0.1)
