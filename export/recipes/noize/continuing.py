"""Music that goes on: a trained `NoizeNet` plays what it predicts, with as much chance as it is given."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt
import torch
from scipy.linalg import solve_toeplitz
from scipy.signal import lfilter
from torch import Tensor

from streamproc.errors import ConfigError

from ...models.noize import NoizeNet

Sound = npt.NDArray[np.float32]

_COLOUR_ORDER = 32
_SETTLE = 512
"""Samples in which the colouring filter forgets how it began."""

_LEVEL_S = 0.25
"""Sound whose level is compared with that of the prompt."""

_MOST_PER_HOP = 1.4
"""The most that a prediction is made louder or quieter for it, as a factor."""


def continue_music(
    model: NoizeNet,
    prompt: Sound,
    seconds: float,
    temperature: float = 1.0,
    seed: int = 0,
    track: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> Sound:
    """Let a model go on where a recording stops.

    Each hop is the model's prediction, plus chance of the size of the error that it expects, in the colour of the last
    128 ms; then the model hears it and goes on. Predictions alone lose energy hop by hop, and chance alone adds it
    without an end, so the level of the last quarter of a second is held at that of the prompt: energy that is
    missing comes back as chance, and what is too loud is turned down.

    Parameters
    ----------
    model : NoizeNet
    prompt : float32 [frames]
        Music to go on from, at the model's rate, at least a hop.
    seconds : float
    temperature : float
        Size of what is left to chance, 0 and up. 0: none, the same every time; 1: as much as the model expects.
    seed : int
    track : callable, optional
        Passes the numbers of the hops on, for a progress bar.

    Returns
    -------
    float32 [frames]
        The continuation without the prompt, within ±1.

    Raises
    ------
    ConfigError
        If there is no prompt, or a number is out of range.
    """
    cfg = model.config
    if temperature < 0 or not seconds > 0:
        raise ConfigError(f"temperature must be 0 or more and seconds positive, found {temperature} and {seconds}")
    if prompt.ndim != 1 or len(prompt) < cfg.hop:
        raise ConfigError(f"the prompt must be [frames], at least one hop of {cfg.hop}; found {list(prompt.shape)}")
    rng = np.random.default_rng(seed)
    n_hops = -(-round(seconds * cfg.sample_rate) // cfg.hop)
    prompt = prompt[len(prompt) % cfg.hop :]
    wanted = float(np.mean(prompt.astype(np.float64) ** 2))
    power, keep = wanted, np.exp(-cfg.hop / (_LEVEL_S * cfg.sample_rate))
    result = np.zeros((n_hops, cfg.hop), np.float32)
    model.eval()
    with torch.inference_mode():
        heard = torch.from_numpy(np.ascontiguousarray(prompt)).reshape(1, -1, cfg.hop)
        prediction, log_scale, *states = model.foresee(heard, *model.init_state(1))
        for place in track(range(n_hops)):
            expected = torch.exp(log_scale[0, -1]).numpy() * np.sqrt(2.0)  # of a Laplace distribution
            gain = np.sqrt(wanted / max(power, 1e-12))
            chance = np.maximum(expected * min(gain, 1.0), np.sqrt(max(wanted - power, 0.0)))
            hop = prediction[0, -1].numpy() * np.clip(gain, 1.0 / _MOST_PER_HOP, _MOST_PER_HOP)
            hop = hop + temperature * chance * coloured_noise(states[0][0].numpy(), cfg.hop, rng)
            result[place] = np.clip(hop, -1.0, 1.0)
            power = keep * power + (1.0 - keep) * float(np.mean(result[place].astype(np.float64) ** 2))
            prediction, log_scale, *states = model.foresee(_frame(result[place]), *states)
    return result.ravel()[: round(seconds * cfg.sample_rate)]


def coloured_noise(past: Sound, n: int, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Return `n` samples of noise of unit power with the spectrum of `past`, by linear prediction of order 32."""
    x = past.astype(np.float64) * np.hanning(len(past))
    size = 1 << (2 * len(x) - 1).bit_length()
    correlation = np.fft.irfft(np.abs(np.fft.rfft(x, size)) ** 2)[: _COLOUR_ORDER + 1]
    white = rng.standard_normal(_SETTLE + n)
    if correlation[0] < 1e-9:
        return white[_SETTLE:]
    correlation[0] *= 1.0 + 1e-4
    predictor = solve_toeplitz(correlation[:-1], correlation[1:])
    gain = np.sqrt(max(1.0 - predictor @ correlation[1:] / correlation[0], 1e-6))
    coloured: npt.NDArray[np.float64] = lfilter([gain], np.concatenate([[1.0], -predictor]), white)[_SETTLE:]
    return coloured


def spectral_flatness_db(sound: Sound) -> float:
    """Return how like noise a sound is: geometric over arithmetic mean of its power spectra, mean over frames, in dB.

    Frames of 1024 samples; -2.5 for white noise (whose spectra are not flat one by one), far below for tones.
    """
    frames = np.lib.stride_tricks.sliding_window_view(sound.astype(np.float64), 1024)[::512] * np.hanning(1024)
    power = np.abs(np.fft.rfft(frames, axis=1)) ** 2 + 1e-10
    return float(np.mean(10 * np.log10(np.exp(np.log(power).mean(axis=1)) / power.mean(axis=1))))


def _frame(hop: Sound) -> Tensor:
    return torch.from_numpy(hop).reshape(1, 1, -1)
