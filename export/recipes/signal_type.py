"""Recipe `signal-type`: square or saw-tooth, from a handful of samples at irregular times.

The experiment of the document's Task 1, which leaves open how many samples there are, whether a model sees their times,
and how much it trains on. Here, unless a table says otherwise: 12 samples at sorted uniform times on [30, 60], periods
uniform on [1, 10], amplitudes on [0.5, 2], any phase; values alone go in; 1000 sequences to train on, 4000 to test on.
"""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from ..models import load_checkpoint, save_checkpoint
from ..models.wave_classifier import WaveClassifier, WaveClassifierConfig
from ..tables import Table
from .job import RecipeJob
from .report import RecipeReport, Row

START, STOP = 30.0, 60.0

CELLS = {
    "SFM": WaveClassifierConfig("sfm-fixed"),
    "A-SFM, accumulated": WaveClassifierConfig("sfm-accumulated"),
    "A-SFM, literal": WaveClassifierConfig("sfm-literal"),
    "LSTM": WaveClassifierConfig("lstm", 15),
    "GRU": WaveClassifierConfig("gru", 18),
    "clockwork RNN": WaveClassifierConfig("clockwork", 40),
    "SFM, 50 x 4 and one output": WaveClassifierConfig("sfm-fixed", 1, 50, 4),
}
"""Name in tables to model; all have about 1 k parameters. The last is the document's size."""

RATES = (1e-3, 3e-3, 1e-2, 3e-2)
"""Learning rates that are searched for every model."""

SEARCH_SEED = 1000
"""Seed of the waves that learning rates are chosen on; no other run sees them."""


class Waves(NamedTuple):
    """Some waves, each sampled at its own times.

    Attributes
    ----------
    times, values : float64 [waves, points]
    square : bool [waves]
        False: saw-tooth.
    """

    times: npt.NDArray[np.float64]
    values: npt.NDArray[np.float64]
    square: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Plan:
    """What is trained on, and how.

    Parameters
    ----------
    points : int
        Samples of a wave.
    with_time : bool
        Whether a model sees the time since the sample before.
    n_train, n_test, epochs, batch : int
    lr : float
        Adam's at first; a cosine takes it to 0.
    """

    points: int = 12
    with_time: bool = False
    n_train: int = 1000
    n_test: int = 4000
    epochs: int = 40
    batch: int = 50
    lr: float = 1e-2


def run(job: RecipeJob) -> RecipeReport:
    """Train every model under both readings of the task, and compare."""
    quick = Plan(n_train=100, n_test=200, epochs=2)
    plan = quick if job.quick else Plan()
    searched = {what: search(job, what, config, plan) for what, config in CELLS.items()}
    rates = {what: max(found, key=lambda lr: found[lr]) for what, found in searched.items()}
    accuracy: dict[str, list[float]] = {what: [] for what in CELLS}
    timed: dict[str, list[float]] = {what: [] for what in CELLS}
    sizes: dict[str, int] = {}
    for seed in job.seeds:
        for what, config in CELLS.items():
            result = trained(job, what, config, replace(plan, lr=rates[what]), seed)
            accuracy[what].append(result["accuracy"])
            sizes[what] = int(result["n_parameters"])
    for seed in job.seeds:
        for what, config in CELLS.items():
            with_time = replace(plan, lr=rates[what], with_time=True)
            timed[what].append(trained(job, what, replace(config, n_inputs=2), with_time, seed)["accuracy"])
    easier = replace(plan, points=5 if job.quick else 40)
    easy = {
        what: trained(job, what, config, replace(easier, lr=rates[what]), job.seeds[0])["accuracy"]
        for what, config in CELLS.items()
    }
    draw(job, accuracy, timed)
    model = load_checkpoint(job.path(weights("SFM", plan, job.seeds[0])))
    onnx = job.export(model, "signal-type")[0]
    rows = [
        _ahead("SFM or A-SFM, values alone", accuracy, plan),
        _ahead("SFM or A-SFM, values and times", timed, plan),
        *(Row.median(f"{what} ({sizes[what]} parameters), values alone", accuracy[what]) for what in CELLS),
    ]
    return RecipeReport(
        rows=rows,
        live=f"streamproc live --model {onnx} --record takes/",
        tables=[_more_table(timed, easy, easier.points), _search_table(searched)],
        notes=[
            f"{plan.points} samples at sorted uniform times on [30, 60]; period uniform on [1, 10], amplitude on "
            f"[0.5, 2], phase anywhere; {plan.n_train} waves to train on and {plan.n_test} to test on, drawn anew for "
            "every seed. First table: values alone go in. Second table: values and the time since the one before; and "
            f"values alone with {easier.points} samples, where the question is easier, seed {job.seeds[0]} only.",
            f"Adam, {plan.epochs} epochs in batches of {plan.batch}, learning rate from the one shown down to 0 along "
            f"a cosine, from the best in the table of the search, whose waves no other run sees, "
            "for the first table; the others take the same. The decision is read after the last sample.",
            "The targets are the better median of LSTM and GRU plus half a wave. The document gives its accuracies as "
            "a bar chart only, without numbers.",
            "What runs live plays the probability of a square wave as its output.",
        ],
    )


