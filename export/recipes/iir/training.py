"""Learning a filter from its impulse response: as the document does it, and in a way that works."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import scipy.signal
import torch
from torch import Tensor, nn

from streamproc.dsp.state_space import StateSpace

SAMPLE_RATE = 8000
FREQ_HZ = 440.0
N_FRAMES = 4800
IMPULSE = 0.1
N_HIDDEN = 3
N_BODY_MODES = 8

Weights = dict[str, Tensor]


def document_filter(quality: float) -> npt.NDArray[np.float64]:
    """Return ``a`` of the document's filter: a resonance at 440 Hz that falls by `quality` a sample."""
    return np.array([1.0, -2 * quality * np.cos(2 * np.pi * FREQ_HZ / SAMPLE_RATE), quality**2])


def document_response(quality: float, n_frames: int = N_FRAMES) -> npt.NDArray[np.float64]:
    """Return what the document's filter answers to its impulse of 0.1: 0.6 s at 8 kHz."""
    return scipy.signal.lfilter([1.0], document_filter(quality), IMPULSE * np.eye(1, n_frames)[0])


def relative_error(found: npt.ArrayLike, target: npt.ArrayLike) -> float:
    """Return the root of the energy of the error over that of the target."""
    target = np.asarray(target, np.float64)
    return float(np.linalg.norm(np.asarray(found, np.float64) - target) / np.linalg.norm(target))


# --- as in the document ---------------------------------------------------------------------------------------------


class ManyTanhNetworks:
    """The document's network (`nn.RNN` with tanh, three units, no biases) for several targets and seeds at once.

    The networks share every operation and nothing else: Adam treats every weight by itself, and the sum of their losses
    has for each the gradient that it has alone. `nn.RNN` takes several times as long for the same figures.

    Parameters
    ----------
    targets : float64 [networks, frames]
    seeds : sequence of int
        One per network: its start is PyTorch's own.

    Attributes
    ----------
    weights : dict of float32
        ``hh`` [networks, 3, 3], ``ih`` [networks, 3, 1], ``out`` [networks, 1, 3].
    """

    def __init__(self, targets: npt.NDArray[np.float64], seeds: Sequence[int]) -> None:
        self.targets = targets
        starts: list[Weights] = []
        for seed in seeds:
            torch.manual_seed(seed)
            one, output = nn.RNN(1, N_HIDDEN, bias=False), nn.Linear(N_HIDDEN, 1, bias=False)
            starts.append({"hh": one.weight_hh_l0, "ih": one.weight_ih_l0, "out": output.weight})
        self.weights = {name: torch.stack([start[name].detach() for start in starts]) for name in starts[0]}

    def _hidden(self, weights: Weights) -> npt.NDArray[np.float32]:
        """Return the hidden units at every sample, [frames, networks, 3, 1]; only the first sample has an input."""
        recurrent = weights["hh"].numpy()
        hidden = np.empty((self.targets.shape[1], len(recurrent), N_HIDDEN, 1), np.float32)
        hidden[0] = np.tanh(IMPULSE * weights["ih"].numpy())
        for before, now in pairwise(hidden):
            np.matmul(recurrent, before, out=now)
            np.tanh(now, out=now)
        return hidden

    def run(self, weights: Weights) -> npt.NDArray[np.float32]:
        """Return the responses [networks, frames] to the impulse."""
        return np.matmul(weights["out"].numpy(), self._hidden(weights))[..., 0, 0].T

    def gradients(self, weights: Weights) -> Weights:
        """Return the gradient of the sum of squared errors, the document's loss, through every sample."""
        hidden, output = self._hidden(weights), weights["out"].numpy()
        late = 2 * (np.matmul(output, hidden)[..., 0, 0] - self.targets.T).astype(np.float32)[..., None, None]
        # What reaches the hidden units from the output; then, in place and backwards, from all later samples too.
        back = late * output.swapaxes(1, 2)
        slope, transposed = 1.0 - hidden**2, np.ascontiguousarray(weights["hh"].numpy().swapaxes(1, 2))
        through = np.empty_like(back[0])
        back[-1] *= slope[-1]
        for t in range(len(back) - 2, -1, -1):
            np.matmul(transposed, back[t + 1], out=through)
            back[t] += through
            back[t] *= slope[t]
        return {
            "hh": torch.from_numpy(np.einsum("tnia,tnja->nij", back[1:], hidden[:-1])),
            "ih": torch.from_numpy(IMPULSE * back[0]),
            "out": torch.from_numpy(np.einsum("tnab,tnib->nai", late, hidden)),
        }

    def errors(self) -> list[float]:
        """Return the relative error of each network."""
        return [relative_error(one, target) for one, target in zip(self.run(self.weights), self.targets, strict=True)]

    def train_adam(self, epochs: int = 500, lr: float = 1e-3) -> None:
        """Train as the document does: Adam on the sum of squared errors."""
        optimiser = torch.optim.Adam(self.weights.values(), lr=lr)
        for _ in range(epochs):
            for name, gradient in self.gradients(self.weights).items():
                self.weights[name].grad = gradient
            optimiser.step()

    def train_random_directions(self, iterations: int = 1500, start: float = 0.1, end: float = 0.0) -> None:
        """Try a random direction per iteration and keep what is better; the steps shrink from `start` to `end`.

        The document calls an optimiser by these arguments and does not show it; this is the plain form of the method.
        """
        generator = torch.Generator().manual_seed(0)
        best = self._losses(self.weights)
        for iteration in range(iterations):
            scale = start + (end - start) * iteration / iterations
            tried = {
                name: value + scale * torch.randn(value.shape, generator=generator)
                for name, value in self.weights.items()
            }
            losses = self._losses(tried)
            better = torch.from_numpy(losses < best)[:, None, None]
            best = np.minimum(best, losses)
            self.weights = {name: torch.where(better, tried[name], value) for name, value in self.weights.items()}

    def _losses(self, weights: Weights) -> npt.NDArray[np.float64]:
        return ((self.run(weights) - self.targets) ** 2).sum(axis=1)


