"""Audio devices: which there are, and streams on them. The only file that imports sounddevice.

Three things about PortAudio shape this file:

- Calls can block for ever. After a JACK server has died, stopping or closing a stream waits for a thread that is gone,
  and terminating the library ends the whole process with a failed assertion. So every call that talks to a device runs
  in a thread of its own with a time limit, and a library that did not answer is never called again: `DeviceLost` says
  so, and a new process (`streamproc.live.LiveProcess`) is what begins anew.
- Its list of devices is made when it is loaded and does not change. Devices that come and go are seen by a new process.
- Their numbers change when something is plugged in. Devices are therefore chosen, and remembered, by name.
"""

from __future__ import annotations

import atexit
import ctypes
import ctypes.util
import os
import platform
from collections.abc import Callable, Iterable
from threading import Thread
from types import ModuleType
from typing import Any, TypeVar

from ..errors import DeviceError, DeviceLost
from . import pulse
from .choice import JACK, PULSE, Device, Direction, preference

T = TypeVar("T")

LOAD_TIMEOUT_S = 15.0
OPEN_TIMEOUT_S = 10.0
CLOSE_TIMEOUT_S = 2.0

PULSE_INPUT_MS = 20.0
PULSE_OUTPUT_MS = 35.0
"""Latency for devices of a sound server where none is asked for. Of its input, less loses samples (at 9 ms, 390 in a
million, and no word of it). Of its output, less works until the first underrun, after which PulseAudio was seen to take
no sound for two seconds."""

_CLIENT_NAME = ctypes.c_char_p(b"streamproc")
"""What JACK calls us. PortAudio keeps the pointer, so it must live as long as the process."""

# --- calls that may not come back -----------------------------------------------------------------------------------


