"""``python -m export onnx | torchscript | verify``, and the walk of a user's own model from class to clean sound."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from examples import own_model
from export.__main__ import main
from streamproc.backends.loader import load_model
from streamproc.model import SpectrumFrames
from streamproc.reblock import Reblock
from streamproc.sidecar import shipped_models
from streamproc.spec import StreamConfig
from streamproc.verify import check_golden

ROOT = Path(__file__).resolve().parents[2]
OWN = "examples.own_model:build"


@pytest.fixture(autouse=True)
def _from_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(ROOT)


def export(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    """Run one command in this process and return its exit code."""
    monkeypatch.setattr(sys, "argv", ["export", *map(str, arguments)])
    with pytest.raises(SystemExit) as left:
        main()
    return int(left.value.code or 0)


def hiss_and_voice(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two seconds at 48 kHz: a pulsing tone, and the same in steady noise; float32 [1, frames]."""
    time = np.arange(96_000) / 48_000
    voice = sum(np.sin(2 * np.pi * 150 * k * time) / k for k in range(1, 12)) * (np.sin(2 * np.pi * 2 * time) > 0)
    clean = (0.1 * voice)[None].astype(np.float32)
    return clean, clean + np.random.default_rng(seed).normal(0.0, 0.05, clean.shape).astype(np.float32)


