"""Round trip of real devices: sweeps are played, and looked for in what is recorded meanwhile.

What is measured is what a live stream has to live with: the time, in samples, from a block that a callback hands out to
the block in which it comes back, through a cable, the air, or a connection inside a sound server.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from statistics import median_low
from typing import Any

import numpy as np

from .errors import DeviceError, DeviceLost
from .latency import LatencyMeasurement, find, sweep
from .live.choice import JACK, find_device, share_a_clock
from .live.devices import list_devices, open_stream
from .spec import Block, LatencyBreakdown

SWEEP_S = 0.25
LONGEST_ROUND_TRIP_S = 0.5
SETTLING_S = 0.3
"""Silence before the first sweep: streams need a moment to find their pace."""

_GRACE_S = 5.0


@dataclass(frozen=True)
class Loopback:
    """A round trip, measured again and again.

    Parameters
    ----------
    source, sink : str
        Names of the input and the output.
    sample_rate : int
        In Hz.
    block : int
        Frames per callback; the largest that was seen.
    measurements : sequence of LatencyMeasurement
        One for each sweep that came back. `declared` is what the devices say.
    n_sweeps : int
        Sweeps that were played.
    declared_in, declared_out : int
        What the devices say about either direction, in samples.
    inside_graph : bool
        Output and input are connected inside a JACK server, without hardware. What a client hears of itself is then one
        block old, by the rules of JACK, and that block is part of what is declared.
    xruns : int
        Callbacks with which the device reported lost sound.
    """

    source: str
    sink: str
    sample_rate: int
    block: int
    measurements: Sequence[LatencyMeasurement]
    n_sweeps: int
    declared_in: int
    declared_out: int
    inside_graph: bool
    xruns: int

    @property
    def declared(self) -> int:
        """What the round trip should be, in samples."""
        return self.declared_in + self.declared_out + (self.block if self.inside_graph else 0)

    @property
    def round_trip(self) -> int:
        """The median, in samples."""
        return median_low(found.samples for found in self.measurements)

    @property
    def jitter(self) -> int:
        """Longest less shortest round trip, in samples."""
        trips = [found.samples for found in self.measurements]
        return max(trips) - min(trips)

    @property
    def difference(self) -> int:
        """Measured less declared, in samples."""
        return self.round_trip - self.declared

    def as_device(self) -> LatencyBreakdown:
        """Return the measured round trip as the two parts of a budget; only their sum can be measured."""
        return LatencyBreakdown(
            device_in=Fraction(self.declared_in), device_out=Fraction(self.round_trip - self.declared_in)
        )

    def document(self) -> dict[str, Any]:
        """Return everything as what JSON can hold."""
        return {
            "input": self.source,
            "output": self.sink,
            "sample_rate": self.sample_rate,
            "block": self.block,
            "sweeps": self.n_sweeps,
            "round_trips": [found.samples for found in self.measurements],
            "round_trip_samples": self.round_trip,
            "round_trip_ms": 1e3 * self.round_trip / self.sample_rate,
            "jitter_samples": self.jitter,
            "declared_samples": self.declared,
            "difference_samples": self.difference,
            "inside_graph": self.inside_graph,
            "xruns": self.xruns,
        }


def declared_latency(source: str | None, sink: str | None, sample_rate: int) -> tuple[str, LatencyBreakdown]:
    """Return what devices say about themselves when they are asked for low latency.

    Parameters
    ----------
    source, sink : str, optional
        Words that choose the devices; the system's defaults where left out.
    sample_rate : int
        Of the stream, in Hz.

    Returns
    -------
    name : str
        Of both.
    latency : LatencyBreakdown
        ``device_in`` and ``device_out``.

    Raises
    ------
    DeviceError
        If no device, or more than one, is meant.
    """
    devices = list_devices()
    microphone, loudspeaker = find_device(source, "input", devices), find_device(sink, "output", devices)
    latency = LatencyBreakdown(
        device_in=Fraction(round(microphone.input_latency_s * sample_rate)),
        device_out=Fraction(round(loudspeaker.output_latency_s * sample_rate)),
    )
    return " and ".join(dict.fromkeys((str(microphone), str(loudspeaker)))), latency


def measure_loopback(source: str | None, sink: str | None, sample_rate: int, block: int, n_sweeps: int = 5) -> Loopback:
    """Play sweeps through an output, record them from an input, and measure how long they took.

    Parameters
    ----------
    source, sink : str, optional
        Words that choose the devices, see `streamproc.live.choice.find_device`.
    sample_rate : int
        Of both devices, in Hz.
    block : int
        Frames per callback. On JACK the server's counts.
    n_sweeps : int

    Raises
    ------
    DeviceError
        If the devices cannot be opened together, or no sweep comes back.
    DeviceLost
        If a device stops calling.
    """
    devices = list_devices()
    microphone, loudspeaker = find_device(source, "input", devices), find_device(sink, "output", devices)
    if not share_a_clock(microphone, loudspeaker):
        raise DeviceError(
            f"{microphone} and {loudspeaker} run on two clocks: a round trip would drift while it is measured; "
            "choose the input and the output of one card, or use JACK"
        )
    on_jack = microphone.host_api == JACK
    tape = _Tape(sample_rate, n_sweeps)
    stream = open_stream(
        tape.callback,
        source=microphone,
        sink=loudspeaker,
        sample_rate=sample_rate,
        # A fixed block on JACK would be cut from the server's, at a whole block of latency.
        block=0 if on_jack else block,
    )
    try:
        if stream.sample_rate != sample_rate:
            raise DeviceError(f"the device runs at {stream.sample_rate} Hz: say --rate {stream.sample_rate}")
        stream.start()
        deadline = time.monotonic() + tape.seconds + _GRACE_S
        while not tape.finished:
            if time.monotonic() > deadline:
                raise DeviceLost(f"{microphone} and {loudspeaker} stopped calling before the sweeps were over")
            time.sleep(0.02)
    finally:
        stream.close()
    # Hardware always keeps something in stock; ports without latency are those of programs.
    inside_graph = on_jack and stream.latency_in + stream.latency_out == 0
    result = Loopback(
        source=str(microphone),
        sink=str(loudspeaker),
        sample_rate=sample_rate,
        block=tape.largest,
        measurements=(),
        n_sweeps=n_sweeps,
        declared_in=stream.latency_in,
        declared_out=stream.latency_out,
        inside_graph=inside_graph,
        xruns=tape.xruns,
    )
    found = [measurement for measurement in tape.measure(result.declared) if measurement.certain]
    if not found:
        raise DeviceError(
            f"none of {n_sweeps} sweeps played on {loudspeaker} was heard on {microphone}: connect the two with a "
            "cable, or in a patch bay, and check that neither is muted"
        )
    return replace(result, measurements=tuple(found))


class _Tape:
    """Plays sweeps with pauses, and records all the time. Its memory is there before the first callback."""

    def __init__(self, sample_rate: int, n_sweeps: int) -> None:
        self.largest = self.xruns = 0
        self._probe = sweep(round(SWEEP_S * sample_rate), sample_rate)
        self._period = self._probe.size + round(LONGEST_ROUND_TRIP_S * sample_rate)
        first = round(SETTLING_S * sample_rate)
        self._starts = [first + index * self._period for index in range(n_sweeps)]
        n = first + n_sweeps * self._period
        self.seconds = n / sample_rate
        self._played: Block = np.zeros(n, np.float32)
        for start in self._starts:
            self._played[start : start + self._probe.size] = self._probe
        self._heard: Block = np.zeros(n, np.float32)
        self._position = 0

    @property
    def finished(self) -> bool:
        return self._position >= self._played.size

    def callback(self, indata: Block, outdata: Block, frames: int, _time: Any, status: Any) -> None:
        """Play and record one block. Thread: audio."""
        start = self._position
        n = min(frames, self._played.size - start)
        outdata.fill(0.0)
        outdata[:n, 0] = self._played[start : start + n]
        self._heard[start : start + n] = indata[:n, 0]
        self._position = start + n
        self.largest = max(self.largest, frames)
        self.xruns += bool(status)

    def measure(self, declared: int) -> list[LatencyMeasurement]:
        """Find every sweep in what was heard from its start to the start of the next."""
        return [find(self._probe, self._heard[start : start + self._period], declared) for start in self._starts]
