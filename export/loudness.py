"""How different two signals sound: what P.862 measures, differentiable, for the training loss."""

from __future__ import annotations

from functools import lru_cache, partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import pad

_FULL = 3.4e6
"""Power of speech heard at 79 dB SPL, summed over bands, on the scale of P.862."""

_LISTENING_DB = 79.0

_N_BANDS = 40


def loudness_difference(estimate: Tensor, reference: Tensor, sample_rate: int, hop: int) -> Tensor:
    """How different two signals sound to an ear modelled by Bark bands: a differentiable relative of PESQ.

    The steps are those of [1]_. Both signals are set to one level between 350 and 3250 Hz. A band that the estimate
    weakens or raises throughout counts little, for the reference is filtered likewise, and so does a moment that is
    softer or louder, for the estimate is turned up or down. Powers in Bark bands then become loudness by
    Zwicker's law; differences below a quarter of the quieter loudness are masked. What was added counts once more. Bad
    moments decide: over 320 ms a sixth-power mean is taken.

    Alignment in time and the mapping to a score are left out, as in [2]_. Unlike there and in [1]_, what was added is
    not turned down: noise in a pause is heard. The two kinds of difference are weighted by how they tell systems apart
    (`docs/model.md`).

    Parameters
    ----------
    estimate, reference : [items, steps, bins]
        Powers.
    sample_rate : int
        Hz.
    hop : int
        Samples between steps.

    Returns
    -------
    [items]
        Roughly in points that PESQ would take off.

    References
    ----------
    .. [1] ITU-T P.862, "Perceptual evaluation of speech quality", 2001.
    .. [2] J. M. Martin-Donas et al., "A deep learning loss function based on the perceptual evaluation of the speech
       quality", IEEE Signal Processing Letters 25(11), 2018.
    """
    bands = _bark_bands(estimate.shape[-1], sample_rate, estimate.device)
    est, ref = (_at_one_level(power, bands.middle) @ bands.pool for power in (estimate, reference))
    heard = (ref * (ref > 100 * bands.threshold)).sum(-1)
    ref = ref * _filtering(est, ref, 100 * bands.threshold)
    turning = _turning(est, ref, bands.threshold)[..., None]
    turned, raised = est * turning, est * turning.clamp_min(1.0)
    ratio = ((raised + 50.0) / (ref + 50.0)) ** 1.2
    asymmetry = torch.where(ratio < 3.0, 0.0, ratio.clamp_max(12.0))
    # Silent moments count more: by a power of what is heard.
    scale = ((heard + 1e5) / 1e7) ** -0.04
    total_width = bands.width * _N_BANDS
    different = ((bands.audible(turned, ref).square().sum(-1) * total_width + 1e-3).sqrt() * scale).clamp_max(45.0)
    added = ((bands.audible(raised, ref) * asymmetry).sum(-1) * scale).clamp_max(45.0)
    steps = min(different.shape[-1], max(2, round(0.32 * sample_rate / hop)))
    return 0.15 * _bad_moments(different, steps) + 0.03 * _bad_moments(added, steps)


def _at_one_level(power: Tensor, middle: Tensor) -> Tensor:
    level = (power @ middle).mean(-1) / power.shape[-1]
    return power / level.clamp_min(1e-9)[:, None, None]


def _filtering(est: Tensor, ref: Tensor, threshold: Tensor) -> Tensor:
    """Mean power of every band of the estimate against that of the reference while it speaks, within 20 dB."""
    total = ref.sum(-1, keepdim=True)
    speaks = (total > 1e-3 * total.mean(1, keepdim=True)).to(ref.dtype)
    n_steps = speaks.sum(1, keepdim=True).clamp_min(1.0)
    est_mean, ref_mean = ((power * (power > threshold) * speaks).sum(1, keepdim=True) / n_steps for power in (est, ref))
    return ((est_mean + 1e3) / (ref_mean + 1e3)).clamp(0.01, 100.0)


