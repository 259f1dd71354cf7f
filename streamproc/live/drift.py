"""Two devices, two clocks: estimate their ratio and resample slowly from one to the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ..spec import LatencyBreakdown


class DuplexCallback(Protocol):
    """The signature of `LiveEngine.callback`."""

    def __call__(
        self,
        indata: npt.NDArray[np.float32],
        outdata: npt.NDArray[np.float32],
        frames: int,
        time_info: Any = None,
        status: Any = None,
    ) -> None:
        """Answer one block."""


@dataclass(frozen=True)
class DriftSnapshot:
    """The two clocks at one moment."""

    ppm: float
    """How much faster the capture clock runs than nominal, seen from the playback clock; parts per million."""
    settled: bool
    """Whether the estimate has settled."""
    target_samples: float
    """Delay that the bridge aims at, in playback samples."""
    error_samples: float
    """Recent distance from it."""
    underflow_samples: int
    """Samples that were needed before they were captured; silence."""
    resyncs: int
    """Times that the distance was too large to be steered away, and sound was skipped or silence put in."""
    capture_xruns: int


class ClockBridge:
    """A duplex stream made of two devices with clocks of their own.

    Parameters
    ----------
    callback : DuplexCallback
        Called from `playback`, on the playback device's clock.
    capture_rate, playback_rate : int
        Nominal rates in Hz. They may differ: the bridge converts.
    n_channels : int
        Channels of the capture device, and of the input that `callback` gets.
    capture_block, playback_block : int
        Largest blocks of the two devices in frames.
    margin_ms : float
        Room for the jitter of both callbacks.

    Examples
    --------
    >>> bridge = ClockBridge(engine.callback, 48000, 48000, 1, 128, 128)
    >>> capture = sounddevice.InputStream(callback=bridge.capture, ...)
    >>> playback = sounddevice.OutputStream(callback=bridge.playback, ...)
    """

    def __init__(
        self,
        callback: DuplexCallback,
        capture_rate: int,
        playback_rate: int,
        n_channels: int,
        capture_block: int,
        playback_block: int,
        margin_ms: float = 2.0,
    ) -> None:
        raise NotImplementedError

    def capture(self, indata: npt.NDArray[np.float32], frames: int, time_info: Any = None, status: Any = None) -> None:
        """Take one block of the capture device; the callback of an input stream. Thread: audio (capture)."""

    def playback(
        self, outdata: npt.NDArray[np.float32], frames: int, time_info: Any = None, status: Any = None
    ) -> None:
        """Fill one block of the playback device; the callback of an output stream. Thread: audio (playback)."""

    @property
    def latency(self) -> LatencyBreakdown:
        """Delay that the bridge adds and keeps, in playback samples: ``device_in`` (the ring) and ``resample``."""
        return LatencyBreakdown()

    def snapshot(self) -> DriftSnapshot:
        """Return the clocks as they are now. Thread: any but audio."""
        raise NotImplementedError
