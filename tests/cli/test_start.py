"""What it costs to start, and what the application says about itself."""

from __future__ import annotations

import subprocess
import sys

import pytest
from commands import Run

from streamproc import __version__
from streamproc.errors import ConfigError

SHOW_HELP = """
import sys
from streamproc.cli import main
sys.argv = ["streamproc", "--help"]
try:
    main()
finally:
    print(*sys.modules)
"""


def test_help_loads_nothing_that_takes_time() -> None:
    done = subprocess.run([sys.executable, "-c", SHOW_HELP], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.splitlines()[-1].split())
    assert "typer" in loaded
    heavy = {"numpy", "onnxruntime", "torch", "sounddevice", "soundfile", "matplotlib", "scipy", "pydantic"}
    assert loaded.isdisjoint(heavy)


@pytest.mark.parametrize("command", ["denoise", "pipe", "inspect", "view"])
def test_every_command_explains_itself_with_examples(run: Run, command: str) -> None:
    result = run(command, "--help")
    assert result.exit_code == 0
    assert "Examples" in result.stdout
    assert f"streamproc {command}" in result.stdout


def test_version(run: Run) -> None:
    assert run("--version").stdout == f"streamproc {__version__}\n"


def test_no_arguments_shows_help(run: Run) -> None:
    assert "denoise" in run().output


@pytest.mark.parametrize("arguments", [("nonsense",), ("denoise", "--nonsense"), ("denoise", "--mix", "2", "a", "b")])
def test_wrong_usage_is_two(run: Run, arguments: tuple[str, ...]) -> None:
    assert run(*arguments).exit_code == 2


def test_messages_are_one_line_and_keep_brackets(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: object) -> None:
        raise ConfigError("the file [bold]take[/bold] " + 60 * "is long ")

    monkeypatch.setattr("streamproc.loading.load", load)
    result = run("inspect", "x")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: the file [bold]take[/bold] is long")
    assert result.stderr.count("\n") == 1
