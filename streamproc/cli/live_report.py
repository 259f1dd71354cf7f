"""What ``live`` shows: a picture on a terminal, JSON lines for programs, a few words otherwise."""

from __future__ import annotations

import json
import math
import time
from abc import ABC, abstractmethod
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

import typer
from rich.live import Live
from rich.text import Text

from ..live.process import LiveTotals, Outage
from ..live.session import SessionStatus
from ..live.view import Keyboard, LiveView
from ..text import clock, counted
from .console import note, stderr, stdout


def reporter_for(title: str, quiet: bool, as_json: bool) -> Reporter:
    """Return what fits the options and where the output goes."""
    if as_json:
        return JsonReporter()
    if quiet:
        return QuietReporter()
    return ScreenReporter(title) if stdout.is_terminal else LineReporter(title)


class Reporter(ABC):
    """Shows a session: `report` and `keys` are called in turn, again and again."""

    period_s = 0.5
    """Time between two reports. Every one costs the audio process a fraction of a millisecond for the figures."""

    def __enter__(self) -> Reporter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return

    @abstractmethod
    def report(self, now: SessionStatus | Outage, totals: LiveTotals) -> None:
        """Show how things are."""

    def keys(self, timeout_s: float) -> str:
        """Wait, and return the keys that were pressed meanwhile; the first one ends the waiting."""
        time.sleep(timeout_s)
        return ""

    @abstractmethod
    def summarise(self, last: SessionStatus | None, totals: LiveTotals) -> None:
        """Show how it was."""


class QuietReporter(Reporter):
    """Says nothing."""

    def report(self, now: SessionStatus | Outage, totals: LiveTotals) -> None:
        """Say nothing."""

    def summarise(self, last: SessionStatus | None, totals: LiveTotals) -> None:
        """Say nothing."""


class LineReporter(Reporter):
    """A line when something changes; for logs."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._before: SessionStatus | Outage | None = None

    def report(self, now: SessionStatus | Outage, totals: LiveTotals) -> None:
        """Print a line if the devices have come or gone."""
        if isinstance(now, Outage):
            if not isinstance(self._before, Outage):
                note(f"silence: {now.reason}; waiting for it to come back")
        elif not isinstance(self._before, SessionStatus):
            latency_ms = now.latency.ms(now.sample_rate)["total"]
            note(f"{self._title}: {now.source} → {now.sink}, {now.sample_rate} Hz, latency {latency_ms:.1f} ms")
            for line in now.notes:
                note(f"note: {line}")
        self._before = now

    def summarise(self, last: SessionStatus | None, totals: LiveTotals) -> None:
        """Print what was counted."""
        stderr.print(summary(last, totals), soft_wrap=True)


class ScreenReporter(Reporter):
    """A picture that moves, and keys."""

    period_s = 0.15

    def __init__(self, title: str) -> None:
        self._view = LiveView(title)
        self._keyboard = Keyboard()
        self._screen = Live(console=stdout, auto_refresh=False, transient=True)

    def __enter__(self) -> ScreenReporter:
        self._keyboard.__enter__()
        self._screen.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # A terminal that was closed cannot be tidied up (which is no OSError for termios); that must not hide why we
        # leave.
        with suppress(Exception):
            self._screen.stop()
        with suppress(Exception):
            self._keyboard.__exit__(kind, error, trace)

    def report(self, now: SessionStatus | Outage, totals: LiveTotals) -> None:
        """Draw."""
        self._screen.update(self._view.render(now, totals), refresh=True)

    def keys(self, timeout_s: float) -> str:
        """Return what was pressed."""
        return self._keyboard.pressed(timeout_s)

    def summarise(self, last: SessionStatus | None, totals: LiveTotals) -> None:
        """Print what was counted, below where the picture was."""
        stdout.print(summary(last, totals))


class JsonReporter(Reporter):
    """One JSON object per line: ``status`` every second, ``outage`` while there is one, ``summary`` at the end."""

    period_s = 1.0

    def report(self, now: SessionStatus | Outage, totals: LiveTotals) -> None:
        """Print an object."""
        if isinstance(now, Outage):
            outage = {"reason": now.reason, "attempt": now.attempt, "obstacle": now.obstacle}
            _print({"event": "outage", **outage, "seconds": time.monotonic() - now.since})
        else:
            _print(_document("status", now, totals))

    def summarise(self, last: SessionStatus | None, totals: LiveTotals) -> None:
        """Print the last object."""
        _print(_document("summary", last, totals))


def summary(last: SessionStatus | None, totals: LiveTotals) -> Text:
    """Return what was counted in a few lines."""
    xruns = totals.input_xruns + totals.output_xruns
    lines = [
        f"{clock(totals.audio_s)} of sound: {counted(totals.misses, 'missed block')}, {counted(xruns, 'xrun')}"
        + (f", {counted(totals.outages, 'outage')} ({clock(totals.outage_s)})" if totals.outages else "")
    ]
    if last is not None:
        engine, parts = last.engine, last.latency.ms(last.sample_rate)
        lines.append(
            f"latency {parts['total']:.1f} ms; load {engine.load_p50:.1%} half of the time, "
            f"{engine.load_p99:.1%} at the 99th percentile, {engine.load_max:.0%} at worst"
        )
    lines += [f"recorded: {before}, {after}" for before, after in totals.recordings]
    return Text("\n".join(lines))


def _document(event: str, status: SessionStatus | None, totals: LiveTotals) -> dict[str, Any]:
    document: dict[str, Any] = {"event": event, "totals": asdict(totals)}
    if status is not None:
        document |= asdict(status)
        document["latency"] = {"samples": status.latency.total, "ms": status.latency.ms(status.sample_rate)}
    return document


def _print(document: dict[str, Any]) -> None:
    typer.echo(json.dumps(_plain(document)))


def _plain(value: Any) -> Any:
    """Return values that JSON knows: silence, at minus infinity decibels, becomes null."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value) if isinstance(value, Path) else value
