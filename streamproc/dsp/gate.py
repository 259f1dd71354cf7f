"""Noise gate."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from math import ceil

import numpy as np
import numpy.typing as npt

from ..parameters import Parameter, Smoothed
from ..processor import BaseProcessor
from ..spec import Block, LatencyBreakdown, StreamConfig
from .delay import DelayLine
from .units import amplitude, samples

_DECISION_MS = 1.0
"""Time in milliseconds between two decisions: short against any attack that one can hear."""


class NoiseGate(BaseProcessor):
    """Turn down what stays below a threshold. All channels open and close together.

    Parameters
    ----------
    threshold_db : float
        Peak level that opens the gate, -100 to 0 dB. Parameter ``threshold``.
    attack_ms : float
        Time from closed to open, 0.1 to 500 ms. Parameter ``attack``.
    hold_ms : float
        Time for which the gate stays open after the last sample that kept it open, 0 to 5000 ms. Parameter ``hold``.
        Below about half a period of the lowest tone the gate flutters with it.
    release_ms : float
        Time from open to closed, 1 to 5000 ms. Parameter ``release``.
    range_db : float
        How far a closed gate turns down, 0 to 100 dB. Parameter ``range``.
    hysteresis_db : float
        An open gate closes this far below the threshold only, 0 to 40 dB. Parameter ``hysteresis``.
    lookahead_ms : float
        Time by which the gate hears ahead, 0 to 50 ms: latency in exchange for untouched onsets. An attack and one
        millisecond are enough.

    Raises
    ------
    ConfigError
        If a value lies outside its range.

    Notes
    -----
    Latency: exactly `lookahead_ms` in whole samples; 0 by default.

    The gate decides once per period of one millisecond, counted from the start of the stream however it is cut into
    blocks, by the highest peak of the period over all channels. Between decisions its openness ``p`` moves along a
    straight line towards 1 (``1 / attack`` per sample) or 0 (``1 / release``), and stops there. The gain is
    ``(p - 1) * range`` dB, so an open gate passes its input on exactly. Each sample's openness is computed from the
    start of its period, which makes it the same for any split. Work in Python is per period, in numpy per sample.
    """

    THRESHOLD = Parameter("threshold", "dB", -100.0, 0.0, -45.0, "peak level that opens the gate")
    ATTACK = Parameter("attack", "ms", 0.1, 500.0, 2.0, "time from closed to open")
    HOLD = Parameter("hold", "ms", 0.0, 5000.0, 60.0, "time that the gate stays open at least")
    RELEASE = Parameter("release", "ms", 1.0, 5000.0, 120.0, "time from open to closed")
    RANGE = Parameter("range", "dB", 0.0, 100.0, 60.0, "attenuation when closed")
    HYSTERESIS = Parameter("hysteresis", "dB", 0.0, 40.0, 6.0, "how far below the threshold an open gate closes")
    LOOKAHEAD = Parameter("lookahead", "ms", 0.0, 50.0, 0.0, "latency")

    def __init__(
        self,
        threshold_db: float = THRESHOLD.default,
        attack_ms: float = ATTACK.default,
        hold_ms: float = HOLD.default,
        release_ms: float = RELEASE.default,
        range_db: float = RANGE.default,
        hysteresis_db: float = HYSTERESIS.default,
        lookahead_ms: float = LOOKAHEAD.default,
    ) -> None:
        self._threshold_db = Smoothed(self.THRESHOLD, threshold_db)
        self._attack_ms = Smoothed(self.ATTACK, attack_ms)
        self._hold_ms = Smoothed(self.HOLD, hold_ms)
        self._release_ms = Smoothed(self.RELEASE, release_ms)
        self._range_db = Smoothed(self.RANGE, range_db)
        self._hysteresis_db = Smoothed(self.HYSTERESIS, hysteresis_db)
        self._lookahead_ms = self.LOOKAHEAD.check(lookahead_ms)
        self._allocate(StreamConfig(48000, max_block=1))

    @property
    def latency(self) -> LatencyBreakdown:
        """The look-ahead, all of it algorithmic."""
        return LatencyBreakdown(algorithmic=Fraction(self._audio.delay))

    @property
    def parameters(self) -> Mapping[str, Smoothed]:
        """Everything but the look-ahead, which is latency and therefore fixed."""
        moving = (
            self._threshold_db,
            self._attack_ms,
            self._hold_ms,
            self._release_ms,
            self._range_db,
            self._hysteresis_db,
        )
        return {value.parameter.name: value for value in moving}

    def prepare(self, config: StreamConfig) -> None:
        """Allocate for the stream; the gate is closed."""
        super().prepare(config)
        self._allocate(config)

    def reset(self) -> None:
        """Forget all audio; the gate is closed."""
        super().reset()
        self._audio.reset()
        self._rewind()

    def _allocate(self, config: StreamConfig) -> None:
        self._sample_rate = config.sample_rate
        self._period = max(1, samples(_DECISION_MS, config.sample_rate))
        self._audio = DelayLine(config.n_channels, samples(self._lookahead_ms, config.sample_rate), config.max_block)
        self._magnitude: Block = np.zeros((config.n_channels, config.max_block), np.float32)
        self._loudest: Block = np.zeros(config.max_block, np.float32)
        self._openness: npt.NDArray[np.float64] = np.zeros(config.max_block)
        self._position = np.arange(1.0, self._period + 1.0)
        self._period_starts = np.arange(0, config.max_block + self._period, self._period)
        self._starts = np.zeros_like(self._period_starts)
        self._rewind()

    def _rewind(self) -> None:
        self._fill = 0
        self._peak = 0.0
        self._is_open = False
        self._periods_to_hold = 0
        self._openness_at_start = 0.0
        self._step = 0.0

    def process(self, x: Block, out: Block) -> None:
        """Gate one block."""
        n = x.shape[1]
        if n == 0:
            return
        openness = self._follow(x)
        range_db = self._range_db.advance(n)
        # Stored after `x` was read and before `out` is written: they may be the same.
        delayed = self._audio.push(x)[:, :n]
        if isinstance(openness, float) and isinstance(range_db, float):
            np.multiply(delayed, amplitude((openness - 1.0) * range_db), out=out)
        else:
            gain = self._openness[:n]
            np.subtract(openness, 1.0, out=gain)
            gain *= range_db
            np.multiply(delayed, amplitude(gain), out=out)

    def _follow(self, x: Block) -> float | npt.NDArray[np.float64]:
        """Return the openness during a block: a number where it rests, else a value per sample."""
        n, period, fill = x.shape[1], self._period, self._fill
        openness = self._openness[:n]
        rested = self._openness_at_start
        resting = True
        start = 0
        for peak in self._peaks(x):
            stop = min(n, start + period - fill)
            self._peak = max(self._peak, peak)
            if self._step:
                resting = False
                line = openness[start:stop]
                np.multiply(self._position[fill : fill + stop - start], self._step, out=line)
                line += self._openness_at_start
                np.clip(line, 0.0, 1.0, out=line)
            else:
                openness[start:stop] = self._openness_at_start
            fill += stop - start
            if fill == period:
                self._decide()
                fill = 0
            start = stop
        self._fill = fill
        return rested if resting else openness

    def _peaks(self, x: Block) -> list[float]:
        """Return the highest magnitude in each part of a block that lies within one period."""
        n = x.shape[1]
        magnitude = np.abs(x, out=self._magnitude[:, :n])
        loudest = np.maximum.reduce(magnitude, axis=0, out=self._loudest[:n])
        n_parts = -(-(self._fill + n) // self._period)
        starts = np.subtract(self._period_starts[:n_parts], self._fill, out=self._starts[:n_parts])
        starts[0] = 0
        peaks: list[float] = np.maximum.reduceat(loudest, starts).tolist()
        return peaks

    def _decide(self) -> None:
        """End a period: settle where the openness has got to, and choose where it goes in the next one."""
        self._openness_at_start = min(1.0, max(0.0, self._openness_at_start + self._step * self._period))
        threshold_db = self._threshold_db.value - (self._hysteresis_db.value if self._is_open else 0.0)
        if self._peak >= amplitude(threshold_db):
            self._is_open = True
            self._periods_to_hold = ceil(samples(self._hold_ms.value, self._sample_rate) / self._period)
        elif self._periods_to_hold > 1:  # the quiet period that ends here is one of them
            self._periods_to_hold -= 1
        else:
            self._is_open = False
        self._peak = 0.0
        if self._is_open and self._openness_at_start < 1.0:
            self._step = 1.0 / max(1, samples(self._attack_ms.value, self._sample_rate))
        elif not self._is_open and self._openness_at_start > 0.0:
            self._step = -1.0 / max(1, samples(self._release_ms.value, self._sample_rate))
        else:
            self._step = 0.0
