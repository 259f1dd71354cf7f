"""``python -m export bench``: every form is the same model, and nothing is reported faster than it is."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from time import perf_counter_ns

import numpy as np
import pytest
import torch

from export.__main__ import main
from export.bench import forms_of, open_subject, run_bench
from export.models import build_model, describe_model
from export.target import ExportError
from streamproc.bench.report import Report
from streamproc.bench.timing import Effort
from streamproc.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
OWN = "examples.own_model:build"
BRIEF = Effort(hot_s=0.001, most_hot=20, paced=5, longest_pause_s=0.0)
SLOW_US = 3000.0


@pytest.fixture(autouse=True)
def _from_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(ROOT)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Untrained weights as training stores them."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("runs") / "tiny" / "ema.pt"
    path.parent.mkdir()
    model = build_model("GruDenoiser", {"hidden": 16, "n_layers": 1})
    torch.save({**describe_model(model), "ema": model.state_dict()}, path)
    return path


def test_all_forms_of_a_checkpoint_compute_the_same(checkpoint: Path, tmp_path: Path) -> None:
    forms = forms_of(open_subject(str(checkpoint)).module, tmp_path)
    assert list(forms) == ["ONNX", "TorchScript", "eager"]
    spec = forms["eager"].spec
    frames = np.random.default_rng(0).normal(0.0, 1.0, (8, 1, *spec.frame_shape)).astype(np.float32)
    outputs = {}
    for name, model in forms.items():
        state, next_state = model.init_state(1), model.init_state(1)
        outputs[name] = np.zeros_like(frames)
        for frame, out in zip(frames, outputs[name], strict=True):
            model.step(frame, state, out, next_state)
            state, next_state = next_state, state
    assert np.abs(outputs["eager"]).max() > 0.1
    for name in ("ONNX", "TorchScript"):
        np.testing.assert_allclose(outputs[name], outputs["eager"], atol=1e-4)


def test_the_eager_step_is_not_reported_faster_than_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = open_subject(OWN)
    step = subject.module.step

    def slow_step(*inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Wait; which leaves no trace in a graph, so that the files are as fast as ever."""
        done = perf_counter_ns() + round(1e3 * SLOW_US)
        while perf_counter_ns() < done:
            pass
        return step(*inputs)

    monkeypatch.setattr(subject.module, "step", slow_step)
    monkeypatch.setattr("export.bench.open_subject", lambda target: replace(subject, label=target))
    report = run_bench(["slow"], BRIEF)
    rows = {row.name: row for row in report.rows}
    assert list(rows) == [f"{form} {part}" for form in ("ONNX", "TorchScript", "eager") for part in ("step", "hop")]
    for part in ("step", "hop"):
        row = rows[f"eager {part}"]
        assert row.reference == f"ONNX {part}"
        assert min(row.hot.p50_us, row.paced.p50_us) >= SLOW_US
        assert rows[f"ONNX {part}"].hot.histogram[0][0] < SLOW_US
    assert {row.suite for row in report.rows} == {"forms · slow"}


def test_the_command_prints_a_table_and_writes_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("streamproc.bench.timing.QUICK", BRIEF)
    file = tmp_path / "forms.json"
    monkeypatch.setattr(sys, "argv", ["export", "bench", OWN, "--quick", "--json", str(file)])
    with pytest.raises(SystemExit) as left:
        main()
    assert not left.value.code
    report = Report.load(file)
    assert [row.facts["form"] for row in report.rows] == [
        "ONNX",
        "ONNX",
        "TorchScript",
        "TorchScript",
        "eager",
        "eager",
    ]
    assert report.environment.packages["torch"]


def test_models_go_by_the_folder_of_their_checkpoint_or_by_their_name(checkpoint: Path) -> None:
    assert open_subject(str(checkpoint)).label == "tiny"
    assert open_subject(OWN).label == OWN


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("none.pt", "there is no such checkpoint"),
        ("denoize", "no model of this project"),
        ("a.b:c", "cannot be imported"),
    ],
)
def test_what_is_not_there_is_refused(target: str, message: str) -> None:
    with pytest.raises(ExportError, match=message):
        open_subject(target)


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.pt").write_bytes(b"no checkpoint at all")
    with pytest.raises(ConfigError, match="not a checkpoint"):
        open_subject(str(tmp_path / "bad.pt"))


def test_a_model_is_not_timed_twice(checkpoint: Path) -> None:
    with pytest.raises(ConfigError, match="twice"):
        run_bench([str(checkpoint), str(checkpoint)], BRIEF)


def test_a_report_without_a_place_is_refused_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("export.bench.run_bench", lambda *_: pytest.fail("it measures"))
    monkeypatch.setattr(sys, "argv", ["export", "bench", OWN, "--json", str(tmp_path / "none" / "report.json")])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 1
    assert "there is no folder" in capsys.readouterr().err
