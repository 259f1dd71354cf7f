"""How the tests of the command line start commands, make long files and look at what is left."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
from typer.testing import Result

Run = Callable[..., Result]
"""The fixture `run`: takes the arguments of a command, and bytes for its `stdin`."""


def start(*arguments: object, **options: object) -> subprocess.Popen[str]:
    """Start a command as a process of its own."""
    command = [sys.executable, "-m", "streamproc", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)  # type: ignore[call-overload, no-any-return]


def finish(*arguments: object, stdout: str | None = None) -> tuple[int, str]:
    """Run a command that writes to the file `stdout`, or to a pipe whose reader has gone; return exit code and stderr.

    The code of a command that leaves with a sentence, not with a traceback.
    """
    if stdout is None:
        gone, descriptor = os.pipe()
        os.close(gone)
    else:
        descriptor = os.open(stdout, os.O_WRONLY)
    command = [sys.executable, "-m", "streamproc", *map(str, arguments)]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=descriptor, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(descriptor)
    assert "Traceback" not in done.stderr, done.stderr
    assert "Exception ignored" not in done.stderr, done.stderr
    return done.returncode, done.stderr


def sparse_wav(path: Path, seconds: int, sample_rate: int = 16_000) -> Path:
    """A long silent file that costs neither time nor space to make."""
    soundfile.write(path, np.zeros(0, np.int16), sample_rate)
    n_bytes = 2 * seconds * sample_rate
    with path.open("rb+") as file:
        header = bytearray(file.read())
        header[4:8] = (len(header) - 8 + n_bytes).to_bytes(4, "little")
        header[-4:] = n_bytes.to_bytes(4, "little")
        file.seek(0)
        file.write(header)
        file.truncate(len(header) + n_bytes)
    return path


def tree(folder: Path) -> list[str]:
    """Every file below `folder`."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