# --- a method that works --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FitConfig:
    """How `fit_modes` trains.

    Parameters
    ----------
    n_modes : int
        Pairs of complex poles.
    stages, steps : int
        Lengths of memory that are gone through, and steps of Adam at each.
    shortest : float
        Samples in which the first window falls to 1/e; the last one falls four times more slowly than the response is
        long.
    lr_angle, lr_decay, lr_output : float
        Learning rates at the beginning of each stage; the one of the angles in radians per memory.
    """

    n_modes: int = 1
    stages: int = 14
    steps: int = 80
    shortest: float = 4.0
    lr_angle: float = 0.4
    lr_decay: float = 0.1
    lr_output: float = 0.05


@dataclass(frozen=True, eq=False)
class Modes:
    """Decaying oscillations ``h(t) = sum_k r_k^t (u_k cos(w_k t) + v_k sin(w_k t))``: a linear recurrent network.

    Parameters
    ----------
    angle : float64 [n_modes]
        Radians per sample.
    radius : float64 [n_modes]
        Below 1.
    output : float64 [2, n_modes]
        ``u`` and ``v``.
    """

    angle: npt.NDArray[np.float64]
    radius: npt.NDArray[np.float64]
    output: npt.NDArray[np.float64]

    def state_space(self) -> StateSpace:
        """Return the network: a rotation of two hidden units per mode, and an output layer."""
        n = len(self.angle)
        a, b, c = np.zeros((2 * n, 2 * n)), np.zeros(2 * n), np.zeros(2 * n)
        for k, (angle, radius) in enumerate(zip(self.angle, self.radius, strict=True)):
            here = slice(2 * k, 2 * k + 2)
            cos, sin = radius * np.cos(angle), radius * np.sin(angle)
            a[here, here] = (cos, -sin), (sin, cos)
            b[2 * k] = 1.0
            c[here] = self.output[:, k] @ a[here, here]
        return StateSpace(a, b, c, float(self.output[0].sum()))

    def response(self, n_frames: int) -> npt.NDArray[np.float64]:
        """Return the response to a unit impulse."""
        parameters = (self.angle, np.log(-np.log(self.radius)), self.output)
        return _response(*map(torch.from_numpy, parameters), torch.arange(n_frames).double()).numpy()


def _response(angle: Tensor, decay: Tensor, output: Tensor, time: Tensor) -> Tensor:
    """Return the modes at all of `time` at once; the radius ``exp(-exp(decay))`` is below 1 for every `decay`."""
    phase, envelope = angle[:, None] * time, torch.exp(-torch.exp(decay)[:, None] * time)
    return ((output[0, :, None] * torch.cos(phase) + output[1, :, None] * torch.sin(phase)) * envelope).sum(0)