def test_a_users_own_model_from_class_to_clean_sound(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    soundfile = pytest.importorskip("soundfile")
    files = [tmp_path / "gate.onnx", tmp_path / "gate.ts"]
    assert export(monkeypatch, "onnx", OWN, "--out", files[0]) == 0
    assert export(monkeypatch, "torchscript", OWN, "--out", files[1]) == 0
    assert export(monkeypatch, "verify", OWN, *files) == 0
    clean, noisy = hiss_and_voice()
    model = load_model(files[0])
    check_golden(model)
    processor = Reblock(SpectrumFrames(model), model.spec.hop)
    processor.prepare(StreamConfig(48_000, 1, 480, 480))
    out = np.empty_like(noisy)
    for start in range(0, noisy.shape[1], 480):
        processor.process(noisy[:, start : start + 480], out[:, start : start + 480])
    delay = processor.latency_samples
    before = np.square(noisy - clean)[:, 48_000:].mean()
    after = np.square(out[:, delay:] - clean[:, :-delay])[:, 48_000:].mean()
    assert after < before / 2

    soundfile.write(tmp_path / "noisy.wav", noisy.T, 48_000, subtype="FLOAT")
    command = [sys.executable, "-m", "streamproc", "denoise", "noisy.wav", "clean.wav", "--model", "gate.onnx"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    written, _ = soundfile.read(tmp_path / "clean.wav", dtype="float32")
    assert written.shape == (96_000,)
    np.testing.assert_allclose(written[: -delay - 1], out[0, delay:-1], atol=1e-4)


@pytest.mark.parametrize("name", ["denoise", "denoise-hq"])
def test_what_ships_is_what_was_trained(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The file says that its weights are rounded to 8 bits; nobody has to know that here."""
    weights = ROOT / "export" / "checkpoints" / name / "ema.pt"
    assert export(monkeypatch, "verify", name, shipped_models()[name], "--checkpoint", weights) == 0


def test_what_is_given_on_the_command_line_is_in_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    figures = {"si_sdr_gain_db": 1.5, "how": "two clips"}
    (tmp_path / "metrics.json").write_text(json.dumps(figures))
    arguments = ["--out", tmp_path / "a.onnx", "--io", "waveform", "--model-version", "2.1", "--training-data", "none"]
    assert export(monkeypatch, "onnx", OWN, *arguments, "--metrics", tmp_path / "metrics.json") == 0
    spec = load_model(tmp_path / "a.onnx").spec
    assert (spec.io, spec.version, spec.training_data, spec.metrics) == ("waveform", "2.1", "none", figures)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["onnx", "denoize", "--out", "a.onnx"], "denoize: no model of this project has this name (denoise, "),
        (["onnx", OWN, "--out", "a.onnx", "--metrics", "none.json"], "none.json: not a JSON file that can be read"),
        (["onnx", OWN, "--out", "a.tflite"], "a.tflite: an ONNX model file ends in .onnx"),
        (["torchscript", OWN, "--out", "a.onnx"], "a.onnx: a TorchScript model file ends in .ts or .pt"),
        (["torchscript", OWN, "--out", "a.ts", "--weights", "int8"], "a.ts: products in int8 exist as ONNX only"),
        (["onnx", OWN, "--out", "README.md/a.onnx"], "README.md is not a folder; give another place"),
        (["torchscript", OWN, "--out", "README.md/new/a.ts"], "README.md is not a folder; give another place"),
        (["onnx", "denoise", "--checkpoint", "README.md", "--out", "a.onnx"], "README.md: not a checkpoint"),
        (["verify", OWN, "none.onnx"], "none.onnx: there is no such file"),
    ],
)
def test_errors_are_one_line_and_exit_code_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert export(monkeypatch, *arguments) == 1
    complaint = capsys.readouterr().err
    assert complaint.startswith("error: ")
    assert message in complaint
    assert complaint.count("\n") == 1


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="only Linux has a folder that takes no files of anybody")
def test_a_place_that_takes_no_files_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export(monkeypatch, "onnx", OWN, "--out", "/proc/a.onnx") == 1
    assert capsys.readouterr().err.startswith("error: /proc cannot be written: /proc takes no files (")


def test_a_folder_does_not_become_a_model_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "a.onnx").mkdir()
    assert export(monkeypatch, "onnx", OWN, "--out", tmp_path / "a.onnx") == 1
    assert "it exists and is not a file; give another name" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["o[red].onnx", "o[:smile:].onnx", "[/beta].onnx"])
def test_names_are_no_markup(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str
) -> None:
    monkeypatch.setenv("COLUMNS", "500")
    monkeypatch.setattr("examples.own_model.build", lambda: _named("gate [/beta]"))
    monkeypatch.chdir(tmp_path)
    assert export(monkeypatch, "onnx", OWN, "--out", name) == 0
    printed = capsys.readouterr().out
    assert f"wrote {name} (" in printed
    assert "gate [/beta] 1.0, spectrum" in printed


@pytest.mark.filterwarnings("default::export.verify.ValueReadWarning")
def test_reading_a_value_is_a_warning_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Also with an error that it explains."""
    gate = _named("gate")
    step = gate.step
    monkeypatch.setattr(gate, "step", lambda frame, *states: step(frame * float(frame.abs().max()), *states))
    monkeypatch.setattr("examples.own_model.build", lambda: gate)
    assert export(monkeypatch, "onnx", OWN, "--out", tmp_path / "a.onnx") == 1
    warning, error = capsys.readouterr().err.splitlines()
    assert warning.startswith(f"warning: {Path(__file__).name}, line ")
    assert "the step reads the value of a tensor in Python" in warning
    assert error.startswith(f"error: {tmp_path}/a.onnx: does not run as it did")


def _named(name: str) -> Any:
    gate = own_model.SpectralGate()
    gate.spec = replace(gate.spec, name=name)
    return gate


def test_verify_fails_on_the_file_of_another_model(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert export(monkeypatch, "onnx", OWN, "--out", tmp_path / "gate.onnx") == 0
    monkeypatch.setattr("examples.own_model.SpectralGate.__init__.__defaults__", (0.85, 1.004, 2.9))
    assert export(monkeypatch, "verify", OWN, tmp_path / "gate.onnx") == 1
    printed = capsys.readouterr()
    assert "differs" in printed.out
    assert "ONNX: spectrum_out differs by" in printed.err


def test_help_comes_without_torch() -> None:
    code = "import sys, export.__main__ as m; m.make_app(); print('torch' in sys.modules, 'onnx' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["False", "False"]
