"""What is drawn and printed, from figures that no device had to make."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from test_devices import device

from streamproc.cli.live_report import JsonReporter, LineReporter, summary
from streamproc.cli.live_run import next_limit_db
from streamproc.live import LiveConfig, LiveEngine
from streamproc.live.process import LiveTotals, Outage
from streamproc.live.realtime import RealtimeReport
from streamproc.live.session import SessionStatus
from streamproc.live.view import WIDTH, LiveView
from streamproc.processor import Passthrough
from streamproc.spec import LatencyBreakdown

QUIET = replace(LiveEngine(Passthrough(), LiveConfig(48_000, fixed_block=128)).snapshot(), bypass="")

STATUS = SessionStatus(
    source=device("Blue Yeti [USB]"),
    sink=device("Headphones"),
    sample_rate=48_000,
    block=128,
    latency=LatencyBreakdown(device_in=128, algorithmic=384, queue=128, device_out=256),  # type: ignore[arg-type]
    engine=QUIET,
    bypass=False,
    attenuation_limit_db=12.0,
    realtime=RealtimeReport(0.1, (), 0, 0.0, 0.0),
    recording=None,
    notes=(),
    problems=(),
)


def drawn(now: SessionStatus | Outage, totals: LiveTotals | None = None, width: int = 100) -> str:
    console = Console(width=width, record=True, force_terminal=True, file=Path("/dev/null").open("w"))  # noqa: SIM115
    console.print(LiveView("denoise").render(now, totals or LiveTotals()))
    console.file.close()
    return console.export_text()


def with_engine(**changes: Any) -> SessionStatus:
    return replace(STATUS, engine=replace(QUIET, **changes))


def test_silence_and_sound_have_levels() -> None:
    assert drawn(STATUS).count("silent") == 2
    text = drawn(with_engine(input_dbfs=-20.0, output_dbfs=-30.0, removed_db=9.5))
    for words in ("-20.0 dB", "-30.0 dB", "9.5 dB", "limit 12 dB", "Blue Yeti [USB]", "● on"):
        assert words in text


def test_every_part_of_the_latency_is_named_and_the_total_is_their_sum() -> None:
    text = drawn(STATUS)
    for words in ("18.7 ms", "896 samples", "input 2.7", "model 8.0", "queue 2.7", "output 5.3"):
        assert words in text
    assert "resampling" not in text, "there is none"


@pytest.mark.parametrize(
    ("reason", "words"),
    [("user", "○ bypass"), ("overload", "○ overload"), ("failed", "○ failed"), ("stopped", "○ stopped")],
)
def test_dry_sound_is_never_unexplained(reason: str, words: str) -> None:
    assert words in drawn(with_engine(bypass=reason))


def test_an_outage_says_what_went_and_what_is_being_done() -> None:
    now = time.monotonic()
    text = drawn(
        Outage("Blue Yeti (ALSA) has gone", 3, "no input matches 'Blue Yeti, ALSA'; there are:", now - 5, now + 4)
    )
    for words in (
        "silence for 5 s",
        "Blue Yeti (ALSA) has gone",
        "attempt 3 to get it back: in 4 s",
        "no input matches",
    ):
        assert words in text


def test_problems_are_shown_with_the_sound_going_on() -> None:
    text = drawn(replace(STATUS, problems=("the recording ended early: disk full",), notes=("it may howl",)))
    assert "! the recording ended early: disk full" in text
    assert "! it may howl" in text


@pytest.mark.parametrize("width", [80, 60, 200])
def test_it_fits_the_terminal(width: int) -> None:
    lines = drawn(with_engine(input_dbfs=-3.0), width=width).splitlines()
    assert max(len(line.rstrip()) for line in lines) <= min(width, WIDTH)


def test_counts_agree_with_their_nouns() -> None:
    text = summary(STATUS, LiveTotals(audio_s=61.0, misses=1, input_xruns=2, outages=1, outage_s=3.0)).plain
    assert "1:01 of sound: 1 missed block, 2 xruns, 1 outage (3 s)" in text
    assert "latency 18.7 ms" in text


def test_json_has_no_infinities(capsys: pytest.CaptureFixture[str]) -> None:
    reporter = JsonReporter()
    reporter.report(STATUS, LiveTotals())
    reporter.report(Outage("gone", 1, "", time.monotonic(), 0.0), LiveTotals())
    reporter.summarise(STATUS, LiveTotals(recordings=[(Path("a"), Path("b"))]))
    status, outage, last = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert status["engine"]["input_dbfs"] is None
    assert status["latency"]["samples"] == 896
    assert (outage["event"], outage["reason"]) == ("outage", "gone")
    assert last["totals"]["recordings"] == [["a", "b"]]


def test_a_log_has_a_line_for_every_change(capsys: pytest.CaptureFixture[str]) -> None:
    reporter = LineReporter("denoise")
    outage = Outage("gone", 1, "", 0.0, 0.0)
    for now in (STATUS, STATUS, outage, outage, STATUS):
        reporter.report(now, LiveTotals())
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in lines] == ["denoise", "silence", "denoise"]


@pytest.mark.parametrize(
    ("limit_db", "up", "expected"),
    [
        (12.0, True, 15.0),
        (12.0, False, 9.0),
        (1.0, False, 0.0),
        (0.0, False, 0.0),
        (48.0, True, 100.0),
        (100.0, False, 48.0),
    ],
)
def test_the_attenuation_limit_moves_in_steps(limit_db: float, up: bool, expected: float) -> None:
    assert next_limit_db(limit_db, up) == expected
