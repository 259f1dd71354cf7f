"""The loudness term of the training loss: what it hears, what it does not, and that PESQ agrees."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.signal
import soundfile as sf
import torch
from scipy.stats import pearsonr

from export.evaluate.metrics import RATE, pesq_wb
from export.evaluate.mixtures import resample
from export.loudness import loudness_difference

SAMPLE_RATE, WINDOW, HOP = 48_000, 1024, 512
TRANSFORM = scipy.signal.ShortTimeFFT(np.hanning(WINDOW), HOP, SAMPLE_RATE)
DEMO = Path(__file__).parents[2] / "examples" / "demo"


def spectrum(samples: np.ndarray) -> np.ndarray:
    return TRANSFORM.stft(samples.astype(np.float64))


def power(samples: np.ndarray) -> torch.Tensor:
    return torch.as_tensor(np.abs(spectrum(samples).T)[None] ** 2, dtype=torch.float32)


@pytest.fixture(scope="module")
def speech() -> torch.Tensor:
    clean, _ = sf.read(DEMO / "clean.flac", dtype="float32")
    return power(clean[: 3 * SAMPLE_RATE])


def difference(estimate: torch.Tensor, reference: torch.Tensor) -> float:
    return float(loudness_difference(estimate, reference, SAMPLE_RATE, HOP))


def test_same_sound_at_any_level(speech: torch.Tensor) -> None:
    assert difference(speech, speech) < 0.05
    assert difference(0.01 * speech, speech) == pytest.approx(difference(speech, speech), abs=1e-3)


def test_a_filter_counts_less_than_what_comes_and_goes(speech: torch.Tensor) -> None:
    tilt = torch.logspace(0, -1.5, speech.shape[-1])
    now_and_then = torch.ones_like(speech)
    now_and_then[:, ::2] = tilt**2  # on average, in dB, the same
    assert difference(speech * tilt, speech) < 0.5 * difference(speech * now_and_then, speech)


def test_a_band_that_is_weaker_throughout_hardly_counts(speech: torch.Tensor) -> None:
    weaker = torch.ones(speech.shape[-1])
    weaker[20:60] = 0.1
    assert difference(speech * weaker, speech) < 0.1


def test_what_was_added_counts_more_than_what_was_taken(speech: torch.Tensor) -> None:
    gaps = speech.clone()
    gaps[:, ::8, 20:60] = 0.0
    taken, added = difference(gaps, speech), difference(speech, gaps)
    assert added > 1.2 * taken > 0.2


def test_noise_in_a_pause_is_heard(speech: torch.Tensor) -> None:
    """P.862 turns it down, to 0.8 here; a denoiser that learns from that leaves more of it in."""
    paused = speech.clone()
    paused[:, 100:200] = 0.0
    hiss = paused.clone()
    hiss[:, 100:200] = 1e-3 * speech.mean()
    assert difference(hiss, paused) > difference(paused, paused) + 0.95


def test_ears_end_at_8_khz(speech: torch.Tensor) -> None:
    beyond = speech.clone()
    beyond[..., 180:] += 10 * speech.mean()
    assert difference(beyond, speech) == pytest.approx(difference(speech, speech), abs=1e-6)


def test_silence_has_a_gradient(speech: torch.Tensor) -> None:
    silence = torch.zeros_like(speech)
    for estimate, reference in ((silence, speech), (speech, silence), (silence, silence)):
        estimate = estimate.clone().requires_grad_()
        loudness_difference(estimate, reference, SAMPLE_RATE, HOP).sum().backward()
        assert estimate.grad is not None
        assert torch.isfinite(estimate.grad).all()


def test_pesq_agrees() -> None:
    """Speech under noise of several levels, and through oracle gains that are too soft, right and too hard."""
    clean, noisy = (sf.read(DEMO / f"{name}.flac", dtype="float32")[0] for name in ("clean", "noisy"))
    noise = noisy - clean
    reference = resample(clean, SAMPLE_RATE, RATE)
    ours, theirs = [], []
    for loud in (0.1, 0.5, 1.0, 2.0):
        mixture = clean + loud * noise
        speech, both = spectrum(clean), spectrum(mixture)
        gain = np.clip(np.abs(speech) / np.maximum(np.abs(both), 1e-9), 0.0, 1.0)
        for exponent in (0.0, 0.5, 1.0, 2.0, 4.0):
            out = TRANSFORM.istft(both * gain**exponent, k1=len(clean)).astype(np.float32)
            ours.append(difference(power(out), power(clean)))
            theirs.append(pesq_wb(resample(out, SAMPLE_RATE, RATE), reference))
    assert pearsonr(ours, theirs).statistic < -0.8  # the term up to stage 12: -0.6
