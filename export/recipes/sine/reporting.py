"""Rows, tables, notes and figures of the recipe."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from ...tables import Table
from ..job import RecipeJob
from ..report import Row
from .data import LENGTH, PERIOD
from .measuring import Bounds, Results
from .plans import BIDIRECTIONAL, CAUSAL, CAUSAL_MISSING, DOCUMENT, N_TRAIN, PLANS, SHOWN


def _each(results: Results, name: str, figure: str) -> list[Any]:
    return [result[figure] for result in results[name]]


def _median(results: Results, name: str, figure: str) -> Any:
    """Return the median over seeds of a figure, or of every point of a curve."""
    return np.median(_each(results, name, figure), axis=0)


# --- rows -----------------------------------------------------------------------------------------------------------


def rows(seed: int, results: Results, bounds: Bounds, streamed: dict[str, float]) -> list[Row]:
    """Return the rows beside the document's; `seed` is that of the networks that are trained from one seed alone."""
    best = DOCUMENT["bidirectional GRU"]
    ratio = float(_median(results, CAUSAL_MISSING, "test") / _median(results, CAUSAL, "test"))

    def row(name: str, what: str, **others: Any) -> Row:
        return Row.median(what, _each(results, name, "test"), **others)

    def counted(name: str) -> str:
        return f"{name}, {PLANS[name].iterations} iterations, test L1"

    return [
        *(row(name, f"(a) {counted(name)}", document=figure, target=figure) for name, figure in DOCUMENT.items()),
        row(
            "bidirectional GRU, falling rate",
            f"(a) {counted('bidirectional GRU, falling rate')}",
            document=best,
            target=best,
        ),
        row(CAUSAL, f"(b) {counted(CAUSAL)}", document=best, target=best),
        row(BIDIRECTIONAL, f"(c) {counted(BIDIRECTIONAL)}", target=0.020),
        row(CAUSAL_MISSING, f"(d) {CAUSAL}, 5% of targets missing, test L1"),
        Row("(d) the same over that with all targets, ratio of medians", ratio, target=1.05),
        row("RNN near identity", f"started near the identity: {counted('RNN')}"),
        row(
            "bidirectional GRU near identity",
            f"started near the identity: {counted('bidirectional GRU')}, seed {seed}",
        ),
        row("RNN, full batch", f"{counted('RNN, full batch')}, seed {seed}"),
        Row(f"causal GRU, exported, a tone of {streamed['seconds']:g} s as a file, L1", streamed["l1"]),
        Row("least possible causal error, L1", float(np.mean(bounds["causal"]))),
        Row("least possible error from the whole sequence, L1", float(np.mean(bounds["whole"]))),
    ]


# --- tables ---------------------------------------------------------------------------------------------------------


def tables(
    results: Results, bounds: Bounds, ends: dict[str, dict[str, float]], missing: list[list[Any]]
) -> list[Table]:
    """Return the tables: error by position, at the ends, from either start, and with missing targets."""
    return [_positions(results, bounds), _ends(ends), _identity(results), _missing(missing)]


def _positions(results: Results, bounds: Bounds) -> Table:
    places = (0, 1, 2, 5, 10, 50, 97, 98, 99)
    curves = {
        **{name: _median(results, name, "by_position") for name in SHOWN},
        "least possible, causal": bounds["causal"],
        "least possible, whole sequence": bounds["whole"],
    }
    lines = tuple((name, *(f"{curve[place]:.3f}" for place in places)) for name, curve in curves.items())
    return Table("(e) Error by position, test L1", ("", *map(str, places)), lines)


def _ends(ends: dict[str, dict[str, float]]) -> Table:
    columns = list(next(iter(ends.values())))
    lines = tuple((name, *(f"{errors[column]:.3f}" for column in columns)) for name, errors in ends.items())
    return Table(f"(e) Alone, and within {PERIOD} more samples on either side, L1", ("", *columns), lines)


def _identity(results: Results) -> Table:
    def start(name: str, figure: str) -> str:
        return f"{_median(results, name, figure):.3f}"

    lines = [
        (f"{name}: untrained, {what}", start(name, figure), start(f"{name} near identity", figure))
        for name in ("RNN", "bidirectional GRU")
        for figure, what in (("start_to_input", "distance to the input"), ("start_to_clean", "test L1"))
    ]
    lines.append(("least distance to the input that a tanh head allows", "", start("RNN", "start_bound")))
    for iteration in (10, 20, 50, 100):
        for name in ("RNN", "bidirectional GRU"):
            curves = (_median(results, each, "losses") for each in (name, f"{name} near identity"))
            cells = (f"{curve[min(iteration, len(curve) - 1)]:.3f}" for curve in curves)
            lines.append((f"{name}: training L1 at iteration {iteration}", *cells))
    return Table(
        "Starting near the identity, medians (bidirectional GRU near the identity: first seed)",
        ("", "torch's start", "near the identity"),
        tuple(lines),
    )


