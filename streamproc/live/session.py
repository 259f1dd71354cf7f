"""A live session: devices, engine, clocks and recording tied together, from start to stop."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import DeviceLost
from ..processor import Processor
from ..spec import LatencyBreakdown
from .choice import JACK, Device, find_device, may_feed_back, share_a_clock
from .config import LiveConfig, OnMiss
from .devices import DeviceStream, list_devices, open_stream
from .door import Door
from .drift import ClockBridge
from .engine import LiveEngine
from .realtime import RealtimeReport, realtime
from .recorder import Recorder
from .statistics import LiveSnapshot, Mode

FIRST_BLOCKS = 8
"""Blocks that a new stream is watched for before its sizes are believed."""

FIRST_BLOCKS_TIMEOUT_S = 5.0

SILENT_S = 3.0
"""A device that has not called for so long is gone. PulseAudio may pause for two seconds after an underrun."""

FADE_MS = 10.0
FADE_TIMEOUT_S = 0.2

ATTENUATION_LIMIT = "attenuation_limit"


@dataclass(frozen=True)
class SessionSettings:
    """What a live session shall do: plain values that also travel to other processes.

    Parameters
    ----------
    input, output : str, optional
        Words that choose the devices, see `find_device`; the system's defaults where left out.
    sample_rate : int, optional
        Of both devices, in Hz; their own unless given.
    block : int
        Frames per callback; 0: as the device likes.
    latency_ms : float, optional
        To ask the devices for; the lowest that they offer unless given.
    n_channels : int
        Channels that are processed.
    mode : {"worker", "inline"}
        See `LiveConfig`.
    on_miss : {"dry", "silence", "predict"}
        See `LiveConfig`.
    record : Path, optional
        Folder for recordings of input and output.
    """

    input: str | None = None
    output: str | None = None
    sample_rate: int | None = None
    block: int = 0
    latency_ms: float | None = None
    n_channels: int = 1
    mode: Mode = LiveConfig.mode
    on_miss: OnMiss = LiveConfig.on_miss
    record: Path | None = None


@dataclass(frozen=True)
class SessionStatus:
    """A session at one moment."""

    source: Device
    sink: Device
    sample_rate: int
    block: int | None
    """Frames per callback; None where they vary."""
    latency: LatencyBreakdown
    """From the input's connector to the output's, all parts."""
    engine: LiveSnapshot
    bypass: bool
    attenuation_limit_db: float | None
    """None where the processor has no such parameter."""
    realtime: RealtimeReport
    recording: tuple[Path, Path] | None
    notes: tuple[str, ...]
    """What the user should know about these devices."""
    problems: tuple[str, ...]
    """What went wrong although the sound went on."""


class LiveSession:
    """A processor between two devices, until it is stopped or a device goes.

    Parameters
    ----------
    processor : Processor
        Owned by the session from here on.
    settings : SessionSettings
    owns_process : bool
        Nothing else happens in this process: every thread of it may have real-time priority.

    Raises
    ------
    DeviceError, DeviceNotFound, DeviceLost
        From `start`, if the devices cannot be opened.

    Notes
    -----
    A session does not outlive its devices: when one goes, the sound fades to silence and `check` raises `DeviceLost`.
    PortAudio cannot be started anew in a process whose sound server died, so that trying again takes a new process:
    see `streamproc.live.LiveProcess`.

    Examples
    --------
    >>> with LiveSession(streamproc.load("denoise"), SessionSettings(input="usb", output="speakers")) as session:
    ...     while True:
    ...         time.sleep(0.1)
    ...         session.check()
    """

    def __init__(
        self, processor: Processor, settings: SessionSettings | None = None, owns_process: bool = False
    ) -> None:
        self.settings = settings or SessionSettings()
        self._owns_process = owns_process
        self.sample_rate = 0
        self._processor = processor
        self._exit = ExitStack()
        self._doors: list[Door] = []
        self._streams: list[DeviceStream] = []
        self._recorder: Recorder | None = None
        self._notes: list[str] = []
        self._playing = False
        self._known_blocks: list[int] = []

    # --- from silence to sound --------------------------------------------------------------------------------------

    def start(self) -> None:
        """Open the devices and begin. Thread: control."""
        devices = list_devices()
        self._source = find_device(self.settings.input, "input", devices)
        self._sink = find_device(self.settings.output, "output", devices)
        try:
            self._start()
        except BaseException:
            self.stop()
            raise

    def _start(self) -> None:
        if may_feed_back(self._source, self._sink):
            self._notes.append(
                f"{self._sink} may be heard by {self._source} and howl: use headphones, or --virtual-mic"
            )
        # Before any stream runs: collecting garbage once holds up every thread for a tenth of a second.
        self._realtime = self._exit.enter_context(realtime(self._audio_threads))
        if share_a_clock(self._source, self._sink):
            self._open(self._source, self._sink)
        else:
            self._open(source=self._source)
            self._open(sink=self._sink)
        for stream in self._streams:
            stream.start()
        self._await_first_blocks()
        self._make_engine()
        for door, answer in zip(self._doors, self._answers(), strict=True):
            door.open(answer)
        self._playing = True

    def _open(self, source: Device | None = None, sink: Device | None = None) -> None:
        """Open one stream: of both devices, or of one of two that have clocks of their own."""
        device = source or sink
        assert device is not None
        settings = self.settings
        # Mono sound goes to both ears.
        n_outputs = settings.n_channels if settings.n_channels > 1 or sink is None else min(2, sink.n_outputs)
        door = Door(has_output=sink is not None)
        stream = open_stream(
            door,
            source=source,
            sink=sink,
            sample_rate=settings.sample_rate or device.sample_rate,
            n_inputs=settings.n_channels,
            n_outputs=n_outputs,
            # A fixed block on JACK would be cut from the server's, at a whole block of latency.
            block=0 if device.host_api == JACK else settings.block,
            latency_ms=settings.latency_ms,
        )
        self._doors.append(door)
        self._streams.append(stream)

    def _make_engine(self) -> None:
        """Make what answers the streams, now that their blocks are known."""
        settings, playback = self.settings, self._streams[-1]
        for door, device in zip(self._doors, (self._source, self._sink), strict=False):
            door.promised = door.largest if device.host_api == JACK else settings.block or None
        self._known_blocks = [door.largest for door in self._doors]
        self.sample_rate = playback.sample_rate
        self._block = self._doors[-1].promised
        config = LiveConfig(
            self.sample_rate,
            settings.n_channels,
            fixed_block=self._block,
            max_block=self._doors[-1].largest,
            mode=settings.mode,
            on_miss=settings.on_miss,
        )
        if settings.record is not None:
            self._recorder = Recorder(settings.record, self.sample_rate, settings.n_channels)
            self._exit.enter_context(self._recorder)
        self._bridge = self._make_bridge() if len(self._streams) == 2 else None
        self.engine = LiveEngine(self._processor, config, self._recorder, self._bridge)
        self.engine.start()
        self._exit.callback(self.engine.stop)
        between = self._bridge.latency if self._bridge else LatencyBreakdown()
        self._latency = self._device_latency() + between + self.engine.latency

    def _answers(self) -> tuple[Callable[..., None], ...]:
        """Return what answers each door."""
        if self._bridge is not None:
            return self._bridge.capture, self._bridge.playback
        return (self._answer_jack if self._source.host_api == JACK else self.engine.callback,)

    def _audio_threads(self) -> tuple[int, ...]:
        """Return the threads that need priority."""
        if not self._playing:
            return ()
        if not self._owns_process:
            return self.engine.audio_threads
        # Whoever has the interpreter keeps the audio threads waiting. An ordinary thread that has it and is put aside
        # by the system for a busy program would keep them waiting for as long.
        others = (thread.native_id for thread in threading.enumerate())
        return (*self.engine.audio_threads, *(native_id for native_id in others if native_id is not None))

    def _await_first_blocks(self) -> None:
        deadline = time.monotonic() + FIRST_BLOCKS_TIMEOUT_S
        while any(door.beats < FIRST_BLOCKS for door in self._doors):
            if time.monotonic() > deadline:
                raise DeviceLost(
                    f"{self._source} and {self._sink} opened, but no sound came within {FIRST_BLOCKS_TIMEOUT_S:g} s; "
                    "plug the device out and in again, or restart the sound server"
                )
            time.sleep(0.01)

    def _make_bridge(self) -> ClockBridge:
        capture, playback = self._streams
        return ClockBridge(
            self._answer_bridge,
            capture.sample_rate,
            playback.sample_rate,
            self.settings.n_channels,
            self._doors[0].largest,
            self._doors[1].largest,
        )

    def _answer_bridge(
        self,
        indata: npt.NDArray[np.float32],
        outdata: npt.NDArray[np.float32],
        frames: int,
        time_info: Any = None,
        status: Any = None,
    ) -> None:
        """Hand a block of the bridge to the engine, which is made after the bridge that it reports on."""
        self.engine.callback(indata, outdata, frames, time_info, status)

    def _answer_jack(
        self, indata: npt.NDArray[np.float32], outdata: npt.NDArray[np.float32], frames: int, _time: Any, status: Any
    ) -> None:
        """Hand over a block without its time stamps.

        PortAudio takes them from a clock that JACK estimates: beside xruns it was seen to jump by 9000 samples either
        way, and to wrap at 2**32. Gaps cannot be measured with it.
        """
        self.engine.callback(indata, outdata, frames, None, status)

    def _device_latency(self) -> LatencyBreakdown:
        capture, playback = self._streams[0], self._streams[-1]
        # Counted at the output's rate, like everything else.
        device_in = round(capture.latency_in * playback.sample_rate / capture.sample_rate)
        return LatencyBreakdown(device_in=device_in, device_out=playback.latency_out)  # type: ignore[arg-type]

    # --- meanwhile --------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """See whether all is well. Thread: control, a few times a second.

        Raises
        ------
        DeviceLost
            If a device has gone, or does not keep to its block size, or if processing came too late too often and the
            blocks are longer than those that the session was made for: its queue was too short for them.
        EngineError
            If the processor raised.
        """
        self.engine.raise_if_failed()
        for stream, door, known in zip(self._streams, self._doors, self._known_blocks, strict=True):
            if door.broken_promise:
                raise DeviceLost(f"the server changed its block to {door.broken_promise} frames")
            if door.largest > known and self.engine.snapshot().bypass == "overload":
                raise DeviceLost(f"the blocks have grown from {known} to {door.largest} frames")
            if not stream.active or door.silent_s() > SILENT_S:
                device = self._source if len(self._doors) == 1 or not door.has_output else self._sink
                raise DeviceLost(f"{device} has gone")

    def status(self) -> SessionStatus:
        """Return the session as it is now. Thread: control."""
        limit = self.engine.parameters.get(ATTENUATION_LIMIT)
        recorder = self._recorder
        return SessionStatus(
            source=self._source,
            sink=self._sink,
            sample_rate=self.sample_rate,
            block=self._block,
            latency=self._latency,
            engine=self.engine.snapshot(),
            bypass=self.engine.bypass,
            attenuation_limit_db=limit.value if limit else None,
            realtime=self._realtime(),
            recording=recorder.paths if recorder else None,
            notes=tuple(self._notes),
            problems=tuple(_problems(recorder)) if recorder else (),
        )

    def set_attenuation_limit(self, limit_db: float) -> None:
        """Change the most that may be removed, in dB; without effect where the processor has no such parameter."""
        parameter = self.engine.parameters.get(ATTENUATION_LIMIT)
        if parameter is not None:
            parameter.set(min(max(limit_db, parameter.parameter.minimum), parameter.parameter.maximum))

    # --- and back to silence ----------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Fade to silence, let go of the devices and finish the recording. Thread: control.

        What does not end within its time limit is left to the end of the process.
        """
        for door in self._doors:
            door.close(round(self.sample_rate * FADE_MS / 1000.0))
        deadline = time.monotonic() + FADE_TIMEOUT_S
        while any(door.is_open for door in self._doors) and time.monotonic() < deadline:
            time.sleep(0.005)
        for stream in self._streams:
            stream.close()
        self._doors, self._streams = [], []
        self._exit.close()

    def __enter__(self) -> LiveSession:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _problems(recorder: Recorder) -> Iterator[str]:
    if recorder.failure is not None:
        yield f"the recording ended early: {recorder.failure}"
    if recorder.dropped_samples:
        yield f"the disk was too slow for the recording: {recorder.dropped_samples} samples in it are silent"
