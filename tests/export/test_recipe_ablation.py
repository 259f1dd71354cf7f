"""The ablation recipe: one choice each, mixtures alike but for the noise, honest verdicts, and a run that goes on."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import write_voices_and_noises
from rich.console import Console

from export.data.cache import active_rms
from export.data.mix_config import MixConfig
from export.data.validation import ValidationSet
from export.evaluate.mixtures import rms
from export.evaluate.statistics import Interval
from export.models import build_model
from export.recipes import ablation
from export.recipes.ablation import BASE, VARIANTS, Result, Variant
from export.recipes.job import DataMissing, RecipeJob, RecipeStopped

RATE = 48_000


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Restore torch's threads, which training sets to one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shrink what a quick run trains, and leave the scorer out that is not part of the checkout."""
    model = {"hidden": 4, "n_layers": 1, "n_low": 16, "n_bands": 4}
    small = replace(ablation.QUICK, model_config=model, mix=MixConfig(seconds=0.5), steps=2, n_val=2)
    monkeypatch.setattr(ablation, "QUICK", replace(small, log_seconds=0.0))
    monkeypatch.setattr(ablation, "DNSMOS_FILE", Path("missing.onnx"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made-up data in the layout that the recipe wants."""
    root = tmp_path_factory.mktemp("data")
    for seed, part in enumerate(("train", "val")):
        write_voices_and_noises(root / part, 2, seed)
    return root


def make_job(out: Path, data: Path, n_seeds: int = 1) -> RecipeJob:
    return RecipeJob("ablation", out, quick=True, seeds=range(n_seeds), data=data, console=Console(quiet=True))


def made_up(name: str, pesq: float, latency: bool = False) -> Result:
    """Return a result whose figures all lie `pesq` above those of nothing, on ten mixtures."""
    wiggle = np.linspace(-0.01, 0.01, 10)
    scores = dict.fromkeys(("pesq", "si_sdr", "stoi"), pesq + wiggle)
    return Result(Variant(name, latency=latency), 10.7, 1000, 1.0, 6.0, dict.fromkeys(ablation.SETS, scores))


def test_a_variant_changes_one_choice() -> None:
    base, *others = (asdict(variant.of(BASE)) for variant in VARIANTS)
    assert base == asdict(BASE)
    for variant, config in zip(VARIANTS[1:], others, strict=True):
        changed = {name for name in config if config[name] != base[name]}
        assert len(changed) == 1, variant.name
    assert len({variant.name for variant in VARIANTS}) == len(VARIANTS)
    assert Path(ablation.TEACHER).is_file()


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_the_latency_is_what_the_name_says(variant: Variant) -> None:
    spec = build_model("GruDenoiser", variant.of(BASE).model_config).spec
    milliseconds = 1000 * (spec.hop + spec.latency) / spec.sample_rate
    said = re.match(r"([\d.]+) ms", variant.name)
    assert milliseconds == pytest.approx(float(said[1]) if said else 10.7, abs=0.05)
    assert variant.latency == (said is not None)


def test_other_noises_leave_speech_and_ratio_alone() -> None:
    rng = np.random.default_rng(1)
    clean = (0.1 * rng.normal(size=(3, RATE))).astype(np.float32)
    snr_db = np.array([-5.0, 5.0, 15.0], np.float32)
    mixtures = ValidationSet(clean.copy(), clean, np.full(3, RATE / 2, np.float32), snr_db, RATE)
    noises = rng.integers(-20_000, 20_000, size=(3, RATE)).astype(np.int16)
    other = ablation.with_noises(mixtures, noises)
    assert np.abs(other.noisy).max() <= 1.0
    for item in range(3):
        noise = other.noisy[item] - other.clean[item]
        assert 20 * np.log10(active_rms(other.clean[item], RATE) / rms(noise)) == pytest.approx(snr_db[item], abs=0.01)
        scale = np.abs(other.clean[item]).max() / np.abs(clean[item]).max()
        np.testing.assert_allclose(other.clean[item], scale * clean[item], rtol=1e-4, atol=1e-7)
        assert np.corrcoef(noise, noises[item])[0, 1] > 0.999


def test_told_apart_is_outside_interval_and_spread() -> None:
    assert ablation.told_apart(Interval(0.1, 0.05, 0.15, 40), spread=0.02)
    assert ablation.told_apart(Interval(-0.1, -0.15, -0.05, 40), spread=0.02)
    assert not ablation.told_apart(Interval(0.1, -0.01, 0.2, 40), spread=0.02), "inside the interval"
    assert not ablation.told_apart(Interval(0.1, 0.05, 0.15, 40), spread=0.12), "inside the spread"
    assert not ablation.told_apart(Interval(0.1, 0.05, 0.15, 40), spread=float("nan")), "the spread is not known"


def test_the_tables_and_the_picture_compare_with_the_base(tmp_path: Path) -> None:
    base, again = made_up("base", 1.0), made_up("base, seed 1", 1.1)
    others = [made_up("far", 0.5, latency=True), made_up("near", 1.05)]
    untouched = made_up("unprocessed", 0.0).scores
    spreads = ablation.spreads_of(base, [again])
    assert spreads["recordings"] == pytest.approx({"pesq": 0.1, "si_sdr": 0.1})
    table = ablation.figures_table(base, [again, *others], untouched, spreads, "recordings")
    assert [row[0] for row in table.rows] == ["base", "base, seed 1", "far", "near"]
    assert [row[-1] for row in table.rows] == ["", "", "PESQ worse, SI-SDR worse", "no"]
    assert table.rows[2][4:6] == ("+0.500", "-0.500 (-0.500 to -0.500)")
    assert all(len(row) == len(table.header) for row in table.rows)
    ablation.draw(RecipeJob("ablation", tmp_path, console=Console(quiet=True)), base, others, untouched, spreads)
    assert (tmp_path / "ablation.png").stat().st_size > 1000


def test_a_run_writes_everything_and_reads_it_again(tmp_path: Path, folder: Path) -> None:
    report = ablation.run(make_job(tmp_path, folder, n_seeds=2))
    assert [row[0] for row in report.tables[0].rows] == ["base", "base, seed 1", "5.3 ms"]
    assert [row[1] for row in report.tables[0].rows] == ["10.7", "10.7", "5.3"]
    assert (tmp_path / "ablation.png").is_file()
    weights = {path: path.stat().st_mtime_ns for path in tmp_path.glob("trained/*/ema.pt")}
    assert len(weights) == 3
    assert repr(ablation.run(make_job(tmp_path, folder, n_seeds=2))) == repr(report)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("trained/*/ema.pt")} == weights


def test_an_interrupted_variant_goes_on(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = make_job(tmp_path, folder)

    def interrupt(line: str) -> None:
        if line.startswith("step 1 "):
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(job, "say", interrupt)
    with pytest.raises(RecipeStopped, match="interrupted in 'base' at step 1; the same command goes on"):
        ablation.run(job)
    lines: list[str] = []
    job = make_job(tmp_path, folder)
    monkeypatch.setattr(job, "say", lines.append)
    assert ablation.run(job).rows
    assert any(line.startswith("resumed") and "at step 1" in line for line in lines)


def test_a_variant_that_is_configured_differently_is_trained_anew(tmp_path: Path, folder: Path) -> None:
    ablation.run(make_job(tmp_path, folder))
    before = set(tmp_path.glob("trained/base-*"))
    longer = replace(ablation.QUICK, steps=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ablation, "QUICK", longer)
        ablation.run(make_job(tmp_path, folder))
    assert len(set(tmp_path.glob("trained/base-*")) - before) == 1


def test_missing_data_are_named(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(DataMissing, match=r"the folder .*nowhere is missing"):
        ablation.run(make_job(tmp_path, tmp_path / "nowhere"))
    (tmp_path / "train/speech").mkdir(parents=True)
    with pytest.raises(DataMissing, match="has no train/noise, val/speech, val/noise; it needs"):
        ablation.run(make_job(tmp_path / "out", tmp_path))
    full = RecipeJob("ablation", tmp_path / "out", data=folder, console=Console(quiet=True))
    with pytest.raises(DataMissing, match="has no rir"):
        ablation.run(full)
