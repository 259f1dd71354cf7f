"""``streamproc devices``: what sound can come from and go to."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from . import options
from .console import ExitCode, command, complain, stdout

if TYPE_CHECKING:
    from ..live.choice import Device


@command(
    """
    streamproc devices
    streamproc devices --json | jq -r '.[] | select(.n_inputs > 0) | .name'
    """
)
def devices(as_json: options.JsonOption = False) -> None:
    """List the audio devices, by the names that --input and --output of live take.

    Any words of a name that fit only one device will do, in any order: "usb mic", "yeti wasapi".
    """
    from ..live.devices import list_devices

    found = list_devices()
    if as_json:
        stdout.print_json(json.dumps([{**asdict(device), "label": device.label} for device in found]))
    elif found:
        stdout.print(_table(found))
    if not found:
        complain("no audio devices found; try: streamproc doctor", "note")
        raise typer.Exit(ExitCode.FAILED)


def _table(found: Sequence[Device]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("device", overflow="fold")
    table.add_column("host API", style="dim")
    for heading in ("in", "out", "Hz"):
        table.add_column(heading, justify="right")
    table.add_column("default", style="green")
    for device in found:
        name = Text(device.name, "dim" if device.is_monitor else "default")
        if device.key != device.name:
            name.append(f"\n{device.key}", style="dim")
        default = [
            word for word, is_it in (("in", device.is_default_input), ("out", device.is_default_output)) if is_it
        ]
        table.add_row(
            name,
            device.host_api,
            str(device.n_inputs or "·"),
            str(device.n_outputs or "·"),
            str(device.sample_rate),
            " ".join(default),
        )
    return table
