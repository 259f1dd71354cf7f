"""Recipe ``sine``: a noisy sine, denoised by recurrent networks of 30 units.

After N. Batra, "Signal denoising using RNNs in PyTorch" (2018): its three networks at its iteration counts, and what it
only wishes for: a start near the identity, training where targets are missing, and the error per position explained.
Its dropout on layers that stand alone does nothing in torch, so it is left out.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from streamproc.atomic import replacing
from streamproc.audio_files import AudioInfo, AudioReader, create
from streamproc.loading import load
from streamproc.offline import process_file

from ..models import BidirectionalSampleDenoiser, SampleDenoiser, SampleDenoiserConfig, load_checkpoint, save_checkpoint
from ..models.sine import NetStack
from ..offline import export_offline
from ..tables import Table
from ..verify import ParityError
from .job import RecipeJob
from .metrics import mean_absolute_error, mean_squared_error
from .report import RecipeReport, Row

PERIOD = 60
NOISE = 0.35
LENGTH = 100
N_TRAIN, N_TEST = 8000, 2000
CHUNK = 500
"""Sequences, of all networks, whose gradient is computed at once: what is held of them then stays in the cache."""

TRAIN, TEST, HIDE, LONG, STREAM = range(5)
"""What random numbers are for; with the seed of a run they make the seed of a generator."""

Model = SampleDenoiser | BidirectionalSampleDenoiser
Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Plan:
    """One training.

    Parameters
    ----------
    cell : {"rnn", "gru"}
    bidirectional : bool
    iterations : int
    batch : int
        Sequences of one iteration, drawn without replacement until all were seen.
    lr : float
        Of Adam; constant, or where the cosine begins.
    long : bool
        Our own way: the rate falls to nothing along a cosine, and the norm of the gradient is limited to 1. Otherwise
        the rate is constant, as in the document.
    near_identity : bool
        Start as `SampleNet.start_near_identity` says.
    missing : float
        Share of the training targets that are NaN.
    """

    cell: str
    bidirectional: bool
    iterations: int
    batch: int
    lr: float = 1e-2
    long: bool = False
    near_identity: bool = False
    missing: float = 0.0


PLANS = {
    "RNN": Plan("rnn", False, 300, 500),
    "bidirectional RNN": Plan("rnn", True, 300, 500),
    "causal GRU, long": Plan("gru", False, 2000, 32, 2e-2, long=True),
    "causal GRU, long, 5% missing": Plan("gru", False, 2000, 32, 2e-2, long=True, missing=0.05),
    "bidirectional GRU, long": Plan("gru", True, 2500, 32, 2e-2, long=True),
    "bidirectional GRU": Plan("gru", True, 200, 500),
    "RNN near identity": Plan("rnn", False, 300, 500, near_identity=True),
    "bidirectional GRU near identity": Plan("gru", True, 200, 500, near_identity=True),
    "RNN, full batch": Plan("rnn", False, 300, N_TRAIN),
    "bidirectional GRU, falling rate": Plan("gru", True, 200, 500, 2e-2, long=True),
}
"""Every training of the recipe, by name."""

FIRST_SEED = ("bidirectional GRU near identity", "RNN, full batch")
"""What is only there to compare with, and is trained from the first seed alone."""

DOCUMENT = {"RNN": 0.0611, "bidirectional RNN": 0.0507, "bidirectional GRU": 0.0362}
"""Test L1 that the document reports, after 300, 300 and 200 iterations."""


# --- data -----------------------------------------------------------------------------------------------------------


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


# --- training -------------------------------------------------------------------------------------------------------


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


@torch.no_grad()
def denoise(models: Sequence[Model], noisy: Tensor) -> Tensor:
    """Return what every model makes of its own sequences [steps, networks, items], in the units of the network."""
    stack = NetStack([model.net for model in models])
    return torch.cat([stack(part) for part in noisy.split(max(1, CHUNK // len(models)), dim=2)], 2)


def per_position(estimate: Tensor | Values, clean: Tensor) -> Values:
    """Return the mean absolute error of every position: of [steps, ..., items] to [steps, ...]."""
    error: Values = np.abs(np.asarray(estimate, np.float64) - clean.numpy()).mean(-1)
    return error


# --- the recipe -----------------------------------------------------------------------------------------------------


def run(job: RecipeJob) -> RecipeReport:
    """Train everything, draw it, export the causal network and stream a tone through it."""
    sizes = Sizes.quick() if job.quick else Sizes()
    results = {name: _train_part(job, sizes, name) for name in PLANS}
    bounds = _bounds(job, sizes)
    missing = job.part("missing targets", lambda: _unmasked(sizes), asdict(sizes))
    plans = {name: asdict(PLANS[name]) for name in _SHOWN}
    ends = job.part(
        "ends", lambda: _context_at_the_ends(job, sizes), {**asdict(sizes), "seeds": job.seeds, "plans": plans}
    )

    causal, onnx, exported = _export_causal(job, results["causal GRU, long"])
    whole = load_checkpoint(job.path(_weights("bidirectional GRU, long", job.seeds[0])))
    export_offline(whole, job.path("sine-bidirectional.onnx"))
    stream = _stream(job, onnx, causal.config, 1.0 if job.quick else 10.0)

    _draw_positions(job, results, bounds)
    _draw_curves(job, results)
    _animate(job, results, sizes)
    with_all, with_some = (
        [each["test"] for each in results[name]] for name in ("causal GRU, long", "causal GRU, long, 5% missing")
    )
    ratio = float(np.median(with_some) / np.median(with_all))

    def row(name: str, what: str = "", **others: Any) -> Row:
        return Row.median(what or f"{name}, test L1", [each["test"] for each in results[name]], **others)

    def counted(name: str) -> str:
        return f"{name}, {PLANS[name].iterations} iterations, test L1"

    rows = [
        *(row(name, f"(a) {counted(name)}", document=figure, target=figure) for name, figure in DOCUMENT.items()),
        row(
            "bidirectional GRU, falling rate",
            f"(a) {counted('bidirectional GRU, falling rate')}",
            document=0.0362,
            target=0.0362,
        ),
        row("causal GRU, long", f"(b) {counted('causal GRU, long')}", document=0.0362, target=0.0362),
        row("bidirectional GRU, long", f"(c) {counted('bidirectional GRU, long')}", target=0.020),
        row("causal GRU, long, 5% missing", "(d) causal GRU, long, 5% of targets missing, test L1"),
        Row("(d) the same over that with all targets, ratio of medians", ratio, target=1.05),
        row("RNN near identity", f"started near the identity: {counted('RNN')}"),
        row(
            "bidirectional GRU near identity",
            f"started near the identity: {counted('bidirectional GRU')}, seed {job.seeds[0]}",
        ),
        row("RNN, full batch", f"{counted('RNN, full batch')}, seed {job.seeds[0]}"),
        Row(f"causal GRU, exported, a tone of {stream['seconds']:g} s as a file, L1", stream["l1"]),
        Row("least possible causal error, L1", float(np.mean(bounds["causal"]))),
        Row("least possible error from the whole sequence, L1", float(np.mean(bounds["whole"]))),
    ]
    return RecipeReport(
        rows,
        live=f"streamproc denoise {job.out}/noisy.wav clean.wav --model {onnx}\nstreamproc live --model {onnx}",
        tables=[
            _positions_table(results, bounds),
            _ends_table(ends),
            _identity_table(results),
            _missing_table(missing),
        ],
        notes=[*_notes(stream), exported],
    )


def _export_causal(job: RecipeJob, results: list[Any]) -> tuple[SampleDenoiser, Path, str]:
    """Export the network with the least training error of those whose files are proven equal.

    Returns
    -------
    model : SampleDenoiser
    path : Path
        Of the ONNX file; the weights are beside it as ``sine.pt``.
    note : str
        Which one it is, and what became of better ones.
    """
    errors = {seed: result["train"] for seed, result in zip(job.seeds, results, strict=True)}
    refused: dict[int, ParityError] = {}
    for seed in sorted(errors, key=errors.__getitem__):
        model = load_checkpoint(job.path(_weights("causal GRU, long", seed)))
        try:
            path, _ = job.export(model, "sine")
        except ParityError as error:
            refused[seed] = error
            continue
        save_checkpoint(model, job.path("sine.pt"))
        note = f"Exported is seed {seed}, whose training error is the least"
        if refused:
            note += (
                f" of those whose files were proven equal; refused: {', '.join(f'seed {k}' for k in refused)}, where "
                "on the proof's signal, nothing like what it learned, rounding decides which way it goes"
            )
        return model, path, f"{note}."
    raise ParityError(f"no seed gave a file that equals its network: {refused}")


@dataclass(frozen=True)
class Sizes:
    """How much data, and how long."""

    n_train: int = N_TRAIN
    n_test: int = N_TEST
    share: float = 1.0

    @classmethod
    def quick(cls) -> Sizes:
        """Return a size for a run of seconds."""
        return cls(200, 100, 0.02)

    def shorten(self, plan: Plan) -> Plan:
        """Return a plan cut to this size."""
        if self.share == 1.0:
            return plan
        return replace(plan, iterations=max(8, int(plan.iterations * self.share)), batch=min(plan.batch, 50))


def _weights(name: str, seed: int | str) -> str:
    return f"weights/{name.lower().replace(',', '').replace('%', '').replace(' ', '-')}-{seed}.pt"


def _train_part(job: RecipeJob, sizes: Sizes, name: str) -> Any:
    """Train one plan from all seeds, unless it is done: for each its figures, learning curve and weights."""
    plan = sizes.shorten(PLANS[name])
    seeds = job.seeds[:1] if name in FIRST_SEED else job.seeds
    files = [_weights(name, seed) for seed in seeds]
    unfinished = job.path(_weights(name, "unfinished"))

    def compute() -> list[dict[str, Any]]:
        noisy, clean = waves_of(sizes.n_train, seeds, TRAIN)
        test_noisy, test_clean = waves_of(sizes.n_test, seeds, TEST)
        target = hide_targets(clean, plan.missing, seeds[0]) if plan.missing else clean
        at_start = denoise([build(plan, seed) for seed in seeds], test_noisy)
        trained = Training(plan, seeds)
        if job.resume and unfinished.is_file():
            trained.restore(unfinished)
            job.count_earlier(trained.seconds)
        trained.run(noisy, target, snapshot_every=0 if plan.long else 4, pause=lambda: job.time_is_over)
        if trained.iteration < plan.iterations:
            trained.save(unfinished)
            raise job.stopped(f"in {name!r} at iteration {trained.iteration} of {plan.iterations}")
        few = slice(0, sizes.n_test)
        seen = denoise(trained.models, noisy[..., few])
        test = denoise(trained.models, test_noisy)
        found = []
        for k, (model, file) in enumerate(zip(trained.models, files, strict=True)):
            save_checkpoint(model, job.path(file))
            found.append(
                {
                    "test": float(mean_absolute_error(test[:, k], test_clean[:, k])),
                    "train": float(mean_absolute_error(seen[:, k], clean[:, k, few])),
                    "by_position": per_position(test[:, k], test_clean[:, k]).tolist(),
                    "losses": trained.losses[k],
                    "snapshots": trained.snapshots if k == 0 else [],
                    "start_to_input": float(mean_absolute_error(at_start[:, k], test_noisy[:, k])),
                    "start_to_clean": float(mean_absolute_error(at_start[:, k], test_clean[:, k])),
                    "start_bound": float((test_noisy[:, k].abs() - 1).clamp_min(0).mean()),
                }
            )
        unfinished.unlink(missing_ok=True)
        return found

    return job.part(name, compute, {**asdict(plan), **asdict(sizes), "seeds": seeds}, files)


def _bounds(job: RecipeJob, sizes: Sizes) -> dict[str, list[float]]:
    """Return the least possible error of every position, with the past alone and with everything."""

    def compute() -> dict[str, list[float]]:
        noisy, clean = make_waves(sizes.n_test, (job.seeds[0], TEST))
        return {
            name: per_position(best_possible(noisy, causal), clean).tolist()
            for name, causal in (("causal", True), ("whole", False))
        }

    return job.part("least possible errors", compute, {**asdict(sizes), "seed": job.seeds[0]})


def _unmasked(sizes: Sizes) -> list[list[Any]]:
    """Take one step with missing targets, with and without the mask, and see what is left.

    Returns
    -------
    list of ``[loss, missing, loss after the step, share of the weights that are still numbers]``
    """
    noisy, clean = waves_of(sizes.n_train, [0], TRAIN)
    few = clean.clone()
    few.view(-1)[torch.from_numpy(np.random.default_rng(0).choice(few.numel(), 50, replace=False))] = torch.nan
    plan = Plan("gru", False, 2, sizes.n_train)
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


def _context_at_the_ends(job: RecipeJob, sizes: Sizes) -> dict[str, dict[str, float]]:
    """Measure the networks where both directions have heard something: inside longer sequences.

    Each network sees sequences of `LENGTH` samples, and the same with `PERIOD` samples more on either side. The error
    is taken over the first ten, the middle and the last ten of the `LENGTH` samples in both cases.
    """
    found = {}
    noisy, clean = waves_of(sizes.n_test // 2, job.seeds, LONG, LENGTH + 2 * PERIOD)
    inner = slice(PERIOD, PERIOD + LENGTH)
    regions = {"first 10": slice(0, 10), "middle": slice(10, -10), "last 10": slice(-10, None)}
    for name in _SHOWN:
        models = [load_checkpoint(job.path(_weights(name, seed))) for seed in job.seeds]
        errors = {
            "alone": per_position(denoise(models, noisy[inner]), clean[inner]),
            "within": per_position(denoise(models, noisy)[inner], clean[inner]),
        }
        found[name] = {
            f"{region}, {kind}": float(np.median(error[where].mean(0)))
            for region, where in regions.items()
            for kind, error in errors.items()
        }
    return found


def _stream(job: RecipeJob, model: Path, config: SampleDenoiserConfig, seconds: float) -> dict[str, float]:
    """Write a noisy tone, denoise the file as `streamproc denoise` does, and measure what comes out."""
    rate = config.sample_rate
    noisy, clean = (wave.T.numpy() for wave in make_waves(1, (0, STREAM), int(seconds * rate)))
    source, target = job.path("noisy.wav"), job.path("denoised.wav")
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


# --- showing --------------------------------------------------------------------------------------------------------

_SHOWN = (*DOCUMENT, "causal GRU, long", "bidirectional GRU, long")


def _by_position(results: dict[str, list[Any]], name: str) -> Values:
    return np.median([each["by_position"] for each in results[name]], axis=0)


def _draw_positions(job: RecipeJob, results: dict[str, list[Any]], bounds: dict[str, list[float]]) -> None:
    with job.figure("error-by-position.png", figsize=(8, 4.5)) as (_, axes):
        for name in _SHOWN:
            axes.plot(_by_position(results, name), label=name, linestyle="-" if "long" in name else "--")
        axes.plot(bounds["causal"], color="black", label="least possible, causal")
        axes.set_yscale("log")
        axes.set_ylim(1e-3, None)
        axes.set_xlabel("position in the sequence")
        axes.set_ylabel("mean absolute error on test sequences")
        axes.legend(fontsize=8)
        axes.grid(alpha=0.3)


def _draw_curves(job: RecipeJob, results: dict[str, list[Any]]) -> None:
    with job.figure("learning-curves.png", 1, 2, figsize=(10, 3.8), sharey=True) as (_, panels):
        for axes, name in zip(panels, ("RNN", "bidirectional GRU"), strict=True):
            for start, label in ((name, "torch's start"), (f"{name} near identity", "near the identity")):
                axes.plot(np.median([each["losses"] for each in results[start]], axis=0), label=label)
            axes.set_title(name)
            axes.set_yscale("log")
            axes.set_xlabel("iteration")
            axes.legend()
            axes.grid(alpha=0.3)
        panels[0].set_ylabel("training L1, median over seeds")


def _animate(job: RecipeJob, results: dict[str, list[Any]], sizes: Sizes) -> None:
    """Draw the prediction for the first training sequence while two networks learn, from either start."""
    noisy, clean = make_waves(sizes.n_train, (job.seeds[0], TRAIN))
    plain = results["bidirectional GRU"][0]["snapshots"]
    near = results["bidirectional GRU near identity"][0]["snapshots"]

    def draw(axes: Any, frame: Any) -> None:
        (iteration, from_random), (_, from_identity) = frame
        axes.plot(noisy[:, 0], ".", color="0.75", markersize=3)
        axes.plot(clean[:, 0], color="black", linewidth=1, label="clean")
        axes.plot(from_random, label="torch's start")
        axes.plot(from_identity, label="near the identity")
        axes.set_ylim(-1.4, 1.4)
        axes.set_title(f"bidirectional GRU, iteration {iteration}")
        axes.legend(loc="upper right", fontsize=8)

    job.animate("learning.gif", draw, list(zip(plain, near, strict=True)), per_second=10, figsize=(6, 3.6))


def _positions_table(results: dict[str, list[Any]], bounds: dict[str, list[float]]) -> Table:
    places = (0, 1, 2, 5, 10, 50, 97, 98, 99)
    rows = [(name, *(f"{_by_position(results, name)[place]:.3f}" for place in places)) for name in _SHOWN]
    rows.append(("least possible, causal", *(f"{bounds['causal'][place]:.3f}" for place in places)))
    rows.append(("least possible, whole sequence", *(f"{bounds['whole'][place]:.3f}" for place in places)))
    return Table("(e) Error by position, test L1", ("", *map(str, places)), tuple(rows))


def _ends_table(ends: dict[str, dict[str, float]]) -> Table:
    columns = list(next(iter(ends.values())))
    rows = tuple((name, *(f"{figures[column]:.3f}" for column in columns)) for name, figures in ends.items())
    return Table(f"(e) Alone, and within {PERIOD} more samples on either side, L1", ("", *columns), rows)


def _identity_table(results: dict[str, list[Any]]) -> Table:
    def start(name: str, figure: str) -> str:
        return f"{float(np.median([each[figure] for each in results[name]])):.3f}"

    rows = [
        (f"{name}: untrained, {what}", start(name, figure), start(f"{name} near identity", figure))
        for name in ("RNN", "bidirectional GRU")
        for figure, what in (("start_to_input", "distance to the input"), ("start_to_clean", "test L1"))
    ]
    rows.append(("least distance to the input that a tanh head allows", "", start("RNN", "start_bound")))
    for iteration in (10, 20, 50, 100):
        for name in ("RNN", "bidirectional GRU"):
            cells = []
            for kind in (name, f"{name} near identity"):
                losses = [each["losses"] for each in results[kind]]
                cells.append(f"{np.median([curve[min(iteration, len(curve) - 1)] for curve in losses]):.3f}")
            rows.append((f"{name}: training L1 at iteration {iteration}", *cells))
    return Table(
        "Starting near the identity, medians (bidirectional GRU near the identity: first seed)",
        ("", "torch's start", "near the identity"),
        tuple(rows),
    )


def _missing_table(missing: list[list[Any]]) -> Table:
    rows = tuple((name, what, f"{loss:.4f}", f"{1 - finite:.0%}") for name, what, loss, finite in missing)
    return Table("(d) Missing targets, after two iterations", ("", "missing", "loss", "weights that are NaN"), rows)


def _notes(stream: dict[str, float]) -> list[str]:
    return [
        "The document's optimiser lines were lost; Adam at 1e-2 is assumed. Its dropout does nothing on a single layer "
        "in torch and is left out. Every seed has its own data, weights and order.",
        f"An iteration of (a) takes {PLANS['RNN'].batch} of the {N_TRAIN} training sequences, drawn without "
        "replacement, where the document takes all: a sixteenth of the computing. The RNN with all of them, from "
        "one seed, shows what that changes.",
        "(d) The plain L1 is NaN from the first iteration on, so that nothing shows how the training goes; that the "
        "weights survive is owed to torch, whose gradient of |NaN| is 0. The plain MSE destroys all weights at once.",
        f"The exported network carries its state through {stream['seconds']:g} s of {stream['hz']:g} Hz, although it "
        f"was trained on {LENGTH} samples: L1 {stream['l1']:.4f} (input {stream['noisy']:.4f}), "
        f"{stream['last_second']:.4f} in the last second.",
    ]