def _turning(est: Tensor, ref: Tensor, threshold: Tensor) -> Tensor:
    """Power of the reference against that of the estimate at every step, smoothed over the last few."""
    est_heard, ref_heard = ((power * (power > threshold)).sum(-1) for power in (est, ref))
    ratio = (ref_heard + 5e3) / (est_heard + 5e3)
    # The standard's recursion, 0.8 of the new and 0.2 of the old, as far back as it matters.
    weights = torch.tensor([0.0064, 0.032, 0.16, 0.8016], dtype=ratio.dtype, device=ratio.device)
    return (pad(ratio, (3, 0), value=1.0).unfold(-1, 4, 1) @ weights).clamp(3e-4, 5.0)


def _bad_moments(disturbance: Tensor, steps: int) -> Tensor:
    moments = disturbance.unfold(-1, steps, steps // 2).pow(6).mean(-1)
    return ((moments + 1e-9).pow(1 / 3).mean(-1)).sqrt()


class _BarkBands:
    """Bark bands of an STFT.

    Attributes
    ----------
    pool : [bins, bands]
        Sums of powers; out come powers on the scale of P.862.
    width : float
        Of a band, in Bark.
    threshold : [bands]
        Of hearing, on the same scale.
    middle : [bins]
        1 from 350 to 3250 Hz, which decide the level, and 0 elsewhere.
    """

    def __init__(self, n_bins: int, sample_rate: int, device: torch.device) -> None:
        frequency = np.arange(n_bins) * (sample_rate / 2 / (n_bins - 1))
        bark = _bark(frequency)
        edges = np.linspace(_bark(np.array(60.0)), _bark(np.array(min(8000.0, sample_rate / 2))), _N_BANDS + 1)
        centre, self.width = 0.5 * (edges[1:] + edges[:-1]), float(edges[1] - edges[0])
        # Every bin is shared between its two nearest bands, so no power is lost or counted twice.
        place = np.clip((bark - centre[0]) / self.width, 0.0, _N_BANDS - 1.0)
        pool = np.maximum(0.0, 1.0 - np.abs(place[:, None] - np.arange(_N_BANDS)))
        pool[(bark < edges[0]) | (bark > edges[-1])] = 0.0
        kilohertz = 1.96 * (centre + 0.53) / (26.28 - centre)
        # Threshold in quiet, dB SPL: Terhardt 1979.
        quiet_db = 3.64 * kilohertz**-0.8 - 6.5 * np.exp(-0.6 * (kilohertz - 3.3) ** 2) + 1e-3 * kilohertz**4
        as_tensor = partial(torch.as_tensor, dtype=torch.float32, device=device)
        self.middle = as_tensor((frequency >= 350.0) & (frequency <= 3250.0))
        self.pool = as_tensor(pool * _FULL / n_bins)
        self.threshold = as_tensor(_FULL * 10 ** ((quiet_db - _LISTENING_DB) / 10))

    def audible(self, est: Tensor, ref: Tensor) -> Tensor:
        """Difference in loudness of band powers that the quieter of both does not mask, in sone per band."""
        est, ref = self._loudness(est), self._loudness(ref)
        return torch.relu((est - ref).abs() - 0.25 * torch.minimum(est, ref)) * self.width

    def _loudness(self, power: Tensor) -> Tensor:
        exponent = 0.23
        scale = 0.187 * (self.threshold / 0.5) ** exponent
        return (scale * ((0.5 + 0.5 * power / self.threshold) ** exponent - 1.0)).clamp_min(0.0)


@lru_cache(maxsize=1)
@torch.inference_mode(mode=False)  # what is kept here must serve training too, whoever asks first
def _bark_bands(n_bins: int, sample_rate: int, device: torch.device) -> _BarkBands:
    return _BarkBands(n_bins, sample_rate, device)


def _bark(hertz: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Critical-band rate, H. Traunmueller, JASA 88(1), 1990."""
    return 26.81 * hertz / (1960.0 + hertz) - 0.53