def _missing(missing: list[list[Any]]) -> Table:
    lines = tuple((name, what, f"{loss:.4f}", f"{1 - finite:.0%}") for name, what, loss, finite in missing)
    return Table("(d) Missing targets, after two iterations", ("", "missing", "loss", "weights that are NaN"), lines)


# --- notes ----------------------------------------------------------------------------------------------------------


def notes(streamed: dict[str, float]) -> list[str]:
    """Return what is comparable with the document and what is not, and how the exported network streams."""
    return [
        "The document's optimiser lines were lost; Adam at 1e-2 is assumed. Its dropout does nothing on a single layer "
        "in torch and is left out. Every seed has its own data, weights and order.",
        f"An iteration of (a) takes {PLANS['RNN'].batch} of the {N_TRAIN} training sequences, drawn without "
        "replacement, where the document takes all: a sixteenth of the computing. The RNN with all of them, from "
        "one seed, shows what that changes.",
        "(d) The plain L1 is NaN from the first iteration on, so that nothing shows how the training goes; that the "
        "weights survive is owed to torch, whose gradient of |NaN| is 0. The plain MSE destroys all weights at once.",
        f"The exported network carries its state through {streamed['seconds']:g} s of {streamed['hz']:g} Hz, although "
        f"it was trained on {LENGTH} samples: L1 {streamed['l1']:.4f} (input {streamed['noisy']:.4f}), "
        f"{streamed['last_second']:.4f} in the last second.",
    ]


# --- figures --------------------------------------------------------------------------------------------------------


def draw(job: RecipeJob, results: Results, bounds: Bounds, wave: tuple[Tensor, Tensor]) -> None:
    """Draw the error by position and the learning curves; show two networks learn, by one wave that they learn from."""
    _draw_positions(job, results, bounds)
    _draw_curves(job, results)
    _animate(job, results, wave)


def _draw_positions(job: RecipeJob, results: Results, bounds: Bounds) -> None:
    with job.figure("error-by-position.png", figsize=(8, 4.5)) as (_, axes):
        for name in SHOWN:
            axes.plot(_median(results, name, "by_position"), label=name, linestyle="-" if "long" in name else "--")
        axes.plot(bounds["causal"], color="black", label="least possible, causal")
        axes.set_yscale("log")
        axes.set_ylim(1e-3, None)
        axes.set_xlabel("position in the sequence")
        axes.set_ylabel("mean absolute error on test sequences")
        axes.legend(fontsize=8)
        axes.grid(alpha=0.3)


def _draw_curves(job: RecipeJob, results: Results) -> None:
    with job.figure("learning-curves.png", 1, 2, figsize=(10, 3.8), sharey=True) as (_, panels):
        for axes, name in zip(panels, ("RNN", "bidirectional GRU"), strict=True):
            for start, label in ((name, "torch's start"), (f"{name} near identity", "near the identity")):
                axes.plot(_median(results, start, "losses"), label=label)
            axes.set_title(name)
            axes.set_yscale("log")
            axes.set_xlabel("iteration")
            axes.legend()
            axes.grid(alpha=0.3)
        panels[0].set_ylabel("training L1, median over seeds")


def _animate(job: RecipeJob, results: Results, wave: tuple[Tensor, Tensor]) -> None:
    """Draw the prediction for the wave while two networks learn, from either start."""
    noisy, clean = wave
    plain = results["bidirectional GRU"][0]["snapshots"]
    near = results["bidirectional GRU near identity"][0]["snapshots"]

    def draw(axes: Any, frame: Any) -> None:
        (iteration, from_random), (_, from_identity) = frame
        axes.plot(noisy, ".", color="0.75", markersize=3)
        axes.plot(clean, color="black", linewidth=1, label="clean")
        axes.plot(from_random, label="torch's start")
        axes.plot(from_identity, label="near the identity")
        axes.set_ylim(-1.4, 1.4)
        axes.set_title(f"bidirectional GRU, iteration {iteration}")
        axes.legend(loc="upper right", fontsize=8)

    job.animate("learning.gif", draw, list(zip(plain, near, strict=True)), per_second=10, figsize=(6, 3.6))