def within(timeout_s: float, doing: str, call: Callable[[], T]) -> T:
    """Return what `call` returns, or give up on it.

    Parameters
    ----------
    timeout_s : float
    doing : str
        For the message, like ``"closing the microphone"``.
    call : callable
        Runs in a thread of its own.

    Raises
    ------
    DeviceLost
        If the time is over. The thread is left to itself, and PortAudio is not called again in this process.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(call())
        except BaseException as error:
            errors.append(error)

    thread = Thread(target=run, name=f"streamproc: {doing}", daemon=True)
    thread.start()
    thread.join(timeout_s)
    if errors:
        raise errors[0]
    if results:
        return results[0]
    problem = f"the audio system did not answer within {timeout_s:g} s while {doing}"
    _library.abandon(problem)
    raise DeviceLost(f"{problem}; if it goes on, restart the sound server or plug the device out and in again")


class _Library:
    """PortAudio, loaded when first used, and given up when it does not answer."""

    def __init__(self) -> None:
        self._module: ModuleType | None = None
        self._abandoned: str | None = None

    def get(self) -> Any:
        """Return the module sounddevice.

        Raises
        ------
        DeviceError
            If PortAudio is missing.
        DeviceLost
            If it was given up.
        """
        if self._abandoned is not None:
            raise DeviceLost(f"{self._abandoned}; this process cannot use audio devices any more, start a new one")
        if self._module is None:
            try:
                self._module = within(LOAD_TIMEOUT_S, "looking for devices", _import_sounddevice)
            except ImportError as error:
                raise DeviceError("the package sounddevice is missing; run: pip install sounddevice") from error
            except OSError as error:
                raise DeviceError(f"PortAudio is missing ({error}); run: {portaudio_command()}") from error
            except Exception as error:
                raise DeviceError(f"PortAudio does not start: {error}; try: streamproc doctor") from error
        return self._module

    def abandon(self, reason: str) -> None:
        """Never call PortAudio again, not even when the process ends."""
        self._abandoned = reason
        if self._module is not None:
            atexit.unregister(self._module._exit_handler)

    def release(self) -> None:
        """Terminate PortAudio if it is in use and answers."""
        module, self._module = self._module, None
        if module is not None and self._abandoned is None:
            within(CLOSE_TIMEOUT_S, "letting go of the audio system", module._terminate)

    def loaded(self) -> bool:
        """Whether PortAudio is there and was not given up."""
        return self._module is not None and self._abandoned is None


_library = _Library()


def _import_sounddevice() -> ModuleType:
    # Before PortAudio starts, and only where this build of it knows JACK: connections in a JACK patch bay are kept
    # under the client's name, and "PortAudio" says nothing.
    found = ctypes.util.find_library("portaudio")
    if found is not None:
        set_name = getattr(ctypes.CDLL(found), "PaJack_SetClientName", None)
        if set_name is not None:
            set_name(_CLIENT_NAME)
    import sounddevice

    return sounddevice  # type: ignore[no-any-return]


def release() -> None:
    """Say goodbye to the sound server, if that is possible; afterwards this process is to use no device any more.

    Raises
    ------
    DeviceLost
        If it did not answer.
    """
    _library.release()


def portaudio_command() -> str:
    """Return the command that installs PortAudio on this system."""
    system = platform.system()
    if system == "Darwin":
        return "brew install portaudio"
    if system == "Windows":
        return "pip install --force-reinstall sounddevice"
    return linux_package("libportaudio2", fedora="portaudio", arch="portaudio", alpine="portaudio", suse="portaudio")


def linux_package(debian: str, *, fedora: str, arch: str, alpine: str, suse: str) -> str:
    """Return the command that installs a package of this name on this distribution."""
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        release = {}
    family = {release.get("ID", ""), *release.get("ID_LIKE", "").split()}
    for names, command in (
        ({"fedora", "rhel", "centos"}, f"sudo dnf install {fedora}"),
        ({"arch", "manjaro"}, f"sudo pacman -S {arch}"),
        ({"alpine"}, f"sudo apk add {alpine}"),
        ({"suse", "opensuse"}, f"sudo zypper install {suse}"),
    ):
        if family & names:
            return command
    return f"sudo apt install {debian}"


def portaudio_version() -> str:
    """Return PortAudio's own description of its version."""
    return str(_library.get().get_portaudio_version()[1])


# --- which devices there are ----------------------------------------------------------------------------------------


def list_devices() -> list[Device]:
    """Return every device, those of the preferred host APIs first.

    Raises
    ------
    DeviceError
        If PortAudio is missing or does not start.
    """
    library = _library.get()
    host_apis = library.query_hostapis()
    devices: list[Device] = []
    seen: dict[tuple[str, str], int] = {}
    for index, entry in enumerate(library.query_devices()):
        host_api = host_apis[entry["hostapi"]]
        name, api_name = str(entry["name"]), str(host_api["name"])
        count = seen[name, api_name] = seen.get((name, api_name), 0) + 1
        devices.append(
            Device(
                name=name,
                key=name if count == 1 else f"{name} #{count}",
                host_api=api_name,
                index=index,
                n_inputs=int(entry["max_input_channels"]),
                n_outputs=int(entry["max_output_channels"]),
                sample_rate=round(entry["default_samplerate"]),
                input_latency_s=float(entry["default_low_input_latency"]),
                output_latency_s=float(entry["default_low_output_latency"]),
                is_default_input=host_api["default_input_device"] == index,
                is_default_output=host_api["default_output_device"] == index,
            )
        )
    devices += _sound_server_devices(devices)
    return sorted(devices, key=preference)


