"""Ctrl-C, SIGTERM and a reader that goes away, in the middle of the work."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import sparse_wav, start, tree


def wait_until(ready: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while not ready():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("jobs", "signal_number", "code"), [(1, signal.SIGINT, 130), (2, signal.SIGINT, 130), (2, signal.SIGTERM, 143)]
)
def test_denoise_ends_at_once_and_leaves_nothing(
    tmp_path: Path, model: Path, jobs: int, signal_number: signal.Signals, code: int
) -> None:
    sources = [sparse_wav(tmp_path / f"{name}.wav", 3600) for name in ("a", "b")]
    out = tmp_path / "out"
    with start("denoise", *sources, "--out", out, "--model", model, "--jobs", jobs, start_new_session=True) as process:
        wait_until(lambda: any(path.stat().st_size > 10_000 for path in out.glob(".streamproc-*")), process)
        started = time.monotonic()
        os.killpg(process.pid, signal_number)  # a terminal sends it to all processes of the group
        _, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors
    assert time.monotonic() - started < 20
    assert tree(out) == []
    assert "Traceback" not in errors


def test_pipe_ends_in_silence_when_its_reader_has_gone(model: Path) -> None:
    command = [sys.executable, "-m", "streamproc", "pipe", "-r", "16000", "-c", "1", "-m", str(model), "-q"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write(bytes(1000))
        process.stdin.flush()
        process.stdout.read(1)
        process.stdout.close()
        process.stdin.write(bytes(1000))
        process.stdin.flush()
        assert process.stderr.read() == b""
        assert process.wait(30) == 141
        process.stdin.close()
