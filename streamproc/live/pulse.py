"""PulseAudio and PipeWire through ``pactl``, which both answer to: sources, sinks, modules, and who uses them.

Everything here runs a small program and waits for it at most `TIMEOUT_S`; nothing is called from an audio thread.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from typing import Any, Literal

from ..errors import DeviceError

TIMEOUT_S = 5.0

Kind = Literal["source", "sink"]


@dataclass(frozen=True)
class Endpoint:
    """A source (microphone) or sink (loudspeaker) of the sound server."""

    kind: Kind
    name: str
    """What the server calls it; unique."""
    description: str
    """What people see."""
    sample_rate: int
    n_channels: int
    is_monitor: bool
    """A source that hears what a sink plays."""
    is_default: bool
    is_bluetooth: bool


@dataclass(frozen=True)
class Module:
    """A loaded module of the sound server."""

    number: int
    name: str
    arguments: str


@dataclass(frozen=True)
class Playback:
    """A stream that some program plays into a sink."""

    sink_number: int
    process: int | None
    application: str


def pactl(*arguments: str) -> str:
    """Run ``pactl`` and return what it prints.

    Raises
    ------
    DeviceError
        If it is missing, fails, or does not answer in time.
    """
    if shutil.which("pactl") is None:
        raise DeviceError("pactl is not installed; sudo apt install pulseaudio-utils (Fedora: pulseaudio-utils)")
    try:
        done = subprocess.run(
            ["pactl", *arguments],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            # The language of the user would change numbers, and with them the JSON.
            env={**os.environ, "LC_ALL": "C.UTF-8"},
            stdin=subprocess.DEVNULL,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise DeviceError(
            f"the sound server did not answer within {TIMEOUT_S:g} s; restart it: "
            "systemctl --user restart pipewire-pulse || pulseaudio --kill"
        ) from None
    if done.returncode != 0:
        said = done.stderr.strip() or f"exit code {done.returncode}"
        raise DeviceError(f"pactl {' '.join(arguments)}: {said}")
    return done.stdout


def _list(what: str) -> list[dict[str, Any]]:
    text = pactl("--format=json", "list", what)
    try:
        entries = json.loads(text)
    except json.JSONDecodeError as error:
        raise DeviceError(f"pactl list {what} gave no readable JSON ({error}); it takes pactl 16 or newer") from error
    return [entry for entry in entries if isinstance(entry, dict)]


def server_runs() -> bool:
    """Whether a sound server answers."""
    try:
        pactl("info")
    except DeviceError:
        return False
    return True


def endpoints() -> list[Endpoint]:
    """Return every source and sink.

    Raises
    ------
    DeviceError
        If no sound server answers.
    """
    found = []
    kinds: tuple[Kind, ...] = ("source", "sink")
    for kind in kinds:
        default = pactl(f"get-default-{kind}").strip()
        for entry in _list(f"{kind}s"):
            properties = entry.get("properties") or {}
            # "float32le 2ch 48000Hz"
            _, channels, rate = str(entry["sample_specification"]).split()
            found.append(
                Endpoint(
                    kind=kind,
                    name=str(entry["name"]),
                    description=str(entry.get("description") or entry["name"]),
                    sample_rate=int(rate.removesuffix("Hz")),
                    n_channels=int(channels.removesuffix("ch")),
                    is_monitor=kind == "source" and str(entry["name"]).endswith(".monitor"),
                    is_default=entry["name"] == default,
                    is_bluetooth=properties.get("device.bus") == "bluetooth" or str(entry["name"]).startswith("bluez"),
                )
            )
    return found


def modules() -> list[Module]:
    """Return every loaded module."""
    found = []
    # The short form, because the JSON form leaves the number out. PipeWire prints arguments of several lines.
    for line in pactl("list", "short", "modules").splitlines():
        number, *rest = line.split("\t")
        if number.isdigit() and rest:
            found.append(Module(int(number), rest[0], rest[1] if len(rest) > 1 else ""))
    return found


def load_module(name: str, *arguments: str) -> int:
    """Load a module and return its number."""
    return int(pactl("load-module", name, *arguments))


def unload_module(number: int) -> None:
    """Unload a module, with everything that it made."""
    pactl("unload-module", str(number))


def playbacks() -> list[Playback]:
    """Return every stream that is being played."""
    found = []
    for entry in _list("sink-inputs"):
        properties = entry.get("properties") or {}
        process = str(properties.get("application.process.id", ""))
        found.append(
            Playback(
                sink_number=int(entry["sink"]),
                process=int(process) if process.isdigit() else None,
                application=str(properties.get("application.name", "an unknown program")),
            )
        )
    return found


def endpoint_of(process: int, kind: Kind) -> str | None:
    """Return the name of the source or sink that a process uses, or None if it uses none, or several."""
    streams = "source-outputs" if kind == "source" else "sink-inputs"
    numbers = {
        int(entry[kind])
        for entry in _list(streams)
        if str((entry.get("properties") or {}).get("application.process.id")) == str(process)
    }
    used = [name for number, name in _short(f"{kind}s") if number in numbers]
    return used[0] if len(used) == 1 else None


def names(kind: Kind) -> set[str]:
    """Return the names of every source or sink."""
    return {name for _, name in _short(f"{kind}s")}


def _short(what: str) -> list[tuple[int, str]]:
    """Return number and name of every source or sink."""
    lines = [line.split("\t") for line in pactl("list", "short", what).splitlines()]
    return [(int(number), name) for number, name, *_ in lines]


def sink_number(name: str) -> int | None:
    """Return the number of the sink of this name."""
    return next((number for number, found in _short("sinks") if found == name), None)