def search(job: RecipeJob, what: str, config: WaveClassifierConfig, plan: Plan) -> dict[float, float]:
    """Return the accuracy of one model by learning rate."""
    found = {}
    for lr in RATES[1:2] if job.quick else RATES:
        tried = replace(plan, lr=lr)

        def compute(tried: Plan = tried) -> dict[str, float]:
            return train(config, tried, SEARCH_SEED)[1]

        settings = {"cell": asdict(config), "plan": asdict(tried)}
        found[lr] = job.part(f"search {what} lr {lr:g}", compute, settings)["accuracy"]
    return found


def weights(what: str, plan: Plan, seed: int) -> str:
    """File of the weights of one run, below the output folder."""
    config = CELLS[what]
    timed = "-timed" if plan.with_time else ""
    return f"weights/{config.cell}-{config.n_outputs}-{plan.points}{timed}-{seed}.pt"


def trained(job: RecipeJob, what: str, config: WaveClassifierConfig, plan: Plan, seed: int) -> dict[str, float]:
    """One model, from the file where it is done already."""
    file = weights(what, plan, seed)

    def compute() -> dict[str, float]:
        model, result = train(config, plan, seed)
        save_checkpoint(model, job.path(file))
        return result

    settings = {"cell": asdict(config), "plan": asdict(plan), "seed": seed}
    key = f"{what}, {plan.points} points{' with time' if plan.with_time else ''}, seed {seed}"
    result: dict[str, float] = job.part(key, compute, settings, [file])
    return result


def make_waves(n_waves: int, points: int, rng: np.random.Generator) -> Waves:
    """Draw waves, each sampled at `points` irregular times."""
    times = np.sort(rng.uniform(START, STOP, (n_waves, points)), axis=1)
    period, amplitude = rng.uniform(1.0, 10.0, (n_waves, 1)), rng.uniform(0.5, 2.0, (n_waves, 1))
    cycle = (times / period + rng.uniform(0.0, 1.0, (n_waves, 1))) % 1.0
    square = rng.random(n_waves) < 0.5
    shape = np.where(square[:, None], np.where(cycle < 0.5, 1.0, -1.0), 2.0 * cycle - 1.0)
    return Waves(times, amplitude * shape, square)


def inputs(waves: Waves, with_time: bool) -> Tensor:
    """Return what a model sees: float32 [waves, points, 1 or 2]; times are differences, the first since the start."""
    seen = [waves.values]
    if with_time:
        seen.append(np.diff(waves.times, axis=1, prepend=START))
    return torch.from_numpy(np.stack(seen, -1).astype(np.float32))


