"""Two devices, two clocks: measure the ratio of their rates and resample slowly from one to the other.

No two crystals agree: 48000 Hz of one sound card are 48010 Hz of another, and after ten minutes six thousand samples
have piled up between them, or are missing. Nothing but a change of rate helps, by just as much as the clocks differ.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, floor, pi
from time import perf_counter
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ..errors import ConfigError
from ..spec import Block, LatencyBreakdown
from .ring import Ring

DeviceBlock = npt.NDArray[np.float32]
"""Audio at the device edge: float32 ``[frames, channels]``."""

MAX_DRIFT = 1e-3
"""Largest difference of two clocks that is steered after. Real ones differ by less than a third of that."""


class DuplexCallback(Protocol):
    """The signature of `LiveEngine.callback`."""

    def __call__(
        self, indata: DeviceBlock, outdata: DeviceBlock, frames: int, time_info: Any = None, status: Any = None
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
    """Delay that the bridge keeps, in playback samples."""
    error_samples: float
    """Recent distance from it."""
    underflow_samples: int
    """Samples that were needed before they were captured: silence."""
    resyncs: int
    """Times that the distance was too large to be steered away, and the bridge jumped to its target."""
    capture_xruns: int
    """Callbacks at which the capture device reported lost sound."""


class Interpolator:
    """Values of a sampled signal between its samples.

    Parameters
    ----------
    n_channels : int
    max_outputs : int
        Most values asked for at once.
    ratio : float
        Input samples per output sample, about; above 1 the pass band narrows so that nothing folds.

    Notes
    -----
    A sinc under a Kaiser window, 16 samples to either side, as a table of 256 phases with straight lines between them
    (-104 dB). At ratio 1 it is flat within 0.01 dB to 0.42 of the rate (20.1 kHz at 48 kHz), and images of what lies
    below that are 80 dB down. Allocates nothing after it was made.
    """

    _HALF = 16
    _PHASES = 256
    _ATTENUATION_DB = 80.0

    def __init__(self, n_channels: int, max_outputs: int, ratio: float) -> None:
        stretch = max(1.0, ratio)
        self.half = ceil(self._HALF * stretch)
        n_taps = 2 * self.half
        # Tap k of phase j weighs the input that lies k - half + 1 - j / phases after the output.
        distance = np.arange(n_taps) - self.half + 1 - np.arange(self._PHASES + 1)[:, np.newaxis] / self._PHASES
        beta = 0.1102 * (self._ATTENUATION_DB - 8.7)
        window = np.i0(beta * np.sqrt(np.maximum(0.0, 1.0 - (distance / self.half) ** 2)))
        table = np.sinc(distance / stretch) * window
        table /= table.sum(axis=1, keepdims=True)
        self._table = table[:-1].astype(np.float32)
        self._slope = np.diff(table, axis=0).astype(np.float32)

        self._count = np.arange(max_outputs, dtype=np.float64)
        self._place = np.zeros(max_outputs)
        self._whole = np.zeros(max_outputs)
        self._index = np.zeros(max_outputs, np.intp)
        self._between = np.zeros((max_outputs, 1), np.float32)
        self._tap = np.arange(n_taps, dtype=np.intp)
        self._reads = np.zeros((max_outputs, n_taps), np.intp)
        self._inputs, self._weights, self._slopes = (np.zeros((max_outputs, n_taps), np.float32) for _ in range(3))
        self.room = ceil(max_outputs * ratio * (1.0 + MAX_DRIFT)) + n_taps + 2
        """Most inputs that `read` looks at."""

    def n_inputs(self, fraction: float, ratio: float, n: int) -> int:
        """Return how many inputs `read` looks at."""
        return floor(fraction + (n - 1) * ratio) + 2 * self.half

    def read(self, x: Block, fraction: float, ratio: float, out: Block) -> None:
        """Fill ``out[:, i]`` with the signal at ``fraction + i * ratio`` samples after ``x[:, half - 1]``.

        Parameters
        ----------
        x : float32 [channels, m]
            ``m >= n_inputs(...)``.
        fraction : float
            In [0, 1).
        ratio : float
        out : float32 [channels, n]
        """
        n = out.shape[1]
        place, whole, index, between = self._place[:n], self._whole[:n], self._index[:n], self._between[:n]
        inputs, weights, slopes, reads = self._inputs[:n], self._weights[:n], self._slopes[:n], self._reads[:n]
        np.multiply(self._count[:n], ratio, out=place)
        np.add(place, fraction, out=place)
        np.floor(place, out=whole)
        np.copyto(index, whole, casting="unsafe")
        np.add(index[:, np.newaxis], self._tap, out=reads)
        np.subtract(place, whole, out=place)
        np.multiply(place, self._PHASES, out=place)
        np.floor(place, out=whole)
        np.copyto(index, whole, casting="unsafe")
        np.subtract(place, whole, out=between[:, 0], casting="same_kind")
        # mode="clip" because the default goes through a buffer of its own when there is an `out`.
        np.take(self._table, index, axis=0, out=weights, mode="clip")
        np.take(self._slope, index, axis=0, out=slopes, mode="clip")
        np.multiply(slopes, between, out=slopes)
        np.add(weights, slopes, out=weights)
        for channel, answer in zip(x, out, strict=True):
            np.take(channel, reads, out=inputs, mode="clip")
            np.einsum("nt,nt->n", inputs, weights, out=answer)


class RatioLoop:
    """Follows the ratio of two clocks from a noisy distance that should stay zero.

    A proportional-integral loop behind a low-pass, as in [1]_: the integral becomes the ratio, the proportional part
    steers the distance back. Its bandwidth falls with time like ``1 / t``, so that it locks within seconds and then
    averages over ever longer, down to a floor at which it still follows a crystal that warms up.

    Parameters
    ----------
    rate : float
        Samples per second of the distance.

    References
    ----------
    .. [1] F. Adriaensen, "Controlling adaptive resampling", Linux Audio Conference 2012.
    """

    _FIRST = 2.0 * pi * 0.25
    _LAST = 2.0 * pi * 0.01
    _SETTLED_S = 60.0
    _SMOOTHER = 8.0  # the low-pass lies this much above the loop's bandwidth, so that the loop stays stable

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self.drift = 0.0
        self.restart()

    def restart(self) -> None:
        """Lock anew, from the drift known so far."""
        self._age_s = 0.0
        self.error = 0.0

    @property
    def settled(self) -> bool:
        """Whether the bandwidth has come near its floor."""
        return self._age_s >= self._SETTLED_S

    def update(self, distance: float, elapsed_s: float) -> float:
        """Take in a distance in samples, measured `elapsed_s` after the last; return the drift to resample with."""
        self._age_s += elapsed_s
        bandwidth = max(self._LAST, min(self._FIRST, 4.0 / max(self._age_s, 1e-3)))
        self.error += (distance - self.error) * min(1.0, self._SMOOTHER * bandwidth * elapsed_s)
        self.drift = _limited(self.drift + bandwidth**2 * self.error * elapsed_s / self._rate)
        return _limited(self.drift + 2.0 * bandwidth * self.error / self._rate)


def _limited(drift: float) -> float:
    return max(-MAX_DRIFT, min(MAX_DRIFT, drift))


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
    clock : callable
        Seconds; `time.perf_counter` unless given.

    Attributes
    ----------
    failure : Exception or None
        The first exception of either callback.

    Notes
    -----
    Captured samples are numbered. When the capture device has just delivered up to sample `N` at time `t`, then at any
    later time `u` it has captured ``N + (u - t) * rate`` of them, delivered or not. Playback reads `target` samples
    behind that. So the distance that the loop keeps small does not see the blocks of either device, only their clocks
    and the jitter of their callbacks.

    `target` is the least that always works: a capture block may be almost due, a playback block is needed whole, and
    the interpolator looks `half` samples ahead.

    Examples
    --------
    >>> bridge = ClockBridge(engine.callback, 48000, 48000, 1, 128, 128)
    >>> capture = sounddevice.InputStream(callback=bridge.capture, ...)
    >>> playback = sounddevice.OutputStream(callback=bridge.playback, ...)
    """

    _JUMP_MS = 1.0
    """Largest recent distance that is steered away; beyond, the latency would not be what it says."""

    _JUMP_AT_ONCE_MS = 50.0
    """Distance of a single block that no jitter explains."""

    def __init__(
        self,
        callback: DuplexCallback,
        capture_rate: int,
        playback_rate: int,
        n_channels: int,
        capture_block: int,
        playback_block: int,
        margin_ms: float = 2.0,
        clock: Callable[[], float] = perf_counter,
    ) -> None:
        for name, value in (("capture_block", capture_block), ("playback_block", playback_block)):
            if value < 1:
                raise ConfigError(f"{name} must be at least 1, found {value}")
        self._callback = callback
        self._clock = clock
        self._capture_rate = capture_rate
        self._playback_rate = playback_rate
        self._playback_block = playback_block
        self._ratio = capture_rate / playback_rate
        self._interpolator = Interpolator(n_channels, playback_block, self._ratio)
        needed = capture_block + playback_block * self._ratio * (1.0 + MAX_DRIFT) + margin_ms * capture_rate / 1000.0
        # Rounded up to whole playback samples, because a latency is a whole number.
        self._delay = ceil((needed + self._interpolator.half + 1) / self._ratio)
        self._target = self._delay * self._ratio

        room = max(capture_block, self._interpolator.room)
        self._ring = Ring(n_channels, ceil(2.0 * self._target) + capture_rate // 2 + room, capture_block)
        self._capture_block = capture_block
        self._captured: Block = np.zeros((n_channels, capture_block), np.float32)
        self._window: Block = np.zeros((n_channels, self._interpolator.room), np.float32)
        self._out, self._other = (np.zeros((n_channels, playback_block), np.float32) for _ in range(2))
        self._block: DeviceBlock = np.zeros((playback_block, n_channels), np.float32)
        self._ramp = np.arange(1, playback_block + 1, dtype=np.float32) / playback_block

        self._too_far = self._JUMP_MS * capture_rate / 1000.0
        self._at_once = self._JUMP_AT_ONCE_MS * capture_rate / 1000.0
        self._loop = RatioLoop(capture_rate)
        self._arrival: tuple[int, float] | None = None
        self._last_s: float | None = None
        self._whole = 0
        self._fraction = 0.0
        self._underflow = self._resyncs = self._capture_xruns = 0
        self.failure: Exception | None = None

    def capture(self, indata: DeviceBlock, frames: int, time_info: Any = None, status: Any = None) -> None:
        """Take one block of the capture device; the callback of an input stream. Thread: audio (capture)."""
        try:
            now_s = self._clock()
            if status:
                self._capture_xruns += 1
            for start in range(0, frames, self._capture_block):
                piece = indata[start : start + self._capture_block]
                captured = self._captured[:, : piece.shape[0]]
                np.copyto(captured, piece.T)
                self._ring.append(captured)
            # One assignment: playback must never see the count of one block with the time of another.
            self._arrival = (self._ring.written, now_s)
        except Exception as error:
            self.failure = self.failure or error

    def playback(self, outdata: DeviceBlock, frames: int, time_info: Any = None, status: Any = None) -> None:
        """Fill one block of the playback device; the callback of an output stream. Thread: audio (playback)."""
        try:
            now_s = self._clock()
            for start in range(0, frames, self._playback_block):
                answer = outdata[start : start + self._playback_block]
                n = answer.shape[0]
                out = self._out[:, :n]
                self._pull(out, now_s)
                np.copyto(self._block[:n], out.T)
                self._callback(self._block[:n], answer, n, time_info, status)
                now_s += n / self._playback_rate
        except Exception as error:
            self.failure = self.failure or error
            outdata.fill(0.0)

    def _pull(self, out: Block, now_s: float) -> None:
        """Fill `out` with captured sound at the playback clock's rate."""
        arrival = self._arrival
        if arrival is None:  # nothing was captured yet
            out.fill(0.0)
            return
        n_captured, captured_s = arrival
        newest = n_captured + (now_s - captured_s) * self._capture_rate
        if self._last_s is None:
            self._move_by(newest - self._target)
            self._last_s = now_s
        distance = newest - self._target - (self._whole + self._fraction)
        elapsed_s, self._last_s = now_s - self._last_s, now_s

        # A distance that no jitter explains says nothing about the clocks: the loop must not see it.
        jump = distance if abs(distance) > self._at_once else 0.0
        drift = self._loop.update(0.0 if jump else distance, elapsed_s)
        if abs(self._loop.error) > self._too_far:
            jump = self._loop.error
        ratio = self._ratio * (1.0 + drift)
        self._read(ratio, out)
        if jump:
            self._jump(jump, ratio, out)
        self._move_by(out.shape[1] * ratio)

    def _jump(self, samples: float, ratio: float, out: Block) -> None:
        """Go to another place at once; both places are heard for a block, so that it does not click."""
        n = out.shape[1]
        other = self._other[:, :n]
        self._move_by(samples)
        self._read(ratio, other)
        np.subtract(other, out, out=other)
        np.multiply(other, self._ramp[-n:], out=other)
        np.add(out, other, out=out)
        self._resyncs += 1
        self._loop.restart()

    def _move_by(self, samples: float) -> None:
        place = self._fraction + samples
        steps = floor(place)
        self._whole += steps
        self._fraction = place - steps

    def _read(self, ratio: float, out: Block) -> None:
        interpolator = self._interpolator
        first = self._whole - interpolator.half + 1
        wanted = interpolator.n_inputs(self._fraction, ratio, out.shape[1])
        there = max(0, min(wanted, self._ring.written - first))
        window = self._window[:, :wanted]
        if not self._ring.read(first, window[:, :there]):
            there = 0
        if there < wanted:
            window[:, there:] = 0.0
            self._underflow += min(wanted - there, out.shape[1])
        interpolator.read(window, self._fraction, ratio, out)

    @property
    def latency(self) -> LatencyBreakdown:
        """Delay that the bridge keeps, in playback samples: ``device_in`` (the ring) and ``resample``. Thread: any.

        It runs from the moment at which the capture device hands over its newest sample to the moment at which the
        playback device asks for it.
        """
        look_ahead = Fraction(self._interpolator.half * self._playback_rate, self._capture_rate)
        return LatencyBreakdown(device_in=self._delay - look_ahead, resample=look_ahead)

    def snapshot(self) -> DriftSnapshot:
        """Return the clocks as they are now. Thread: any but audio."""
        loop = self._loop
        return DriftSnapshot(
            ppm=1e6 * loop.drift,
            settled=loop.settled,
            target_samples=float(self._delay),
            error_samples=loop.error / self._ratio,
            underflow_samples=self._underflow,
            resyncs=self._resyncs,
            capture_xruns=self._capture_xruns,
        )
