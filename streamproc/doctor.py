"""What stands in the way of live audio on this machine, and the command that mends it.

Every check looks at one thing and returns findings; `examine` runs them all. A check that cannot look (another
operating system, a file that is not there) finds nothing.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from .errors import DeviceError
from .live import devices, pulse, virtual_mic
from .live.choice import PULSE, Device, Direction, find_device

HANDS_FREE_RATES = (8000, 16000, 24000)
"""Rates of a Bluetooth headset whose microphone is in use, in Hz."""

_BLUETOOTH_WORDS = ("airpods", "bluetooth", "bluez", "headset", "buds", "hands-free")

_VIRTUAL_CABLES = {"Darwin": ("BlackHole",), "Windows": ("CABLE", "VB-Audio")}


class Level(StrEnum):
    """How bad it is."""

    GOOD = "good"
    NOTE = "note"
    """Works; better with the command."""
    BAD = "bad"
    """Live audio does not work, or not without dropouts."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Parameters
    ----------
    level : Level
    topic : str
        What was looked at, in a word or two.
    text : str
        What was found, and what it means.
    mend : str, optional
        The command to type, or what to select where no command can do it.
    """

    level: Level
    topic: str
    text: str
    mend: str | None = None


def examine() -> list[Finding]:
    """Run every check. Takes about a second."""
    findings, found = check_devices()
    findings += check_rates(found)
    findings += check_bluetooth(found)
    findings += check_sound_server(found)
    findings += check_virtual_microphone(found)
    findings += check_priority()
    findings += check_governor()
    findings += check_load()
    findings += check_wake_up(measure_lateness_ms())
    return findings


# --- devices --------------------------------------------------------------------------------------------------------


def check_devices() -> tuple[list[Finding], list[Device]]:
    """Look for PortAudio, an input and an output; return the devices too."""
    try:
        found = devices.list_devices()
        version = devices.portaudio_version()
    except DeviceError as error:
        text, _, mend = str(error).partition("; run: ")
        return [Finding(Level.BAD, "PortAudio", text, mend or None)], []
    findings = [Finding(Level.GOOD, "PortAudio", version)]
    directions: tuple[Direction, ...] = ("input", "output")
    for direction in directions:
        findings.append(_default(direction, found))
    return findings, found


def _default(direction: Direction, found: Sequence[Device]) -> Finding:
    try:
        device = find_device(None, direction, found)
    except DeviceError as error:
        able = [d for d in found if d.n_channels(direction)]
        if able:
            return Finding(
                Level.NOTE, direction, str(error).split(";", 1)[0], f'streamproc live --{direction} "{able[0].label}"'
            )
        return Finding(Level.BAD, direction, f"no audio {direction} found", _no_device_mend())
    return Finding(Level.GOOD, direction, f"{device}, {device.n_channels(direction)} channels, {device.sample_rate} Hz")


def _no_device_mend() -> str | None:
    system = platform.system()
    if system == "Darwin":
        return "open 'x-apple.systempreferences:com.apple.preference.security?Privacy_Microphone'"
    if system == "Windows":
        return "start ms-settings:privacy-microphone"
    sound = Path("/dev/snd")
    if sound.is_dir() and any(not os.access(node, os.R_OK | os.W_OK) for node in sound.glob("pcm*")):
        return f"sudo usermod -aG audio {os.environ.get('USER', '$USER')}  (and log in again)"
    if pulse.server_runs():
        return _alsa_plugin()
    return "systemctl --user restart pipewire pipewire-pulse wireplumber"


def _alsa_plugin() -> str:
    return devices.linux_package(
        "libasound2-plugins",
        fedora="alsa-plugins-pulseaudio",
        arch="alsa-plugins",
        alpine="alsa-plugins-pulse",
        suse="alsa-plugins-pulse",
    )


def check_rates(found: Sequence[Device]) -> list[Finding]:
    """Compare the rates of the default devices."""
    try:
        source, sink = find_device(None, "input", found), find_device(None, "output", found)
    except DeviceError:
        return []
    if source.sample_rate == sink.sample_rate:
        return [Finding(Level.GOOD, "rates", f"input and output run at {source.sample_rate} Hz")]
    return [
        Finding(
            Level.NOTE,
            "rates",
            f"the input runs at {source.sample_rate} Hz and the output at {sink.sample_rate} Hz: "
            "streamproc converts, which costs about 2 ms",
            _same_rate_mend(source, sink),
        )
    ]


def _same_rate_mend(source: Device, sink: Device) -> str:
    rate = max(source.sample_rate, sink.sample_rate)
    system = platform.system()
    if system == "Darwin":
        return "open -a 'Audio MIDI Setup'  (choose the same format for both)"
    if system == "Windows":
        return "control mmsys.cpl  (Properties, Advanced: the same default format for both)"
    if shutil.which("pw-metadata"):
        return f"pw-metadata -n settings 0 clock.force-rate {rate}"
    return f"echo 'default-sample-rate = {rate}' >> ~/.config/pulse/daemon.conf && pulseaudio --kill"


def check_bluetooth(found: Iterable[Device]) -> list[Finding]:
    """Look for headsets whose microphone brings their sound down to telephone quality."""
    findings = []
    for device in found:
        name = f"{device.name} {device.key}".casefold()
        headset = device.is_bluetooth or any(word in name for word in _BLUETOOTH_WORDS)
        if not (headset and device.n_inputs and device.sample_rate in HANDS_FREE_RATES):
            continue
        findings.append(
            Finding(
                Level.NOTE,
                "Bluetooth",
                f"{device} runs at {device.sample_rate} Hz: while its microphone is in use, a Bluetooth headset sends "
                "and plays in hands-free quality",
                _bluetooth_mend(device),
            )
        )
    return findings


def _bluetooth_mend(device: Device) -> str:
    if device.key.startswith("bluez"):
        address = device.key.split(".")[1] if "." in device.key else "ADDRESS"
        return f"pactl set-card-profile bluez_card.{address} a2dp-sink  (and choose another microphone)"
    return "streamproc live --input NAME  (a built-in or USB microphone; keep the headset for listening)"


def check_sound_server(found: Sequence[Device]) -> list[Finding]:
    """Look whether PortAudio reaches the sound server that runs."""
    if platform.system() != "Linux" or not found or not pulse.server_runs():
        return []
    if any(device.host_api == PULSE for device in found):
        return [Finding(Level.GOOD, "sound server", "PortAudio reaches PulseAudio or PipeWire")]
    return [
        Finding(
            Level.NOTE,
            "sound server",
            "PulseAudio or PipeWire runs, but PortAudio has no way to it: its microphones cannot be chosen by name",
            _alsa_plugin(),
        )
    ]


def check_virtual_microphone(found: Sequence[Device]) -> list[Finding]:
    """Look for a way into call programs."""
    system = platform.system()
    if system == "Linux":
        if not pulse.server_runs():
            text = "needs PulseAudio or PipeWire, and none answers"
            return [Finding(Level.NOTE, "virtual mic", text, "systemctl --user restart pipewire-pulse")]
        return [
            Finding(
                Level.GOOD,
                "virtual mic",
                f"streamproc live --virtual-mic; then select {virtual_mic.SOURCE!r} as microphone",
            )
        ]
    cables = _VIRTUAL_CABLES.get(system, ())
    cable = next((d for d in found if d.n_outputs and any(word in d.name for word in cables)), None)
    if cable is not None:
        text = f'streamproc live --output "{cable.name}"; then select it as microphone in the call program'
        return [Finding(Level.GOOD, "virtual mic", text)]
    if system == "Darwin":
        return [Finding(Level.NOTE, "virtual mic", "no virtual cable found", "brew install blackhole-2ch")]
    if system == "Windows":
        return [Finding(Level.NOTE, "virtual mic", "no virtual cable found", "start https://vb-audio.com/Cable/")]
    return []


# --- the machine ----------------------------------------------------------------------------------------------------


def check_priority(limit: Callable[[], int] | None = None) -> list[Finding]:
    """Look whether audio threads may have real-time priority."""
    if platform.system() != "Linux":
        return []
    allowed = _priority_limit() if limit is None else limit()
    if allowed > 0:
        return [Finding(Level.GOOD, "priority", f"audio threads may have real-time priority up to {allowed}")]
    user = os.environ.get("USER", "$USER")
    return [
        Finding(
            Level.NOTE,
            "priority",
            "audio threads get no real-time priority: a busy machine will cause dropouts",
            f"printf '@audio - rtprio 95\\n@audio - memlock unlimited\\n' | sudo tee /etc/security/limits.d/audio.conf "
            f"&& sudo usermod -aG audio {user}  (and log in again)",
        )
    ]


def _priority_limit() -> int:
    import resource

    if os.geteuid() == 0:
        return 99
    return resource.getrlimit(resource.RLIMIT_RTPRIO)[0]


def check_governor(folder: Path = Path("/sys/devices/system/cpu")) -> list[Finding]:
    """Look whether the processor is told to save power."""
    governors = {path.read_text().strip() for path in folder.glob("cpu[0-9]*/cpufreq/scaling_governor")}
    if not governors:
        return []
    if governors & {"powersave", "conservative"}:
        return [
            Finding(
                Level.NOTE,
                "processor",
                f"the frequency governor is {', '.join(sorted(governors))}: the processor sleeps between blocks and "
                "wakes up slowly",
                "sudo cpupower frequency-set --governor performance",
            )
        ]
    return [Finding(Level.GOOD, "processor", f"frequency governor {', '.join(sorted(governors))}")]


def check_load(load: float | None = None, n_processors: int | None = None) -> list[Finding]:
    """Look whether other programs use the processor up."""
    if load is None:
        if not hasattr(os, "getloadavg"):
            return []
        load = os.getloadavg()[0]
    n_processors = n_processors or os.cpu_count() or 1
    text = f"{load:.1f} of {n_processors} processors were busy in the last minute"
    if load < 0.7 * n_processors:
        return [Finding(Level.GOOD, "load", text)]
    return [
        Finding(Level.NOTE, "load", f"{text}: expect dropouts", "top -o %CPU" if sys.platform == "linux" else "top")
    ]


def measure_lateness_ms(n: int = 200, sleep_ms: float = 2.0) -> list[float]:
    """Return how late a sleeping thread is woken up, in milliseconds."""
    lateness = []
    for _ in range(n):
        begun = time.perf_counter()
        time.sleep(sleep_ms / 1000.0)
        lateness.append((time.perf_counter() - begun) * 1000.0 - sleep_ms)
    return sorted(lateness)


def check_wake_up(lateness_ms: Sequence[float]) -> list[Finding]:
    """Judge how late threads are woken up: what an audio thread has to live with."""
    worst = lateness_ms[int(0.99 * (len(lateness_ms) - 1))]
    text = f"threads wake up {lateness_ms[len(lateness_ms) // 2]:.2f} ms late, {worst:.2f} ms at worst (99 %)"
    if worst < 2.0:
        return [Finding(Level.GOOD, "wake-up", text)]
    return [
        Finding(
            Level.NOTE, "wake-up", f"{text}: too late for small blocks", f"streamproc live --block {_block_for(worst)}"
        )
    ]


def _block_for(worst_ms: float) -> int:
    """Return a block at 48 kHz that lasts twice as long as the worst wake-up."""
    block = 128
    while block / 48.0 < 2.0 * worst_ms and block < 4096:
        block *= 2
    return block
