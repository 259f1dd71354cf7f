"""Options that several commands share, with the same name, meaning and help everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

LARGEST_RATE = 768_000
"""Hz: beyond what any converter or file has, so that more is a typing error, and would ask for memory without end."""

LARGEST_BLOCK = 1 << 20
"""Frames: more than 20 s at 48 kHz, whose arrival nobody waits for."""

_SOUND = "What is done to the sound"

ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        metavar="NAME|FILE",
        help="Shipped model or model file (.onnx, .ts, .json sidecar); [cyan]none[/cyan] for no model. "
        "[dim]default: denoise[/dim]",
        rich_help_panel=_SOUND,
    ),
]
AttenuationLimitOption = Annotated[
    float | None,
    typer.Option(
        "--attenuation-limit",
        metavar="DB",
        min=0.0,
        help="The most that may be taken away, in dB: 12 sounds natural; from 100 on there is no limit.",
        rich_help_panel=_SOUND,
    ),
]
MixOption = Annotated[
    float,
    typer.Option(
        "--mix", min=0.0, max=1.0, help="0: the input as it is, 1: all of the effect.", rich_help_panel=_SOUND
    ),
]
HighPassOption = Annotated[
    float | None,
    typer.Option(
        "--highpass", metavar="HZ", min=0.0, help="First remove what lies below this frequency.", rich_help_panel=_SOUND
    ),
]
ChainOption = Annotated[
    Path | None,
    typer.Option(
        "--chain", metavar="FILE", help="Run the chain of this TOML file in place of a model.", rich_help_panel=_SOUND
    ),
]
ChannelModeOption = Annotated[
    str | None,
    typer.Option(
        "--channel-mode",
        metavar="MODE",
        help="[cyan]linked[/cyan]: one gain for all channels, the stereo image stays; [cyan]independent[/cyan]: each "
        "by itself; [cyan]mono[/cyan]: one result for all. [dim]default: linked where the model can[/dim]",
        rich_help_panel=_SOUND,
    ),
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but what went wrong.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the report as JSON, for programs.")]
