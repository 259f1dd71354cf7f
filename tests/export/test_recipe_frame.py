"""What every recipe relies on: parts that are kept, errors that say what to do, reports, metrics."""

from __future__ import annotations

import importlib
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

from export.__main__ import make_app
from export.recipes import RECIPES, find_recipe
from export.recipes.job import DataMissing, RecipeJob, RecipeStopped
from export.recipes.metrics import (
    error_to_signal_ratio,
    mean_absolute_error,
    mean_bias_error,
    mean_squared_error,
)
from export.recipes.report import RecipeReport, Row, insert_report
from export.tables import Table
from streamproc.errors import ConfigError

METRICS = (mean_squared_error, mean_absolute_error, mean_bias_error, error_to_signal_ratio)


def make_job(folder: Path, **options: object) -> RecipeJob:
    return RecipeJob("demo", folder, console=Console(quiet=True), **options)


class Count:
    """A part that counts how often it was computed."""

    def __init__(self, result: object = None) -> None:
        self.calls, self.result = 0, result

    def __call__(self) -> object:
        self.calls += 1
        return self.result


# --- names ----------------------------------------------------------------------------------------------------------


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"no recipe 'cosine'.*sine, iir, signal-type, music, noize"):
        find_recipe("cosine")


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_a_module_of_its_name_with_run(name: str) -> None:
    module = f"export.recipes.{name.replace('-', '_')}"
    if importlib.util.find_spec(module) is None:
        with pytest.raises(ConfigError, match=module):
            find_recipe(name).load()
    else:
        assert callable(find_recipe(name).load())


def test_a_recipe_that_fails_to_import_something_else_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> ModuleType:
        raise ModuleNotFoundError("No module named 'scikits'", name="scikits")

    monkeypatch.setattr(importlib, "import_module", broken)
    with pytest.raises(ModuleNotFoundError, match="scikits"):
        find_recipe("sine").load()


# --- parts ----------------------------------------------------------------------------------------------------------


def test_a_finished_part_is_read_and_a_changed_one_computed_again(tmp_path: Path) -> None:
    compute = Count({"loss": (1.0, math.inf)})
    for learning_rate in (0.1, 0.1, 0.2, 0.2):
        result = make_job(tmp_path).part("GRU, seed 3", compute, {"learning_rate": learning_rate})
        assert result == {"loss": [1.0, math.inf]}
    assert compute.calls == 2
    make_job(tmp_path, quick=True).part("GRU, seed 3", compute, {"learning_rate": 0.2})
    assert compute.calls == 3
    make_job(tmp_path, quick=True, resume=False).part("GRU, seed 3", compute, {"learning_rate": 0.2})
    assert compute.calls == 4


def test_a_part_whose_file_is_gone_is_computed_again(tmp_path: Path) -> None:
    job = make_job(tmp_path)

    def train() -> float:
        job.path("weights/gru.pt").write_text("weights")
        return 0.5

    job.part("gru", train, files=["weights/gru.pt"])
    (tmp_path / "weights/gru.pt").unlink()
    assert job.part("gru", train, files=["weights/gru.pt"]) == 0.5
    assert (tmp_path / "weights/gru.pt").is_file()


def test_a_part_that_fails_is_not_kept_and_a_damaged_record_is_no_obstacle(tmp_path: Path) -> None:
    def fails() -> None:
        raise RuntimeError("diverged")

    with pytest.raises(RuntimeError, match="diverged"):
        make_job(tmp_path).part("gru", fails)
    assert not list((tmp_path / "parts").iterdir())
    (tmp_path / "parts/gru.json").write_text('{"config"')
    assert make_job(tmp_path).part("gru", Count(7)) == 7


def test_when_the_time_is_over_finished_parts_are_still_read(tmp_path: Path) -> None:
    make_job(tmp_path).part("first", Count(1))
    late = make_job(tmp_path, minutes=0.0)
    assert late.part("first", Count(2)) == 1
    with pytest.raises(RecipeStopped, match=r"before 'second'.*the same command goes on"):
        late.part("second", Count(2))


def test_missing_data_names_the_folder_and_what_belongs_there(tmp_path: Path) -> None:
    with pytest.raises(DataMissing, match=r"no-such-folder is missing, where the four sets should be; --data"):
        make_job(tmp_path).folder(tmp_path / "no-such-folder", "the four sets")
    assert make_job(tmp_path, data=tmp_path).folder("no-such-folder", "the four sets") == tmp_path


