"""The wheel: holds the runtime and its model, installs without torch, and runs without PortAudio."""

from __future__ import annotations

import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

DENOISE = """
import sys
import numpy as np
import streamproc

engine = streamproc.Engine(streamproc.load("denoise"), sample_rate=48000)
out = engine.process(np.zeros((1, 4800), np.float32))
assert out.shape == (1, 4800) and not out.any()
assert "torch" not in sys.modules and "sounddevice" not in sys.modules
try:
    import torch
except ImportError:
    print("no torch, and none needed")
"""

# As on a machine without the shared library: sounddevice raises OSError while it is being imported.
NO_PORTAUDIO = """
import ctypes.util, ctypes
find = ctypes.util.find_library
ctypes.util.find_library = lambda name: None if "portaudio" in name.lower() else find(name)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return next(out.glob("*.whl"))


def test_the_wheel_holds_the_runtime_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert all(top == "streamproc" or top.endswith(".dist-info") for top in tops), tops
    assert "streamproc/py.typed" in names
    for model in ("denoise", "denoise-hq"):
        assert {f"streamproc/models/{model}.onnx", f"streamproc/models/{model}.md"} <= set(names)
    assert wheel.stat().st_size < 12_000_000


def test_it_runs_in_an_empty_environment(wheel: Path, tmp_path: Path) -> None:
    home = tmp_path / "env"
    venv.create(home, with_pip=True)
    python = home / "bin" / "python"

    def run(*command: str) -> str:
        done = subprocess.run([str(python), *command], capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run("-m", "pip", "install", "--quiet", "--constraint", str(ROOT / "constraints.txt"), str(wheel))
    assert "no torch, and none needed" in run("-c", NO_PORTAUDIO + DENOISE)
    assert "denoise" in run("-m", "streamproc", "inspect", "denoise", "--verify")
