"""``streamproc doctor``: what stands in the way of live audio, and the command that mends it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING

import typer
from rich.text import Text

from . import options
from .console import ExitCode, command, stdout

if TYPE_CHECKING:
    from ..doctor import Finding

_MARKS = {"good": ("✓", "green"), "note": ("!", "yellow"), "bad": ("✗", "red")}


@command(
    """
    streamproc doctor
    streamproc doctor --json | jq '.findings[] | select(.level != "good")'
    """
)
def doctor(as_json: options.JsonOption = False) -> None:
    """Look for what stands in the way of live audio.

    Checks PortAudio, devices, sample rates, Bluetooth headsets, the virtual microphone, real-time priority and how busy
    the machine is. The exit code is 0 when live audio can run, and 1 when something has to be mended first.
    """
    from ..doctor import Level, examine

    findings = examine()
    works = all(finding.level != Level.BAD for finding in findings)
    if as_json:
        stdout.print_json(json.dumps({"works": works, "findings": [asdict(finding) for finding in findings]}))
    else:
        _show(findings)
    if not works:
        raise typer.Exit(ExitCode.FAILED)


def _show(findings: Iterable[Finding]) -> None:
    for finding in findings:
        mark, style = _MARKS[finding.level]
        # Not a table: a command that is wrapped into a column cannot be copied.
        line = Text.assemble((f"{mark} ", style), (f"{finding.topic:<13}", "bold"), finding.text)
        if finding.mend:
            line.append(f"\n{'':15}→ ", style="dim").append(finding.mend, style="cyan")
        stdout.print(line, soft_wrap=True)
