"""What every command shares with the terminal: two consoles, exit codes, and how a command ends early."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from enum import IntEnum
from functools import wraps
from inspect import cleandoc
from types import FrameType
from typing import Any, ParamSpec, TextIO

import typer
from rich.console import Console
from rich.text import Text

from ..errors import StreamprocError

P = ParamSpec("P")

MEMORY_IS_SHORT = "there is not enough memory for this"

ENDING_SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))
"""What ends a command from outside: the system, and a terminal that is closed. Windows has no SIGHUP."""


class _Console(Console):
    """A console that lets its caller know when its reader has gone; rich would leave with exit code 1 on the spot."""

    def on_broken_pipe(self) -> None:
        """Pass the BrokenPipeError on that rich is handling when it calls this."""
        raise


stdout = _Console(highlight=False)
stderr = _Console(stderr=True, highlight=False)


class ExitCode(IntEnum):
    """What a command tells its caller; documented in docs/command-line.md."""

    DONE = 0
    """All of it was done."""
    FAILED = 1
    """It was started, and some of it was not done."""
    REFUSED = 2
    """It cannot be done as it was asked for; nothing was started."""
    HUNG_UP = 128 + 1
    """Its terminal was closed."""
    INTERRUPTED = 128 + 2
    """Ctrl-C."""
    BROKEN_PIPE = 128 + 13
    """Whoever reads the output has gone."""
    TERMINATED = 128 + 15
    """The system asked it to end."""


def complain(message: object, label: str = "error") -> None:
    """Print a message about something that went wrong, on stderr, in one line however narrow the terminal is."""
    # Text, not markup: file names may hold brackets.
    _tell(Text.assemble((f"{label}: ", "bold red" if label == "error" else "bold yellow"), str(message)))


def note(message: str) -> None:
    """Print a line for people on stderr."""
    _tell(Text(message, "dim"))


def _tell(line: Text) -> None:
    # Where nobody listens to stderr any more, the work and the exit code are still what they were.
    with suppress(OSError):
        stderr.print(line, soft_wrap=True)


def in_words(error: OSError) -> str:
    """Return what the system said without its numbers: ``take.wav: File name too long``."""
    reason = error.strerror or str(error) or type(error).__name__
    if error.filename is None:
        # Only the streams that a command is given have no name.
        return f"the input or the output failed: {reason}"
    return f"{os.fsdecode(error.filename)}: {reason}"


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
                silence_broken_streams()
                raise typer.Exit(ExitCode.BROKEN_PIPE) from None
            except OSError as error:
                silence_broken_streams()
                complain(in_words(error))
                raise typer.Exit(ExitCode.FAILED) from error
            except MemoryError as error:
                complain(f"{MEMORY_IS_SHORT}; ask for smaller blocks, fewer channels or a lower rate")
                raise typer.Exit(ExitCode.FAILED) from error

        run.__doc__ = _as_help(function.__doc__ or "", examples)
        return run

    return decorate


@contextmanager
def terminating_cleanly() -> Iterator[None]:
    """Turn signals that would end the process on the spot into an exit that removes unfinished files."""
    before = exit_on_signals()
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def exit_on_signals() -> dict[signal.Signals, Any]:
    """Leave like any other exit, through every ``finally``, when one of `ENDING_SIGNALS` comes.

    Returns
    -------
    dict
        The handlers that were replaced. What is ignored stays ignored: ``nohup`` means that.
    """
    before = {number: signal.getsignal(number) for number in ENDING_SIGNALS}
    replaced = {number: handler for number, handler in before.items() if handler is not signal.SIG_IGN}
    for number in replaced:
        signal.signal(number, _exit_on_signal)
    return replaced


def _exit_on_signal(number: int, _frame: FrameType | None) -> None:
    # A closed terminal is often told twice, by the system and by the shell: the second must not stop the tidying up.
    for other in ENDING_SIGNALS:
        signal.signal(other, signal.SIG_IGN)
    raise SystemExit(128 + number)


def silence_broken_streams() -> None:
    """Keep Python from complaining once more when it flushes at exit what nobody took."""
    for stream in (sys.stdout, sys.stderr):
        try:
            # None where a command was started with the stream closed.
            if stream is not None:
                stream.flush()
        except OSError:
            _silence(stream)


def _silence(stream: TextIO) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def _as_help(doc: str, examples: str) -> str:
    """Return a docstring as help: paragraphs that the terminal may wrap anew, then the examples, a line each."""
    paragraphs = [" ".join(paragraph.split()) for paragraph in cleandoc(doc).split("\n\n")]
    lines = [f"[cyan]$[/cyan] {line.strip()}" for line in examples.strip().splitlines()]
    return "\n\n".join([*paragraphs, "\n".join(["[bold]Examples[/bold]", *lines])])