def train(config: WaveClassifierConfig, plan: Plan, seed: int) -> tuple[WaveClassifier, dict[str, float]]:
    """Train one model; return it and its accuracy on waves that it was not trained on."""
    rng = np.random.default_rng(seed)
    waves, unseen = (make_waves(n, plan.points, rng) for n in (plan.n_train, plan.n_test))
    x, square = inputs(waves, plan.with_time), torch.from_numpy(waves.square.astype(np.float32))
    torch.manual_seed(seed)
    model = WaveClassifier(config)
    n_updates = plan.epochs * math.ceil(plan.n_train / plan.batch)
    optimiser = torch.optim.Adam(model.parameters(), plan.lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, n_updates)
    began = time.process_time()
    for _ in range(plan.epochs):
        for chosen in torch.randperm(plan.n_train).split(plan.batch):
            log_odds = model.logits(x[chosen], *model.init_state(len(chosen)))[0][:, -1, 0]
            loss = functional.binary_cross_entropy_with_logits(log_odds, square[chosen])
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            schedule.step()
    model.eval().requires_grad_(False)
    log_odds = model.logits(inputs(unseen, plan.with_time), *model.init_state(plan.n_test))[0][:, -1, 0]
    right = (log_odds.numpy() > 0.0) == unseen.square
    return model, {
        "accuracy": float(right.mean()),
        "n_parameters": model.n_parameters,
        "cpu_s": time.process_time() - began,
    }


def draw(job: RecipeJob, accuracy: dict[str, list[float]], timed: dict[str, list[float]]) -> None:
    """Draw some waves as the document does, and every seed's accuracy."""
    rng = np.random.default_rng(0)
    with job.figure("waves.png", 2, 2, figsize=(10, 4.5), sharex=True) as (_, axes):
        waves = make_waves(4, Plan().points, rng)
        for axis, times, values, square in zip(axes.flat, *waves, strict=True):
            axis.plot(times, values, "*-", linewidth=0.5)
            axis.set_title("square" if square else "saw-tooth", fontsize=9)
        for axis in axes[-1]:
            axis.set_xlabel("time")
    with job.figure("accuracy.png", 1, 2, figsize=(11, 4), sharey=True) as (_, axes):
        for axis, each, title in zip(axes, (accuracy, timed), ("values alone", "values and times"), strict=True):
            for place, figures in enumerate(each.values()):
                axis.plot([place] * len(figures), figures, "o", alpha=0.5)
                axis.plot([place - 0.3, place + 0.3], [np.median(figures)] * 2, "k")
            axis.set_xticks(range(len(each)), each, rotation=30, ha="right", fontsize=8)
            axis.set_title(title)
            axis.grid(alpha=0.3)
        axes[0].set_ylabel("accuracy")


def _ahead(what: str, accuracy: dict[str, list[float]], plan: Plan) -> Row:
    """Compare the best median of the SFMs with that of the gated networks; ahead means by a wave or more."""
    gated = max(float(np.median(accuracy[name])) for name in ("LSTM", "GRU"))
    spectral = max(float(np.median(accuracy[name])) for name in CELLS if "SFM" in name)
    return Row(what, spectral, target=gated + 0.5 / plan.n_test, better="higher")


def _more_table(timed: dict[str, list[float]], easy: dict[str, float], points: int) -> Table:
    rows = tuple(
        (what, f"{np.median(each):.4f} ({min(each):.4f} to {max(each):.4f})", f"{easy[what]:.4f}")
        for what, each in timed.items()
    )
    header = ("", "with times as a second input", f"{points} samples, one seed")
    return Table("Accuracy under other readings of the task", header, rows)


def _search_table(searched: dict[str, dict[float, float]]) -> Table:
    rates = next(iter(searched.values()))
    rows = tuple((what, *(f"{accuracy:.4f}" for accuracy in found.values())) for what, found in searched.items())
    return Table("The search: accuracy by learning rate, one run each", ("", *(f"{lr:g}" for lr in rates)), rows)