def _sound_server_devices(devices: Iterable[Device]) -> list[Device]:
    """Return sources and sinks of the sound server; PortAudio itself sees one door to all of them."""
    door = next((device for device in devices if device.name == "pulse" and device.host_api == "ALSA"), None)
    if door is None or any(device.host_api == PULSE for device in devices):
        return []
    try:
        endpoints = pulse.endpoints()
    except DeviceError:
        return []
    return [
        Device(
            name=endpoint.description,
            key=endpoint.name,
            host_api=PULSE,
            index=door.index,
            n_inputs=endpoint.n_channels if endpoint.kind == "source" else 0,
            n_outputs=endpoint.n_channels if endpoint.kind == "sink" else 0,
            sample_rate=endpoint.sample_rate,
            input_latency_s=door.input_latency_s,
            output_latency_s=door.output_latency_s,
            is_default_input=endpoint.kind == "source" and endpoint.is_default,
            is_default_output=endpoint.kind == "sink" and endpoint.is_default,
            is_monitor=endpoint.is_monitor,
            is_bluetooth=endpoint.is_bluetooth,
        )
        for endpoint in endpoints
    ]


# --- streams --------------------------------------------------------------------------------------------------------


class DeviceStream:
    """An open stream on one or two devices of one clock.

    Attributes
    ----------
    sample_rate : int
    latency_in, latency_out : int
        Of the devices, in samples: from the connector (on JACK, from the physical port) to the callback and back.
    """

    def __init__(self, stream: Any, source: Device | None, sink: Device | None, block: int) -> None:
        self.sample_rate = round(stream.samplerate)
        self._stream = stream
        self._names = _names(source, sink)
        self._on_jack = JACK in {d.host_api for d in (source, sink) if d is not None}
        self._started = False
        self.latency_in, self.latency_out = self._latencies(source, sink, block)

    def _latencies(self, source: Device | None, sink: Device | None, block: int) -> tuple[int, int]:
        """Return the latency of both directions.

        Notes
        -----
        On JACK the figures of the stream are wrong in the PortAudio that most distributions carry: it subtracts one
        period from the latency of the port, below zero where the port has none (seen as 2**32 - period). Measured with
        a client on both sides, sample by sample: the latency is that of the remote ports, and where a fixed block was
        asked for, one such block more for the output, even if it equals the period.
        """
        if self._on_jack:
            return (
                round(source.input_latency_s * self.sample_rate) if source else 0,
                round(sink.output_latency_s * self.sample_rate) + block if sink else 0,
            )
        latency = self._stream.latency
        latency_in, latency_out = latency if isinstance(latency, tuple) else (latency, latency)
        return (
            round(latency_in * self.sample_rate) if source else 0,
            round(latency_out * self.sample_rate) if sink else 0,
        )

    def start(self) -> None:
        """Let callbacks come. Thread: control."""
        _guarded(OPEN_TIMEOUT_S, f"starting {self._names}", self._stream.start)
        self._started = True

    @property
    def active(self) -> bool:
        """Whether callbacks come. False after the device or its server has gone. Thread: control."""
        if not (_library.loaded() and self._started):
            return False
        try:
            return bool(self._stream.active)
        except _library.get().PortAudioError:
            return False

    def close(self) -> bool:
        """Stop and close, or give up. Thread: control.

        Returns
        -------
        bool
            False if the device did not let go; it is then left to the end of the process.
        """
        if not _library.loaded():
            return False
        if self._on_jack and self._started and not self.active:
            _library.abandon("the JACK server has gone")
            return False
        try:
            if self._started:
                _guarded(CLOSE_TIMEOUT_S, f"stopping {self._names}", self._stream.stop)
            _guarded(CLOSE_TIMEOUT_S, f"closing {self._names}", self._stream.close)
        except DeviceError:
            return False
        finally:
            self._started = False
        return True


