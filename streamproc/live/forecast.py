"""Forecasts from the worker to the callback: made ahead of time, kept for when they are needed.

A miss is noticed when it is too late to compute anything. So the worker, whenever it has nothing else to do, writes
down how the processed sound would go on, and the callback takes the newest of these forecasts when that sound ends.
"""

from __future__ import annotations

from time import perf_counter_ns

import numpy as np

from ..dsp.units import samples
from ..guard import all_finite
from ..spec import Block
from ..stats import Histogram
from .predictor import Predictor

HORIZON_MS = 50.0
"""Length of a forecast; none is worth hearing for longer."""

FULL_MS = 20.0
"""Part of it that is heard in full. The rest fades."""

RENEW_MS = 5.0
"""Sound between two forecasts, at least: what they cost does not depend on the size of the blocks."""

_N_SLOTS = 4


class Forecaster:
    """The worker's half: follows the processed sound, and writes forecasts.

    Parameters
    ----------
    predictor : Predictor
        Prepared here, and used by the worker alone from then on.
    sample_rate, n_channels, max_block : int

    Attributes
    ----------
    count : int
        Forecasts that are complete. Forecast ``c`` (from 1) lies in ``slots[c % len(slots)]``, and its first sample has
        the number ``starts[c % len(slots)]``.
    times : Histogram
        Of the making of one.

    Notes
    -----
    A slot is written again when ``len(slots)`` further forecasts are made, and `count` moves only after each. So who
    finds, after copying forecast ``c``, that ``count < c + len(slots) - 1`` has not met the writer.
    """

    def __init__(self, predictor: Predictor, sample_rate: int, n_channels: int, max_block: int) -> None:
        predictor.prepare(sample_rate, n_channels, max_block)
        self._predictor = predictor
        self._renew = samples(RENEW_MS, sample_rate)
        self._renew_at = 0
        self.slots: Block = np.zeros((_N_SLOTS, n_channels, samples(HORIZON_MS, sample_rate)), np.float32)
        self.starts = [0] * _N_SLOTS
        self.count = 0
        self.times = Histogram()

    def begin(self, number: int) -> None:
        """Forget what was heard: the next sample has this number, and nothing to do with it. Thread: worker."""
        self._predictor.reset()
        self._renew_at = number + self._renew

    def hear(self, y: Block) -> None:
        """Follow the processed sound ``[channels, n]``. Thread: worker."""
        self._predictor.hear(y)

    def renew(self, number: int) -> None:
        """Write how the sound goes on from this sample, unless the last forecast is recent. Thread: worker.

        A forecast that is not finite is not passed on, and the predictor forgets what led to it.
        """
        if number < self._renew_at:
            return
        started_ns = perf_counter_ns()
        slot = (self.count + 1) % _N_SLOTS
        self._predictor.predict(self.slots[slot])
        self._renew_at = number + self._renew
        if not all_finite(self.slots[slot]):
            self._predictor.reset()
            return
        self.starts[slot] = number
        self.count += 1
        self.times.record(perf_counter_ns() - started_ns)


class Continuation:
    """The callback's half: one forecast, held from the moment when processed sound ends until it is back.

    It does not change in between, though newer ones may be made: every change would be heard.

    Parameters
    ----------
    forecaster : Forecaster
    sample_rate, n_channels, max_block : int

    Attributes
    ----------
    predicted : int
        Samples so far that were missing and came from a forecast, wholly or in part.
    """

    def __init__(self, forecaster: Forecaster, sample_rate: int, n_channels: int, max_block: int) -> None:
        self._source = forecaster
        self._held: Block = np.zeros_like(forecaster.slots[0])
        n, full = self._held.shape[1], samples(FULL_MS, sample_rate)
        fall = 0.5 + 0.5 * np.cos(np.pi * np.arange(1, n - full + 1) / (n - full))
        self._weights = np.concatenate([np.ones(full), fall]).astype(np.float32)
        self._mixture: Block = np.zeros((n_channels, max_block), np.float32)
        self._first = self._end = 0
        self.predicted = 0

    def hold(self) -> None:
        """Take the newest forecast: processed sound ends here. Thread: audio."""
        source = self._source
        count = source.count
        slot = count % _N_SLOTS
        np.copyto(self._held, source.slots[slot])
        self._first = source.starts[slot]
        whole = count > 0 and source.count < count + _N_SLOTS - 1
        self._end = self._first + self._held.shape[1] if whole else self._first

    def drop(self) -> None:
        """Hold nothing. Thread: audio."""
        self._end = self._first

    def over(self, dry: Block, first: int, start: int, stop: int) -> Block:
        """Return what is heard where processed sound is not: the forecast, which fades into the dry sound.

        Thread: audio.

        Parameters
        ----------
        dry : float32 [channels, n]
        first : int
            Number of its first sample.
        start, stop : int
            The samples ``first + start`` to ``first + stop`` are not missing; for the count only.

        Returns
        -------
        float32 [channels, n]
            Valid until the next call; `dry` itself where the forecast does not reach.
        """
        n = dry.shape[1]
        begin, end = max(self._first - first, 0), min(self._end - first, n)
        if begin >= end:
            return dry
        age = first - self._first
        mixture = self._mixture[:, :n]
        np.copyto(mixture, dry)
        part = mixture[:, begin:end]
        # dry + weight (forecast - dry), in place
        np.subtract(self._held[:, age + begin : age + end], part, out=part)
        np.multiply(part, self._weights[age + begin : age + end], out=part)
        np.add(part, dry[:, begin:end], out=part)
        self.predicted += end - begin - max(0, min(end, stop) - max(begin, start))
        return mixture
