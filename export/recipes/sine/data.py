"""The data: sines in noise, with targets that can be hidden, and the best estimate that exists for them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

PERIOD = 60
NOISE = 0.35
LENGTH = 100

TRAIN, TEST, HIDE, LONG, STREAM = range(5)
"""What random numbers are for; with the seed of a run they make the seed of a generator."""

Values = npt.NDArray[np.float64]


def make_waves(n: int, seed: Sequence[int], length: int = LENGTH) -> tuple[Tensor, Tensor]:
    """Make noisy and clean sines, as the document does.

    The period is 60 samples, the offset a whole number from 0 to 100, the noise uniform within 0.35 of zero.

    Returns
    -------
    noisy, clean : float32 [length, n]
    """
    rng = np.random.default_rng(seed)
    offset = rng.integers(0, 101, n)
    clean = np.sin(2 * np.pi * (np.arange(length)[:, None] + offset) / PERIOD)
    noisy = clean + rng.uniform(-NOISE, NOISE, clean.shape)
    return torch.tensor(noisy, dtype=torch.float32), torch.tensor(clean, dtype=torch.float32)


def waves_of(n: int, seeds: Sequence[int], use: int, length: int = LENGTH) -> tuple[Tensor, Tensor]:
    """Make the waves of several seeds, for one of several uses: float32 [length, seeds, n], noisy and clean."""
    pairs = [make_waves(n, (seed, use), length) for seed in seeds]
    noisy, clean = (torch.stack(waves, 1) for waves in zip(*pairs, strict=True))
    return noisy, clean


def best_possible(noisy: Tensor, causal: bool) -> Values:
    """Return the estimate with the least expected absolute error of all that exist for these data.

    Of the 60 sines that can be the clean one, noise within 0.35 of zero leaves some that explain what was heard; each
    is as likely as it was before. The weighted median of what they say is the best guess.

    Parameters
    ----------
    noisy : [steps, items]
    causal : bool
        Whether an estimate may use the samples up to its own only, or all of them.

    Returns
    -------
    float64 [steps, items]
    """
    heard = noisy.numpy().astype(np.float64)
    steps = len(heard)
    candidates = np.sin(2 * np.pi * (np.arange(steps)[:, None] + np.arange(PERIOD)) / PERIOD)
    prior = np.bincount(np.arange(101) % PERIOD).astype(np.float64)
    possible = np.abs(heard[:, None, :] - candidates[:, :, None]) <= NOISE + 1e-6  # [steps, candidates, items]
    left = np.logical_and.accumulate(possible, 0)
    if not causal:
        left = np.broadcast_to(left[-1], left.shape)
    estimate = np.empty_like(heard)
    for t in range(steps):
        order = np.argsort(candidates[t])
        weight = np.cumsum(prior[order, None] * left[t][order], 0)
        estimate[t] = candidates[t][order][(weight >= weight[-1] / 2).argmax(0)]
    return estimate


def hide_targets(clean: Tensor, share: float, seed: int) -> Tensor:
    """Return the targets with a share of them, drawn at random, replaced by NaN."""
    hidden = torch.from_numpy(np.random.default_rng((seed, HIDE)).random(clean.shape) < share)
    return torch.where(hidden, torch.nan, clean)
