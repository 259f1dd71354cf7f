"""The application: every command under one name."""

from __future__ import annotations

import sys
from io import TextIOWrapper
from typing import Annotated

import typer

from .._version import __version__
from .bench import bench
from .console import ExitCode, complain, in_words, silence_broken_streams
from .denoise import denoise
from .devices import devices
from .doctor import doctor
from .inspect import inspect
from .latency import latency
from .live import live
from .pipe import pipe
from .view import view

app = typer.Typer(
    name="streamproc",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    # A traceback that fits a bug report, without the values of local variables.
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"streamproc {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and leave.")
    ] = False,
) -> None:
    """Clean sound with recurrent models, block by block, with a latency known to the sample."""


for _command in (live, denoise, pipe, inspect, view, latency, bench, devices, doctor):
    app.command()(_command)


def main() -> None:
    """Run the command line."""
    if isinstance(sys.stdout, TextIOWrapper):
        # A file name that the terminal cannot spell is no reason to fail when the work is done.
        sys.stdout.reconfigure(errors="replace")
    try:
        app()
    except SystemExit as leaving:
        # Help and usage are printed by typer, which leaves with 1 where their reader has gone.
        if isinstance(leaving.__context__, BrokenPipeError):
            raise SystemExit(ExitCode.BROKEN_PIPE) from None
        raise
    except OSError as error:
        complain(in_words(error))
        raise SystemExit(ExitCode.FAILED) from None
    finally:
        silence_broken_streams()
