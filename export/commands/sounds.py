"""``python -m export sounds``: download more recordings to train on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def sounds(
    out: Annotated[Path, typer.Option(help="New folder; gets speech/ and noise/, each with an index.csv.")] = Path(
        "cache/debian"
    ),
) -> None:
    """Download freely licensed speech and noise out of packages of Debian (on Debian or Ubuntu; needs ffmpeg).

    Nothing is installed. Three gigabytes are downloaded, one package at a time. Give both folders to training:
    train --speech ../shared/data/train/speech --speech OUT/speech, and the same for noise.
    """
    from ..data.packages import fetch_sounds

    try:
        fetch_sounds(out, report=lambda line: typer.echo(line))
    except (OSError, RuntimeError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error
