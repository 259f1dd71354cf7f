"""`streamproc pipe`: raw samples in, raw samples out."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from commands import Run
from helpers import noise
from hypothesis import given
from hypothesis import strategies as st

from streamproc.dsp import Delay
from streamproc.engine import Engine
from streamproc.pcm import SampleFormat, encode
from streamproc.pipe import PipeReport, run_pipe


class Trickle(io.BytesIO):
    """A stream that gives and takes a few bytes at a time."""

    def __init__(self, data: bytes = b"", seed: int = 0) -> None:
        super().__init__(data)
        self._rng = np.random.default_rng(seed)

    def read(self, size: int | None = -1, /) -> bytes:
        assert size is not None
        return super().read(min(size, int(self._rng.integers(1, 40))))

    def write(self, data: memoryview, /) -> int:  # type: ignore[override]
        return super().write(data[: int(self._rng.integers(1, 40))])


@given(
    n=st.integers(0, 300),
    delay=st.integers(0, 400),
    align=st.booleans(),
    sample_format=st.sampled_from(["s16", "s24", "s32", "f32"]),
    seed=st.integers(0, 99),
)
def test_any_trickle_of_bytes_gives_the_same(
    n: int, delay: int, align: bool, sample_format: SampleFormat, seed: int
) -> None:
    x = np.clip(noise(2, n, seed), -0.9, 0.9)
    sink = Trickle(seed=seed)
    engine = Engine(Delay(delay), 48_000, 2)
    report = run_pipe(engine, Trickle(encode(x, sample_format), seed), sink, sample_format, align)
    expected = x if align else np.pad(x, ((0, 0), (delay, 0)))[:, :n]
    assert sink.getvalue() == encode(expected, sample_format)
    assert report == PipeReport(n, n)


def test_aligned_output_is_as_long_as_the_input(run: Run, model: Path) -> None:
    data = encode(noise(2, 1001), "s16")
    result = run("pipe", "--rate", 16000, "--channels", 2, "--model", model, stdin=data)
    assert result.exit_code == 0
    assert len(result.stdout_bytes) == len(data)
    assert "latency 7 samples, 0.4 ms" in result.stderr
    assert "0.06 s in, 0.06 s out" in result.stderr
    late = run("pipe", "-r", 16000, "-c", 2, "-m", model, "--no-align", "--quiet", stdin=data)
    assert late.stderr == ""
    assert late.stdout_bytes[:28] == bytes(28)
    assert late.stdout_bytes[28:] == result.stdout_bytes[:-28]


def test_a_broken_frame_at_the_end_is_reported(run: Run) -> None:
    data = encode(noise(2, 100), "s16") + b"\1"
    result = run("pipe", "-r", 48000, "-c", 2, "--model", "none", "--highpass", 20, "-q", stdin=data)
    assert result.exit_code == 1
    assert "(1 byte)" in result.stderr
    assert len(result.stdout_bytes) == 400


def test_no_input_is_no_output(run: Run, model: Path) -> None:
    result = run("pipe", "-r", 48000, "-c", 1, "--model", model, stdin=b"")
    assert (result.exit_code, result.stdout_bytes) == (0, b"")


def test_a_terminal_is_no_stream(model: Path) -> None:
    ours, terminal = os.openpty()
    command = [sys.executable, "-m", "streamproc", "pipe", "-r", "16000", "-c", "1", "-m", str(model)]
    done = subprocess.run(command, stdin=terminal, capture_output=True, text=True, check=False)
    os.close(ours)
    os.close(terminal)
    assert done.returncode == 2
    assert "stdin is a terminal" in done.stderr


@pytest.mark.parametrize(
    "options",
    [
        ("--rate", 0, "--channels", 1),
        ("--rate", 48000),
        ("-r", 1, "-c", 1, "-f", "u8"),
        ("-r", 48000, "-c", 0),
        ("-r", 1_999_999_999, "-c", 1),
        ("-r", 48000, "-c", 1, "-b", 100_000_000_000),
    ],
)
def test_wrong_streams_are_refused(run: Run, options: tuple[object, ...]) -> None:
    assert run("pipe", *options, "--model", "none", "--highpass", 0.1, stdin=b"").exit_code == 2


def test_more_channels_than_memory_is_one_sentence(run: Run) -> None:
    options = ("-r", 48000, "-c", 10**12, "--model", "none", "--highpass", 20)
    result = run("pipe", *options, stdin=b"")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: there is not enough memory for this; ask for ")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("closed", [0, 1])
def test_a_closed_stream_is_refused(closed: int) -> None:
    # `python -m streamproc` with the stream closed, as a shell does it with `<&-` and `>&-`.
    command = [sys.executable, "-m", "streamproc", "pipe", "-r", "48000", "-c", "1", "--model", "none"]
    done = subprocess.run(
        [*command, "--highpass", "50"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        preexec_fn=lambda: os.close(closed),
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {('stdin', 'stdout')[closed]} is closed")


def test_a_full_disk_is_one_sentence() -> None:
    command = [sys.executable, "-m", "streamproc", "pipe", "-r", "48000", "-c", "1", "-q", "--model", "none"]
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [*command, "--highpass", "50"], input=bytes(1000), stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert done.returncode == 1
    assert done.stderr == b"error: the input or the output failed: No space left on device\n"


def test_sound_passes_while_the_stream_is_open(model: Path) -> None:
    """What has come in comes out, less the latency, before the next sample is sent."""
    command = [sys.executable, "-m", "streamproc", "pipe", "-r", "16000", "-c", "1", "-m", str(model), "-q"]
    received = 0
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for sent in range(1, 6):
            process.stdin.write(bytes(200))
            while received < 2 * (100 * sent - 7):
                received += len(process.stdout.read(10_000))
        process.stdin.close()
        received += len(process.stdout.read())
    assert process.returncode == 0
    assert received == 1000