def fit_modes(
    response: npt.NDArray[np.float64],
    seed: int,
    config: FitConfig | None = None,
    watch: Callable[[float, Modes], None] | None = None,
) -> Modes:
    """Train a linear recurrent network from a random start until it answers a unit impulse with `response`.

    Parameters
    ----------
    response : float64 [frames]
    seed : int
        Of every parameter's start: angles anywhere, time constants of 3 to 50 samples, random output weights.
    config : FitConfig, optional
    watch : callable, optional
        Gets the memory of the stage in samples and what was found, after each stage.

    Notes
    -----
    Three things make the difference to training the document's network with the same Adam. (1) The recurrence is linear
    and its matrix a rotation with a radius of ``exp(-exp(decay))``, as in [1]_: stable whatever the weights are, and
    its whole response follows at once, without a loop over time. (2) A long response has, seen from a wrong frequency,
    no slope towards the right one: the valley is as narrow as the response is long. So the error is weighted by
    ``exp(-t / memory)``, which is the error of the transfer functions on the circle of radius ``exp(1 / memory)`` [2]_,
    where every resonance is broad; the memory grows from a few samples to more than the whole response. (3) The steps
    of the angles shrink as the valley does, with one over the memory.

    References
    ----------
    .. [1] A. Orvieto et al., "Resurrecting recurrent neural networks for long sequences", ICML 2023.
    .. [2] A. V. Oppenheim and R. W. Schafer, "Discrete-time signal processing": the z-transform off the unit circle,
       with Parseval's relation.
    """
    cfg = config or FitConfig()
    generator = torch.Generator().manual_seed(seed)

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(cfg.n_modes, generator=generator, dtype=torch.float64)

    angle = uniform(0.0, math.pi).requires_grad_()
    decay = torch.log(uniform(0.02, 0.32)).requires_grad_()
    output = (0.1 * torch.randn(2, cfg.n_modes, generator=generator, dtype=torch.float64)).requires_grad_()
    scale = float(np.abs(response).max())
    target, time = torch.from_numpy(response / scale), torch.arange(len(response)).double()
    optimiser = torch.optim.Adam([{"params": [angle]}, {"params": [decay]}, {"params": [output]}], betas=(0.9, 0.95))
    for memory in np.geomspace(cfg.shortest, 4.0 * len(response), cfg.stages):
        n = min(len(response), int(12 * memory) + 8)  # beyond, the window is below 1e-5
        window, heard, now = torch.exp(-time[:n] / memory), target[:n], time[:n]
        energy = (window * heard).square().sum()
        rates = (cfg.lr_angle / memory, cfg.lr_decay, cfg.lr_output)
        for step in range(cfg.steps):
            left = 0.05 + 0.95 * (1 - step / cfg.steps)
            for group, rate in zip(optimiser.param_groups, rates, strict=True):
                group["lr"] = rate * left
            loss = (window * (_response(angle, decay, output, now) - heard)).square().sum() / energy
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        if watch is not None:
            watch(float(memory), _modes(angle, decay, output, scale))
    return _modes(angle, decay, output, scale)


def _modes(angle: Tensor, decay: Tensor, output: Tensor, scale: float) -> Modes:
    with torch.no_grad():
        return Modes(angle.numpy().copy(), torch.exp(-torch.exp(decay)).numpy(), (scale * output).numpy())


def noisy_body(noise_db: float = -40.0) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return a response as one measures it, of four resonances in noise, and the same without noise: 0.6 s at 8 kHz."""
    body = Modes(
        angle=2 * np.pi * np.array([180.0, 440.0, 1030.0, 2200.0]) / SAMPLE_RATE,
        radius=np.array([0.9995, 0.999, 0.998, 0.995]),
        output=np.array([[0.3, 1.0, 0.6, 0.5], [1.0, -0.2, 0.5, 0.6]]),
    )
    clean = body.response(N_FRAMES)
    level = np.sqrt(np.mean(clean**2)) * 10 ** (noise_db / 20)
    return clean + level * np.random.default_rng(0).standard_normal(N_FRAMES), clean


def fit_key(config: FitConfig) -> dict[str, float]:
    """Return a configuration as the key of a part."""
    return asdict(config)
