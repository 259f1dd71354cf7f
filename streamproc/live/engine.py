"""The live engine: a processor inside an audio callback."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ..parameters import Smoothed
from ..processor import Processor
from ..spec import LatencyBreakdown
from .drift import ClockBridge
from .recorder import Recorder
from .statistics import LiveSnapshot, Mode

OnMiss = Literal["dry", "silence"]

DeviceBlock = npt.NDArray[np.float32]
"""Audio at the device edge: float32 ``[frames, channels]``."""


@dataclass(frozen=True)
class LiveConfig:
    """How a live stream runs.

    Parameters
    ----------
    sample_rate : int
        Rate of the device in Hz.
    n_channels : int
        Channels that are processed. At the device edge one channel fans out to any number, and several become their
        mean where `n_channels` is 1; any other difference is refused.
    fixed_block : int, optional
        The device promises this many frames in every callback; the processor then needs less delay.
    max_block : int
        Largest block, in frames, where it is not fixed. Larger callbacks are worked off in pieces.
    mode : {"worker", "inline"}
        ``worker``: a thread computes, the callback copies. ``inline``: the callback computes.
    on_miss : {"dry", "silence"}
        What is heard when processed sound is not there (a miss, an overload, a failure): the input at the same latency,
        or nothing.
    queue : int, optional
        Delay in samples that gives the worker time: a block must be done `queue` samples after it came in. At least
        one block (the default) in worker mode, 0 in inline mode.
    tolerated_share : float
        Share of samples that may be missed for ever, in (0, 1).
    burst_ms : float
        Missed sound beyond the tolerated share that turns processing off, as one burst or spread over a longer time.
    rest_s : float or None
        Pause before processing is tried again after an overload; it doubles with every overload, up to sixteen-fold.
        None: only `LiveEngine.reset` turns it on again.
    """

    sample_rate: int
    n_channels: int = 1
    fixed_block: int | None = None
    max_block: int = 1024
    mode: Mode = "worker"
    on_miss: OnMiss = "dry"
    queue: int | None = None
    tolerated_share: float = 0.05
    burst_ms: float = 500.0
    rest_s: float | None = 5.0


class LiveEngine:
    """A processor between input and output of a device.

    Parameters
    ----------
    processor : Processor
        Owned, and prepared, by the engine from here on.
    config : LiveConfig
    recorder : Recorder, optional
        Gets the input and the output of every block. Started and stopped by its owner.
    bridge : ClockBridge, optional
        Where input and output are two devices; only read, for `snapshot`.
    """

    def __init__(
        self,
        processor: Processor,
        config: LiveConfig,
        recorder: Recorder | None = None,
        bridge: ClockBridge | None = None,
    ) -> None:
        raise NotImplementedError

    def callback(
        self, indata: DeviceBlock, outdata: DeviceBlock, frames: int, time_info: Any = None, status: Any = None
    ) -> None:
        """Answer one block of the device; the callback of a duplex stream. Thread: audio.

        Never raises. Works before `start` and after `stop` too: dry sound (or silence) at the same latency.

        Parameters
        ----------
        indata : float32 [frames, channels]
        outdata : float32 [frames, channels]
            Filled entirely.
        frames : int
        time_info : object, optional
            With ``inputBufferAdcTime`` in seconds, as PortAudio gives it; 0 where the host does not know.
        status : object, optional
            Falsy, or with ``input_underflow``, ``input_overflow``, ``output_underflow`` and ``output_overflow``.
        """

    def start(self, own_thread: bool = True) -> None:
        """Begin processing, from silence. Thread: control.

        Parameters
        ----------
        own_thread : bool
            False: no thread is made, and the caller runs `work` in its place. For tests, and for hosts with threads of
            their own.

        Raises
        ------
        EngineError
            If it runs already, or if the last worker is still busy.
        """

    def stop(self, timeout_s: float = 2.0) -> bool:
        """End processing; callbacks go on with dry sound. Thread: control.

        Returns
        -------
        bool
            False if the worker was still inside the processor after `timeout_s`; it ends when that returns.
        """
        return True

    @property
    def running(self) -> bool:
        """Whether processing has been started and not stopped. Thread: any."""
        return False

    def work(self, max_blocks: int | None = None) -> int:
        """Process what has come in: the body of the worker. Thread: worker, or the caller of ``start(False)``.

        Parameters
        ----------
        max_blocks : int, optional
            Stop after so many blocks.

        Returns
        -------
        int
            Blocks processed.
        """
        return 0

    @property
    def latency(self) -> LatencyBreakdown:
        """Processor and queue by parts; the device's own parts are the device layer's to add. Thread: any."""
        return LatencyBreakdown()

    @property
    def latency_samples(self) -> int:
        """``outdata[t]`` describes ``indata[t - latency_samples]``: constant. Thread: any."""
        return 0

    @property
    def parameters(self) -> Mapping[str, Smoothed]:
        """Parameters of the processor; ``parameters[name].set(value)``. Thread: any."""
        return {}

    @property
    def bypass(self) -> bool:
        """Whether the user wants dry sound: click-free, same latency, the processor keeps running. Thread: any."""
        return False

    @bypass.setter
    def bypass(self, wanted: bool) -> None: ...

    def reset(self) -> None:
        """Forget all audio, a failure and an overload, and begin anew with the next block. Thread: control.

        Dry sound covers the `latency_samples` until new processed sound is there.
        """

    @property
    def failure(self) -> Exception | None:
        """The first exception of the callback or the processor since the last `reset`. Thread: any."""
        return None

    def raise_if_failed(self) -> None:
        """Raise what went wrong in the audio path. Thread: control.

        Raises
        ------
        EngineError
            From the first exception, with the statistics as its ``snapshot``.
        """

    @property
    def audio_threads(self) -> tuple[int, ...]:
        """Native ids of the callback's and the worker's thread, once they have run; for `realtime`. Thread: any."""
        return ()

    def snapshot(self) -> LiveSnapshot:
        """Return the statistics so far. Thread: any but audio."""
        raise NotImplementedError

    def clear_statistics(self) -> None:
        """Start counting anew; audio and state are not touched. Thread: control."""
