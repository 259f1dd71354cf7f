"""Recipe `music`: the next step of polyphonic music, by state-frequency memories and by gated networks of equal size.

The experiment of the document's Task 2. A model reads a piano roll step by step and gives the probability that each of
88 notes sounds in the next one; the figure is the log-likelihood of what does sound, in nats per step: summed over the
notes, averaged over all steps of all songs, the first step of every song included (it is predicted from silence).
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ..data.polyphonic import Chunk, PianoRolls, Song, chunks, load_set
from ..models import load_checkpoint, save_checkpoint
from ..models.note_predictor import NotePredictor, NotePredictorConfig
from ..models.sfm import SfmCell
from ..tables import Table
from .job import RecipeJob
from .report import RecipeReport, Row

CELLS = {
    "SFM": NotePredictorConfig("sfm-fixed", 92),
    "A-SFM, accumulated": NotePredictorConfig("sfm-accumulated", 92),
    "LSTM": NotePredictorConfig("lstm", 139),
    "GRU": NotePredictorConfig("gru", 164),
    "A-SFM, literal": NotePredictorConfig("sfm-literal", 92),
}
"""Name in tables to model; all have about 139 k parameters."""

VARIANTS = {
    "SFM, periods of 32, 16, 8 and 4 steps": replace(
        CELLS["SFM"], frequencies=tuple(2 * math.pi / period for period in (32, 16, 8, 4))
    ),
    "SFM, one frequency, which is 0": NotePredictorConfig("sfm-fixed", 164, 76, 1, (0.0,)),
}
"""What the frequencies are good for: SFMs of the same size with others, and with none. One seed."""

VARIED = ("JSB", "Nottingham")
"""Sets that the variants are tried on."""

SPECTRAL = ("SFM", "A-SFM, accumulated", "A-SFM, literal")

ORDER = ("JSB", "Piano-midi", "Nottingham", "MuseData")
"""The sets from the smallest to the largest: what is done first is done soon."""

DOCUMENT = {
    "MuseData": {"LSTM": -5.44, "GRU": -5.36, "SFM": -4.81, "A-SFM": -4.80},
    "JSB": {"LSTM": -6.24, "GRU": -6.14, "SFM": -5.47, "A-SFM": -5.45},
    "Piano-midi": {"LSTM": -7.27, "GRU": -7.14, "SFM": -6.76, "A-SFM": -6.80},
    "Nottingham": {"LSTM": -5.60, "GRU": -5.63, "SFM": -5.67, "A-SFM": -5.63},
}
"""The document's log-likelihoods. They are not of the same definition as ours; see the notes of the report."""

RATES = (3e-3, 1e-2)
"""Learning rates that are searched, for every model on the smallest set."""


@dataclass(frozen=True)
class Plan:
    """How one model is trained.

    Parameters
    ----------
    lr : float
        Peak of Adam's learning rate: a short warm-up, then a cosine to 0 over all updates.
    updates : int
    batch, steps : int
        Songs side by side, and steps per update; states are carried on, gradients are not.
    longest : int
        Songs are cut into pieces of at most so many steps for training, elsewhere in every epoch. Validation and test
        run whole songs.
    dropout : float
        Before the readout.
    clip : float
        Largest norm of the gradient.
    every : int
        Updates between validations. The weights with the best one are kept.
    """

    lr: float = 3e-3
    updates: int = 600
    batch: int = 16
    steps: int = 100
    longest: int = 400
    dropout: float = 0.3
    clip: float = 1.0
    every: int = 100


