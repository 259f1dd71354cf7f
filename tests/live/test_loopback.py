"""The round trip through a cable inside a JACK server, which is known to the sample."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from onnx_graphs import write_model
from servers import SAMPLE_RATE, JackServer

pytestmark = pytest.mark.device


@contextmanager
def cable(server: JackServer, delay_periods: int = 0) -> Iterator[str]:
    """A client that passes what it gets, some periods late; yields its name."""
    client = server.client("cable")
    source, target = client.inports.register("in"), client.outports.register("out")
    stock = [bytes(4 * server.period)] * delay_periods

    def process(_frames: int) -> None:
        stock.append(bytes(source.get_buffer()))
        target.get_buffer()[:] = stock.pop(0)

    client.set_process_callback(process)
    client.activate()
    try:
        yield "cable"
    finally:
        client.deactivate(ignore_errors=True)
        client.close(ignore_errors=True)


def measure(model: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    # In a process of its own: PortAudio cannot be begun anew in one that has lost its server.
    command = [sys.executable, "-m", "streamproc", "latency", "--loopback", "--model", str(model)]
    command += ["--rate", str(SAMPLE_RATE), "--input", "cable", "--output", "cable", "--repeats", "2", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("jack_server", [{"period": 128, "patient": True}], indirect=True, ids=["128"])
def test_the_round_trip_is_known_to_the_sample(jack_server: JackServer, tmp_path: Path) -> None:
    model = write_model(tmp_path / "leaky.onnx")
    with cable(jack_server):
        done = measure(model, "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    found = document["loopback"]
    assert found["inside_graph"]
    assert found["block"] == jack_server.period
    assert found["round_trip_samples"] == found["declared_samples"] == jack_server.period
    if not found["xruns"]:
        assert found["round_trips"] == [jack_server.period] * 2
        assert found["jitter_samples"] == 0
    device = document["latency_samples"]
    assert device["device_in"] + device["device_out"] == jack_server.period


@pytest.mark.parametrize("jack_server", [{"period": 128, "patient": True}], indirect=True, ids=["128"])
def test_what_the_devices_do_not_say_is_found(jack_server: JackServer, tmp_path: Path) -> None:
    model = write_model(tmp_path / "leaky.onnx")
    with cable(jack_server, delay_periods=3):
        done = measure(model)
    assert done.returncode == 0, done.stderr
    assert f"{4 * jack_server.period} samples" in done.stdout
    assert f"(+{3 * jack_server.period})" in done.stdout


@pytest.mark.parametrize("jack_server", [{"period": 128, "patient": True}], indirect=True, ids=["128"])
def test_silence_is_no_measurement(jack_server: JackServer, tmp_path: Path) -> None:
    model = write_model(tmp_path / "leaky.onnx")
    with cable(jack_server, delay_periods=10_000):
        done = measure(model)
    assert done.returncode == 2
    assert "connect the two with a cable" in done.stderr
