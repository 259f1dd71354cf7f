"""Fixed mixtures of sounds that training never hears, and the figures that follow a training run."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soxr
import torch

from ..models.base import StreamableModel, enhance
from .cache import SoundCache, active_rms, open_cache

Audio = npt.NDArray[np.float32]
_MEASURE_RATE = 16_000
"""PESQ's wide band, and all that most of the speech has."""


@dataclass(frozen=True)
class ValidationSet:
    """Mixtures with their clean speech.

    Attributes
    ----------
    noisy, clean : float32 [items, frames]
    bandwidth_hz, snr_db : float32 [items]
    sample_rate : int
    """

    noisy: Audio
    clean: Audio
    bandwidth_hz: npt.NDArray[np.float32]
    snr_db: npt.NDArray[np.float32]
    sample_rate: int


def make_validation_set(
    speech: Path | str,
    noise: Path | str,
    cache_dir: Path | str,
    sample_rate: int,
    n_items: int = 40,
    seconds: float = 5.0,
    snr_db: tuple[float, float] = (-5.0, 15.0),
    seed: int = 4711,
) -> ValidationSet:
    """Mix every speech clip in turn with every noise in turn, SNRs evenly spread, levels -40..-16 dBFS."""
    talk, background = open_cache(speech, cache_dir, sample_rate), open_cache(noise, cache_dir, sample_rate)
    rng = np.random.default_rng(seed)
    frames = round(seconds * sample_rate)
    clips, noises = rng.permutation(len(talk)), rng.permutation(len(background))
    snrs = rng.permutation(np.linspace(*snr_db, n_items)).astype(np.float32)
    noisy, clean = np.zeros((2, n_items, frames), np.float32)
    bandwidth = np.empty(n_items, np.float32)
    for item in range(n_items):
        clip = int(clips[item % len(clips)])
        voice = _fill(talk, clip, frames)
        sound = _fill(background, int(noises[item % len(noises)]), frames)
        voice *= 10 ** (rng.uniform(-40.0, -16.0) / 20) / max(active_rms(voice, sample_rate), 1e-6)
        sound *= active_rms(voice, sample_rate) * 10 ** (-snrs[item] / 20) / np.sqrt(np.mean(sound**2) + 1e-12)
        scale = min(1.0, 0.99 / float(np.abs(voice + sound).max()))
        clean[item], noisy[item] = voice * scale, (voice + sound) * scale
        bandwidth[item] = talk.bandwidth_hz[clip]
    return ValidationSet(noisy, clean, bandwidth, snrs, sample_rate)


def enhance_all(model: StreamableModel, noisy: Audio, device: torch.device, batch: int = 8) -> Audio:
    """Run the model over ``[items, frames]``."""
    pieces = []
    with torch.inference_mode():
        for begin in range(0, len(noisy), batch):
            pieces.append(enhance(model, torch.from_numpy(noisy[begin : begin + batch]).to(device)).cpu().numpy())
    return np.concatenate(pieces)


def measure(clean: Audio, other: Audio, sample_rate: int, n_pesq: int | None = None) -> dict[str, float]:
    """Mean SI-SDR in dB and mean wide-band PESQ of ``[items, frames]`` at 16 kHz.

    PESQ (ITU-T P.862.2) is taken on the first `n_pesq` items, on all of them where that is None, and is NaN where
    the package is missing.
    """
    from ..losses import si_sdr_db

    reference, output = _at_measure_rate(clean, sample_rate), _at_measure_rate(other, sample_rate)
    ratio = si_sdr_db(torch.from_numpy(output), torch.from_numpy(reference))
    return {"si_sdr": float(ratio.mean()), "pesq": _mean_pesq(reference[:n_pesq], output[:n_pesq])}


def _mean_pesq(reference: Audio, output: Audio) -> float:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from pesq import PesqError, pesq
    except ImportError:
        return float("nan")
    scores = []
    for clean, other in zip(reference, output, strict=True):
        score = pesq(_MEASURE_RATE, clean, other, "wb", on_error=PesqError.RETURN_VALUES)
        if score > 0:  # -1: PESQ found no speech
            scores.append(score)
    return float(np.mean(scores)) if scores else float("nan")


def _fill(cache: SoundCache, clip: int, frames: int) -> Audio:
    samples = cache.read(clip, 0, frames)
    return np.resize(samples, frames) if len(samples) < frames else samples


def _at_measure_rate(samples: Audio, sample_rate: int) -> Audio:
    if sample_rate == _MEASURE_RATE:
        return samples
    return np.ascontiguousarray(soxr.resample(samples.T, sample_rate, _MEASURE_RATE).T, dtype=np.float32)
