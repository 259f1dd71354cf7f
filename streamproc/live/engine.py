"""The live engine: a processor inside an audio callback.

Read `LiveEngine._render` first: it is the whole path of a block. Why it keeps its latency is in `ledger.py`, how two
threads work together without waiting for each other in `worker.py`, and what transitions sound like in `splice.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from threading import get_native_id
from time import perf_counter_ns
from typing import Any

import numpy as np
import numpy.typing as npt

from ..dsp.units import samples
from ..engine import Engine
from ..errors import ConfigError, EngineError
from ..guard import Guard
from ..parameters import Smoothed
from ..processor import Processor, parameters_of
from ..spec import Block, LatencyBreakdown
from ..stats import Histogram
from .config import LiveConfig
from .drift import ClockBridge
from .forecast import Continuation, Forecaster
from .ledger import Ledger, Overload
from .predictor import Predictor, WienerPredictor
from .recorder import Recorder
from .ring import Ring
from .splice import Splice
from .statistics import BypassReason, LiveSnapshot, RecentPower, XrunCounter
from .worker import Worker, WorkerThread

DeviceBlock = npt.NDArray[np.float32]
"""Audio at the device edge: float32 ``[frames, channels]``."""

FADE_MS = 5.0
"""Length of every transition between processed sound, dry sound and silence."""

BACKLOG_MS = 1000.0
"""Input that waits for a worker which has fallen behind; what is older is given up."""

_LEVEL_MS = 300.0
_REMOVED_MS = 1000.0


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
    predictor : Predictor, optional
        For ``on_miss="predict"``, and owned like the processor; a `WienerPredictor` unless given.

    Notes
    -----
    Samples are numbered from the first one the device ever delivered. The block with the numbers ``p ... p + n`` is
    answered with the processed samples ``p - queue ... p - queue + n``, or the dry ones ``p - latency_samples ...``,
    whatever happened before. Nothing in here can make the latency other than that.
    """

    def __init__(
        self,
        processor: Processor,
        config: LiveConfig,
        recorder: Recorder | None = None,
        bridge: ClockBridge | None = None,
        predictor: Predictor | None = None,
    ) -> None:
        assert config.queue is not None, "set by LiveConfig"
        rate, n_channels, room = config.sample_rate, config.n_channels, config.max_block
        self.config = config
        self.recorder = recorder
        self.bridge = bridge
        self._engine = Engine(processor, rate, n_channels, config.fixed_block, room)
        self._queue = config.queue
        self._latency = self._engine.latency + LatencyBreakdown(queue=Fraction(config.queue))
        self._total = self._latency.total
        self._inline = config.mode == "inline"
        self._fill_with_dry = config.on_miss != "silence"

        self._input = Ring(n_channels, max(samples(BACKLOG_MS, rate), self._total) + room, room)
        if predictor is not None and config.on_miss != "predict":
            raise ConfigError(f"a predictor serves on_miss='predict' only, found on_miss={config.on_miss!r}")
        self._forecaster: Forecaster | None = None
        self._continuation: Continuation | None = None
        if config.on_miss == "predict":
            self._forecaster = Forecaster(predictor or WienerPredictor(), rate, n_channels, room)
            self._continuation = Continuation(self._forecaster, rate, n_channels, room)
        self._worker = Worker(self._engine, self._input, config.queue, self._forecaster)
        self._thread: WorkerThread | None = None
        self._splice = Splice(n_channels, samples(FADE_MS, rate), room)
        self._edge = Guard(n_channels, room)
        self._x, self._wet, self._dry, self._out = (np.zeros((n_channels, room), np.float32) for _ in range(4))

        self._ledger = Ledger()
        rest = None if config.rest_s is None else samples(1000.0 * config.rest_s, rate)
        self._overload = Overload(config.tolerated_share, samples(config.burst_ms, rate), rest)
        self._load = Histogram()
        self._xruns = XrunCounter(rate)
        self._input_power, self._output_power = (RecentPower(samples(_LEVEL_MS, rate)) for _ in range(2))
        self._dry_power, self._wet_power = (RecentPower(samples(_REMOVED_MS, rate)) for _ in range(2))
        self._callbacks = self._frames = self._overruns = 0

        self._valid_from = 0
        self._running = False
        self._bypass = False
        self._restarts_wanted = self._restarts_done = 0
        self._failure: Exception | None = None
        self._audio_thread: int | None = None

    # --- audio ------------------------------------------------------------------------------------------------------

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
        started_ns = perf_counter_ns()
        stop_at = self._input.written + frames
        try:
            self._audio_thread = get_native_id()
            self._xruns.note(frames, time_info, status)
            missed_before = self._ledger.missed
            room = self.config.max_block
            for start in range(0, frames, room):
                self._render(indata[start : start + room], outdata[start : start + room])
            self._conclude(frames, perf_counter_ns() - started_ns, self._ledger.missed - missed_before)
        except Exception as error:
            self._failure = self._failure or error
            self._worker.resting = True
            outdata.fill(0.0)
            # Time has passed all the same: without this the latency would shrink.
            self._input.pad(stop_at)

    def _render(self, indata: DeviceBlock, outdata: DeviceBlock) -> None:
        """Answer one block of at most `max_block` frames."""
        n = indata.shape[0]
        position = self._input.written
        x, wet, dry, out = self._x[:, :n], self._wet[:, :n], self._dry[:, :n], self._out[:, :n]

        _to_planar(indata, x)
        x = self._edge.clean(x)
        self._follow_control(position, n)
        self._input.append(x)
        if self._inline:
            self._worker.work()
        elif self._thread is not None:
            self._thread.call()

        due = position - self._queue
        start, stop = self._ledger.settle(due, n, self._valid_from, self._n_written(), self._is_processing)
        self._worker.output.read(due + start, wet[:, start:stop])
        self._input.read(position - self._total, dry)

        bypass = self._bypass
        with_dry = bypass or self._fill_with_dry
        other = self._in_place_of_wet(dry, due, start, stop, bypass)
        self._splice.replace(other[:, :start], with_dry, out[:, :start])
        self._splice.play(wet[:, start:stop], other[:, start:stop], bypass, out[:, start:stop])
        self._splice.replace(other[:, stop:], with_dry, out[:, stop:])

        self._edge.clamp(out)
        np.copyto(outdata, out.T)  # one channel fans out to any number
        self._measure(x, dry, wet if stop - start == n else None, out)
        if self.recorder is not None:
            self.recorder.write(x, out)

    def _in_place_of_wet(self, dry: Block, due: int, start: int, stop: int, bypass: bool) -> Block:
        """Return the dry sound, with the forecast over it where processed sound has just ended or just comes back."""
        continuation = self._continuation
        if continuation is None:
            return dry
        whole = stop - start == dry.shape[1]
        if not whole and self._splice.has_wet and not bypass:
            continuation.hold()
        elif self._splice.is_wet:  # nothing to go on from any more; or a gap in which dry sound was asked for
            continuation.drop()
        return continuation.over(dry, due, start, stop)

    def _follow_control(self, position: int, n: int) -> None:
        """Begin a new segment with the sample `position` where somebody asked for one, or the worker needs one."""
        worker, overload = self._worker, self._overload
        self._failure = self.failure
        if not self._running:
            worker.resting = True  # `stop` said so already, but a callback that was under way may have begun anew
            return
        wanted = self._restarts_wanted
        if wanted != self._restarts_done:
            self._restarts_done = wanted
            self._failure = None
        elif not ((worker.is_following and worker.overtaken) or (overload.resting and overload.rest(n))):
            return
        overload.resume()
        self._ledger.forget(position - self._queue, self._n_written())
        # The first sound that the processor gives after a reset describes what was before it: silence. That is true
        # at the very beginning of the stream and nowhere else.
        self._valid_from = position + self._engine.latency_samples if position else -self._queue
        worker.begin(position)

    def _n_written(self) -> int:
        """Return the number of the first sample of this segment that the worker has not processed."""
        worker = self._worker
        return worker.output.written if worker.is_following else worker.segment_start

    @property
    def _is_processing(self) -> bool:
        return self._running and self._failure is None and not self._overload.resting

    def _conclude(self, frames: int, elapsed_ns: int, missed: int) -> None:
        """Count one callback, and turn processing off where it has been late too often."""
        self._callbacks += 1
        self._frames += frames
        if frames == 0:
            return
        load_ppb = elapsed_ns * self.config.sample_rate // frames
        self._load.record(load_ppb)
        overran = load_ppb > 1_000_000_000
        self._overruns += overran
        if self._inline:  # nothing is ever missing: being late is the device's trouble, and our sign
            missed = frames if overran else 0
        if self._is_processing and self._overload.note(frames, missed):
            self._worker.resting = True

    def _measure(self, x: Block, dry: Block, wet: Block | None, out: Block) -> None:
        n_channels, n = x.shape
        self._input_power.add(float(np.vdot(x, x)), n, n_channels)
        self._output_power.add(float(np.vdot(out, out)), n, n_channels)
        if wet is not None:
            self._dry_power.add(float(np.vdot(dry, dry)), n, n_channels)
            self._wet_power.add(float(np.vdot(wet, wet)), n, n_channels)

    # --- control ----------------------------------------------------------------------------------------------------

    def start(self, own_thread: bool = True) -> None:
        """Begin processing, from silence. Thread: control.

        Parameters
        ----------
        own_thread : bool
            False: no thread is made, and the caller runs `work` in its place. For tests, and for hosts with threads of
            their own. Without effect in inline mode.

        Raises
        ------
        EngineError
            If it runs already, or if the last worker is still busy.
        """
        if self._running:
            raise EngineError("the engine runs already", self.snapshot())
        if self._thread is not None and self._thread.is_alive:
            raise EngineError(
                "the worker of the last run is still inside the processor, which cannot be shared; make a new engine",
                self.snapshot(),
            )
        self._thread = None
        if own_thread and not self._inline:
            self._thread = WorkerThread(self._worker)
            self._thread.start()
        self._restarts_wanted += 1
        self._running = True

    def stop(self, timeout_s: float = 2.0) -> bool:
        """End processing; callbacks go on with dry sound. Thread: control.

        Returns
        -------
        bool
            False if the worker was still inside the processor after `timeout_s`; it ends when that returns.
        """
        self._running = False
        self._worker.resting = True
        return self._thread is None or self._thread.stop(timeout_s)

    @property
    def running(self) -> bool:
        """Whether processing has been started and not stopped. Thread: any."""
        return self._running

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
        return self._worker.work(max_blocks)

    @property
    def latency(self) -> LatencyBreakdown:
        """Processor and queue by parts; the device's own parts are the device layer's to add. Thread: any."""
        return self._latency

    @property
    def latency_samples(self) -> int:
        """``outdata[t]`` describes ``indata[t - latency_samples]``: constant. Thread: any."""
        return self._total

    @property
    def parameters(self) -> Mapping[str, Smoothed]:
        """Parameters of the processor; ``parameters[name].set(value)``. Thread: any."""
        return parameters_of(self._engine.processor)

    @property
    def bypass(self) -> bool:
        """Whether the user wants dry sound: click-free, same latency, the processor keeps running. Thread: any."""
        return self._bypass

    @bypass.setter
    def bypass(self, wanted: bool) -> None:
        self._bypass = bool(wanted)

    def reset(self) -> None:
        """Forget all audio, a failure and an overload, and begin anew with the next block. Thread: control.

        Dry sound covers the `latency_samples` until new processed sound is there.
        """
        self._restarts_wanted += 1

    @property
    def failure(self) -> Exception | None:
        """The first exception of the callback or the processor since the last `reset`. Thread: any."""
        if self._failure is None and self._worker.is_following:
            return self._worker.failure
        return self._failure

    def raise_if_failed(self) -> None:
        """Raise what went wrong in the audio path. Thread: control.

        Raises
        ------
        EngineError
            From the first exception, with the statistics as its ``snapshot``.
        """
        failure = self.failure or (self.bridge.failure if self.bridge is not None else None)
        if failure is not None:
            raise EngineError(
                f"processing stopped after {self._frames / self.config.sample_rate:.1f} s of audio: "
                f"{type(failure).__name__}: {failure}",
                self.snapshot(),
            ) from failure

    @property
    def audio_threads(self) -> tuple[int, ...]:
        """Native ids of the callback's and the worker's thread, once they have run; for `realtime`. Thread: any."""
        ids = (self._audio_thread, self._thread.native_id if self._thread is not None else None)
        return tuple(native_id for native_id in ids if native_id is not None)

    # --- statistics -------------------------------------------------------------------------------------------------

    def snapshot(self) -> LiveSnapshot:
        """Return the statistics so far. Thread: any but audio."""
        config, ledger, load, processing = self.config, self._ledger, self._load, self._engine.snapshot()
        wake = self._thread.wake_times if self._thread is not None else Histogram()
        forecasts = self._forecaster.times if self._forecaster is not None else Histogram()
        drift = self.bridge.snapshot() if self.bridge is not None else None
        reason = self._bypass_reason
        return LiveSnapshot(
            mode=config.mode,
            running=self._running,
            sample_rate=config.sample_rate,
            n_channels=config.n_channels,
            latency_samples=self._total,
            callbacks=self._callbacks,
            frames=self._frames,
            audio_s=self._frames / config.sample_rate,
            misses=ledger.misses,
            missed_samples=ledger.missed,
            predicted_samples=self._continuation.predicted if self._continuation is not None else 0,
            late_samples=ledger.late,
            lost_samples=ledger.lost,
            owed_samples=ledger.owed,
            skipped_samples=ledger.skipped,
            bypassed_samples=ledger.unattended,
            overloads=self._overload.count,
            input_xruns=self._xruns.inputs + (drift.capture_xruns if drift is not None else 0),
            output_xruns=self._xruns.outputs,
            gap_samples=self._xruns.gap_samples,
            overruns=self._overruns,
            load_p50=load.percentile_ns(50) / 1e9,
            load_p99=load.percentile_ns(99) / 1e9,
            load_max=load.max_ns / 1e9,
            wake_p50_us=wake.percentile_ns(50) / 1e3,
            wake_p99_us=wake.percentile_ns(99) / 1e3,
            wake_max_us=wake.max_ns / 1e3,
            step_p50_us=processing.block_p50_us,
            step_p99_us=processing.block_p99_us,
            step_max_us=processing.block_max_us,
            forecast_p50_us=forecasts.percentile_ns(50) / 1e3,
            forecast_p99_us=forecasts.percentile_ns(99) / 1e3,
            rtf=processing.rtf,
            input_dbfs=self._input_power.db,
            output_dbfs=self._output_power.db,
            removed_db=_difference_db(self._dry_power.db, self._wet_power.db),
            silenced_samples=self._edge.silenced,
            clamped_samples=self._edge.clamped + processing.clamped_samples,
            recoveries=processing.recoveries,
            bypass=reason,
            advice=self._advice(reason, processing.rtf),
            recorder_dropped_samples=self.recorder.dropped_samples if self.recorder is not None else 0,
            drift=drift,
        )

    @property
    def _bypass_reason(self) -> BypassReason:
        if not self._running:
            return "stopped"
        if self.failure is not None:
            return "failed"
        if self._overload.resting:
            return "overload"
        return "user" if self._bypass else ""

    def _advice(self, reason: BypassReason, rtf: float) -> str:
        if reason == "failed":
            return f"the processor failed ({type(self.failure).__name__}: {self.failure}); reset to try again"
        if reason == "overload":
            again = "" if self.config.rest_s is None else "; it will be tried again"
            return (
                f"processing is off because it came too late too often (it needs {rtf:.0%} of one core): choose a "
                f"lighter model, a larger block or a longer queue, or close other programs{again}"
            )
        if self.recorder is not None and self.recorder.failure is not None:
            return f"the recording has ended early: {self.recorder.failure}"
        return ""

    def clear_statistics(self) -> None:
        """Start counting anew; audio and state are not touched. Thread: control."""
        self._ledger.clear_statistics()
        self._load.clear()
        self._xruns.clear()
        self._edge.clear_statistics()
        self._engine.clear_statistics()
        if self._thread is not None:
            self._thread.wake_times.clear()
        if self._forecaster is not None:
            self._forecaster.times.clear()
        if self._continuation is not None:
            self._continuation.predicted = 0
        for power in (self._input_power, self._output_power, self._dry_power, self._wet_power):
            power.clear()
        self._overload.count = 0
        self._callbacks = self._frames = self._overruns = 0


def _to_planar(indata: DeviceBlock, x: Block) -> None:
    """Copy ``[frames, channels]`` to ``[channels, frames]``; one channel fans out, several become their mean."""
    if x.shape[0] == 1 and indata.shape[1] > 1:
        np.mean(indata, axis=1, out=x[0])
    else:
        np.copyto(x, indata.T)


def _difference_db(louder_db: float, quieter_db: float) -> float:
    """Difference of two levels; 0 where there is no sound to compare."""
    difference = louder_db - quieter_db
    return difference if np.isfinite(difference) else 0.0
