"""Training `NoizeNet` on recordings, and measuring what any predictor of hops is worth."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from streamproc.atomic import replacing

from ...data.cache import SoundCache
from ...models.noize import LinearContinuation, NoizeNet
from ..metrics import mean_absolute_error, mean_bias_error, mean_squared_error

Hops = npt.NDArray[np.float32]
"""Sound cut into hops, float32 ``[hops, hop]``; or for each of them a prediction of the one after it."""

_SILENT = 1e-6
"""Mean square below which a hop is silence, and predicting it no merit: -60 dBFS."""

_AT_A_TIME = 128


@dataclass(frozen=True)
class TrainingConfig:
    """How `Training` trains.

    Parameters
    ----------
    steps, batch, piece : int
        Steps, pieces per step, hops per piece.
    warm_up : int
        Hops at the beginning of a piece that are not counted: the LSTM begins from nothing there.
    lr, weight_decay : float
    validate_every : int
        Steps.
    seed : int
    """

    steps: int = 400
    batch: int = 24
    piece: int = 96
    warm_up: int = 16
    lr: float = 2e-3
    weight_decay: float = 1e-2
    validate_every: int = 50
    seed: int = 0


@dataclass(frozen=True)
class Recording:
    """A recording with the linear predictions that belong to it.

    Parameters
    ----------
    hops : float32 [hops, hop]
    linear : float32 [hops, windows, hop]
        Row ``t`` predicts row ``t + 1`` of `hops`, once for each of the model's windows.
    """

    hops: Hops
    linear: Hops


def read_hops(music: SoundCache, clips: Iterable[int], hop: int, seconds: float | None = None) -> list[Hops]:
    """Cut recordings into hops; of each only the first `seconds`, where that is given, and never less than 2 hops."""
    frames = None if seconds is None else round(seconds * music.sample_rate)
    cut = []
    for clip in clips:
        samples = music.read(clip, 0, frames)
        hops = samples[: len(samples) // hop * hop].reshape(-1, hop)
        if len(hops) > 1:
            cut.append(hops)
    return cut


@torch.inference_mode()
def predict_linearly(linear: LinearContinuation, hops: Hops) -> Hops:
    """Return the linear predictions of every coming hop, [hops, windows, hop]; silence is before the beginning."""
    sound = torch.from_numpy(np.concatenate([np.zeros(linear.window - hops.shape[1], np.float32), hops.ravel()]))
    windows = sound.unfold(0, linear.window, hops.shape[1])
    pieces = [linear(windows[at : at + _AT_A_TIME]) for at in range(0, len(windows), _AT_A_TIME)]
    return torch.cat(pieces).numpy()


@torch.inference_mode()
def predict_with(model: NoizeNet, recording: Recording) -> Hops:
    """Return the model's prediction of every coming hop."""
    model.eval()
    frames, linear = (torch.from_numpy(part).unsqueeze(0) for part in (recording.hops, recording.linear))
    return model.foresee(frames, *model.init_state(1), linear=linear)[0].squeeze(0).numpy()


def figures(recordings: Sequence[Hops], predictions: Sequence[Hops]) -> dict[str, float]:
    """Measure predictions of the coming hop; the first hop of a recording is nobody's to predict.

    Returns
    -------
    dict
        ``mse``, ``mae``, ``mbe`` over all samples, and ``error_db``: the energy of the error over that of the hop, at
        most 1 (which silence would get too), averaged over all hops that are not silent, in dB.
    """
    target = np.concatenate([hops[1:] for hops in recordings])
    found = np.concatenate([prediction[:-1] for prediction in predictions])
    energy = np.mean(target.astype(np.float64) ** 2, axis=1)
    share = np.mean((found - target).astype(np.float64) ** 2, axis=1) / np.maximum(energy, 1e-20)
    return {
        "mse": float(mean_squared_error(found.astype(np.float64), target.astype(np.float64))),
        "mae": float(mean_absolute_error(found.astype(np.float64), target.astype(np.float64))),
        "mbe": float(mean_bias_error(found.astype(np.float64), target.astype(np.float64))),
        "error_db": float(10 * np.log10(max(np.minimum(share, 1.0)[energy > _SILENT].mean(), 1e-12))),
    }


def piece_loss(prediction: Tensor, log_scale: Tensor, target: Tensor, level: Tensor) -> Tensor:
    """Loss of predictions ``[pieces, hops, hop]``: of each hop, relative to the recent `level` ``[pieces, hops, 1]``.

    The logarithm of the error's energy lets quiet and predictable hops count as much as loud and wild ones; its bounded
    energy keeps the wild ones from counting for nothing. The expected error is fitted beside it (Laplace), and does
    not move the prediction.
    """
    error = (prediction - target) / level
    energy = error.square().mean(-1)
    foreseen = log_scale - torch.log(level)
    doubt = foreseen + error.detach().abs() * torch.exp(-foreseen)
    return torch.log(energy + 0.01).mean() + energy.clamp(max=4.0).mean() + 0.2 * doubt.clamp(max=10.0).mean()


