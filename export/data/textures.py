"""New noises out of two recorded ones: the course of one in the spectrum of another, and one after the other."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch

Audio = npt.NDArray[np.float32]

_LOWEST_HZ = 40.0
_BANDS_PER_OCTAVE = 3
_LARGEST_DB = 30.0


def imprint(samples: Audio, model: Audio, sample_rate: int) -> Audio:
    """Give a noise the average spectrum of another, in third octaves.

    What happens when stays that of `samples`; where in the spectrum it happens becomes that of `model`.

    Parameters
    ----------
    samples, model : float32 [frames]
        Equally long.
    sample_rate : int
        Hz.

    Returns
    -------
    float32 [frames]
        At an arbitrary level. No band is raised or lowered by more than 30 dB against the mean of all.
    """
    own, other = (torch.fft.rfft(torch.from_numpy(np.ascontiguousarray(part))) for part in (samples, model))
    edges, place, blend = _bands(len(own), sample_rate)
    levels_db = []
    for spectrum in (own, other):
        power = np.add.reduceat(spectrum.abs().square().numpy(), edges[:-1])
        levels_db.append(10.0 * np.log10(power + 1e-9 * power.max() + 1e-20))
    change_db = levels_db[1] - levels_db[0]
    change_db = np.clip(change_db - change_db.mean(), -_LARGEST_DB, _LARGEST_DB).astype(np.float32)
    gain_db = change_db[place] + (change_db[place + 1] - change_db[place]) * blend
    gain = torch.from_numpy(gain_db * np.float32(np.log(10.0) / 20.0)).exp_()
    out: Audio = torch.fft.irfft(own * gain, len(samples)).numpy()
    return out


def cross_fade(before: Audio, after: Audio, at: float, seconds: float, sample_rate: int) -> Audio:
    """Let one noise give way to another around the part `at` (0..1) of their length, at equal power."""
    position = (np.arange(len(before), dtype=np.float32) - np.float32(at * len(before))) / (seconds * sample_rate)
    angle = np.clip(position + 0.5, 0.0, 1.0).astype(np.float32) * np.float32(np.pi / 2)
    out: Audio = before * np.cos(angle) + after * np.sin(angle)
    return out


@lru_cache(maxsize=4)
def _bands(n_bins: int, sample_rate: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], Audio]:
    """First bins of all bands and the end of the last; for every bin the band centre below it, and how far it is on."""
    n_bands = int(np.log2(sample_rate / 2 / _LOWEST_HZ) * _BANDS_PER_OCTAVE)
    upper_hz = _LOWEST_HZ * 2.0 ** (np.arange(n_bands) / _BANDS_PER_OCTAVE)
    bin_hz = sample_rate / 2 / (n_bins - 1)
    edges = np.unique(np.concatenate([[0], np.ceil(upper_hz / bin_hz).astype(np.int64), [n_bins]]))
    centres = 0.5 * (edges[:-1] + edges[1:])
    position = np.interp(np.arange(n_bins), centres, np.arange(len(centres)))
    place = np.minimum(position.astype(np.int64), len(centres) - 2)
    return edges, place, (position - place).astype(np.float32)