def run(job: RecipeJob) -> RecipeReport:
    """Train every model on every set and compare."""
    folder = job.folder("../shared/data/polyphonic", "the four polyphonic sets (JSB_Chorales.mat, ...)")
    names = ORDER[:1] if job.quick else ORDER
    cells = {what: smaller(config) for what, config in CELLS.items()} if job.quick else CELLS
    plan = Plan(updates=4, every=2, batch=4, steps=20) if job.quick else Plan()
    rolls = {name: _quick(load_set(folder, name)) if job.quick else load_set(folder, name) for name in names}
    rates, search_s = search(job, rolls[names[0]], cells, plan)
    figures: dict[str, dict[str, list[float]]] = {name: {what: [] for what in cells} for name in names}
    train_s = 0.0
    skipped = unfinished = n_runs = 0
    for seed in job.seeds:
        # The literal cell last: it is there to be compared, and takes as long as the others.
        for name, what in sorted(product(names, cells), key=lambda pair: pair[1] == "A-SFM, literal"):
            result = trained(job, name, rolls[name], what, cells[what], replace(plan, lr=rates[what]), seed)
            figures[name][what].append(result["test"])
            train_s += result["cpu_s"]
            if what == "A-SFM, literal":
                skipped += int(result["skipped"])
            else:
                n_runs += 1
                unfinished += result["best_at"] == plan.updates
    first = job.seeds[0]
    varied = {
        what: [
            trained(job, name, rolls[name], what, config, replace(plan, lr=rates["SFM"]), first)["test"]
            for name in VARIED if name in names
        ]
        for what, config in (VARIANTS if not job.quick else {}).items()
    }  # fmt: skip
    for what in SPECTRAL[:2]:
        model = load_checkpoint(job.path(weights(names[0], what, first)))
        assert isinstance(model, NotePredictor)
        onnx = job.export(model, f"music-{model.config.cell}")[0]
    amplitudes = draw_amplitudes(
        job, {what: job.path(weights(names[0], what, first)) for what in SPECTRAL[:2]}, rolls[names[0]]
    )
    won = [name for name in names if _best(figures[name], SPECTRAL) >= _best(figures[name], ("LSTM", "GRU"))]
    rows = [Row("sets on which SFM or A-SFM is at least as good as LSTM and GRU", len(won), target=3, better="higher",
                digits=0)]  # fmt: skip
    for name in names:
        for what in cells:
            quoted = DOCUMENT[name].get(what, DOCUMENT[name].get(what.split(",")[0]))
            rows.append(
                Row.median(
                    f"{name}, {what}", figures[name][what], document=quoted, better="higher", digits=3,
                )
            )  # fmt: skip
    n_seeds = len(job.seeds)
    rate_text = ", ".join(f"{what} {rates[what]:g}" for what in cells)
    return RecipeReport(
        rows=rows,
        live=f"streamproc inspect {onnx} --verify",
        tables=[
            _baseline_table(rolls, figures),
            _amplitude_table(amplitudes, names[0]),
            *([_variant_table(figures, varied)] if varied else []),
        ],
        notes=[
            "Nats per step, higher is better: summed over 88 notes, averaged over all test steps, the first of every "
            "song included.",
            "The document's figures cannot be of this definition. On Nottingham its LSTM, GRU and SFM (-5.60 to -5.67) "
            "are below a table of one probability for each note and last state of that note (second table), which "
            "knows nothing of harmony; on JSB its worst is two nats above all of ours. Its order of models can be "
            "compared, its numbers cannot.",
            f"One protocol for all: Adam, {plan.updates} updates of {plan.batch} x {plan.steps} steps, dropout "
            f"{plan.dropout} before the readout, gradient norm at most {plan.clip}, the weights of the best of "
            f"{plan.updates // plan.every} validations. Learning rate of {', '.join(f'{r:g}' for r in RATES)} chosen "
            f"on JSB's validation songs with seed 0: {rate_text}.",
            f"Computing time: {search_s / 3600:.2f} h of one core for the search, {train_s / 3600:.2f} h for training.",
            f"Every figure is {'that of a single run' if n_seeds == 1 else f'the median of {n_seeds} runs'}. "
            f"{unfinished} of {n_runs} runs, the literal cell's not counted, had their best validation at the very "
            "end: a longer training would still improve them, and may change their order.",
            "The literal adaptive cell trains on pieces of at most "
            f"{plan.longest} steps and is tested on whole songs, where its clock goes on beyond what it has seen. Its "
            f"gradient is multiplied by the clock at every step back: {skipped} of "
            f"{plan.updates * len(names) * len(job.seeds)} updates had none that was finite and were left out. It is "
            "not exported.",
        ],
    )


def search(
    job: RecipeJob, rolls: PianoRolls, cells: dict[str, NotePredictorConfig], plan: Plan
) -> tuple[dict[str, float], float]:
    """Choose a learning rate for every model; return the rates and the seconds that it took."""
    short = plan if job.quick else replace(plan, updates=200)
    rates, seconds = {}, 0.0
    for what, config in cells.items():
        found = {}
        for lr in RATES[:1] if job.quick else RATES:
            tried = replace(short, lr=lr)

            def compute(config: NotePredictorConfig = config, tried: Plan = tried) -> dict[str, float]:
                return train(rolls, config, tried, seed=0)[1]

            result = job.part(f"search {what} lr {lr:g}", compute, {"cell": asdict(config), "plan": asdict(tried)})
            found[lr] = result["valid"]
            seconds += result["cpu_s"]
        rates[what] = max(found, key=lambda lr: found[lr] if math.isfinite(found[lr]) else -math.inf)
    return rates, seconds


def weights(name: str, what: str, seed: int) -> str:
    """File of the weights of one run, below the output folder."""
    return f"weights/{name}-{CELLS[what].cell}-{seed}.pt"


