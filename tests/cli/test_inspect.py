"""`streamproc inspect`: what a model file is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import Run
from onnx_graphs import leaky_model, with_spec, write_model

from streamproc.spec import ControlSpec


def test_everything_is_shown(run: Run, model: Path) -> None:
    result = run("inspect", model)
    assert result.exit_code == 0
    text = " ".join(result.stdout.split())
    for words in (
        "leaky 1.0",
        "sample rate 16000 Hz",
        "hop 8 samples, 0.50 ms",
        "latency 0 samples, 0.00 ms (algorithmic)",
        "licence of weights MIT",
        "memory [8] float32 0",
        "count [1] float64 1",
        "gain 0.5 0 to 2",
        "golden record 5 steps",
    ):
        assert words in text


def test_what_a_model_says_in_brackets_is_shown_as_it_is(run: Run, tmp_path: Path) -> None:
    controls = (ControlSpec("gain", 0.5, 0.0, 2.0, unit="[dB]", description="strength [bold], see [/docs]"),)
    result = run("inspect", write_model(tmp_path / "[red].onnx", metadata=with_spec(controls=controls)))
    assert result.exit_code == 0
    text = " ".join(result.stdout.split())
    for words in ("[red].onnx", "gain 0.5 [dB] 0 to 2 [dB] strength [bold], see [/docs]"):
        assert words in text


def test_proof(run: Run, model: Path) -> None:
    result = run("inspect", model, "--verify")
    assert result.exit_code == 0
    assert "runs as it did when it was made (5 steps)" in result.stdout
    assert "memory_out" in result.stdout


def test_a_model_that_runs_differently_is_found_out(run: Run, tmp_path: Path) -> None:
    broken = write_model(tmp_path / "broken.onnx", leaky_model(decay=0.501))
    assert run("inspect", broken).exit_code == 0
    result = run("inspect", broken, "--verify")
    assert result.exit_code == 1
    assert "mismatch:" in result.stderr
    assert "audio_out differs by" in result.stderr


def test_a_model_without_a_record_cannot_be_proven(run: Run, tmp_path: Path) -> None:
    bare = write_model(tmp_path / "bare.onnx", metadata=with_spec())
    assert run("inspect", bare).exit_code == 0
    result = run("inspect", bare, "--verify", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["verified"] is False


def test_json(run: Run, model: Path) -> None:
    document = json.loads(run("inspect", model, "--verify", "--json").stdout)
    assert document["name"] == "leaky"
    assert document["states"][0] == {"name": "memory", "shape": [8], "dtype": "float32", "init": 0.0}
    assert document["latency_samples"] == 0
    assert document["verified"] is True
    assert set(document["differences"]) == {"audio_out", "memory_out", "count_out"}


@pytest.mark.parametrize(
    ("name", "words"), [("missing.onnx", "no such file"), ("nonsense", "nonsense"), ("", "folder")]
)
def test_what_is_no_model(run: Run, tmp_path: Path, name: str, words: str) -> None:
    result = run("inspect", tmp_path / name if name != "nonsense" else name)
    assert result.exit_code == 2
    assert words in result.stderr


def test_a_damaged_model(run: Run, tmp_path: Path) -> None:
    (tmp_path / "damaged.onnx").write_bytes(b"no model")
    result = run("inspect", tmp_path / "damaged.onnx")
    assert result.exit_code == 1
    assert "damaged.onnx" in result.stderr
