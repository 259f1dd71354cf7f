"""Figures that are known beforehand: closed forms, identities, limits."""

from __future__ import annotations

import numpy as np
import pytest

from export.evaluate.metrics import (
    DNSMOS_FILE,
    RATE,
    Dnsmos,
    attenuation_db,
    course_db,
    pesq_wb,
    score,
    si_sdr_db,
    stoi,
)
from export.evaluate.statistics import bootstrap


def syllables(seconds: float = 5.0, seed: int = 0) -> np.ndarray:
    """Something with the spectrum and the rhythm of speech, float32 [frames] at 16 kHz."""
    rng = np.random.default_rng(seed)
    time_s = np.arange(round(seconds * RATE)) / RATE
    pitch = np.cumsum(110 + 25 * np.sin(2 * np.pi * 0.7 * time_s)) / RATE
    voiced = sum(np.sin(2 * np.pi * k * pitch) / k for k in range(1, 30))
    rhythm = np.clip(np.sin(2 * np.pi * 2.3 * time_s), 0, None)
    return (0.1 * rhythm * voiced + 1e-4 * rng.normal(size=len(time_s))).astype(np.float32)


def orthogonal_noise(reference: np.ndarray, snr_db: float, seed: int = 1) -> np.ndarray:
    """Noise of zero mean with no part along the reference, so that the ratio is exact."""
    noise = np.random.default_rng(seed).normal(size=len(reference))
    centred = reference.astype(np.float64) - reference.mean()
    noise -= noise.mean()
    noise -= (noise @ centred) / (centred @ centred) * centred
    return noise * np.sqrt((centred @ centred) / (noise @ noise)) * 10 ** (-snr_db / 20)


class TestSiSdr:
    @pytest.mark.parametrize("snr_db", [-10.0, 0.0, 17.5])
    def test_equals_the_ratio_of_orthogonal_noise(self, snr_db):
        speech = syllables().astype(np.float64)
        assert si_sdr_db(speech + orthogonal_noise(speech, snr_db), speech) == pytest.approx(snr_db, abs=1e-6)

    def test_ignores_scale_sign_and_offset(self):
        speech = syllables().astype(np.float64)
        noisy = speech + orthogonal_noise(speech, 6.0)
        assert si_sdr_db(-3.0 * noisy + 0.2, speech) == pytest.approx(6.0, abs=1e-6)

    def test_half_a_cosine(self):
        # A sine against itself turned by 60 degrees: cos^2 / sin^2 = 1/3.
        phase = 2 * np.pi * 20 * np.arange(16000) / 16000
        assert si_sdr_db(np.sin(phase + np.pi / 3), np.sin(phase)) == pytest.approx(10 * np.log10(1 / 3), abs=1e-6)

    def test_limits(self):
        speech = syllables()
        assert si_sdr_db(speech, speech) == 100.0
        assert si_sdr_db(np.zeros_like(speech), speech) == -100.0
        assert np.isnan(si_sdr_db(speech, np.zeros_like(speech)))

    def test_one_sample_late_is_punished(self):
        speech = syllables()
        assert si_sdr_db(np.roll(speech, 1), speech) < 25.0


class TestCourse:
    def test_is_the_ratio_of_each_piece_whatever_the_scale(self):
        speech = syllables().astype(np.float64)
        speech -= speech.mean()
        noise = orthogonal_noise(speech, 10.0)
        course = course_db(-0.5 * (speech + noise), speech, RATE)
        assert len(course) == 5
        own = [np.mean(speech**2) / np.mean(piece**2) for piece in noise.reshape(5, RATE)]
        np.testing.assert_allclose(course, 10 * np.log10(own), atol=1e-6)
        mean_error = np.mean(10 ** (-np.array(course) / 10))
        assert -10 * np.log10(mean_error) == pytest.approx(si_sdr_db(speech + noise, speech), abs=1e-3)

    def test_tells_an_error_that_goes_away(self):
        speech = syllables().astype(np.float64)
        noise = orthogonal_noise(speech, 10.0)
        noise[2 * RATE :] *= 0.01
        course = course_db(speech + noise, speech, RATE)
        assert max(course[:2]) < 12.0
        assert min(course[2:]) > 35.0

    def test_limits(self):
        speech = syllables()
        assert course_db(speech, speech, RATE) == [100.0] * 5
        assert course_db(np.zeros_like(speech) + 1e-3, speech, RATE)[0] > -100.0
        assert np.isnan(course_db(speech, np.zeros_like(speech), RATE)).all()
        assert len(course_db(speech, speech, 3 * RATE)) == 1