def trained(
    job: RecipeJob, name: str, rolls: PianoRolls, what: str, config: NotePredictorConfig, plan: Plan, seed: int
) -> dict[str, float]:
    """One model on one set, from the file where it is done already."""
    file = weights(name, what, seed) if what in CELLS else f"weights/{name}-variant-{config.n_frequencies}-{seed}.pt"

    def compute() -> dict[str, float]:
        model, result = train(rolls, config, plan, seed)
        save_checkpoint(model, job.path(file))
        return result

    settings = {"cell": asdict(config), "plan": asdict(plan), "seed": seed}
    result: dict[str, float] = job.part(f"{name} {what} seed {seed}", compute, settings, [file])
    return result


def train(
    rolls: PianoRolls, config: NotePredictorConfig, plan: Plan, seed: int
) -> tuple[NotePredictor, dict[str, float]]:
    """Train one model; return it with its best weights, and its log-likelihoods on validation and test songs."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model = NotePredictor(config)
    optimiser = torch.optim.Adam(model.parameters(), plan.lr)
    warm = min(50, plan.updates)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser,
        lambda update: (
            min(1.0, (update + 1) / warm) * 0.5 * (1.0 + math.cos(math.pi * min(1.0, update / plan.updates)))
        ),
    )
    began = time.process_time()
    best, best_at, kept, skipped = -math.inf, 0, model.state_dict(), 0
    states: tuple[Tensor, ...] = ()
    for update, chunk in enumerate(_endless(rolls.train, plan, rng), start=1):
        states = _states(model, chunk, states)
        logits, *after = model.logits(torch.from_numpy(chunk.before), *states, dropout=plan.dropout)
        states = tuple(state.detach() for state in after)
        loss = -log_likelihoods(logits, chunk).mean()
        optimiser.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), plan.clip)
        if math.isfinite(norm):
            optimiser.step()
        else:
            skipped += 1  # the literal cell's gradient grows by its clock at every step back
        schedule.step()
        if update % plan.every == 0 or update == plan.updates:
            valid = evaluate(model, rolls.valid)
            if valid > best:
                best, best_at = valid, update
                kept = {name: value.clone() for name, value in model.state_dict().items()}
        if update == plan.updates:
            break
    model.load_state_dict(kept)
    model.eval().requires_grad_(False)
    return model, {
        "test": evaluate(model, rolls.test),
        "valid": best,
        "best_at": best_at,
        "skipped": skipped,
        "n_parameters": sum(p.numel() for p in model.parameters()),
        "cpu_s": time.process_time() - began,
    }


def _endless(songs: Sequence[Song], plan: Plan, rng: np.random.Generator) -> Iterator[Chunk]:
    while True:
        yield from chunks(songs, plan.batch, plan.steps, plan.longest, rng)


def _states(model: NotePredictor, chunk: Chunk, states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """States for a chunk: fresh ones, or those of the songs that are left."""
    left = len(chunk.now)
    return model.init_state(left) if chunk.fresh else tuple(state[:left] for state in states)


def log_likelihoods(logits: Tensor, chunk: Chunk) -> Tensor:
    """Log-likelihood of every step that is present, summed over the notes, in nats."""
    each = functional.binary_cross_entropy_with_logits(logits, torch.from_numpy(chunk.now), reduction="none")
    return -each.sum(-1)[torch.from_numpy(chunk.present)]


@torch.no_grad()
def evaluate(model: NotePredictor, songs: Sequence[Song]) -> float:
    """Mean log-likelihood of a step over all steps of whole songs, in nats."""
    total, n_steps = 0.0, 0
    states: tuple[Tensor, ...] = ()
    for chunk in chunks(songs, batch=64, steps=400):
        logits, *after = model.logits(torch.from_numpy(chunk.before), *_states(model, chunk, states))
        states = tuple(after)
        total += float(log_likelihoods(logits, chunk).double().sum())
        n_steps += int(chunk.present.sum())
    return total / n_steps


# --- baselines ------------------------------------------------------------------------------------------------------


def marginal(rolls: PianoRolls) -> float:
    """Log-likelihood of the test songs when every note has one probability: its share of the training steps."""
    notes = np.concatenate(rolls.train)
    share = (notes.sum(0) + 0.5) / (len(notes) + 1.0)
    test = np.concatenate(rolls.test)
    return float(np.mean((test * np.log(share) + (1.0 - test) * np.log(1.0 - share)).sum(1)))


def first_order(rolls: PianoRolls) -> float:
    """Log-likelihood of the test songs when a note's probability depends on whether it sounded one step before."""
    before, now = _pairs(rolls.train)
    test_before, test_now = _pairs(rolls.test)
    likelihood = np.zeros(test_now.shape)
    for sounded in (0.0, 1.0):
        is_case = before == sounded
        share = ((now * is_case).sum(0) + 0.5) / (is_case.sum(0) + 1.0)
        likelihood += (test_before == sounded) * np.where(test_now == 1.0, np.log(share), np.log(1.0 - share))
    return float(np.mean(likelihood.sum(1)))


