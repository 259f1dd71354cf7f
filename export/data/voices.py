"""New voices from old ones: the same words and pitch out of a longer or a shorter throat."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Audio = npt.NDArray[np.float32]

_WINDOW_S = 0.021
_ENVELOPE_S = 2.5e-3
_MOST_DB = 12.0
_FLOOR = 1e-5


def shift_formants(speech: Audio, factor: float, sample_rate: int) -> Audio:
    """Move the formants of a voice and leave its pitch where it is.

    The spectral envelope - what the cepstrum holds below 2.5 ms, the period of the highest voices - is stretched along
    frequency, as a vocal tract of another length would [1]_, and the signal is filtered by the ratio of the two, by
    12 dB at most. Phases stay, so sharp onsets do too.

    Parameters
    ----------
    speech : float32 [frames]
        Silence stays silence.
    factor : float
        By which formants move up; useful from 0.85 to 1.2.
    sample_rate : int
        Hz.

    Returns
    -------
    float32 [frames]

    References
    ----------
    .. [1] N. Jaitly and G. Hinton, "Vocal tract length perturbation (VTLP) improves speech recognition", ICML workshop
       on deep learning for audio, speech and language processing, 2013.
    """
    window = 2 * round(_WINDOW_S * sample_rate / 2)
    hop = window // 4
    taper = torch.hann_window(window)
    signal = torch.from_numpy(speech)
    spectrum = torch.stft(signal, window, hop, window=taper, pad_mode="constant", return_complex=True)
    log_magnitude = torch.log(spectrum.abs() + _FLOOR)
    cepstrum = torch.fft.irfft(log_magnitude, dim=0)
    cepstrum *= _lifter(window, round(_ENVELOPE_S * sample_rate))[:, None]
    envelope = torch.fft.rfft(cepstrum, dim=0).real
    place = (torch.arange(len(envelope)) / factor).clamp_max(len(envelope) - 1.001)
    below = place.long()
    moved = torch.lerp(envelope[below], envelope[below + 1], (place - below)[:, None])
    most = _MOST_DB / 20 * float(np.log(10.0))
    spectrum *= torch.exp((moved - envelope).clamp(-most, most))
    out: Audio = torch.istft(spectrum, window, hop, window=taper, length=len(speech)).numpy()
    return out


@lru_cache(maxsize=2)
def _lifter(window: int, keep: int) -> Tensor:
    """Ones for quefrencies of the envelope, both signs, falling to zero over the last half."""
    quefrency = torch.minimum(torch.arange(window), window - torch.arange(window)).float()
    fall = ((quefrency - keep / 2) / (keep / 2)).clamp(0.0, 1.0)
    return 0.5 * (1 + torch.cos(torch.pi * fall))