class TestPesq:
    def test_identical(self):
        assert pesq_wb(syllables(), syllables()) == pytest.approx(4.64, abs=0.005)

    def test_falls_with_noise(self):
        speech = syllables()
        scores = [pesq_wb(speech + orthogonal_noise(speech, snr).astype(np.float32), speech) for snr in (30, 15, 0)]
        assert scores == sorted(scores, reverse=True)
        assert scores[0] > scores[-1] + 0.5

    def test_silence(self):
        speech, silence = syllables(), np.zeros(5 * RATE, np.float32)
        assert pesq_wb(silence, speech) == 1.0
        assert np.isnan(pesq_wb(speech, silence))


class TestStoi:
    @pytest.mark.parametrize("extended", [False, True])
    def test_identical(self, extended):
        assert stoi(syllables(), syllables(), extended) == pytest.approx(1.0, abs=1e-3)

    def test_too_little_speech_is_no_figure(self):
        speech = np.zeros(RATE, np.float32)
        speech[:1000] = syllables()[5000:6000]
        assert np.isnan(stoi(speech, speech))


@pytest.fixture(scope="module")
def dnsmos(shared_dir):
    if not DNSMOS_FILE.is_file():
        pytest.skip(f"{DNSMOS_FILE} is absent")
    return Dnsmos()


class TestDnsmos:
    def test_plausible_on_a_synthetic_signal(self, dnsmos):
        scores = dnsmos(syllables())
        assert set(scores) == {"sig", "bak", "ovrl"}
        assert all(1.0 <= value <= 5.0 for value in scores.values())

    def test_hears_noise(self, dnsmos):
        speech = syllables()
        noisy = dnsmos(speech + orthogonal_noise(speech, 0.0).astype(np.float32))
        assert noisy["bak"] < dnsmos(speech)["bak"] - 0.5

    def test_windows(self, dnsmos):
        # 11.5 s hold two windows a second apart.
        speech = syllables(11.5)
        first, second = dnsmos(speech[:144_160]), dnsmos(speech[16_000 : 16_000 + 144_160])
        both = dnsmos(speech)
        assert both["ovrl"] == pytest.approx((first["ovrl"] + second["ovrl"]) / 2, abs=1e-4)


def test_attenuation():
    noise = np.random.default_rng(0).normal(size=8000)
    assert attenuation_db(0.1 * noise, noise) == pytest.approx(20.0, abs=1e-9)
    assert attenuation_db(np.zeros(8000), noise) == 100.0


def test_score_without_dnsmos():
    assert set(score(syllables(), syllables())) == {"pesq", "stoi", "estoi", "si_sdr"}


class TestBootstrap:
    def test_covers_the_mean_about_as_often_as_it_says(self):
        rng = np.random.default_rng(3)
        hits = sum(
            interval.low <= 1.0 <= interval.high
            for interval in (bootstrap(rng.normal(1.0, 2.0, 60), seed) for seed in range(200))
        )
        assert 176 <= hits <= 199

    def test_width_is_that_of_the_normal_law(self):
        values = np.random.default_rng(4).normal(0.0, 1.0, 400)
        assert bootstrap(values).half_width == pytest.approx(1.96 * values.std() / 20, rel=0.08)

    def test_leaves_out_what_is_no_figure(self):
        assert bootstrap(np.array([1.0, np.nan, 3.0]))[0::3] == (2.0, 2)
        empty = bootstrap(np.array([np.nan]))
        assert empty.n == 0
        assert np.isnan(empty.mean)

    def test_is_repeatable(self):
        values = np.random.default_rng(5).normal(size=30)
        assert bootstrap(values) == bootstrap(values)