def _pairs(songs: Sequence[Song]) -> tuple[np.ndarray, np.ndarray]:
    """Every step's notes one step before (silence before the first), and its own."""
    before = [np.concatenate([np.zeros_like(song[:1]), song[:-1]]) for song in songs]
    return np.concatenate(before).astype(float), np.concatenate(songs).astype(float)


# --- pictures and tables --------------------------------------------------------------------------------------------


@torch.no_grad()
def draw_amplitudes(job: RecipeJob, files: dict[str, Path], rolls: PianoRolls) -> dict[str, np.ndarray]:
    """Draw A_t of a test song at T/4, T/2, 3T/4 and T, as the document's figure 5 does.

    Returns
    -------
    dict of str to [K]
        Mean amplitude in each frequency over the four pictures.
    """
    means = {}
    song = max(rolls.test, key=len)
    frames = torch.from_numpy(np.concatenate([np.zeros_like(song[:1]), song[:-1]]))[None]
    with job.figure("amplitudes.png", len(files), 4, figsize=(13, 1.6 * len(files) + 0.6), squeeze=False) as (
        figure,
        axes,
    ):
        for row, (what, file) in zip(axes, files.items(), strict=True):
            model = load_checkpoint(file)
            assert isinstance(model, NotePredictor)
            assert isinstance(model.cell, SfmCell)
            states = model.init_state(1)
            begin = 0
            pictures = []
            for quarter in range(1, 5):
                end = quarter * len(song) // 4
                _, *after = model.logits(frames[:, begin:end], *states)
                states, begin = tuple(after), end
                pictures.append(model.cell.amplitude(*states)[0].numpy())
            means[what] = np.mean(pictures, axis=(0, 2))
            top = max(float(picture.max()) for picture in pictures)
            for axis, picture, when in zip(row, pictures, ("T/4", "T/2", "3T/4", "T"), strict=True):
                image = axis.imshow(picture, aspect="auto", vmin=0.0, vmax=top, interpolation="nearest")
                axis.set_title(f"{what}, {when}", fontsize=9)
                axis.set_yticks(range(len(picture)), [f"{k + 1}" for k in range(len(picture))])
            row[0].set_ylabel("frequency k")
            figure.colorbar(image, ax=list(row), shrink=0.9)
        for axis in axes[-1]:
            axis.set_xlabel("memory state d")
    return means


def _baseline_table(rolls: dict[str, PianoRolls], figures: dict[str, dict[str, list[float]]]) -> Table:
    rows = []
    for name, songs in rolls.items():
        best = max(figures[name], key=lambda what: _best(figures[name], (what,)))
        rows.append(
            (
                name, str(sum(map(len, songs.train))), str(sum(map(len, songs.test))), f"{marginal(songs):.2f}",
                f"{first_order(songs):.2f}", f"{_best(figures[name], (best,)):.2f} ({best})",
            )
        )  # fmt: skip
    header = ("", "training steps", "test steps", "marginal", "first order per note", "our best model")
    return Table("Baselines, nats per step", header, tuple(rows))


def _amplitude_table(amplitudes: dict[str, np.ndarray], name: str) -> Table:
    n_frequencies = len(next(iter(amplitudes.values())))
    header = ("", *(f"k = {k + 1}" for k in range(n_frequencies)))
    rows = tuple((what, *(f"{mean:.2f}" for mean in means)) for what, means in amplitudes.items())
    return Table(f"Mean amplitude of the memory by frequency, in the pictures of a song of {name}", header, rows)


def _variant_table(figures: dict[str, dict[str, list[float]]], varied: dict[str, list[float]]) -> Table:
    grid = ("SFM, the document's grid: 4, 2, 4/3 and 1 steps", *(f"{figures[name]['SFM'][0]:.3f}" for name in VARIED))
    rows = tuple((what, *(f"{figure:.3f}" for figure in each)) for what, each in varied.items())
    return Table("What the frequencies are good for, nats per step, one seed", ("", *VARIED), (grid, *rows))


def _best(figures: dict[str, list[float]], among: Sequence[str]) -> float:
    return max(float(np.median(figures[what])) for what in among)


def smaller(config: NotePredictorConfig) -> NotePredictorConfig:
    """Return the same model at a tenth of the size, for a quick run."""
    return replace(config, n_outputs=12, n_states=8)


def _quick(rolls: PianoRolls) -> PianoRolls:
    return PianoRolls(*(tuple(song[:40] for song in songs[:8]) for songs in (rolls.train, rolls.valid, rolls.test)))
