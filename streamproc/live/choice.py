"""Which device is meant: by name, never by number, and never a guess among several."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from ..errors import ConfigError, DeviceError, DeviceNotFound

Direction = Literal["input", "output"]

JACK = "JACK Audio Connection Kit"
PULSE = "PulseAudio"

PREFERRED_HOST_APIS = (PULSE, "Windows WASAPI", "Core Audio")
"""Where a device is offered in several ways, the first of these; then PortAudio's own order."""


@dataclass(frozen=True)
class Device:
    """A device as it is chosen and remembered: by name.

    Parameters
    ----------
    name : str
        For people.
    key : str
        Unique within its host API. The name itself, where no other device has it.
    host_api : str
        ``PulseAudio`` for sources and sinks of a PulseAudio or PipeWire server, which PortAudio reaches through ALSA.
    index : int
        PortAudio's number, valid in this process only.
    n_inputs, n_outputs : int
    sample_rate : int
        The rate that the device runs at if nobody asks for another, in Hz.
    input_latency_s, output_latency_s : float
        What the device offers when asked for low latency.
    is_default_input, is_default_output : bool
        Of its host API.
    is_monitor : bool
        It hears what a loudspeaker plays.
    is_bluetooth : bool
    """

    name: str
    key: str
    host_api: str
    index: int
    n_inputs: int
    n_outputs: int
    sample_rate: int
    input_latency_s: float = 0.0
    output_latency_s: float = 0.0
    is_default_input: bool = False
    is_default_output: bool = False
    is_monitor: bool = False
    is_bluetooth: bool = False

    @property
    def label(self) -> str:
        """The words that choose exactly this device, also in another process and after other devices came or went."""
        return f"{self.key}, {self.host_api}"

    def n_channels(self, direction: Direction) -> int:
        """Channels in one direction."""
        return self.n_inputs if direction == "input" else self.n_outputs

    def is_default(self, direction: Direction) -> bool:
        """Whether its host API takes it when nothing is said."""
        return self.is_default_input if direction == "input" else self.is_default_output

    def __str__(self) -> str:
        return f"{self.name} ({self.host_api})"


def preference(device: Device) -> int:
    """Return the rank of a device's host API; lower is better."""
    if device.host_api in PREFERRED_HOST_APIS:
        return PREFERRED_HOST_APIS.index(device.host_api)
    return len(PREFERRED_HOST_APIS)


def find_device(query: str | None, direction: Direction, devices: Iterable[Device]) -> Device:
    """Return the device that is meant.

    Parameters
    ----------
    query : str or None
        Words that all occur in the device's name or host API, in any order and case; or the whole name, or
        `Device.label`, which wins over everything that merely contains it. None: the system's default.
    direction : {"input", "output"}
    devices : iterable of Device
        Those of the preferred host APIs first, like `streamproc.live.devices.list_devices` gives them.

    Raises
    ------
    DeviceNotFound
        If no device is meant.
    DeviceError
        If more than one is. The message lists them.
    """
    able = [d for d in devices if d.n_channels(direction)]
    if not able:
        raise DeviceNotFound(f"there is no audio {direction} on this machine; try: streamproc doctor")
    if query is None:
        return _default_device(direction, able)
    wanted = query.casefold().strip()
    if not wanted or wanted.isdigit():
        raise ConfigError(
            f"the {direction} is chosen by name, found {query!r}: numbers change when something is plugged in. "
            f"There are:\n{_listing(able)}"
        )
    exact = [d for d in able if wanted in (d.label.casefold(), d.key.casefold())]
    exact = exact or [d for d in able if wanted in (d.name.casefold(), str(d).casefold())]
    words = wanted.replace(",", " ").split()
    # The server's own names, last, are for those who know them: "alsa" in them means no host API.
    matches = (
        exact
        or [d for d in able if all(word in f"{d.name} {d.host_api}".casefold() for word in words)]
        or [d for d in able if all(word in f"{d.name} {d.label}".casefold() for word in words)]
    )
    matches = [d for d in matches if not d.is_monitor] or matches
    if len(matches) > 1:
        matches = _one_of_the_same(matches)
    if not matches:
        raise DeviceNotFound(f"no {direction} matches {query!r}; there are:\n{_listing(able)}")
    if len(matches) > 1:
        raise DeviceError(f"{query!r} is not clear, these {direction}s match; say more:\n{_listing(matches)}")
    return matches[0]


def _default_device(direction: Direction, able: Sequence[Device]) -> Device:
    default = next((d for d in able if d.is_default(direction) and not d.is_monitor), None)
    if default is not None:
        return default
    candidates = [d for d in able if not d.is_monitor]
    if len(candidates) == 1:
        return candidates[0]
    raise DeviceNotFound(
        f"the system has no default {direction}; choose one of these by name with --{direction}:\n{_listing(able)}"
    )


def _one_of_the_same(matches: list[Device]) -> list[Device]:
    """Take the preferred host API where several of them offer the same device."""
    best = min(matches, key=preference)
    rivals = [d for d in matches if d.host_api == best.host_api]
    # Windows MME cuts names after 31 characters.
    same = all(d.name[:31] == best.name[:31] for d in matches)
    return [best] if same and len(rivals) == 1 else matches


def _listing(devices: Iterable[Device]) -> str:
    return "\n".join(f"  {d.label}" + (f"  ({d.name})" if d.name != d.key else "") for d in devices)


def share_a_clock(source: Device, sink: Device) -> bool:
    """Whether input and output certainly run on one clock, so that one duplex stream can serve both."""
    if source.host_api != sink.host_api or source.host_api == PULSE:
        return False
    # One JACK server, one clock. Elsewhere, one card is; but an ALSA device without a card may lead anywhere.
    if source.host_api == JACK:
        return True
    return source.key == sink.key and (source.host_api != "ALSA" or "hw:" in source.key)


_QUIET_OUTPUTS = (
    "headphone",
    "headset",
    "earphone",
    "airpods",
    "buds",
    "cable",
    "blackhole",
    "virtual",
    "null",
    "soundflower",
)
_SPEAKERS = (
    "speaker",
    "built-in",
    "internal",
    "analog",
    "hdmi",
    "realtek",
    "macbook",
    "default",
    "lautsprecher",
    "system",
)


def may_feed_back(source: Device, sink: Device) -> bool:
    """Whether the input is likely to hear the output: a guess by name, for a warning."""
    name = f"{sink.name} {sink.key}".casefold()
    if source.is_monitor:
        return sink.key in source.key
    return not any(word in name for word in _QUIET_OUTPUTS) and any(word in name for word in _SPEAKERS)