# --- pictures -------------------------------------------------------------------------------------------------------


def test_a_figure_is_saved_and_a_failed_one_leaves_nothing(tmp_path: Path) -> None:
    from matplotlib import pyplot

    job = make_job(tmp_path)
    with job.figure("curve.png", figsize=(3, 2)) as (_, axes):
        axes.plot([0, 1])
    with Image.open(tmp_path / "curve.png") as image:
        assert image.format == "PNG"
    with pytest.raises(RuntimeError), job.figure("bad.png"):
        raise RuntimeError
    assert [path.name for path in tmp_path.iterdir()] == ["curve.png"]
    assert not pyplot.get_fignums()


def test_an_animation_has_the_frames_that_were_asked_for(tmp_path: Path) -> None:
    drawn: list[int] = []

    def draw(axes: object, frame: int) -> None:
        drawn.append(frame)
        axes.plot([0, frame])

    make_job(tmp_path).animate("learning.gif", draw, [3, 5, 8], figsize=(2, 1))
    with Image.open(tmp_path / "learning.gif") as image:
        assert (image.format, image.n_frames) == ("GIF", 3)
    assert drawn == [3, 5, 8]
    assert [path.name for path in tmp_path.iterdir()] == ["learning.gif"]


# --- report ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ours", "target", "better", "verdict"),
    [
        (0.03, 0.03, "lower", "hit"),
        (0.030001, 0.03, "lower", "missed"),
        (0.9, 0.8, "higher", "hit"),
        (0.7, 0.8, "higher", "missed"),
        (math.nan, 0.8, "lower", "missed"),
        (math.nan, 0.8, "higher", "missed"),
        (0.9, None, "higher", ""),
    ],
)
def test_a_row_is_hit_only_when_its_own_figure_reaches_the_target(
    ours: float, target: float | None, better: str, verdict: str
) -> None:
    row = Row("what", ours, target=target, better=better, digits=2)
    assert row.verdict == verdict
    assert row.cells()[-1] == verdict


def test_a_row_shows_the_median_with_its_range() -> None:
    row = Row.median("L1", [0.3, 0.1, 0.2], document=0.25, target=0.2)
    assert row.cells() == ("L1", "0.2500", "0.2000 (0.1000 to 0.3000)", "≤ 0.2000", "hit")
    assert Row("error", 3.2e-7, target=1e-5).cells()[2:4] == ("3.2e-07", "≤ 1.0e-05")


def test_the_report_is_written_for_people_and_for_programs(tmp_path: Path) -> None:
    job = make_job(tmp_path, seeds=range(3))
    report = RecipeReport(
        [Row.median("L1", [0.1, 0.2, math.nan], target=0.3)],
        live="streamproc live --model a.onnx",
        tables=[Table("Sizes", ("", "n"), (("gru", "3"),))],
        notes=["One thing is not comparable."],
    )
    job.finish(report, "python -m export recipe demo", {"python": "3.11", "commit": ""})
    text = (tmp_path / "report.md").read_text()
    for expected in (
        "seeds 0 to 2",
        "missed",
        "**Sizes**",
        "- One thing",
        "live --model",
        "recipe demo",
        "python 3.11",
    ):
        assert expected in text
    assert "commit" not in text
    record = json.loads((tmp_path / "report.json").read_text())
    assert record["rows"][0]["verdict"] == "missed"
    assert record["rows"][0]["each"] == [0.1, 0.2, None]


def test_a_quick_run_does_not_pass_its_figures_off_as_results(tmp_path: Path) -> None:
    make_job(tmp_path, quick=True).finish(RecipeReport([Row("L1", 0.1)]), "command", {})
    assert "not results" in (tmp_path / "report.md").read_text()


@pytest.fixture
def demo(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[RecipeJob], RecipeReport]], None]:
    """Install a recipe in the place of `sine`."""

    def install(run: Callable[[RecipeJob], RecipeReport]) -> None:
        module = ModuleType("export.recipes.sine")
        module.run = run
        monkeypatch.setitem(sys.modules, "export.recipes.sine", module)

    return install


def test_the_command_runs_a_recipe_with_its_options(demo: Callable[..., None], tmp_path: Path) -> None:
    seen: list[RecipeJob] = []

    def run(job: RecipeJob) -> RecipeReport:
        seen.append(job)
        return RecipeReport([Row("L1", 0.1)])

    demo(run)
    for options, n_seeds, quick in (([], 5, False), (["--quick"], 1, True), (["--quick", "--seeds", "2"], 2, True)):
        result = CliRunner().invoke(make_app(), ["recipe", "sine", "--out", str(tmp_path), *options])
        assert result.exit_code == 0, result.output
        assert (len(seen[-1].seeds), seen[-1].quick, seen[-1].out) == (n_seeds, quick, tmp_path)
    assert "report.md" in result.output


