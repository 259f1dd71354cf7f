"""Training: the networks of one plan, one per seed, side by side; interrupted, they go on exactly where they were."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from streamproc.atomic import replacing

from ...models import BidirectionalSampleDenoiser, SampleDenoiser, SampleDenoiserConfig
from ...models.sine import NetStack
from ..metrics import mean_absolute_error
from .plans import Plan

CHUNK = 500
"""Sequences, of all networks, whose gradient is computed at once: what is held of them then stays in the cache."""

Model = SampleDenoiser | BidirectionalSampleDenoiser


def build(plan: Plan, seed: int) -> Model:
    """Make the untrained model of a plan."""
    torch.manual_seed(seed)
    kind = BidirectionalSampleDenoiser if plan.bidirectional else SampleDenoiser
    model = kind(SampleDenoiserConfig(cell=plan.cell))  # type: ignore[arg-type]
    if plan.near_identity:
        model.net.start_near_identity()
    return model


class Training:
    """Networks in training with Adam, one per seed, all side by side and none the wiser.

    Parameters
    ----------
    plan : Plan
    seeds : sequence of int
        Of the weights and of the order of the batches, one per network.

    Attributes
    ----------
    models : list
    iteration : int
    seconds : float
        Spent so far.
    losses : list of lists of float
        For every seed that of every iteration, on its own batch, before the step.
    snapshots : list
        ``(iteration, prediction)`` of the first seed for its first training sequence, where asked for.
    """

    def __init__(self, plan: Plan, seeds: Sequence[int]) -> None:
        self.plan, self.seeds = plan, seeds
        self.models = [build(plan, seed) for seed in seeds]
        self.iteration, self.seconds = 0, 0.0
        self.losses: list[list[float]] = [[] for _ in seeds]
        self.snapshots: list[tuple[int, list[float]]] = []
        self._stack = NetStack([model.net for model in self.models])
        self._optimiser = torch.optim.Adam(self._stack.parameters.values(), lr=plan.lr)

    def run(
        self,
        noisy: Tensor,
        target: Tensor,
        loss: Callable[[Tensor, Tensor], Tensor] = mean_absolute_error,
        snapshot_every: int = 0,
        pause: Callable[[], bool] = lambda: False,
    ) -> Training:
        """Train to the end of the plan, or until `pause` says so, and return this.

        Parameters
        ----------
        noisy, target : float32 [steps, networks, items]
            A target that is NaN is missing; `mean_absolute_error` leaves it out.
        loss : callable
        snapshot_every : int
            Iterations between predictions that are kept; 0 for none.
        pause : callable
        """
        began, plan, stack = time.monotonic() - self.seconds, self.plan, self._stack
        batches = zip(*(_batches(noisy.shape[2], plan.batch, seed) for seed in self.seeds), strict=True)
        for drawn in islice(batches, self.iteration, plan.iterations):
            if pause():
                break
            if plan.long:
                for group in self._optimiser.param_groups:
                    group["lr"] = plan.lr * 0.5 * (1 + math.cos(math.pi * self.iteration / plan.iterations))
            if snapshot_every and self.iteration % snapshot_every == 0:
                with torch.no_grad():
                    self.snapshots.append((self.iteration, stack(noisy[:, :, :1])[:, 0, 0].tolist()))
            self._optimiser.zero_grad()
            for curve, value in zip(self.losses, self._differentiate(noisy, target, loss, drawn), strict=True):
                curve.append(value)
            if plan.long:
                _limit_gradients(stack)
            self._optimiser.step()
            self.iteration += 1
        stack.write_back()
        self.seconds = time.monotonic() - began
        return self

    def _differentiate(
        self, noisy: Tensor, target: Tensor, loss: Callable[[Tensor, Tensor], Tensor], drawn: Sequence[Tensor]
    ) -> list[float]:
        """Add the gradient of one batch, chunk by chunk; return the loss of every network."""
        totals = [0.0] * len(self.models)
        for part in torch.stack(list(drawn)).split(max(1, CHUNK // len(self.models)), dim=1):
            given, wanted = (
                torch.stack([wave[:, network, items] for network, items in enumerate(part)], 1)
                for wave in (noisy, target)
            )
            out = self._stack(given)
            share = part.shape[1] / self.plan.batch
            losses = [share * loss(out[:, network], wanted[:, network]) for network in range(len(self.models))]
            torch.stack(losses).sum().backward()
            totals = [total + float(value.detach()) for total, value in zip(totals, losses, strict=True)]
        return totals

    def save(self, path: Path) -> None:
        """Write everything that `restore` needs to go on exactly."""
        stored = {
            "plan": asdict(self.plan),
            "seeds": list(self.seeds),
            "parameters": self._stack.parameters,
            "optimiser": self._optimiser.state_dict(),
            "progress": (self.iteration, self.seconds, self.losses, self.snapshots),
        }
        with replacing(path) as partial:
            torch.save(stored, partial)

    @torch.no_grad()
    def restore(self, path: Path) -> None:
        """Go on where a training of the same plan and seeds was saved; one of another is left alone."""
        stored = torch.load(path, weights_only=True)
        if (stored["plan"], stored["seeds"]) != (asdict(self.plan), list(self.seeds)):
            return
        for name, value in stored["parameters"].items():
            self._stack.parameters[name].copy_(value)
        self._optimiser.load_state_dict(stored["optimiser"])
        self.iteration, self.seconds, self.losses, self.snapshots = stored["progress"]


def _batches(n: int, batch: int, seed: int) -> Iterator[Tensor]:
    """Yield the items of one batch after another, without end; all are seen before one comes again."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield from torch.randperm(n, generator=generator)[: n - n % batch].split(batch)


def _limit_gradients(stack: NetStack) -> None:
    """Limit the norm of every network's gradient to 1."""
    gradients = [parameter.grad for parameter in stack.parameters.values() if parameter.grad is not None]
    norms = torch.stack([gradient.flatten(1).square().sum(1) for gradient in gradients]).sum(0).sqrt()
    factors = (1.0 / (norms + 1e-6)).clamp_max(1.0)
    for gradient in gradients:
        gradient *= factors.reshape(-1, *[1] * (gradient.dim() - 1))
