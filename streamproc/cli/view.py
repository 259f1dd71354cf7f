"""``streamproc view``: a sound file as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import ConfigError
from . import options
from .console import command, stderr, stdout


@command(
    """
    streamproc view take1.wav
    streamproc view concert.flac --out concert.png
    """
)
def view(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A sound file.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="PNG", help="Where the picture goes. [dim]default: beside the file[/dim]"),
    ] = None,
    quiet: options.QuietOption = False,
) -> None:
    """Draw a sound file in three views: samples, envelope and spectrogram."""
    from ..plots import require_matplotlib, require_png, save_view

    picture = out or file.with_suffix(".png")
    require_png(picture)
    if picture.exists() and file.exists() and picture.samefile(file):
        raise ConfigError(f"{file} would be replaced by its picture; give the picture another name with --out")
    require_matplotlib()
    with stderr.status(f"drawing {file.name}", spinner="dots"):
        save_view(file, picture)
    if not quiet:
        stdout.print(str(picture), soft_wrap=True, markup=False)
