"""What the denoiser is trained to do, as one differentiable number per item."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor


@dataclass(frozen=True)
class LossConfig:
    """Weights of the training loss.

    Parameters
    ----------
    resolutions : tuple of (window, hop)
        STFTs, in samples, in which output and target are compared.
    exponent : float
        Compression of magnitudes.
    complex_share : float
        Share of the phase-aware difference; the rest is magnitude alone.
    keep_speech : float
        Extra weight of magnitudes that came out too small.
    snr_weight : float
        Weight of the signal-to-error ratio, per dB. At 0.004 its gradient is about as long as the spectral one;
        at 0.02 it was four times longer, and PESQ lagged behind SI-SDR.
    high_weight : float
        Weight of bins above 8 kHz against those below: most ears, and all measures, live below.
    floor_db : float
        Where compression turns linear, below the item's level. Clean recordings are only clean to 30-50 dB.
    """

    resolutions: tuple[tuple[int, int], ...] = ((1024, 512), (512, 256))
    exponent: float = 0.3
    complex_share: float = 0.3
    keep_speech: float = 0.5
    snr_weight: float = 0.004
    high_weight: float = 0.35
    floor_db: float = -60.0


def denoising_loss(
    estimate: Tensor,
    target: Tensor,
    noisy_rms: Tensor,
    bandwidth_hz: Tensor,
    has_speech: Tensor,
    sample_rate: int,
    config: LossConfig,
) -> Tensor:
    """Compressed spectral loss [1]_ in several resolutions, plus signal-to-error ratio, for each item.

    Parameters
    ----------
    estimate, target : [items, frames]
        Aligned. A target of zeros (noise only) asks for silence.
    noisy_rms : [items]
        Level of the input: the scale of items without speech.
    bandwidth_hz : [items]
        Bins above this are ignored.
    has_speech : bool [items]
    sample_rate : int
    config : LossConfig

    Returns
    -------
    [items]

    References
    ----------
    .. [1] S. Braun and I. Tashev, "A consolidated view of loss functions for supervised deep learning-based speech
       enhancement", TSP 2021.
    """
    level = torch.where(has_speech, target.square().mean(-1).sqrt(), noisy_rms).clamp_min(1e-5)
    estimate, target = estimate / level[:, None], target / level[:, None]
    spectral = torch.zeros_like(level)
    ratio_db = torch.zeros_like(level)
    floor = 10 ** (config.floor_db / 10)
    for window, hop in config.resolutions:
        taper = _hann(window, estimate.device)
        weight = _bin_weights(window, sample_rate, bandwidth_hz, config.high_weight)
        est, ref = _spectrum(estimate, taper, hop), _spectrum(target, taper, hop)
        est_power, ref_power, common = _power(est, est), _power(ref, ref), _power(est, ref)
        est_magnitude, est_scale = _compress(est_power, floor, config.exponent)
        ref_magnitude, ref_scale = _compress(ref_power, floor, config.exponent)
        difference = est_magnitude - ref_magnitude
        too_small = torch.relu(-difference) * has_speech[:, None, None]
        # |a - b|^2 of compressed complex values, written out: no complex array has to be kept for it.
        phase_aware = est_power * est_scale**2 + ref_power * ref_scale**2 - 2 * common * est_scale * ref_scale
        share = config.complex_share
        cost = (1 - share) * (difference.square() + config.keep_speech * too_small.square()) + share * phase_aware
        spectral = spectral + (cost.mean(1) * weight).sum(-1) / weight.sum(-1)
        inside = weight > 0
        error = ((est_power + ref_power - 2 * common).sum(1) * inside).sum(-1).clamp_min(0.0)
        signal = (ref_power.sum(1) * inside).sum(-1)
        # 30 dB is enough: beyond it, references are not clean.
        ratio_db = ratio_db - 10 * torch.log10((error + 1e-3 * signal) / (signal + 1e-9) + 1e-9) * has_speech
    n = len(config.resolutions)
    return spectral / n - config.snr_weight * ratio_db / n


def si_sdr_db(estimate: Tensor, target: Tensor) -> Tensor:
    """Scale-invariant signal-to-distortion ratio in dB [items] (Le Roux et al., ICASSP 2019), means removed."""
    estimate = estimate - estimate.mean(-1, keepdim=True)
    target = target - target.mean(-1, keepdim=True)
    scale = (estimate * target).sum(-1, keepdim=True) / target.square().sum(-1, keepdim=True).clamp_min(1e-12)
    projection = scale * target
    noise = (estimate - projection).square().sum(-1)
    return 10 * torch.log10(projection.square().sum(-1).clamp_min(1e-12) / noise.clamp_min(1e-12))


def _spectrum(samples: Tensor, taper: Tensor, hop: int) -> Tensor:
    """STFT, complex [items, steps, bins], scaled so that white noise of RMS 1 has power 1 in every bin."""
    frames = samples.unfold(-1, taper.shape[0], hop) * taper
    return torch.fft.rfft(frames)


def _power(a: Tensor, b: Tensor) -> Tensor:
    """Real part of ``a * conj(b)``."""
    return a.real * b.real + a.imag * b.imag


def _compress(power: Tensor, floor: float, exponent: float) -> tuple[Tensor, Tensor]:
    """Compressed magnitude, and the factor that compresses a complex value in the same way."""
    log_power = torch.log(power + floor)
    return torch.exp(log_power * (exponent / 2)), torch.exp(log_power * ((exponent - 1) / 2))


def _bin_weights(window: int, sample_rate: int, bandwidth_hz: Tensor, high_weight: float) -> Tensor:
    frequency = torch.arange(window // 2 + 1, device=bandwidth_hz.device) * (sample_rate / window)
    weight = torch.where(frequency <= 8000.0, 1.0, high_weight)
    # Converters fade out over the last few percent of their band; what they leave there is no reference.
    full = bandwidth_hz >= sample_rate / 2 - 1
    limit = torch.where(full, bandwidth_hz, bandwidth_hz * 0.94)
    return weight * (frequency <= limit[:, None])


@lru_cache(maxsize=16)
@torch.inference_mode(mode=False)  # what is kept here must serve training too, whoever asks first
def _hann(window: int, device: torch.device) -> Tensor:
    taper = torch.hann_window(window, device=device)
    return taper / taper.square().sum().sqrt()
