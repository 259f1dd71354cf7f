"""Measuring: what trained networks make of new waves, of longer ones and of a stream, and what no network can beat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from streamproc.audio_files import AudioInfo, AudioReader, create
from streamproc.loading import load
from streamproc.offline import process_file

from ...models import SampleDenoiserConfig
from ...models.sine import NetStack
from ..metrics import mean_absolute_error, mean_squared_error
from .data import (
    LENGTH,
    LONG,
    PERIOD,
    STREAM,
    TEST,
    TRAIN,
    Values,
    best_possible,
    hide_targets,
    make_waves,
    waves_of,
)
from .plans import Plan
from .training import CHUNK, Model, Training

Results = dict[str, list[dict[str, Any]]]
"""Name of a training, then one per seed what `figures` and `figures_at_start` return."""

Bounds = dict[str, list[float]]
"""What `least_possible_errors` returns."""


@torch.no_grad()
def denoise(models: Sequence[Model], noisy: Tensor) -> Tensor:
    """Return what every model makes of its own sequences [steps, networks, items], in the units of the network."""
    stack = NetStack([model.net for model in models])
    return torch.cat([stack(part) for part in noisy.split(max(1, CHUNK // len(models)), dim=2)], 2)


def per_position(estimate: Tensor | Values, clean: Tensor) -> Values:
    """Return the mean absolute error of every position: of [steps, ..., items] to [steps, ...]."""
    error: Values = np.abs(np.asarray(estimate, np.float64) - clean.numpy()).mean(-1)
    return error


def figures_at_start(untrained: Sequence[Model], seeds: Sequence[int], n: int) -> list[dict[str, Any]]:
    """Measure untrained networks, one per seed, on `n` test waves each.

    Returns
    -------
    list of dict
        ``start_to_input`` and ``start_to_clean``, the distance to what goes in and to what should come out, and
        ``start_bound``, the least distance to the input that a tanh head allows.
    """
    noisy, clean = waves_of(n, seeds, TEST)
    out = denoise(untrained, noisy)
    return [
        {
            "start_to_input": float(mean_absolute_error(out[:, k], noisy[:, k])),
            "start_to_clean": float(mean_absolute_error(out[:, k], clean[:, k])),
            "start_bound": float((noisy[:, k].abs() - 1).clamp_min(0).mean()),
        }
        for k in range(len(untrained))
    ]


def figures(trained: Training, noisy: Tensor, clean: Tensor, n: int) -> list[dict[str, Any]]:
    """Measure the networks of a finished training, on `n` test waves each and on as many that they learned from.

    Parameters
    ----------
    trained : Training
    noisy, clean : float32 [steps, networks, items]
        What it was trained on, before targets were hidden.
    n : int

    Returns
    -------
    list of dict
        ``test`` and ``train``, the L1; ``by_position``, that of the test at every position; ``losses`` and
        ``snapshots`` as in `Training`, the latter for the first network only.
    """
    test_noisy, test_clean = waves_of(n, trained.seeds, TEST)
    seen, test = denoise(trained.models, noisy[..., :n]), denoise(trained.models, test_noisy)
    return [
        {
            "test": float(mean_absolute_error(test[:, k], test_clean[:, k])),
            "train": float(mean_absolute_error(seen[:, k], clean[:, k, :n])),
            "by_position": per_position(test[:, k], test_clean[:, k]).tolist(),
            "losses": trained.losses[k],
            "snapshots": trained.snapshots if k == 0 else [],
        }
        for k in range(len(trained.models))
    ]


def least_possible_errors(n: int, seed: int) -> Bounds:
    """Return the least possible error of every position on `n` test waves: ``causal``, and of the ``whole`` wave."""
    noisy, clean = make_waves(n, (seed, TEST))
    return {
        name: per_position(best_possible(noisy, causal), clean).tolist()
        for name, causal in (("causal", True), ("whole", False))
    }


def try_missing_targets(n: int) -> list[list[Any]]:
    """Take two steps on `n` waves with missing targets, with and without the mask, and see what is left.

    Returns
    -------
    list of ``[loss, missing, loss at the second step, share of the weights that are still numbers]``
    """
    noisy, clean = waves_of(n, [0], TRAIN)
    few = clean.clone()
    few.view(-1)[torch.from_numpy(np.random.default_rng(0).choice(few.numel(), 50, replace=False))] = torch.nan
    plan = Plan("gru", False, 2, n)
    found: list[list[Any]] = []
    for what, target in (("50 values", few), ("5%", hide_targets(clean, 0.05, 0))):
        for name, loss in (
            ("L1, unmasked", nn.functional.l1_loss),
            ("MSE, unmasked", nn.functional.mse_loss),
            ("L1, masked", mean_absolute_error),
            ("MSE, masked", mean_squared_error),
        ):
            trained = Training(plan, [0]).run(noisy, target, loss)
            weights = torch.cat([parameter.detach().flatten() for parameter in trained.models[0].parameters()])
            found.append([name, what, trained.losses[0][-1], float(torch.isfinite(weights).float().mean())])
    return found


def errors_at_the_ends(
    models: Mapping[str, Sequence[Model]], seeds: Sequence[int], n: int
) -> dict[str, dict[str, float]]:
    """Measure the networks where both directions have heard something: inside longer sequences.

    Each network sees `n` sequences of `LENGTH` samples, and the same with `PERIOD` samples more on either side. The
    error is taken over the first ten, the middle and the last ten of the `LENGTH` samples in both cases.

    Parameters
    ----------
    models : mapping of str to sequence
        Name to networks, one per seed.
    seeds : sequence of int
    n : int

    Returns
    -------
    dict of str to dict
        Name, then part of the sequence and what was seen, to the median over seeds.
    """
    noisy, clean = waves_of(n, seeds, LONG, LENGTH + 2 * PERIOD)
    inner = slice(PERIOD, PERIOD + LENGTH)
    regions = {"first 10": slice(0, 10), "middle": slice(10, -10), "last 10": slice(-10, None)}
    found = {}
    for name, networks in models.items():
        errors = {
            "alone": per_position(denoise(networks, noisy[inner]), clean[inner]),
            "within": per_position(denoise(networks, noisy)[inner], clean[inner]),
        }
        found[name] = {
            f"{region}, {kind}": float(np.median(error[where].mean(0)))
            for region, where in regions.items()
            for kind, error in errors.items()
        }
    return found


def stream_a_tone(
    model: Path, config: SampleDenoiserConfig, seconds: float, source: Path, target: Path
) -> dict[str, float]:
    """Write a noisy tone, denoise the file as `streamproc denoise` does, and measure what comes out.

    Parameters
    ----------
    model : Path
        Exported file of the network.
    config : SampleDenoiserConfig
        Of that network.
    seconds : float
    source, target : Path
        Sound files that are written: the noisy tone, and what the network makes of it.

    Returns
    -------
    dict
        ``l1`` of the whole and of the ``last_second``, ``noisy`` before; ``seconds``, ``hz``, and the ``latency``.
    """
    rate = config.sample_rate
    noisy, clean = (wave.T.numpy() for wave in make_waves(1, (0, STREAM), int(seconds * rate)))
    with create(source, AudioInfo(rate, 1, noisy.shape[1])) as writer:
        writer.write(noisy * np.float32(config.full_scale))
    report = process_file(source, target, load(model))
    with AudioReader(target) as reader:
        out = np.concatenate(list(reader.blocks(rate)), axis=1) / config.full_scale
    error = np.abs(out - clean)
    return {
        "l1": float(error.mean()),
        "last_second": float(error[:, -rate:].mean()),
        "noisy": float(np.abs(noisy - clean).mean()),
        "seconds": seconds,
        "hz": rate / PERIOD,
        "latency": report.latency.total,
    }
