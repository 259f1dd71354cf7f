"""What a live stream counts, and the one value in which it is read."""

from __future__ import annotations

from dataclasses import dataclass
from math import log10
from typing import Any, Literal

from .drift import DriftSnapshot

Mode = Literal["worker", "inline"]

BypassReason = Literal["", "user", "overload", "failed", "stopped"]
"""Why dry sound is heard; empty while the processor is heard."""


@dataclass(frozen=True)
class LiveSnapshot:
    """A live engine at one moment. Counters run from the first block, or from `LiveEngine.clear_statistics`.

    Samples are frames: one per channel and moment. Load is time spent over the duration of the block.
    """

    mode: Mode
    running: bool
    sample_rate: int
    n_channels: int
    latency_samples: int
    callbacks: int
    frames: int
    audio_s: float

    misses: int
    """Callbacks for which processed samples were due and not there."""
    missed_samples: int
    """Samples that were due and not there; dry sound, silence or a forecast was heard instead."""
    predicted_samples: int
    """Replaced samples, missed or not, that came from a forecast, wholly or in part; 0 unless predicting."""
    late_samples: int
    """Missed samples that came later and were dropped."""
    lost_samples: int
    """Missed samples that will never come: processing began anew before they were computed."""
    owed_samples: int
    """Missed samples still to come. ``missed == late + lost + owed`` at any moment."""
    skipped_samples: int
    """Samples replaced because processing began anew (start, reset, return from overload): `latency_samples` each."""
    bypassed_samples: int
    """Samples replaced while processing was at rest: stopped, failed or overloaded."""
    overloads: int
    """Times that too many misses turned processing off."""

    input_xruns: int
    """Callbacks at which the device reported an overflow or underflow of its input."""
    output_xruns: int
    """Callbacks at which the device reported an overflow or underflow of its output."""
    gap_samples: int
    """Samples that xruns swallowed, estimated from the device's clock."""
    overruns: int
    """Callbacks that took longer than their block."""

    load_p50: float
    load_p99: float
    load_max: float
    wake_p50_us: float
    """Time from the callback's call to the worker's first instruction (zero in inline mode)."""
    wake_p99_us: float
    wake_max_us: float
    step_p50_us: float
    """Time of one call of the processor."""
    step_p99_us: float
    step_max_us: float
    forecast_p50_us: float
    """Time of one forecast; zero unless predicting."""
    forecast_p99_us: float
    rtf: float
    """Processing time over audio time."""

    input_dbfs: float
    """Recent root mean square level; a full-scale sine has -3 dBFS. Silence is -inf."""
    output_dbfs: float
    removed_db: float
    """Recent level of the dry sound over that of the processed sound."""
    silenced_samples: int
    """Input samples that were not finite and were replaced by silence."""
    clamped_samples: int
    """Output samples outside [-1, 1] that were clamped."""
    recoveries: int
    """Times that the processor's output was not finite: the block became silence and the processor was reset."""

    bypass: BypassReason
    advice: str
    """What to do about the state of the engine; empty when all is well."""
    recorder_dropped_samples: int
    """Samples that the recorder could not keep up with; silence in the files."""
    drift: DriftSnapshot | None
    """Two clocks, where there are two."""


class RecentPower:
    """Mean square of a signal over about the last `memory` samples. Thread: one writer, any readers."""

    def __init__(self, memory: int) -> None:
        self._memory = memory
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self._energy = self._weight = 0.0

    def add(self, energy: float, n: int, n_channels: int) -> None:
        """Take in a block of `n` samples by the sum of its squares."""
        keep = self._memory / (self._memory + n)
        self._energy = keep * self._energy + energy
        self._weight = keep * self._weight + n * n_channels

    @property
    def db(self) -> float:
        """Mean square in dB; -inf for silence."""
        power = self._energy / self._weight if self._weight else 0.0
        return 10.0 * log10(power) if power > 0.0 else float("-inf")


class XrunCounter:
    """What the device reports, and how much sound went with it.

    Notes
    -----
    The device's clock goes on while sound is lost. Between two callbacks it should move by the duration of the first
    one; what it moved beyond that is the gap. Time stamps jitter, so only a callback with a report, or the one after
    it, is looked at; a jump of more than `_UNREPORTED_S` (a computer that slept) counts without one.
    """

    _UNREPORTED_S = 0.1

    def __init__(self, sample_rate: int) -> None:
        self._sample_rate = sample_rate
        self._expected_s = 0.0
        self._suspect = 0
        self.clear()

    def clear(self) -> None:
        """Start counting anew."""
        self.inputs = self.outputs = self.gap_samples = 0

    def note(self, frames: int, time_info: Any, status: Any) -> None:
        """Take in one callback's report. Thread: audio."""
        if status:
            if status.input_underflow or status.input_overflow:
                self.inputs += 1
                self._suspect = 2
            if status.output_underflow or status.output_overflow:
                self.outputs += 1
                self._suspect = 2
        captured_s = time_info.inputBufferAdcTime if time_info is not None else 0.0
        if captured_s <= 0.0:  # the host does not know
            self._expected_s = 0.0
            return
        gap_s = captured_s - self._expected_s
        if self._expected_s > 0.0 and gap_s > (0.0 if self._suspect else self._UNREPORTED_S):
            self.gap_samples += round(gap_s * self._sample_rate)
        self._suspect = max(0, self._suspect - 1)
        self._expected_s = captured_s + frames / self._sample_rate
