"""Noise that was recorded with clean speech, and what is left of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from export.data.cache import open_cache
from export.data.floor import lower_floor
from export.data.mix_config import MixConfig
from export.data.mixing import open_mixer

RATE = 16_000
SPEECH_RMS = 0.1


def talk(noise_db: float) -> tuple[np.ndarray, np.ndarray]:
    """Return two seconds of tones that come and go over noise at a level against them, and where they sound."""
    rng = np.random.default_rng(0)
    time = np.arange(2 * RATE) / RATE
    sounds = (time * 2) % 1.0 < 0.5
    tones = sum(np.sin(2 * np.pi * hertz * time) for hertz in (440, 880, 1760)) * (SPEECH_RMS / np.sqrt(1.5))
    noise = rng.normal(size=len(time)) * SPEECH_RMS * 10 ** (noise_db / 20)
    return (tones * sounds + noise).astype(np.float32), sounds


def level_db(samples: np.ndarray) -> float:
    return float(20 * np.log10(np.sqrt(np.mean(samples**2)) / SPEECH_RMS))


@pytest.mark.parametrize(("noise_db", "asked_db"), [(-30.0, 12.0), (-44.0, 6.0)])
def test_noise_between_sounds_falls_and_the_sounds_stay(noise_db: float, asked_db: float) -> None:
    samples, sounds = talk(noise_db)
    lowered = lower_floor(samples, RATE, SPEECH_RMS)
    away = ~np.convolve(sounds, np.ones(801), "same").astype(bool)  # windows reach 10 ms into a pause
    assert level_db(samples[away]) == pytest.approx(noise_db, abs=0.3)
    # The quietest tenth lies 2 dB below the mean of noise, and some of it is louder, or too near to a sound.
    fell_db = level_db(samples[away]) - level_db(lowered[away])
    assert 0.5 * asked_db < fell_db <= asked_db
    assert level_db(lowered[sounds]) == pytest.approx(level_db(samples[sounds]), abs=0.1)
    assert lowered.dtype == np.float32
    assert lowered.shape == samples.shape


def test_a_quiet_recording_stays_as_it_is() -> None:
    samples, _ = talk(-60.0)
    assert lower_floor(samples, RATE, SPEECH_RMS) is samples


@pytest.mark.parametrize("frames", [1, RATE // 4])
def test_what_is_too_short_to_tell_noise_from_speech_stays_as_it_is(frames: int) -> None:
    samples = talk(-30.0)[0][:frames]
    assert lower_floor(samples, RATE, SPEECH_RMS) is samples


def test_digital_silence_between_words_is_no_error() -> None:
    time = np.arange(2 * RATE) / RATE
    samples = (np.sin(2 * np.pi * 1000 * time) * (np.sin(2 * np.pi * 5 * time) > 0)).astype(np.float32)
    np.testing.assert_allclose(lower_floor(samples, RATE, SPEECH_RMS), samples, atol=1e-6)


def test_silence_stays_silent() -> None:
    assert not lower_floor(np.zeros(RATE, np.float32), RATE, 0.0).any()


def test_a_cache_with_lower_floors_is_another_cache(tmp_path: Path) -> None:
    (tmp_path / "speech").mkdir()
    sf.write(tmp_path / "speech" / "a.wav", talk(-30.0)[0], RATE)
    plain = open_cache(tmp_path / "speech", tmp_path / "cache", RATE)
    lowered = open_cache(tmp_path / "speech", tmp_path / "cache", RATE, lower_floors=True)
    pause = slice(round(0.3 * RATE), round(0.45 * RATE))
    assert np.square(lowered.read(0)[pause]).mean() < 0.2 * np.square(plain.read(0)[pause]).mean()
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_a_mixer_lowers_the_floors_of_speech_alone(tmp_path: Path) -> None:
    for kind in ("speech", "noise"):
        (tmp_path / kind).mkdir()
        sf.write(tmp_path / kind / "a.wav", talk(-30.0)[0], RATE)
    folders = tmp_path / "speech", tmp_path / "noise", tmp_path / "cache"
    mixer = open_mixer(*folders, MixConfig(sample_rate=RATE), n_synthetic=0, n_rooms=0)
    for drawn, folder, lowered in ((mixer.speech, "speech", True), (mixer.noise, "noise", False)):
        expected = open_cache(tmp_path / folder, tmp_path / "cache", RATE, lower_floors=lowered)
        np.testing.assert_array_equal(drawn.read(0), expected.read(0))
