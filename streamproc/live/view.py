"""What a live session looks like in a terminal: levels, load, misses and latency, drawn a few times a second.

Only draws: it is used in the process that started the audio process, never in the audio process itself.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from ..mix import NO_LIMIT_DB
from ..text import clock, counted
from .process import LiveTotals, Outage
from .session import SessionStatus

WIDTH = 80
METER_WIDTH = 30
_LOWEST_DBFS = -60.0
_MOST_REMOVED_DB = 30.0
_EIGHTHS = " ▏▎▍▌▋▊▉█"

_PARTS = (
    ("device_in", "input", "blue"),
    ("resample", "resampling", "magenta"),
    ("reblock", "blocks", "cyan"),
    ("algorithmic", "model", "green"),
    ("queue", "queue", "yellow"),
    ("device_out", "output", "bright_blue"),
)
"""Parts of the latency in the order of the signal path: name, word for people, colour."""

_LEGEND_COLUMNS = 3

_BYPASS_WORDS = {
    "user": ("bypass", "yellow", "you hear the input, at the same latency"),
    "overload": ("overload", "red", "this machine is too slow at the moment; you hear the input"),
    "failed": ("failed", "red", "you hear the input"),
    "stopped": ("stopped", "red", "you hear the input"),
}


class LiveView:
    """Draws a session.

    Parameters
    ----------
    title : str
        What is done to the sound.
    keys : bool
        Show which keys do what.
    """

    def __init__(self, title: str, keys: bool = True) -> None:
        self._title = title
        self._keys = keys
        self._begun = time.monotonic()

    def render(self, now: SessionStatus | Outage, totals: LiveTotals) -> RenderableType:
        """Return the picture of this moment."""
        body = self._outage(now) if isinstance(now, Outage) else self._session(now, totals)
        footer: list[RenderableType] = [Text(), _key_help()] if self._keys else []
        return Panel(
            Group(*body, *footer),
            title=f"[bold]streamproc live[/bold] · {_plain(self._title)}",
            subtitle=clock(int(time.monotonic() - self._begun)),
            title_align="left",
            subtitle_align="right",
            border_style="red" if isinstance(now, Outage) else "dim",
            padding=(1, 2),
            width=WIDTH,
        )

    def _session(self, status: SessionStatus, totals: LiveTotals) -> Sequence[RenderableType]:
        engine = status.engine
        grid = Table.grid(padding=(0, 2))
        grid.add_column(style="dim", width=8)
        grid.add_column()
        grid.add_row("input", _level(engine.input_dbfs, str(status.source.name)))
        grid.add_row("output", _level(engine.output_dbfs, str(status.sink.name)))
        grid.add_row("removed", _removed(engine.removed_db, status.attenuation_limit_db, bool(engine.bypass)))
        grid.add_row()
        grid.add_row("state", _state(status))
        grid.add_row("load", _load(status))
        grid.add_row("dropouts", _dropouts(totals))
        grid.add_row()
        grid.add_row("latency", _latency(status))
        if status.recording is not None:
            grid.add_row()
            grid.add_row(
                "record", Text(str(status.recording[0].parent), style="red", overflow="ellipsis", no_wrap=True)
            )
        notes = [Text(f"! {note}", style="yellow") for note in status.notes]
        notes += [Text(f"! {problem}", style="red") for problem in status.problems]
        return [grid, *([Text(), *notes] if notes else [])]

    def _outage(self, outage: Outage) -> Sequence[RenderableType]:
        wait = outage.next_attempt - time.monotonic()
        when = f"in {math.ceil(wait)} s" if wait > 0 else "now"
        attempt = Text.assemble(f"attempt {outage.attempt} to get it back: {when}")
        if outage.obstacle:
            attempt.append(f"   {_shortened(outage.obstacle.splitlines()[0], 60)}", style="dim")
        return [
            Text.assemble(("silence", "bold red"), f" for {clock(int(time.monotonic() - outage.since))}"),
            Text(outage.reason),
            Text(),
            attempt,
            Text("No other device takes its place.", style="dim"),
        ]


def _plain(text: str) -> str:
    """Keep rich from reading a file name as markup."""
    return text.replace("[", r"\[")


def _bar(share: float, width: int, style: str) -> Text:
    """Draw a bar that fills `share` of `width` cells, to an eighth of a cell."""
    eighths = round(min(max(share, 0.0), 1.0) * width * 8)
    whole, rest = divmod(eighths, 8)
    filled = "█" * whole + (_EIGHTHS[rest] if rest else "")
    return Text.assemble((filled, style), ("·" * (width - len(filled)), "bright_black"))


def _level(dbfs: float, name: str) -> Text:
    style = "red" if dbfs > -3.0 else "yellow" if dbfs > -12.0 else "green"
    figure = f"{dbfs:6.1f} dB" if math.isfinite(dbfs) else "  silent "
    bar = _bar(1.0 - dbfs / _LOWEST_DBFS, METER_WIDTH, style)
    return Text.assemble(bar, f" {figure}  ", (_shortened(name, 21), "dim"))


def _removed(removed_db: float, limit_db: float | None, bypassed: bool) -> Text:
    if bypassed or not math.isfinite(removed_db):
        removed_db = 0.0
    limit = ""
    if limit_db is not None:
        limit = "no limit" if limit_db >= NO_LIMIT_DB else f"limit {limit_db:g} dB"
    bar = _bar(removed_db / _MOST_REMOVED_DB, METER_WIDTH, "cyan")
    return Text.assemble(bar, f" {removed_db:6.1f} dB  ", (limit, "dim"))


def _state(status: SessionStatus) -> Text:
    reason = status.engine.bypass
    if not reason:
        return Text.assemble(("● ", "green"), "on", (f"   {status.engine.mode} mode", "dim"))
    word, style, meaning = _BYPASS_WORDS[reason]
    return Text.assemble(("○ ", style), (word, style), (f"   {status.engine.advice or meaning}", "dim"))


def _load(status: SessionStatus) -> Text:
    engine = status.engine
    style = "red" if engine.load_p99 > 0.9 else "yellow" if engine.load_p99 > 0.6 else "default"
    return Text.assemble(
        f"{engine.load_p50:.0%}",
        (" typical   ", "dim"),
        (f"{engine.load_p99:.0%}", style),
        (" at the 99th percentile   ", "dim"),
        f"{engine.step_p50_us / 1000:.2f} ms",
        (" a step", "dim"),
    )


def _dropouts(totals: LiveTotals) -> Text:
    xruns = totals.input_xruns + totals.output_xruns
    parts = [
        (counted(totals.misses, "missed block"), "yellow" if totals.misses else "default"),
        (f" ({counted(totals.missed_samples, 'sample')})" if totals.misses else "", "dim"),
        ("   ", ""),
        (counted(xruns, "xrun"), "yellow" if xruns else "default"),
        ("   ", ""),
        (counted(totals.outages, "outage") if totals.outages else "", "yellow"),
    ]
    return Text.assemble(*parts)


def _latency(status: SessionStatus) -> RenderableType:
    parts = status.latency.ms(status.sample_rate)
    total = max(parts["total"], 1e-9)
    bar, shown = Text(), []
    for name, word, colour in _PARTS:
        if parts[name] > 0:
            bar.append("━" * max(1, round(parts[name] / total * METER_WIDTH)), style=colour)
            shown.append(Text.assemble(("■ ", colour), f"{word} ", (f"{parts[name]:.1f}", "bold")))
    bar.append(f"  {parts['total']:.1f} ms", style="bold")
    bar.append(f"  {status.latency.total:,} samples", style="dim")
    legend = Table.grid(padding=(0, 3))
    for first in range(0, len(shown), _LEGEND_COLUMNS):
        legend.add_row(*shown[first : first + _LEGEND_COLUMNS])
    return Group(bar, legend)


def _key_help() -> Text:
    text = Text()
    for key, meaning in (("b", "bypass"), ("+ -", "attenuation limit"), ("q", "quit")):
        text.append(f" {key} ", style="reverse").append(f" {meaning}   ", style="dim")
    return text


def _shortened(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


class Keyboard:
    """Keys as they are pressed, without waiting for a line; nothing where there is no terminal."""

    def __enter__(self) -> Keyboard:
        self._saved: Any = None
        with suppress(ImportError, ValueError, OSError):
            import termios
            import tty

            if sys.stdin.isatty():
                self._saved = termios.tcgetattr(sys.stdin)
                # Not raw: Ctrl-C stays a signal.
                tty.setcbreak(sys.stdin)
        return self

    def pressed(self, timeout_s: float) -> str:
        """Return the keys that were pressed, after waiting at most so long for the first."""
        if sys.platform == "win32":
            return _pressed_on_windows(timeout_s)
        if self._saved is None:
            time.sleep(timeout_s)
            return ""
        import os
        import select

        ready, _, _ = select.select([sys.stdin], [], [], timeout_s)
        return os.read(sys.stdin.fileno(), 64).decode(errors="ignore") if ready else ""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._saved is not None:
            import termios

            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, self._saved)


def _pressed_on_windows(timeout_s: float) -> str:
    import msvcrt

    deadline = time.monotonic() + timeout_s
    keys = ""
    while time.monotonic() < deadline and not keys:
        while msvcrt.kbhit():  # type: ignore[attr-defined,unused-ignore]
            keys += msvcrt.getwch()  # type: ignore[attr-defined,unused-ignore]
        time.sleep(0.02)
    return keys
