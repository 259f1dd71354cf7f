"""``streamproc live`` and ``streamproc devices`` as a person or a script uses them."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import soundfile
from servers import JackServer, wait_for

pytestmark = pytest.mark.device

LIVE = ("live", "--model", "none", "--highpass", "120")


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "streamproc", *map(str, arguments)]


def run(*arguments: object, timeout_s: float = 40.0) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), capture_output=True, text=True, timeout=timeout_s, check=False)


@contextmanager
def started(*arguments: object) -> Iterator[subprocess.Popen[str]]:
    """Run a command in a group of processes of its own."""
    process = subprocess.Popen(
        command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, process_group=0
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def descendants(process: int) -> list[int]:
    """Return the processes that a process started."""
    listing = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process)], capture_output=True, text=True, check=False)
    return [int(line) for line in listing.stdout.split()]


def events(output: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines()]


def test_a_script_gets_json_and_a_recording(jack_server: JackServer, tmp_path: Path) -> None:
    done = run(*LIVE, "--duration", 1.5, "--json", "--record", tmp_path / "take", "--on-miss", "predict")
    assert done.returncode == 0, done.stderr
    *statuses, summary = events(done.stdout)
    assert statuses
    assert {status["event"] for status in statuses} == {"status"}
    assert summary["event"] == "summary"
    latency = summary["latency"]
    parts = [value for name, value in latency["ms"].items() if name != "total"]
    assert sum(parts) == pytest.approx(latency["ms"]["total"])
    assert latency["samples"] == summary["engine"]["latency_samples"] + 3 * jack_server.period
    [[before, after]] = summary["totals"]["recordings"]
    assert soundfile.info(before).frames == soundfile.info(after).frames > 0
    assert summary["totals"]["outages"] == 0
    assert summary["engine"]["forecast_p50_us"] > 0
    assert len(summary["realtime"]["priorities"]) >= 4, "callback, worker, caretaker and control thread"


@pytest.mark.parametrize(
    ("options", "number", "code"),
    [((), signal.SIGINT, 0), ((), signal.SIGTERM, 0), (("--duration", "60"), signal.SIGINT, 130)],
    ids=["Ctrl-C", "SIGTERM", "Ctrl-C before the end"],
)
def test_signals_end_it_with_a_summary(
    jack_server: JackServer, options: Sequence[str], number: signal.Signals, code: int
) -> None:
    with started(*LIVE, *options) as process:
        assert process.stderr is not None
        assert "system (JACK Audio Connection Kit) → system" in process.stderr.readline()
        helpers = descendants(process.pid)
        assert helpers
        # To the whole group, as a terminal does it.
        os.killpg(process.pid, number)
        _, rest = process.communicate(timeout=20.0)
        assert process.returncode == code, rest
        assert "of sound" in rest
        assert "Traceback" not in rest
        wait_for(lambda: not any(Path(f"/proc/{helper}").exists() for helper in helpers), 5.0, "every process to end")


def test_a_recording_survives_sigkill(jack_server: JackServer, tmp_path: Path) -> None:
    with started(*LIVE, "--record", tmp_path / "take") as process:
        target = tmp_path / "take" / "input.wav"
        wait_for(lambda: target.exists() and target.stat().st_size > 100_000, 20.0, "something to be recorded")
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(5.0)
    for name in ("input.wav", "output.wav"):
        x, rate = soundfile.read(tmp_path / "take" / name)
        assert rate == 48_000
        assert x.size > 20_000


def test_refusals_come_before_any_sound(jack_server: JackServer) -> None:
    done = run(*LIVE, "--input", "yeti")
    assert done.returncode == 2
    assert "no input matches 'yeti'; there are:\n  system, JACK Audio Connection Kit" in done.stderr
    done = run(*LIVE, "--virtual-mic", "--output", "x")
    assert done.returncode == 2
    assert "--virtual-mic is the output" in done.stderr


def test_it_waits_for_a_server_and_says_so_when_it_ends_in_silence(jack_server: JackServer) -> None:
    with started(*LIVE, "--duration", "4", "--json") as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["event"] == "status"
        jack_server.end(signal.SIGTERM)
        output, errors = process.communicate(timeout=30.0)
    assert process.returncode == 1
    assert "it ended in silence" in errors
    outages = [event for event in events(output) if event["event"] == "outage"]
    assert "system (JACK Audio Connection Kit) has gone" in outages[0]["reason"]
    assert events(output)[-1]["totals"]["outages"] == 1


def test_the_screen_shows_levels_and_obeys_keys(jack_server: JackServer) -> None:
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        command(*LIVE, "--mode", "worker"),
        stdin=follower, stdout=follower, stderr=follower,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "90", "LINES": "30"},
        start_new_session=True,
    )  # fmt: skip
    os.close(follower)
    try:
        screen = Screen(leader)
        screen.wait_for("● on")
        for words in ("input", "output", "removed", "missed block", "latency", "10.7 ms", "512 samples"):
            assert words in screen.text, words
        os.write(leader, b"b")
        screen.wait_for("○ bypass")
        os.write(leader, b"b")
        screen.wait_for("● on")
        os.write(leader, b"q")
        screen.wait_for("of sound")
        assert process.wait(15.0) == 0
    finally:
        process.kill()
        process.wait()
        os.close(leader)


class Screen:
    """What a program writes to a terminal."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.text = ""

    def wait_for(self, words: str) -> None:
        """Read on until `words` appear; what came before is forgotten."""
        self.text = ""
        deadline = time.monotonic() + 20.0
        while words not in self.text:
            assert time.monotonic() < deadline, f"{words!r} did not appear in:\n{self.text[-2000:]}"
            if select.select([self._descriptor], [], [], 0.1)[0]:
                try:
                    written = os.read(self._descriptor, 65536).decode(errors="replace")
                except OSError:  # the other side has gone
                    break
                self.text += re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", written)


def test_devices_are_listed_by_the_names_that_choose_them(jack_server: JackServer) -> None:
    done = run("devices", "--json")
    assert done.returncode == 0, done.stderr
    [device] = json.loads(done.stdout)
    assert device["label"] == "system, JACK Audio Connection Kit"
    assert (device["n_inputs"], device["n_outputs"], device["sample_rate"]) == (2, 2, 48_000)
    assert "system" in run("devices").stdout


def test_predicting_is_for_worker_mode() -> None:
    refused = run("live", "--on-miss", "predict", "--mode", "inline")
    assert refused.returncode == 2
    assert "leave --mode inline out" in refused.stderr
