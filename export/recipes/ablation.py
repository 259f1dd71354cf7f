"""Recipe `ablation`: small denoisers trained equally long, each with one choice changed.

Every variant sees the same number of mixtures and is measured on the same ones: recordings that no training hears, and
the same speech under synthetic noises of another seed. A difference counts where it lies outside its own interval over
the mixtures and outside what another seed of the base makes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ..data.cache import active_rms
from ..data.mix_config import MixConfig
from ..data.synthetic import open_synthetic
from ..data.validation import ValidationSet, enhance_all, make_validation_set
from ..evaluate.metrics import DNSMOS_FILE, RATE, Dnsmos, pesq_wb, si_sdr_db, stoi
from ..evaluate.mixtures import CACHE_DIR, CHECKOUT, SHARED, Signal, resample, rms
from ..evaluate.statistics import Interval, bootstrap
from ..models import load_checkpoint
from ..tables import Table
from ..train import TrainConfig, train
from .job import DataMissing, RecipeJob, RecipeStopped
from .report import RecipeReport, Row

BASE = TrainConfig(
    model_config={"n_layers": 2, "hidden": 128}, steps=300, warmup=200, batch=24, mix=MixConfig(seconds=3.0), workers=1,
    val_speech="", val_noise="",
)  # fmt: skip
"""What every variant departs from."""

QUICK = replace(
    BASE, model_config={"n_layers": 1, "hidden": 16}, steps=3, batch=2, mix=MixConfig(seconds=1.0, p_room=0.0),
    compiled=False, rooms="", n_val=2, n_synthetic=4, n_rooms=0,
)  # fmt: skip

TEACHER = CHECKOUT / "export/checkpoints/denoise/ema.pt"

UNHEARD_SEED = 4712
"""Seed of the synthetic noises to measure on; training draws its own from seed 0."""

DIFFERENCES = {"pesq": ("PESQ", 3), "si_sdr": ("SI-SDR in dB", 2)}
"""Figures that are compared mixture by mixture: name in tables, and digits."""

SETS = {"recordings": "recorded noises", "synthetic": "synthetic noises"}
"""Mixtures that are measured on."""

Metric = Callable[[Signal, Signal], float]
Scores = dict[str, npt.NDArray[np.float64]]


@dataclass(frozen=True)
class Variant:
    """The base with one choice changed.

    Parameters
    ----------
    name : str
    model, mix, train : dict
        Fields of the model's configuration, of `MixConfig` and of `TrainConfig` that differ.
    latency : bool
        Whether the choice is about latency.
    """

    name: str
    model: dict[str, Any] = field(default_factory=dict)
    mix: dict[str, Any] = field(default_factory=dict)
    train: dict[str, Any] = field(default_factory=dict)
    latency: bool = False

    def of(self, config: TrainConfig) -> TrainConfig:
        """Return the base with this choice."""
        return replace(
            config,
            model_config={**config.model_config, **self.model},
            mix=replace(config.mix, **self.mix),
            **self.train,
        )


VARIANTS = (
    Variant("base"),
    Variant("5.3 ms", model={"hop": 128, "window": 256}, latency=True),
    Variant("8 ms", model={"hop": 192, "window": 384}, latency=True),
    Variant("21.3 ms, lookahead", model={"lookahead": 2, "n_taps": 5}, latency=True),
    Variant("gains only", train={"slow_factor": 0.0}),
    Variant("no synthetic noises", mix={"p_synthetic": 0.0}),
    Variant("with a teacher", train={"teacher": str(TEACHER)}),
)
"""The base first. A filter that does not learn stays the identity."""


@dataclass(frozen=True)
class Result:
    """One trained variant.

    Parameters
    ----------
    variant : Variant
    latency_ms : float
        A hop and what the model's framing and lookahead add, from its specification.
    n_parameters : int
    minutes, hours : float
        Time of the training, and audio that it saw.
    scores : dict
        For every set, each figure mixture by mixture.
    """

    variant: Variant
    latency_ms: float
    n_parameters: int
    minutes: float
    hours: float
    scores: dict[str, Scores]

    def less(self, other: Result, of: str, metric: str) -> Interval:
        """Return the mean difference to `other` on the same mixtures."""
        return bootstrap(self.scores[of][metric] - other.scores[of][metric])


def run(job: RecipeJob) -> RecipeReport:
    """Train and measure every variant, and the base once for every seed."""
    folder = data_folder(job)
    cache = CACHE_DIR if job.data is None else job.path("cache")
    base = replace(
        QUICK if job.quick else BASE,
        speech=(str(folder / "train/speech"),), noise=(str(folder / "train/noise"),), cache_dir=str(cache),
        seed=job.seeds[0],
    )  # fmt: skip
    if base.rooms:
        base = replace(base, rooms=str(folder / "rir"))
    variants = VARIANTS[:2] if job.quick else VARIANTS
    sets = open_sets(folder / "val", cache, base)
    mixed = {"data": str(folder), "mixtures": base.n_val}
    untouched = as_arrays(job.part("unprocessed", partial(score_sets, sets, None), mixed))

    first = trained(job, variants[0], base, sets)
    again = [trained(job, Variant(f"base, seed {seed}"), replace(base, seed=seed), sets) for seed in job.seeds[1:]]
    others = [trained(job, variant, variant.of(base), sets) for variant in variants[1:]]
    spreads = spreads_of(first, again)
    draw(job, first, others, untouched, spreads)
    return RecipeReport(
        rows=[
            Row.median(
                f"base, {SETS[name]}: gain of {label}",
                [gain(result, untouched, name, metric) for result in (first, *again)],
                digits=digits,
            )
            for name in SETS
            for metric, (label, digits) in DIFFERENCES.items()
        ],
        tables=[figures_table(first, [*again, *others], untouched, spreads, name) for name in SETS],
        notes=notes(first, untouched, spreads if again else {}, base),
    )


def data_folder(job: RecipeJob) -> Path:
    """Return the folder with train/, val/ and, for a full run, rir/.

    Raises
    ------
    DataMissing
        If one of them is not there.
    """
    folder = job.folder(SHARED / "data", "train/ and val/ (each with speech/ and noise/) and rir/")
    wanted = ["train/speech", "train/noise", "val/speech", "val/noise", *([] if job.quick else ["rir"])]
    missing = [name for name in wanted if not (folder / name).is_dir()]
    if missing:
        raise DataMissing(
            f"recipe {job.name}: {folder} has no {', '.join(missing)}; it needs {', '.join(wanted)} with recordings"
        )
    return folder


def open_sets(folder: Path, cache: Path, config: TrainConfig) -> dict[str, ValidationSet]:
    """Return the mixtures to measure on, by the names of `SETS`."""
    rate = config.mix.sample_rate
    recorded = make_validation_set(folder / "speech", folder / "noise", cache, rate, config.n_val)
    seconds = recorded.clean.shape[1] / rate
    pool = open_synthetic(cache, rate, config.n_val, seconds, UNHEARD_SEED)
    return {"recordings": recorded, "synthetic": with_noises(recorded, pool)}


def with_noises(mixtures: ValidationSet, noises: npt.NDArray[np.int16]) -> ValidationSet:
    """Return the same speech under other noises, one for each item, at the same SNRs.

    Parameters
    ----------
    mixtures : ValidationSet
    noises : int16 [items, frames]
    """
    clean, noisy = mixtures.clean.copy(), np.empty_like(mixtures.noisy)
    for item, (voice, noise) in enumerate(zip(clean, noises, strict=True)):
        wanted = active_rms(voice, mixtures.sample_rate) * 10 ** (-mixtures.snr_db[item] / 20)
        mixed = voice + noise.astype(np.float32) * np.float32(wanted / rms(noise))
        scale = min(1.0, 0.99 / float(np.abs(mixed).max()))
        clean[item], noisy[item] = voice * scale, mixed * scale
    return replace(mixtures, clean=clean, noisy=noisy)


def trained(job: RecipeJob, variant: Variant, config: TrainConfig, sets: Mapping[str, ValidationSet]) -> Result:
    """Train and measure one variant; a finished one is read, a half-trained one goes on."""
    settings: dict[str, Any] = {"train": asdict(config)}
    if config.teacher:
        settings["teacher"] = hashlib.sha256(Path(config.teacher).read_bytes()).hexdigest()
    # Training goes on from what lies in its folder: another configuration needs another one.
    mark = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
    name = f"{variant.name.replace(', ', '-').replace(' ', '-')}-{mark}"
    config = replace(config, name=name, runs_dir=str(job.out / "trained"))

    def compute() -> dict[str, Any]:
        state = job.path(f"trained/{name}/last.pt")
        if job.resume and state.is_file():
            job.count_earlier(_progress(state)["seconds"])
        job.say(f"\n{variant.name}")
        weights = train(config, job.resume, job.say)
        progress = _progress(weights)
        if progress["step"] < (config.steps or 0):
            raise RecipeStopped(
                f"recipe {job.name}: interrupted in {variant.name!r} at step {progress['step']}; "
                f"the same command goes on from here"
            )
        model = load_checkpoint(weights)
        spec = model.spec
        return {
            "latency_ms": 1000 * (spec.hop + spec.latency) / spec.sample_rate,
            "n_parameters": sum(parameter.numel() for parameter in model.parameters()),
            "minutes": progress["seconds"] / 60,
            "hours": progress["audio_hours"],
            "scores": score_sets(sets, lambda noisy: enhance_all(model, noisy, torch.device("cpu"))),
        }

    found = job.part(variant.name, compute, settings, [f"trained/{name}/ema.pt"])
    return Result(variant, **{**found, "scores": as_arrays(found["scores"])})


def score_sets(
    sets: Mapping[str, ValidationSet], enhance: Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]] | None
) -> dict[str, dict[str, list[float]]]:
    """Return every figure of every mixture, set by set; without `enhance` those of the mixtures themselves.

    DNSMOS is left out where its scorer is missing.
    """
    metrics: dict[str, Metric] = {"si_sdr": si_sdr_db, "pesq": pesq_wb, "stoi": stoi}
    if DNSMOS_FILE.is_file():
        dnsmos = Dnsmos()
        metrics["ovrl"] = lambda estimate, _: dnsmos(estimate)["ovrl"]
    found = {}
    for name, mixtures in sets.items():
        output = mixtures.noisy if enhance is None else enhance(mixtures.noisy)
        pairs = [
            (resample(estimate, mixtures.sample_rate, RATE), resample(clean, mixtures.sample_rate, RATE))
            for estimate, clean in zip(output, mixtures.clean, strict=True)
        ]
        found[name] = {metric: [measure(*pair) for pair in pairs] for metric, measure in metrics.items()}
    return found


def as_arrays(scores: Mapping[str, Mapping[str, Sequence[float]]]) -> dict[str, Scores]:
    """Turn the lists of `score_sets` into arrays."""
    return {name: {metric: np.array(each) for metric, each in found.items()} for name, found in scores.items()}


def gain(result: Result, untouched: Mapping[str, Scores], of: str, metric: str) -> float:
    """Return by how much a figure lies above that of the mixtures."""
    return bootstrap(result.scores[of][metric] - untouched[of][metric]).mean


def level(scores: Scores, metric: str, digits: int = 3) -> str:
    """Return the mean of a figure as text; nothing where it was not measured."""
    return f"{bootstrap(scores[metric]).mean:.{digits}f}" if metric in scores else ""


def spreads_of(base: Result, again: Sequence[Result]) -> dict[str, dict[str, float]]:
    """Return for every set and figure the largest difference that another seed makes; NaN without another seed."""
    return {
        name: {
            metric: max((abs(other.less(base, name, metric).mean) for other in again), default=float("nan"))
            for metric in DIFFERENCES
        }
        for name in SETS
    }


def told_apart(difference: Interval, spread: float) -> bool:
    """Say whether a difference lies outside its interval over the mixtures and outside the spread of the seeds."""
    return (difference.low > 0 or difference.high < 0) and abs(difference.mean) > spread


def figures_table(
    base: Result,
    others: Sequence[Result],
    untouched: Mapping[str, Scores],
    spreads: Mapping[str, Mapping[str, float]],
    of: str,
) -> Table:
    """Return one row for every variant, the base first."""
    header = ["", "latency in ms", "parameters", "training in min"]
    for label, _ in DIFFERENCES.values():
        header += [f"gain of {label}", "against base"]
    rows = []
    for result in (base, *others):
        cells = [result.variant.name, f"{result.latency_ms:.1f}", f"{result.n_parameters:,}", f"{result.minutes:.1f}"]
        apart = []
        for metric, (label, digits) in DIFFERENCES.items():
            difference = result.less(base, of, metric)
            mean, low, high = (f"{value:+.{digits}f}" for value in difference[:3])
            cells += [
                f"{gain(result, untouched, of, metric):+.{digits}f}",
                "" if result is base else f"{mean} ({low} to {high})",
            ]
            if told_apart(difference, spreads[of][metric]):
                apart.append(f"{label.split()[0]} {'better' if difference.mean > 0 else 'worse'}")
        cells += [level(result.scores[of], "ovrl", 2), level(result.scores[of], "stoi")]
        rows.append((*cells, "" if result.variant.name.startswith("base") else ", ".join(apart) or "no"))
    return Table(f"Speech under {SETS[of]}", (*header, "OVRL", "STOI", "told apart"), tuple(rows))


def draw(
    job: RecipeJob,
    base: Result,
    others: Sequence[Result],
    untouched: Mapping[str, Scores],
    spreads: Mapping[str, Mapping[str, float]],
) -> None:
    """Draw gains against latency, and the differences that the other choices make."""
    delays = [base, *(result for result in others if result.variant.latency)]
    choices = [result for result in others if not result.variant.latency]
    with job.figure("ablation.png", 2, 2, figsize=(12, 7), width_ratios=(1, 1.2)) as (_, axes):
        for row, (metric, (label, _)) in zip(axes, DIFFERENCES.items(), strict=True):
            for number, name in enumerate(SETS):
                colour, aside = f"C{number}", 2 * number - 1
                middle, spread = gain(base, untouched, name, metric), np.nan_to_num(spreads[name][metric])
                differences = [result.less(base, name, metric) for result in delays]
                row[0].errorbar(
                    [result.latency_ms + 0.12 * aside for result in delays],
                    [middle + each.mean for each in differences],
                    _reach(differences), fmt="o", color=colour, capsize=3, label=f"speech under {SETS[name]}",
                )  # fmt: skip
                row[0].axhspan(middle - spread, middle + spread, color=colour, alpha=0.15)
                for result, difference in zip(delays, differences, strict=True):
                    row[0].annotate(
                        result.variant.name.partition(", ")[2], (result.latency_ms - 0.12, middle + difference.mean),
                        (-8, 0), textcoords="offset points", ha="right", va="center", fontsize=8,
                    )  # fmt: skip
                differences = [result.less(base, name, metric) for result in choices]
                row[1].bar(
                    np.arange(len(choices)) + 0.2 * aside, [each.mean for each in differences], 0.38,
                    yerr=_reach(differences), color=colour, capsize=3,
                )  # fmt: skip
                row[1].axhspan(-spread, spread, color=colour, alpha=0.15)
            row[0].set_ylabel(f"gain of {label}")
            row[1].set_ylabel(f"{label} less that of the base")
            row[1].set_xticks(range(len(choices)), [result.variant.name for result in choices], fontsize=8)
            row[1].axhline(0.0, color="k", linewidth=0.8)
            for axis in row:
                axis.grid(alpha=0.3)
        axes[0, 0].legend(fontsize=8)
        axes[0, 0].set_title("latency, with the interval of the difference to the base", fontsize=9)
        axes[0, 1].set_title("other choices, with that interval; bands: another seed of the base", fontsize=9)
        axes[1, 0].set_xlabel("latency in ms")


def notes(
    base: Result, untouched: Mapping[str, Scores], spreads: Mapping[str, Mapping[str, float]], config: TrainConfig
) -> list[str]:
    """Say what was done, and what it can and cannot decide; without spreads there was no other seed."""
    plain = "; ".join(
        f"{SETS[name]}: PESQ {level(scores, 'pesq', 2)}, SI-SDR {level(scores, 'si_sdr', 1)} dB, "
        f"OVRL {level(scores, 'ovrl', 2)}, STOI {level(scores, 'stoi')}"
        for name, scores in untouched.items()
    )
    other_seed = "; ".join(
        f"{SETS[name]}: PESQ {spread['pesq']:.3f}, SI-SDR {spread['si_sdr']:.2f} dB" for name, spread in spreads.items()
    )
    seeds = (
        f"Another seed of the base makes {other_seed}. Told apart is what lies outside both; with few seeds the second "
        "is itself a rough guess, so what lies little beyond it is a hint and no more."
        if spreads
        else "No other seed of the base was trained, so nothing can be told apart."
    )
    return [
        f"Every variant: {config.steps} steps, {base.hours:.1f} h of audio, the same schedule. The released model has "
        "learned from many times as much and is larger: a choice that pays early need not pay late, and one that needs "
        "long to be learned looks worse here than it is. Differences of size and sign are of these short trainings.",
        f"{config.n_val} mixtures of each kind, -5 to 15 dB; the synthetic noises are of the kinds of the training, "
        "drawn from another seed, so all variants but one know such noises. The mixtures themselves have "
        f"{plain}.",
        "Against base: mean difference on the same mixtures and its 95 % bootstrap interval, which knows nothing of "
        f"other trainings. {seeds} With this many comparisons one interval in twenty misses zero by chance.",
        "Latency is a hop and what windows and lookahead add. A shorter hop means more steps of the network for a "
        "second of sound, and as much more work. Minutes are wall-clock time on one core: beside other work they say "
        "little of one variant against another.",
        "Gains only: the complex filter stays the identity, its weights count among the parameters all the same. "
        "With a teacher: half of the loss compares with the output of a larger model of the same latency, which has "
        "learned from far more audio.",
    ]


def _reach(differences: Sequence[Interval]) -> npt.NDArray[np.float64]:
    """Return how far the intervals reach below and above their means, [2, intervals]."""
    return np.array([[each.mean - each.low, each.high - each.mean] for each in differences]).reshape(-1, 2).T


def _progress(path: Path) -> dict[str, Any]:
    progress: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)["progress"]
    return progress