def test_a_report_takes_its_own_place_in_a_page_and_no_other(tmp_path: Path) -> None:
    page = tmp_path / "recipes.md"
    page.write_text(
        "a\n<!-- report: iir -->\nkept\n<!-- /report -->\nb\n<!-- report: sine -->\nold\n<!-- /report -->\nc\n"
    )
    for _ in range(2):
        insert_report("new figures\n", "sine", page)
    text = page.read_text()
    assert text.count("new figures") == 1
    assert "old" not in text
    assert "kept" in text
    assert text.endswith("<!-- /report -->\nc\n")
    with pytest.raises(ConfigError, match=r"no place for the report between <!-- report: music -->"):
        insert_report("new", "music", page)
    assert page.read_text() == text


def test_a_quick_run_does_not_go_into_a_page(tmp_path: Path) -> None:
    result = CliRunner().invoke(make_app(), ["recipe", "sine", "--quick", "--docs", str(tmp_path / "page.md")])
    assert isinstance(result.exception, ConfigError)
    assert not list(tmp_path.iterdir())


def test_a_file_is_no_folder_of_results(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    for place in ("taken", "taken/sine"):
        with pytest.raises(ConfigError, match=r"taken is not a folder; give another place"):
            make_job(tmp_path / place)


# --- metrics --------------------------------------------------------------------------------------------------------

values = st.floats(-100, 100, allow_subnormal=False, width=32)
pairs = hnp.arrays(np.float64, (2, 12), elements=values)


@given(pairs)
def test_metrics_agree_with_their_definitions_on_arrays_and_tensors(pair: np.ndarray) -> None:
    prediction, target = pair
    error = prediction - target
    expected = {
        mean_squared_error: np.mean(error**2),
        mean_absolute_error: np.mean(np.abs(error)),
        mean_bias_error: np.mean(error),
    }
    if np.sum(target**2) > 0:
        expected[error_to_signal_ratio] = np.sum(error**2) / np.sum(target**2)
    for metric, value in expected.items():
        assert metric(prediction, target) == pytest.approx(value, rel=1e-9, abs=1e-12)
        on_tensors = metric(torch.from_numpy(prediction), torch.from_numpy(target))
        assert float(on_tensors) == pytest.approx(value, rel=1e-9, abs=1e-12)


def test_the_bias_is_positive_where_too_much_is_predicted() -> None:
    assert mean_bias_error(np.array([2.0, 3.0]), np.array([1.0, 1.0])) == 1.5


@pytest.mark.parametrize("metric", METRICS)
def test_missing_targets_count_nowhere_and_have_no_gradient(metric: Callable[..., torch.Tensor]) -> None:
    generator = torch.Generator().manual_seed(0)
    prediction = torch.randn(3, 5, generator=generator, requires_grad=True)
    target = torch.randn(3, 5, generator=generator)
    missing = torch.zeros(3, 5, dtype=torch.bool)
    missing[0, 1] = missing[2, 4] = True
    expected = metric(prediction[~missing], target[~missing])
    found = metric(prediction, torch.where(missing, torch.nan, target))
    torch.testing.assert_close(found, expected)
    found.backward()
    assert torch.isfinite(prediction.grad).all()
    assert not prediction.grad[missing].any()
    assert prediction.grad[~missing].all()


@pytest.mark.parametrize("metric", METRICS)
def test_metrics_refuse_what_would_be_averaged_wrongly(metric: Callable[..., object]) -> None:
    with pytest.raises(ConfigError, match=r"\[3, 1\].*\[3\].*one shape"):
        metric(np.zeros((3, 1)), np.zeros(3))
    with pytest.raises(ConfigError, match="none of 3 targets is present"):
        metric(np.zeros(3), np.full(3, np.nan))


def test_the_error_to_signal_ratio_of_silence_is_one_and_needs_a_signal() -> None:
    target = np.array([0.5, -0.2, 0.1])
    assert error_to_signal_ratio(np.zeros(3), target) == 1.0
    with pytest.raises(ConfigError, match="energy"):
        error_to_signal_ratio(target, np.zeros(3))
