"""Look-ahead limiter."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from ..parameters import Parameter, Smoothed
from ..processor import BaseProcessor
from ..spec import Block, LatencyBreakdown, StreamConfig
from .delay import DelayLine
from .units import amplitude, samples

_Samples = npt.NDArray[np.float64]

_PIECE = 256
"""Most samples whose release is computed at once: ``exp(_PIECE / time constant)`` must not overflow."""

_INAUDIBLE = 1e-6
"""A reduction of gain by less than this part has been released."""


class Limiter(BaseProcessor):
    """Keep every sample at or below a ceiling, by turning down smoothly just before a peak arrives.

    Parameters
    ----------
    ceiling_db : float
        Highest sample that leaves, -40 to 0 dB. Parameter ``ceiling``. The peaks that a converter finds between samples
        can be higher by a dB or so; leave room for them where it matters.
    release_ms : float
        Time constant with which the gain recovers, 1 to 5000 ms. Parameter ``release``.
    lookahead_ms : float
        Time in which the gain falls, 0 to 20 ms. It is latency.

    Raises
    ------
    ConfigError
        If a value lies outside its range.

    Notes
    -----
    Latency: exactly ``L`` samples, `lookahead_ms` in whole samples. All channels share one gain.

    Guarantee: ``|out| <= ceiling`` at every sample; while the ceiling moves, each sample keeps to the ceiling of the
    moment when it came in. With ``W = L + 1`` the gain is ``1 - d``, where ``d`` goes through four steps:

    1. ``need[t] = max(0, 1 - ceiling / peak[t])`` is the reduction that sample ``t`` needs at least;
    2. ``hold[t] = max(need[t-L] .. need[t])``, see `sliding_maximum`;
    3. ``fall[t] = max(hold[t], a * fall[t-1])``, the release;
    4. ``d[t] = sum of w[k] * fall[t-k]`` over ``k = 0 .. L``, with ``w >= 0`` and ``sum(w) == 1``: smooth attack.

    At ``t`` sample ``t - L`` leaves. Every term of the sum is at least ``hold[t-k]``, whose span holds ``need[t-L]``
    for each ``k``, so their mean ``d[t]`` is at least that too. What rounding adds is cut off.

    Step 3 is a running maximum in disguise: with ``fall[t] = a**t * m[t]`` it reads
    ``m[t] = max(hold[t] * a**-t, m[t-1])``. Nothing is computed per sample in Python, and next to nothing is computed
    while no sample exceeds the ceiling; then the output is the delayed input, exactly.
    """

    CEILING = Parameter("ceiling", "dB", -40.0, 0.0, -1.0, "highest sample that leaves")
    RELEASE = Parameter("release", "ms", 1.0, 5000.0, 80.0, "time constant of recovery")
    LOOKAHEAD = Parameter("lookahead", "ms", 0.0, 20.0, 3.0, "latency; time in which the gain falls")

    def __init__(
        self,
        ceiling_db: float = CEILING.default,
        release_ms: float = RELEASE.default,
        lookahead_ms: float = LOOKAHEAD.default,
    ) -> None:
        self._ceiling_db = Smoothed(self.CEILING, ceiling_db)
        self._release_ms = Smoothed(self.RELEASE, release_ms)
        self._lookahead_ms = self.LOOKAHEAD.check(lookahead_ms)
        self._allocate(StreamConfig(48000, max_block=1))

    @property
    def latency(self) -> LatencyBreakdown:
        """The look-ahead, all of it algorithmic."""
        return LatencyBreakdown(algorithmic=Fraction(self._lookahead))

    @property
    def parameters(self) -> Mapping[str, Smoothed]:
        """``ceiling`` and ``release``; the look-ahead is latency and therefore fixed."""
        return {value.parameter.name: value for value in (self._ceiling_db, self._release_ms)}

    def prepare(self, config: StreamConfig) -> None:
        """Allocate for the stream."""
        super().prepare(config)
        self._allocate(config)

    def reset(self) -> None:
        """Forget all audio."""
        super().reset()
        for line in (self._audio, self._ceilings, self._needed, self._falling):
            line.reset()
        self._rewind()

    def _allocate(self, config: StreamConfig) -> None:
        n_channels, max_block = config.n_channels, config.max_block
        self._sample_rate = config.sample_rate
        self._lookahead = samples(self._lookahead_ms, config.sample_rate)
        self._audio = DelayLine(n_channels, self._lookahead, max_block)
        self._ceilings = DelayLine(1, self._lookahead, max_block)
        self._needed = DelayLine(1, self._lookahead, max_block, np.float64)
        self._falling = DelayLine(1, self._lookahead, max_block, np.float64)
        self._ceiling: Block = np.zeros((1, max_block), np.float32)
        self._magnitude: Block = np.zeros((n_channels, max_block), np.float32)
        self._peak: Block = np.zeros(max_block, np.float32)
        self._reduction: _Samples = np.zeros((1, max_block))
        self._scratch: _Samples = np.zeros((2, self._lookahead + max_block))
        # A Hann window without its two zeros: every weight is positive, and the gain starts and ends level.
        bell = np.sin(np.pi * np.arange(1, self._lookahead + 2) / (self._lookahead + 2)) ** 2
        self._weights: _Samples = bell / bell.sum()
        self._decay: _Samples = np.ones(_PIECE)
        self._growth: _Samples = np.ones(_PIECE)
        self._decay_for = 0.0
        self._rewind()

    def _rewind(self) -> None:
        self._fallen = 0.0
        self._resting = True

    def process(self, x: Block, out: Block) -> None:
        """Limit one block."""
        n = x.shape[1]
        if n == 0:
            return
        ceiling = self._ceiling[:, :n]
        ceiling[:] = amplitude(self._ceiling_db.advance(n))
        # Rounding to float32 may have lifted it above the ceiling that was asked for.
        np.nextafter(ceiling, np.float32(0.0), out=ceiling)
        peak = np.maximum.reduce(np.abs(x, out=self._magnitude[:, :n]), axis=0, out=self._peak[:n])
        delayed = self._audio.push(x)[:, :n]
        bound = self._ceilings.push(ceiling)[:, :n]
        if self._resting and not (peak > ceiling).any():
            np.copyto(out, delayed)
            return
        np.multiply(delayed, self._gain(peak, ceiling[0]), out=out)
        np.minimum(out, bound, out=out)
        np.maximum(out, np.negative(bound, out=ceiling), out=out)

    def _gain(self, peak: Block, ceiling: Block) -> _Samples:
        """Return the gain for the samples that leave now, given the peaks of those that come in."""
        n = peak.size
        reduction = self._reduction[:, :n]
        np.maximum(peak, ceiling, out=reduction[0])
        np.divide(ceiling, reduction, out=reduction)
        np.subtract(1.0, reduction, out=reduction)
        hold = sliding_maximum(self._needed.push(reduction)[0], self._lookahead + 1, self._scratch)
        for start in range(0, n, _PIECE):
            piece = slice(start, min(n, start + _PIECE))
            self._release(hold[piece], reduction[0, piece])
        falling = self._falling.push(reduction)[0]
        self._resting = not falling.any()
        gain = np.convolve(falling, self._weights, "valid")
        return np.subtract(1.0, gain, out=gain)

    def _release(self, hold: _Samples, fall: _Samples) -> None:
        """Let the reduction fall no faster than the release allows."""
        if self._release_ms.value != self._decay_for:
            self._decay_for = self._release_ms.value
            time_constant = max(1.0, self._sample_rate * self._decay_for / 1000.0)
            np.exp(np.arange(1, _PIECE + 1) / -time_constant, out=self._decay)
            np.divide(1.0, self._decay, out=self._growth)
        n = hold.size
        np.multiply(hold, self._growth[:n], out=fall)
        np.maximum.accumulate(fall, out=fall)
        np.maximum(fall, self._fallen, out=fall)
        fall *= self._decay[:n]
        self._fallen = float(fall[-1])
        if self._fallen < _INAUDIBLE:
            self._fallen = 0.0


def sliding_maximum(values: _Samples, width: int, scratch: _Samples) -> _Samples:
    """Return the maximum of every `width` neighbours.

    Parameters
    ----------
    values : float64 [m]
        Left as it is.
    width : int
        1 to `m`.
    scratch : float64 [2, at least m]
        Two rows to work in.

    Returns
    -------
    float64 [m - width + 1]
        Lies in `values` or `scratch`.

    Notes
    -----
    The maximum over a span and that over the same span moved on by up to its length make the maximum over both, so
    the span doubles with each of ``ceil(log2 width)`` passes.
    """
    span, turn = 1, 0
    while span < width:
        shift = min(span, width - span)
        values = np.maximum(values[:-shift], values[shift:], out=scratch[turn, : values.size - shift])
        span, turn = span + shift, 1 - turn
    return values
