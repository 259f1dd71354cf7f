"""A microphone that is not there: what is played into it, any program can record under the name "streamproc".

::

    streamproc live --> sink "streamproc_output" --> its monitor --> source "streamproc" --> call program

Programs hide the monitors of sinks from their lists of microphones, which is why a second module makes a source of it.
PulseAudio and PipeWire keep both until they are told otherwise, so a crash leaves them behind; `create` finds and uses
what a crash left.
"""

from __future__ import annotations

from ..errors import DeviceError
from . import pulse

SOURCE = "streamproc"
"""The source that programs record from."""

SINK = "streamproc_output"
"""The sink to play into."""


def create(sample_rate: int, n_channels: int = 1) -> bool:
    """Make the virtual microphone, or take over one that a crash left behind.

    Parameters
    ----------
    sample_rate : int
        In Hz; the rate of the real microphone saves a conversion.
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
        if sorted(module.name for module in found) == ["module-null-sink", "module-remap-source"]:
            return True
        remove()
    # In float, so that nothing is rounded on the way; PulseAudio's own default is 16 bits.
    shape = (f"rate={sample_rate}", f"channels={n_channels}", "format=float32le")
    pulse.load_module(
        "module-null-sink", f"sink_name={SINK}", *shape, f"sink_properties=device.description={SOURCE}-output"
    )
    try:
        pulse.load_module(
            "module-remap-source",
            f"source_name={SOURCE}",
            f"master={SINK}.monitor",
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
