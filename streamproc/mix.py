"""Dry and wet: how much of a processor is heard, without moving the sound in time."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .dsp.delay import DelayLine
from .dsp.units import amplitude
from .parameters import Parameter, Smoothed
from .processor import Processor, Wrapper
from .spec import Block, StreamConfig

NO_LIMIT_DB = 100.0
"""The attenuation limit, in dB, that limits nothing: dry sound at -100 dB would drown in 16 bits, so it is left out."""

_WET_WEIGHT = Parameter("wet_weight", "", 0.0, 1.0, 1.0)


class Mix(Wrapper):
    """Blend what a processor makes (wet) with its input (dry), delayed by exactly the processor's latency.

    Parameters
    ----------
    inner : Processor
        Runs all the time, also in bypass: its state stays warm, and the latency never changes.
    mix : float
        0 (dry) to 1 (wet).
    attenuation_limit_db : float, optional
        The most, in dB, that `inner` may take away from its input; at least 0. From 100 dB on, and where it is left
        out, nothing is limited.
    bypass : bool
        Dry sound at the same latency.

    Raises
    ------
    ConfigError
        If a value lies outside its range.

    Notes
    -----
    The parameters ``mix``, ``attenuation_limit`` (dB) and ``bypass`` (0 or 1) come down to one number, the wet weight::

        out = dry + w * (wet - dry)        w = (1 - bypass) * mix * (1 - 10 ** (-attenuation_limit / 20))

    Where `inner` leaves silence, ``10 ** (-attenuation_limit / 20)`` of the dry sound stays: that is the limit. Only
    `w` is smoothed, so turning two knobs at once is one movement. While it rests at 0 the output is the dry sound
    sample by sample, at 1 it is the wet sound, and where `inner` changes nothing no weight changes anything either.

    Latency: that of `inner`. The parameters of `inner` are offered too, as ``inner.<name>`` where a name is taken.
    """

    MIX = Parameter("mix", "", 0.0, 1.0, 1.0, "0: dry, 1: wet")
    ATTENUATION_LIMIT = Parameter(
        "attenuation_limit", "dB", 0.0, NO_LIMIT_DB, NO_LIMIT_DB, f"most that may be removed; {NO_LIMIT_DB:g}: no limit"
    )
    BYPASS = Parameter("bypass", "", 0.0, 1.0, 0.0, "1: dry sound at the same latency")

    def __init__(
        self,
        inner: Processor,
        mix: float = MIX.default,
        attenuation_limit_db: float | None = None,
        bypass: bool = False,
    ) -> None:
        super().__init__(inner)
        if attenuation_limit_db is None or attenuation_limit_db > NO_LIMIT_DB:
            attenuation_limit_db = NO_LIMIT_DB
        self._mix = Smoothed(self.MIX, mix)
        self._limit_db = Smoothed(self.ATTENUATION_LIMIT, attenuation_limit_db)
        self._bypass = Smoothed(self.BYPASS, float(bypass))
        self._wet_weight = Smoothed(_WET_WEIGHT, self._asked_weight())
        self._dry = DelayLine(1, 0, 1)

    def prepare(self, config: StreamConfig) -> None:
        """Prepare `inner`, and a dry path as long as its latency."""
        super().prepare(config)
        self._dry = DelayLine(config.n_channels, self.inner.latency_samples, config.max_block)
        self._wet_weight.set(self._asked_weight())
        self._wet_weight.prepare(config.sample_rate, config.max_block)

    @property
    def parameters(self) -> Mapping[str, Smoothed]:
        """``mix``, ``attenuation_limit``, ``bypass`` and the parameters of `inner`."""
        own = {value.parameter.name: value for value in (self._mix, self._limit_db, self._bypass)}
        inner = super().parameters
        # A name that one of the wrappers inside has prefixed already gets one prefix more.
        return own | {
            f"inner.{name}" if name.rpartition("inner.")[2] in own else name: value for name, value in inner.items()
        }

    def process(self, x: Block, out: Block) -> None:
        """Process one block."""
        n = x.shape[1]
        # Stored before `inner` runs, which may write over it where `out` is `x`.
        dry = self._dry.push(x)[:, :n]
        self.inner.process(x, out)
        self._wet_weight.set(self._asked_weight())
        weight = self._wet_weight.advance(n)
        if isinstance(weight, float) and weight == 1.0:
            return
        if isinstance(weight, float) and weight == 0.0:
            np.copyto(out, dry)
            return
        np.subtract(out, dry, out=out)
        np.multiply(out, weight, out=out)
        np.add(out, dry, out=out)

    def reset(self) -> None:
        """Forget all audio."""
        super().reset()
        self._dry.reset()
        self._wet_weight.set(self._asked_weight())
        self._wet_weight.reset()

    def _asked_weight(self) -> float:
        limit_db = self._limit_db.value
        removable = 1.0 if limit_db >= NO_LIMIT_DB else 1.0 - amplitude(-limit_db)
        return (1.0 - self._bypass.value) * self._mix.value * removable
