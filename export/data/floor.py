"""Quieter rooms for clean speech: the steady noise that was recorded with it falls towards a floor."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage

Audio = npt.NDArray[np.float32]

_HOP_S = 0.005
_HOPS_PER_WINDOW = 4
_SHORTEST_S = 0.5
_SMOOTHED = (3, 5)  # bins and steps
_QUIET_SHARE = 0.1
_ABOVE_QUIET = 2.5  # times its quietest tenth: louder than that smoothed noise seldom is
_FLOOR_DB = -50.0
_MOST_DB = 12.0  # a target without any floor would ask for more than ears or PESQ do


def lower_floor(samples: Audio, sample_rate: int, speech_rms: float) -> Audio:
    """Lower the steady noise of a recording towards -50 dB against its speech, by 12 dB at most.

    A spectral gate after [1]_: in every bin the quietest tenth of the recording is taken for noise. What is hardly
    above it becomes smaller, what is 10 dB above it by little more than a decibel. A recording that is quiet enough
    stays as it is.

    Parameters
    ----------
    samples : float32 [frames]
    sample_rate : int
        Hz.
    speech_rms : float
        RMS of the speech without its pauses; 0 for silence.

    Returns
    -------
    float32 [frames]

    References
    ----------
    .. [1] S. F. Boll, "Suppression of acoustic noise in speech using spectral subtraction", IEEE TASSP 27(2), 1979.
    """
    if len(samples) < _SHORTEST_S * sample_rate or speech_rms <= 0.0:
        return samples
    hop = round(_HOP_S * sample_rate)
    window = _HOPS_PER_WINDOW * hop
    taper = torch.hann_window(window)
    spectrum = torch.stft(torch.from_numpy(samples), window, hop, window=taper, return_complex=True)
    # A running mean may end a hair below zero where recordings are digital silence.
    power = np.maximum(ndimage.uniform_filter(spectrum.abs().square().numpy(), _SMOOTHED), 0.0)
    quiet = np.quantile(power, _QUIET_SHARE, axis=1, keepdims=True)
    quiet_power = 2.0 * float(quiet.sum()) / (window * float(taper.square().sum()))
    quiet_db = 10.0 * math.log10(quiet_power / speech_rms**2 + 1e-20)
    least = 10.0 ** (-min(max(quiet_db - _FLOOR_DB, 0.0), _MOST_DB) / 10.0)
    if least == 1.0:
        return samples
    gain = np.clip(1.0 - _ABOVE_QUIET * (1.0 - least) * quiet / (power + 1e-20), least, 1.0)
    lowered = spectrum * torch.from_numpy(np.sqrt(gain).astype(np.float32))
    out: Audio = torch.istft(lowered, window, hop, window=taper, length=len(samples)).numpy()
    return out
