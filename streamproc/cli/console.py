"""What every command shares with the terminal: two consoles, exit codes, and how a command ends early."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import IntEnum
from functools import wraps
from inspect import cleandoc
from types import FrameType
from typing import Any, ParamSpec

import typer
from rich.console import Console
from rich.text import Text

from ..errors import StreamprocError

P = ParamSpec("P")

stdout = Console(highlight=False)
stderr = Console(stderr=True, highlight=False)


class ExitCode(IntEnum):
    """What a command tells its caller; documented in docs/command-line.md."""

    DONE = 0
    """All of it was done."""
    FAILED = 1
    """It was started, and some of it was not done."""
    REFUSED = 2
    """It cannot be done as it was asked for; nothing was started."""
    INTERRUPTED = 128 + 2
    """Ctrl-C."""
    BROKEN_PIPE = 128 + 13
    """Whoever reads the output has gone."""
    TERMINATED = 128 + 15
    """The system asked it to end."""


def complain(message: object, label: str = "error") -> None:
    """Print a message about something that went wrong, on stderr, in one line however narrow the terminal is."""
    # Text, not markup: file names may hold brackets.
    stderr.print(
        Text.assemble((f"{label}: ", "bold red" if label == "error" else "bold yellow"), str(message)), soft_wrap=True
    )


def note(message: str) -> None:
    """Print a line for people on stderr."""
    stderr.print(message, style="dim", markup=False, soft_wrap=True)


def command(examples: str) -> Callable[[Callable[P, None]], Callable[P, None]]:
    """Decorate the function of a command: errors become sentences and exit codes, signals clean up.

    Parameters
    ----------
    examples : str
        Shown under the help; one line each.
    """

    def decorate(function: Callable[P, None]) -> Callable[P, None]:
        @wraps(function)
        def run(*args: P.args, **kwargs: P.kwargs) -> None:
            try:
                with terminating_cleanly():
                    function(*args, **kwargs)
            except StreamprocError as error:
                complain(error)
                raise typer.Exit(ExitCode.REFUSED) from error
            except KeyboardInterrupt:
                complain("interrupted", "stopped")
                raise typer.Exit(ExitCode.INTERRUPTED) from None
            except BrokenPipeError:
                _silence_stdout()
                raise typer.Exit(ExitCode.BROKEN_PIPE) from None

        run.__doc__ = _as_help(function.__doc__ or "", examples)
        return run

    return decorate


@contextmanager
def terminating_cleanly() -> Iterator[None]:
    """Turn SIGTERM, which would end the process on the spot, into an exit that removes unfinished files."""
    before: Any = signal.signal(signal.SIGTERM, exit_on_signal)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def exit_on_signal(_signal: int, _frame: FrameType | None) -> None:
    """Leave like any other exit, through every ``finally``; a handler for SIGTERM."""
    raise SystemExit(int(ExitCode.TERMINATED))


def _silence_stdout() -> None:
    """Keep Python from complaining once more when it flushes stdout at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _as_help(doc: str, examples: str) -> str:
    """Return a docstring as help: paragraphs that the terminal may wrap anew, then the examples, a line each."""
    paragraphs = [" ".join(paragraph.split()) for paragraph in cleandoc(doc).split("\n\n")]
    lines = [f"[cyan]$[/cyan] {line.strip()}" for line in examples.strip().splitlines()]
    return "\n\n".join([*paragraphs, "\n".join(["[bold]Examples[/bold]", *lines])])
