"""Formants that move while the pitch stays."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.signal

from export.data.voices import shift_formants

RATE = 16_000
PITCH_HZ = 120.0
FORMANT_HZ = 900.0


@pytest.fixture(scope="module")
def vowel() -> np.ndarray:
    """Return a second of pulses at `PITCH_HZ` through one resonance."""
    phase = np.arange(RATE) * PITCH_HZ / RATE
    pulses = np.diff(np.floor(phase), prepend=0.0)
    radius, angle = np.exp(-np.pi * 120.0 / RATE), 2 * np.pi * FORMANT_HZ / RATE
    out = scipy.signal.lfilter([1.0], [1.0, -2 * radius * np.cos(angle), radius**2], pulses)
    return (0.3 * out / np.abs(out).max()).astype(np.float32)


def centre_hz(samples: np.ndarray) -> float:
    """Return the centre of gravity of the power between 400 and 1600 Hz: harmonics are too coarse for a peak."""
    power = np.abs(np.fft.rfft(samples * np.hanning(len(samples)))) ** 2
    frequency = np.fft.rfftfreq(len(samples), 1 / RATE)
    power[(frequency < 400) | (frequency > 1600)] = 0.0
    return float((power * frequency).sum() / power.sum())


def pitch_hz(samples: np.ndarray) -> float:
    """Return the strongest period from 70 to 250 Hz."""
    correlation = scipy.signal.correlate(samples, samples, "full", "fft")[len(samples) :]
    first = RATE // 250
    return RATE / (1 + first + int(np.argmax(correlation[first : RATE // 70])))


@pytest.mark.parametrize("factor", [0.85, 1.2])
def test_the_formant_moves_and_the_pitch_stays(vowel: np.ndarray, factor: float) -> None:
    moved = shift_formants(vowel, factor, RATE)
    # The envelope is smoother than the resonance, so a part of the power stays where it was.
    assert 0.6 < np.log(centre_hz(moved) / centre_hz(vowel)) / np.log(factor) < 1.1
    assert pitch_hz(moved) == pytest.approx(pitch_hz(vowel), abs=1.0)


def test_a_factor_of_one_changes_nothing(vowel: np.ndarray) -> None:
    np.testing.assert_allclose(shift_formants(vowel, 1.0, RATE), vowel, atol=1e-5)


@pytest.mark.parametrize("frames", [1, 100, 4_801])
def test_length_and_silence_are_kept(frames: int) -> None:
    out = shift_formants(np.zeros(frames, np.float32), 1.1, RATE)
    assert out.shape == (frames,)
    assert out.dtype == np.float32
    assert not out.any()