def open_stream(
    callback: Callable[..., None],
    *,
    source: Device | None = None,
    sink: Device | None = None,
    sample_rate: int,
    n_inputs: int = 1,
    n_outputs: int = 1,
    block: int = 0,
    latency_ms: float | None = None,
) -> DeviceStream:
    """Open a stream of float32 ``[frames, channels]``; it does not run yet. Thread: control.

    Parameters
    ----------
    callback : callable
        As sounddevice calls it: ``(indata, outdata, frames, time, status)`` with both devices, else without the array
        of the missing one.
    source, sink : Device, optional
        At least one. Both only where `share_a_clock`.
    sample_rate : int
    n_inputs, n_outputs : int
    block : int
        Frames per callback; 0: as the device likes, which costs least. JACK's block is always the server's: a fixed one
        would only be cut from it, at a whole block of latency.
    latency_ms : float, optional
        To ask the device for; the lowest that it offers unless given. JACK's is the server's.

    Raises
    ------
    DeviceError
        If the device does not open like this. The message says what it can do.
    DeviceLost
        If it does not answer.
    """
    library = _library.get()
    directions: list[tuple[Direction, Device, int]] = []
    if source is not None:
        directions.append(("input", source, n_inputs))
    if sink is not None:
        directions.append(("output", sink, n_outputs))
    for direction, device, n_channels in directions:
        _check_channels(device, direction, n_channels)
    _choose_endpoints(source, sink)
    make = {("input",): library.InputStream, ("output",): library.OutputStream, ("input", "output"): library.Stream}[
        tuple(direction for direction, _, _ in directions)
    ]
    indices, channels = [d.index for _, d, _ in directions], [n for _, _, n in directions]
    stream = _guarded(
        OPEN_TIMEOUT_S,
        f"opening {_names(source, sink)}",
        lambda: make(
            device=indices if len(directions) == 2 else indices[0],
            channels=channels if len(directions) == 2 else channels[0],
            samplerate=sample_rate,
            blocksize=block,
            latency=_latency_s(directions[0][1], sink is not None, latency_ms),
            dtype="float32",
            callback=callback,
        ),
        sample_rate,
    )
    return DeviceStream(stream, source, sink, block)


def _latency_s(device: Device, is_output: bool, latency_ms: float | None) -> float | str:
    if latency_ms is None and device.host_api == PULSE:
        latency_ms = PULSE_OUTPUT_MS if is_output else PULSE_INPUT_MS
    return "low" if latency_ms is None else latency_ms / 1000.0


def _names(source: Device | None, sink: Device | None) -> str:
    return " and ".join(dict.fromkeys(str(device) for device in (source, sink) if device is not None))


def _check_channels(device: Device, direction: Direction, n_channels: int) -> None:
    if n_channels > device.n_channels(direction):
        raise DeviceError(
            f"{device} has {device.n_channels(direction)} {direction} channels, {n_channels} were asked for; "
            f"use --channels {device.n_channels(direction)} or choose another --{direction}"
        )


def _choose_endpoints(source: Device | None, sink: Device | None) -> None:
    """Tell the sound server which source and sink the next streams of this process mean."""
    for variable, device in (("PULSE_SOURCE", source), ("PULSE_SINK", sink)):
        if device is not None and device.host_api == PULSE:
            os.environ[variable] = device.key
    # Mixers show this; ALSA would call us "ALSA plug-in [python3]".
    os.environ.setdefault("PULSE_PROP_OVERRIDE", "application.name=streamproc")


def _guarded(timeout_s: float, doing: str, call: Callable[[], T], sample_rate: int | None = None) -> T:
    """Call PortAudio within a time limit and turn its errors into ours."""
    library = _library.get()
    try:
        return within(timeout_s, doing, call)
    except library.PortAudioError as error:
        raise DeviceError(f"{doing} failed: {error}; {_advice(error, sample_rate)}") from error


def _advice(error: Exception, sample_rate: int | None) -> str:
    text = str(error).lower()
    if "sample rate" in text:
        return f"it does not run at {sample_rate} Hz: leave --rate out to use its own rate"
    if "unavailable" in text or "busy" in text:
        return "another program may hold it: close that, or choose another device (streamproc devices)"
    if "channel" in text:
        return "choose another number of --channels"
    return "choose another device (streamproc devices), or look for the cause with: streamproc doctor"
