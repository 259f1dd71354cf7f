"""What the denoiser is trained to do, as one differentiable number per item."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from .compiling import Compiled
from .loudness import loudness_difference


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
    snr_weight : float
        Weight of the signal-to-error ratio, per dB. In the first steps of a training 0.004 makes its gradient about
        as long as the spectral one, and at 0.02 PESQ lagged behind SI-SDR; it grew from stage to stage
        (`docs/model.md`).
    high_weight : float
        Weight of bins above 8 kHz against those below: most ears, and all measures, live below.
    knee : float
        Difference of compressed values beyond which the cost grows in proportion to it, and no longer to its square.
        Where speech and noise are both likely, squares ask for something in between, this for the likelier of the two.
    floor_db : float
        Where compression turns linear, below the item's level. Clean recordings are only clean to 30-50 dB.
    loudness_weight : float
        Weight of the difference in loudness (`loudness_difference`), measured in the first resolution.
    """

    resolutions: tuple[tuple[int, int], ...] = ((1024, 512), (512, 256))
    exponent: float = 0.3
    complex_share: float = 0.3
    snr_weight: float = 0.02
    high_weight: float = 0.35
    knee: float = 0.05
    floor_db: float = -60.0
    loudness_weight: float = 0.05

    def __post_init__(self) -> None:
        if not 0 < self.knee < math.inf:  # NaN neither
            raise ValueError(
                f"knee is {self.knee:g}; it has to be a finite number above 0: without one the cost has a tip"
            )


def denoising_loss(
    estimate: Tensor,
    target: Tensor,
    noisy_rms: Tensor,
    bandwidth_hz: Tensor,
    has_speech: Tensor,
    sample_rate: int,
    config: LossConfig,
    compiled: bool = False,
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
    compiled : bool
        Join the arithmetic of all bins into one loop of machine code (`export.compiling`). Worth it for long runs:
        every new shape is compiled first.

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
    loudness = torch.zeros_like(level)
    floor = 10 ** (config.floor_db / 10)
    compare = _compiled_compare() if compiled else _compare
    for index, (window, hop) in enumerate(config.resolutions):
        taper = _hann(window, estimate.device)
        weight = _bin_weights(window, sample_rate, bandwidth_hz, config.high_weight)
        # Silence in front: without it the taper would hide the first sound from the loss, and with it cold starts.
        est, ref = (_Spectrum.apply(pad(part, (window - hop, 0)), taper, hop) for part in (estimate, target))
        est_power, ref_power, error, cost = compare(
            *est, *ref, floor, config.exponent, config.complex_share, config.knee
        )
        spectral = spectral + (cost * weight).sum(-1) / weight.sum(-1)
        inside = weight > 0
        error = (error * inside).sum(-1).clamp_min(0.0)
        signal = (ref_power.sum(1) * inside).sum(-1)
        # 30 dB is enough: beyond it, references are not clean.
        ratio_db = ratio_db - 10 * torch.log10((error + 1e-3 * signal) / (signal + 1e-9) + 1e-9) * has_speech
        if index == 0 and config.loudness_weight:
            est_power, ref_power = (power * inside[:, None] for power in (est_power, ref_power))
            loudness = loudness_difference(est_power, ref_power, sample_rate, hop) * has_speech
    n = len(config.resolutions)
    return spectral / n - config.snr_weight * ratio_db / n + config.loudness_weight * loudness


def si_sdr_db(estimate: Tensor, target: Tensor) -> Tensor:
    """Scale-invariant signal-to-distortion ratio in dB [items] (Le Roux et al., ICASSP 2019), means removed."""
    estimate = estimate - estimate.mean(-1, keepdim=True)
    target = target - target.mean(-1, keepdim=True)
    scale = (estimate * target).sum(-1, keepdim=True) / target.square().sum(-1, keepdim=True).clamp_min(1e-12)
    projection = scale * target
    noise = (estimate - projection).square().sum(-1)
    return 10 * torch.log10(projection.square().sum(-1).clamp_min(1e-12) / noise.clamp_min(1e-12))


class _Spectrum(torch.autograd.Function):
    """STFT [items, steps, bins], real and imaginary part; white noise of RMS 1 has power 1 in every bin.

    Its gradient is an inverse FFT and one overlap-add, less work than differentiating the steps one by one.
    """

    @staticmethod
    def forward(ctx: Any, samples: Tensor, taper: Tensor, hop: int) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(taper)
        ctx.hop, ctx.n_samples = hop, samples.shape[-1]
        spectrum = torch.fft.rfft(samples.unfold(-1, len(taper), hop) * taper)
        return spectrum.real.contiguous(), spectrum.imag.contiguous()

    @staticmethod
    def backward(ctx: Any, grad_real: Tensor, grad_imag: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        (taper,) = ctx.saved_tensors
        hop, n_overlap = ctx.hop, len(taper) // ctx.hop
        grad = torch.complex(grad_real, grad_imag)
        grad[..., 1:-1] *= 0.5  # the inverse counts bins between 0 and half the sample rate twice
        frames = torch.fft.irfft(grad, len(taper), norm="forward").mul_(taper)
        items, steps, _ = frames.shape
        pieces = frames.view(items, steps, n_overlap, hop)
        out = frames.new_zeros(items, ctx.n_samples)
        hops = out[:, : (steps - 1 + n_overlap) * hop].view(items, -1, hop)
        for late in range(n_overlap):
            hops[:, late : late + steps] += pieces[:, :, late]
        return out, None, None


def _compare(
    est_real: Tensor,
    est_imag: Tensor,
    ref_real: Tensor,
    ref_imag: Tensor,
    floor: float,
    exponent: float,
    complex_share: float,
    knee: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Powers [items, steps, bins] of both, and over time the error's energy and the mean cost [items, bins]."""
    est_power = est_real.square() + est_imag.square()
    ref_power = ref_real.square() + ref_imag.square()
    common = est_real * ref_real + est_imag * ref_imag
    est_log, ref_log = torch.log(est_power + floor), torch.log(ref_power + floor)
    half = exponent / 2
    difference = torch.exp(est_log * half) - torch.exp(ref_log * half)
    # |a - b|^2 of compressed complex values, written out: no complex array has to be kept for it.
    est_scale, ref_scale = torch.exp(est_log * (half - 0.5)), torch.exp(ref_log * (half - 0.5))
    phase_aware = est_power * est_scale**2 + ref_power * ref_scale**2 - 2 * common * est_scale * ref_scale
    magnitude = _robust(difference.square(), knee)
    cost = (1 - complex_share) * magnitude + complex_share * _robust(phase_aware.clamp_min(0.0), knee)
    return est_power, ref_power, (est_power + ref_power - 2 * common).sum(1), cost.mean(1)


def _robust(squared: Tensor, knee: float) -> Tensor:
    """Pseudo-Huber cost of a squared difference, in the end as steep as the square is at 0.2, a usual difference."""
    return 0.4 * (torch.sqrt(squared + knee**2) - knee)


@lru_cache(maxsize=1)
def _compiled_compare() -> Compiled:
    return Compiled(_compare)


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
