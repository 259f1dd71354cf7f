"""The budget adds up, the measurement is right, and the command says both."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from helpers import IdentitySpectrum, IdentityWaveform, RecurrentSpectrum, noise
from onnx_graphs import write_model
from typer.testing import CliRunner

from streamproc.cli.app import app
from streamproc.dsp.delay import Delay
from streamproc.errors import ConfigError
from streamproc.latency import (
    HostPath,
    IdentityModel,
    budget,
    find,
    least_device,
    measure,
    measure_model,
    measure_path,
    sweep,
    voice,
)
from streamproc.live.choice import Device
from streamproc.model_processor import ModelProcessor
from streamproc.processor import Passthrough

PATHS = [
    HostPath(48_000, 128),
    HostPath(48_000, 480, 2, "inline"),
    HostPath(44_100, 256),
    HostPath(16_000, 15, 1, "inline"),
    HostPath(48_000),
]


@pytest.mark.parametrize("delay", [0, 1, 997])
@pytest.mark.parametrize("path", PATHS[:2], ids=str)
def test_a_known_delay_is_measured(delay: int, path: HostPath) -> None:
    processor = Delay(delay)
    found = measure(processor, path)
    queue = path.block if path.mode == "worker" else 0
    assert found.samples == found.declared == delay + queue
    assert found.correlation > 0.999
    assert found.agrees


def test_a_lie_is_found() -> None:
    class Liar(Delay):
        latency_samples = property(lambda self: 100)  # type: ignore[assignment]

    found = measure(Liar(130), HostPath(48_000))
    assert (found.samples, found.declared) == (130, 100)
    assert found.certain
    assert not found.agrees


@pytest.mark.parametrize("path", PATHS, ids=str)
@pytest.mark.parametrize(
    "model",
    [IdentitySpectrum(48_000, 64, 2), IdentitySpectrum(16_000, 64), IdentityWaveform(48_000, 64, 1)],
    ids=["looking ahead", "at 16 kHz", "waveform"],
)
def test_declared_is_measured_around_and_through_models(model: IdentitySpectrum, path: HostPath) -> None:
    processor = ModelProcessor(model)
    around, through = measure_path(processor, path), measure_model(processor, path)
    assert around.agrees
    assert through.agrees
    assert around.samples == through.samples == budget(processor, path).total
    assert around.correlation > 0.99


def test_a_model_that_alters_sound_passes_a_voice() -> None:
    assert measure_model(ModelProcessor(RecurrentSpectrum(48_000)), HostPath(48_000, 128)).agrees


def test_what_does_not_resemble_the_probe_is_no_measurement() -> None:
    found = find(sweep(4000, 48_000), noise(1, 8000)[0], 0)
    assert not found.certain
    assert not found.agrees
    silence = find(sweep(4000, 48_000), np.zeros(8000, np.float32), 0)
    assert silence.correlation == 0.0


def test_the_identity_keeps_the_latency_of_its_model() -> None:
    for spec in (IdentitySpectrum(48_000, 64, 3).spec, IdentityWaveform(48_000, 64, 2).spec):
        assert IdentityModel(spec).spec.latency == spec.latency


def test_a_device_adds_a_block_and_a_worker_another() -> None:
    worker, inline = HostPath(48_000, 128), HostPath(48_000, 128, mode="inline")
    assert budget(Passthrough(), worker, least_device(worker)).parts()["device_in"] == 128
    assert budget(Passthrough(), worker, least_device(worker)).total == 256
    assert budget(Passthrough(), inline, least_device(inline)).total == 128
    assert budget(Passthrough(), HostPath(48_000), least_device(HostPath(48_000))).total == 0


@pytest.mark.parametrize("make", [sweep, voice])
def test_probes_are_what_they_say(make: object) -> None:
    x = make(4800, 48_000)  # type: ignore[operator]
    assert x.dtype == np.float32
    assert x.shape == (4800,)
    assert 0.4 < np.abs(x).max() <= 0.5001


# --- the command ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "leaky.onnx")


def run(*arguments: object) -> object:
    return CliRunner().invoke(app, ["latency", *map(str, arguments)])


def test_the_command_shows_every_part(model: Path) -> None:
    result = run("--model", model, "--block", 128, "--measure")
    assert result.exit_code == 0, result.output
    for word in ("device in", "resample", "reblock", "queue", "total", "everything but the model", "✓"):
        assert word in result.stdout
    assert "device out" not in result.stdout
    assert "✗" not in result.stdout
    # This model is an echo: the best lag is one hop of it late, and the command says that it cannot know why.
    assert "the model itself moves or echoes sound" in " ".join(result.stdout.split())


def test_the_command_for_programs(model: Path, tmp_path: Path) -> None:
    picture = tmp_path / "budget.png"
    result = run("--model", model, "--rate", 16_000, "--block", 20, "--measure", "--json", "--plot", picture)
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["latency_samples"] == {
        "device_in": 20.0,
        "resample": 0.0,
        "reblock": 4.0,
        "algorithmic": 0.0,
        "queue": 20.0,
        "device_out": 0.0,
        "total": 44,
    }
    assert document["measured"]["everything_but_the_model"]["samples"] == 24
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_blocks_of_any_size_have_no_device(model: Path) -> None:
    document = json.loads(run("--model", model, "--rate", 16_000, "--block", 0, "--json").stdout)
    assert document["block"] is None
    assert document["latency_samples"]["total"] == 7


def test_a_picture_of_another_kind_is_refused_before_anything_is_measured(model: Path, tmp_path: Path) -> None:
    result = run("--model", model, "--measure", "--plot", tmp_path / "a.jpg")
    assert result.exit_code == 2
    assert "pictures are written as .png" in result.output
    assert not list(tmp_path.glob("*.jpg"))


@pytest.mark.filterwarnings("error")
def test_even_a_rate_that_holds_no_voice_gives_numbers(model: Path) -> None:
    result = run("--model", model, "--rate", 300, "--measure", "--json")
    measured = json.loads(result.output)["measured"].values()
    assert all(np.isfinite(found["correlation"]) for found in measured)


def test_a_loop_needs_blocks(model: Path) -> None:
    result = run("--model", model, "--block", 0, "--loopback")
    assert result.exit_code == 2
    assert isinstance(result.exception, SystemExit | ConfigError)


def test_devices_say_what_they_add(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = Device("card", "card", "ALSA", 0, 1, 2, 48_000, input_latency_s=0.005, output_latency_s=0.01)
    monkeypatch.setattr("streamproc.loopback.list_devices", lambda: [card])
    document = json.loads(run("--model", model, "--input", "card", "--output", "card", "--json").stdout)
    assert (document["latency_samples"]["device_in"], document["latency_samples"]["device_out"]) == (240.0, 480.0)
    result = run("--model", model, "--output", "card")
    assert "device out" in result.stdout
    assert "what card (ALSA) say about themselves" in result.stdout
    assert run("--model", model, "--output", "no such").exit_code == 2


def test_declared_and_measured_that_differ_are_a_failure(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamproc.latency.measure_path", lambda *_: find(sweep(999, 8000), sweep(999, 8000), 1))
    result = run("--model", model, "--measure")
    assert result.exit_code == 1
    assert "measured and declared latency differ" in result.stderr
    assert "✗" in result.stdout


def test_a_model_that_keeps_nothing_of_the_probe_proves_nothing(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamproc.latency.measure_model", lambda *_: find(sweep(999, 8000), noise(1, 999)[0], 0))
    result = run("--model", model, "--measure")
    assert result.exit_code == 0
    assert "too much altered to tell" in " ".join(result.stdout.split())


def test_the_command_explains_itself_with_examples() -> None:
    result = CliRunner().invoke(app, ["latency", "--help"])
    assert result.exit_code == 0
    assert "Examples" in result.stdout
    assert "streamproc latency" in result.stdout