class Training:
    """Training of one model, which can be put aside after any step and taken up again, to the same end.

    Parameters
    ----------
    model : NoizeNet
        As it is before the first step.
    config : TrainingConfig

    Attributes
    ----------
    step : int
        Steps that are done.
    curve : list of dict
        ``step``, ``loss`` and ``validation`` at every look at the validation recordings.
    """

    def __init__(self, model: NoizeNet, config: TrainingConfig) -> None:
        torch.manual_seed(config.seed)
        self.model, self.config = model, config
        self.step = 0
        self.curve: list[dict[str, float]] = []
        self._rng = np.random.default_rng(config.seed)
        self._optimiser = torch.optim.AdamW(model.parameters(), lr=config.lr, weight_decay=config.weight_decay)
        self._schedule = torch.optim.lr_scheduler.OneCycleLR(
            self._optimiser, config.lr, total_steps=config.steps, pct_start=0.1
        )
        self._best, self._best_loss = copy.deepcopy(model.state_dict()), float("inf")
        self._losses: list[float] = []

    def advance(
        self,
        training: Sequence[Recording],
        validation: Sequence[Recording],
        to_step: int,
        report: Callable[[str], None] = print,
    ) -> None:
        """Train up to this step, or the last one."""
        config, model = self.config, self.model
        share = np.array([len(recording.hops) for recording in training], np.float64)
        while self.step < min(to_step, config.steps):
            model.train()
            loss = _loss(model, _draw(training, share / share.sum(), config, model, self._rng), config.warm_up)
            self._optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            self._optimiser.step()
            self._schedule.step()
            self._losses.append(float(loss.detach()))
            self.step += 1
            if self.step % config.validate_every == 0 or self.step == config.steps:
                found = validation_loss(model, validation)
                if found < self._best_loss:
                    self._best, self._best_loss = copy.deepcopy(model.state_dict()), found
                self.curve.append({"step": self.step, "loss": float(np.mean(self._losses)), "validation": found})
                self._losses = []
                report("  ".join(f"{name} {value:.4g}" for name, value in self.curve[-1].items()))

    def finish(self) -> NoizeNet:
        """Return the model with the weights that were best on the validation recordings."""
        self.model.load_state_dict(self._best)
        return self.model.eval()

    _PLAIN = ("step", "curve", "_best", "_best_loss", "_losses")
    _STATEFUL = ("model", "_optimiser", "_schedule")

    def save(self, path: Path) -> None:
        """Write everything that going on needs."""
        content = {name: getattr(self, name) for name in self._PLAIN}
        content |= {name: getattr(self, name).state_dict() for name in self._STATEFUL}
        content |= {"numpy": json.dumps(self._rng.bit_generator.state), "torch": torch.get_rng_state()}
        with replacing(path) as partial:
            torch.save(content, partial)

    def restore(self, path: Path) -> None:
        """Go on from what `save` wrote."""
        content = torch.load(path, map_location="cpu", weights_only=True)
        for name in self._PLAIN:
            setattr(self, name, content[name])
        for name in self._STATEFUL:
            getattr(self, name).load_state_dict(content[name])
        self._rng.bit_generator.state = json.loads(content["numpy"])
        torch.set_rng_state(content["torch"])


@torch.inference_mode()
def validation_loss(model: NoizeNet, recordings: Sequence[Recording]) -> float:
    """Return the mean loss over whole recordings, each hop counted once."""
    model.eval()
    total = sum(len(recording.hops) for recording in recordings)
    return (
        sum(float(_loss(model, _whole(recording, model), 0)) * len(recording.hops) for recording in recordings) / total
    )


@dataclass(frozen=True)
class _Pieces:
    """Tensors ``[pieces, hops, hop]``, and the samples before them ``[pieces, window]``."""

    hops: Tensor
    linear: Tensor
    target: Tensor
    past: Tensor
    expected: Tensor


def _loss(model: NoizeNet, pieces: _Pieces, warm_up: int) -> Tensor:
    hidden, cell = model.init_state(len(pieces.hops))[2:]
    prediction, log_scale, *_ = model.foresee(
        pieces.hops, pieces.past, pieces.expected, hidden, cell, linear=pieces.linear
    )
    sound = torch.cat([pieces.past, pieces.hops.flatten(1)], dim=1)
    level = model.level(sound[:, pieces.hops.shape[-1] :].unfold(1, model.config.window, model.config.hop))[0]
    return piece_loss(prediction[:, warm_up:], log_scale[:, warm_up:], pieces.target[:, warm_up:], level[:, warm_up:])


def _draw(
    recordings: Sequence[Recording],
    share: npt.NDArray[np.float64],
    config: TrainingConfig,
    model: NoizeNet,
    rng: np.random.Generator,
) -> _Pieces:
    """Draw pieces at random places, each also at random upside down: sound has no preferred sign."""
    shortest = min(len(recording.hops) for recording in recordings) - 1
    piece = min(config.piece, shortest)
    drawn = []
    for index in rng.choice(len(recordings), config.batch, p=share):
        recording = recordings[index]
        begin = int(rng.integers(0, len(recording.hops) - piece))
        sign = np.float32(rng.choice([-1.0, 1.0]))
        drawn.append([sign * part for part in _cut(recording, begin, piece, model.config.window)])
    return _Pieces(*(torch.from_numpy(np.stack(parts)) for parts in zip(*drawn, strict=True)))


def _whole(recording: Recording, model: NoizeNet) -> _Pieces:
    parts = _cut(recording, 0, len(recording.hops) - 1, model.config.window)
    return _Pieces(*(torch.from_numpy(part[None]) for part in parts))


def _cut(recording: Recording, begin: int, piece: int, window: int) -> tuple[Hops, ...]:
    hops, linear = recording.hops, recording.linear
    hop = hops.shape[1]
    before = hops[max(0, begin - -(-window // hop)) : begin].ravel()[-window:]
    past = np.concatenate([np.zeros(window - len(before), np.float32), before])
    expected = linear[begin - 1] if begin else np.zeros_like(linear[0])
    here = slice(begin, begin + piece)
    return hops[here], linear[here], hops[begin + 1 : begin + piece + 1], past, expected
