"""``python -m export``: everything offline. Each command is a function of its own name in `export.commands`."""

from __future__ import annotations

import importlib
import importlib.util
import sys

import typer

from streamproc.errors import StreamprocError

COMMANDS = ("train", "evaluate", "onnx", "torchscript", "verify")

app = typer.Typer(
    help="Train models offline, export them, and prove that the exported file is equal.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Run one command; what streamproc raises on purpose becomes one line and exit code 1."""
    for name in COMMANDS:
        path = f"export.commands.{name}"
        if importlib.util.find_spec(path):
            app.command(name)(getattr(importlib.import_module(path), name))
    try:
        app()
    except StreamprocError as error:
        typer.secho(f"error: {error}", fg="red", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
