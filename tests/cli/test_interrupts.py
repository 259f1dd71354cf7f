"""Ctrl-C, SIGTERM, SIGHUP, processes that die and readers that go away, in the middle of the work."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import finish, sparse_wav, start, tree

HIGH_PASS = ("--model", "none", "--highpass", "100")


def wait_until(ready: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while not ready():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_writing(folder: Path) -> bool:
    return any(path.stat().st_size > 10_000 for path in folder.glob(".streamproc-*"))


@pytest.mark.parametrize(
    ("jobs", "signal_number", "code"),
    [
        (1, signal.SIGINT, 130),
        (2, signal.SIGINT, 130),
        (2, signal.SIGTERM, 143),
        (1, signal.SIGHUP, 129),
        (2, signal.SIGHUP, 129),
    ],
)
def test_denoise_ends_at_once_and_leaves_nothing(
    tmp_path: Path, model: Path, jobs: int, signal_number: signal.Signals, code: int
) -> None:
    sources = [sparse_wav(tmp_path / f"{name}.wav", 3600) for name in ("a", "b")]
    out = tmp_path / "out"
    with start("denoise", *sources, "--out", out, "--model", model, "--jobs", jobs, start_new_session=True) as process:
        wait_until(lambda: is_writing(out), process)
        started = time.monotonic()
        os.killpg(process.pid, signal_number)  # a terminal sends it to all processes of the group
        _, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors
    assert time.monotonic() - started < 20
    assert tree(out) == []
    assert "Traceback" not in errors


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_terminal_that_is_closed_leaves_nothing(tmp_path: Path, model: Path, jobs: int) -> None:
    sources = [sparse_wav(tmp_path / f"{name}.wav", 3600) for name in ("a", "b")]
    out = tmp_path / "out"
    ours, terminal = os.openpty()
    command = [sys.executable, "-m", "streamproc", "denoise", *map(str, sources), "--out", str(out)]
    process = subprocess.Popen(
        [*command, "--model", str(model), "--jobs", str(jobs)],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(terminal)
    while not is_writing(out):
        assert process.poll() is None
        time.sleep(0.02)
    os.close(ours)
    assert process.wait(60) == 129
    assert tree(out) == []


def test_nohup_is_respected(tmp_path: Path) -> None:
    source = sparse_wav(tmp_path / "a.wav", 3600)
    out = tmp_path / "out"

    def nohup() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    with start("denoise", source, "--out", out, *HIGH_PASS, preexec_fn=nohup) as process:
        wait_until(lambda: is_writing(out), process)
        process.send_signal(signal.SIGHUP)
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert tree(out) == ["a.wav"]


def process_that_reads(source: Path, parent: int) -> int | None:
    """The number of the process, started by `parent`, that has a file open."""
    for number in map(int, Path(f"/proc/{parent}/task/{parent}/children").read_text().split()):
        for descriptor in Path(f"/proc/{number}/fd").iterdir():
            if descriptor.is_symlink() and os.readlink(descriptor) == str(source):
                return number
    return None


def test_a_process_that_dies_fails_its_own_file_only(tmp_path: Path) -> None:
    names = ["a.wav", "b.wav", "c.wav", "d.wav"]
    sources = [sparse_wav(tmp_path / name, 1800) for name in names]
    out, victim = tmp_path / "out", sources[1]
    with start("denoise", *sources, "--out", out, *HIGH_PASS, "--jobs", 2, "--json") as process:
        wait_until(lambda: process_that_reads(victim, process.pid) is not None, process)
        number = process_that_reads(victim, process.pid)
        assert number is not None
        os.kill(number, signal.SIGKILL)
        output, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    document = json.loads(output)
    assert (document["done"], document["failed"], document["not_done"]) == (3, 1, 0)
    assert errors.startswith(f"error: {victim}: its process ended by signal 9; ")
    assert errors.count("\n") == 1
    assert [name for name in tree(out) if not name.endswith(".part")] == ["a.wav", "c.wav", "d.wav"]


@pytest.mark.parametrize("jobs", [1, 2])
def test_failures_are_told_when_nobody_reads_the_table(sounds: Path, tmp_path: Path, jobs: int) -> None:
    (sounds / "text.wav").write_text("no sound")
    code, errors = finish("denoise", sounds, "--out", tmp_path / "out", *HIGH_PASS, "--jobs", jobs)
    assert code == 141
    assert "text.wav cannot be read as sound" in errors
    assert tree(tmp_path / "out") == ["a.wav", "b.flac", "deep/c.wav"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("--help",),
        ("--version",),
        ("inspect", "--help"),
        ("inspect", "denoise"),
        ("inspect", "denoise", "--json"),
        ("latency", "--json"),
        ("doctor",),
    ],
)
def test_a_reader_that_has_gone_is_told_by_the_exit_code(arguments: tuple[str, ...]) -> None:
    assert finish(*arguments) == (141, "")


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
