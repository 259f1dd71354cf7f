"""What it costs to start, and what the application says about itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from commands import Run, finish

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


@pytest.mark.parametrize("arguments", [("--help",), ("--version",), ("inspect", "denoise"), ("latency", "--json")])
def test_a_full_disk_under_stdout_is_one_sentence(arguments: tuple[str, ...]) -> None:
    code, errors = finish(*arguments, stdout="/dev/full")
    assert (code, errors) == (1, "error: the input or the output failed: No space left on device\n")


def test_what_was_done_stays_done_when_the_report_finds_no_room(sounds: Path, tmp_path: Path) -> None:
    options = ("--model", "none", "--highpass", "100")
    code, errors = finish("denoise", sounds / "a.wav", tmp_path / "o.wav", *options, stdout="/dev/full")
    assert code == 1
    assert "No space left on device" in errors
    assert (tmp_path / "o.wav").exists()


def test_stderr_that_takes_nothing_changes_no_exit_code() -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "streamproc", "inspect", "nonsense"]
        assert subprocess.run(command, stderr=full, check=False).returncode == 2


def test_messages_are_one_line_and_keep_brackets(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: object) -> None:
        raise ConfigError("the file [bold]take[/bold] " + 60 * "is long ")

    monkeypatch.setattr("streamproc.loading.load", load)
    result = run("inspect", "x")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: the file [bold]take[/bold] is long")
    assert result.stderr.count("\n") == 1
