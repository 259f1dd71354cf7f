"""What the tests of the command line share."""

from __future__ import annotations

from pathlib import Path

import pytest
import soundfile
from commands import Run
from helpers import noise
from onnx_graphs import write_model
from typer.testing import CliRunner, Result

from streamproc.cli.app import app


@pytest.fixture
def run() -> Run:
    """Run a command in this process; the result has `exit_code`, `stdout` and `stderr`."""
    runner = CliRunner()

    def run(*arguments: object, stdin: bytes | None = None) -> Result:
        return runner.invoke(app, [str(argument) for argument in arguments], input=stdin)

    return run


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model file at 16 kHz whose hop is 8 samples, with a golden record."""
    return write_model(tmp_path_factory.mktemp("model") / "leaky.onnx")


@pytest.fixture
def sounds(tmp_path: Path) -> Path:
    """A folder with three sound files, one of them in a folder of its own."""
    folder = tmp_path / "in"
    (folder / "deep").mkdir(parents=True)
    soundfile.write(folder / "a.wav", noise(1, 16_000).T, 16_000, subtype="PCM_24")
    soundfile.write(folder / "b.flac", noise(2, 8_000).T, 48_000)
    soundfile.write(folder / "deep" / "c.mp3", noise(1, 22_050).T, 44_100, format="MP3")
    return folder
