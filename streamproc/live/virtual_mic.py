"""A microphone that is not there: what is played into it, any program can record under the name "streamproc".

::

    streamproc live --> sink "streamproc_output" --> its monitor --> source "streamproc" --> call program

Programs hide the monitors of sinks from their lists of microphones, which is why a second module makes a source of it.
PulseAudio and PipeWire keep both until they are told otherwise, so a crash leaves them behind; `create` finds and uses
what a crash left.
"""

from __future__ import annotations

from ..errors import DeviceError, DeviceNotFound
from . import pulse
from .choice import PULSE

SOURCE = "streamproc"
"""The source that programs record from."""

SINK = "streamproc_output"

OUTPUT = f"{SINK}, {PULSE}"
"""The device to play into, as `find_device` knows it."""

SAMPLE_RATE = 48_000
"""In Hz: what call programs use."""


def real_microphone() -> str:
    """Return the default microphone as `find_device` knows it, never the virtual one.

    Once it has been chosen in the system's settings, the virtual microphone is the system's default; listening to it
    would be a loop.

    Raises
    ------
    DeviceError
        If it is not clear which one is meant.
    """
    real = [e for e in pulse.endpoints() if e.kind == "source" and e.name != SOURCE and not e.is_monitor]
    chosen = [e for e in real if e.is_default] or real
    if len(chosen) != 1:
        listing = "\n".join(f"  {endpoint.name}  ({endpoint.description})" for endpoint in real) or "  none"
        raise DeviceNotFound(f"choose a microphone by name with --input; the sound server has:\n{listing}")
    return f"{chosen[0].name}, {PULSE}"


def create(n_channels: int = 1) -> bool:
    """Make the virtual microphone, or take over one of as many channels that a crash left behind.

    Parameters
    ----------
    n_channels : int

    Returns
    -------
    bool
        Whether it was there already.

    Raises
    ------
    DeviceError
        If there is no sound server, or another program plays into the virtual microphone.
    """
    found = _modules()
    if found:
        user = _user()
        if user is not None:
            raise DeviceError(
                f"the virtual microphone {SOURCE!r} is in use by {user}: only one can play into it; end that one first"
            )
        whole = sorted(module.name for module in found) == ["module-null-sink", "module-remap-source"]
        if whole and all(f"channels={n_channels}" in module.arguments.split() for module in found):
            return True
        remove()
    # In float, so that nothing is rounded on the way; PulseAudio's own default is 16 bits.
    shape = (f"rate={SAMPLE_RATE}", f"channels={n_channels}", "format=float32le")
    pulse.load_module(
        "module-null-sink", f"sink_name={SINK}", *shape, f"sink_properties=device.description={SOURCE}-output"
    )
    try:
        pulse.load_module(
            "module-remap-source",
            f"source_name={SOURCE}",
            f"master={SINK}.monitor",
            f"channels={n_channels}",
            f"source_properties=device.description={SOURCE}",
        )
    except DeviceError:
        remove()
        raise
    return False


def remove() -> None:
    """Remove the virtual microphone. Nothing happens where there is none, or no sound server."""
    try:
        found = _modules()
    except DeviceError:
        return
    for module in reversed(found):
        try:
            pulse.unload_module(module.number)
        except DeviceError:
            continue  # The source goes with its sink.


def _modules() -> list[pulse.Module]:
    """Return what makes up the virtual microphone, in the order in which it was made."""
    ours = (f"sink_name={SINK}", f"source_name={SOURCE}")
    return [module for module in pulse.modules() if any(part in ours for part in module.arguments.split())]


def _user() -> str | None:
    """Return who plays into the sink, if anybody does."""
    number = pulse.sink_number(SINK)
    for playback in pulse.playbacks():
        if number is not None and playback.sink_number == number:
            return f"{playback.application} (process {playback.process})"
    return None
