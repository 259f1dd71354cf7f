"""What a live stream counts, and the one value in which it is read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

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
    """Samples that were due and not there; dry sound or silence was heard instead."""
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
