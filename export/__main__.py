"""``python -m export``: everything offline. Each command is a function of its own name in `export.commands`."""

from __future__ import annotations

import importlib
import sys

import typer

from streamproc.errors import StreamprocError

COMMANDS = ("train", "evaluate", "gap", "onnx", "torchscript", "verify", "bench", "recipe", "sounds", "demo-clip")


def make_app() -> typer.Typer:
    """Gather the commands. Their modules import torch and the like only when they run, so that help comes at once."""
    app = typer.Typer(
        help="Train models offline, export them, and prove that the exported file is equal.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    for name in COMMANDS:
        function = name.replace("-", "_")
        app.command(name)(getattr(importlib.import_module(f"export.commands.{function}"), function))
    return app


def main() -> None:
    """Run one command; what streamproc raises on purpose becomes one line and exit code 1."""
    try:
        make_app()()
    except StreamprocError as error:
        typer.secho(f"error: {error}", fg="red", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
