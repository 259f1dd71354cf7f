"""``python -m export demo-clip``: make the noisy clip that ships with the project."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def demo_clip(
    out: Annotated[Path, typer.Option(help="Folder of noisy.flac and clean.flac.")] = Path("examples/demo"),
    seed: Annotated[int | None, typer.Option(help="Of the noise; the one that ships unless given.")] = None,
) -> None:
    """Synthesise ten seconds of speech in a noisy room with espeak-ng (apt-get install espeak-ng)."""
    from ..demo_clip import SEED, write_demo_clip

    for path in write_demo_clip(out, SEED if seed is None else seed):
        typer.echo(f"wrote {path} ({path.stat().st_size / 1e3:.0f} kB)")
