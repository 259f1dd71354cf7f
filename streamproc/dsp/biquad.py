"""Filters made of second-order sections: any cascade, a high-pass and a parametric equaliser."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil, log
from typing import get_args

import numpy as np
import numpy.typing as npt

from ..errors import ConfigError
from ..parameters import RAMP_MS, Parameter, Smoothed
from ..processor import BaseProcessor, not_prepared
from ..spec import Block, StreamConfig
from .cookbook import BUTTERWORTH_Q, BandKind, Sections, band_section, butterworth_high_pass, check_sections
from .state_space import BlockRecurrence, transposed_direct
from .units import samples

_HIGHEST = 0.499
"""Highest frequency of a design as a part of the sample rate: next to one half the formulas lose their poles."""

_TAIL = 1e-5
"""What an impulse response has fallen to, against its start, when its tail counts as over."""


class _Filter(BaseProcessor):
    """A cascade whose design follows parameters.

    Notes
    -----
    When a parameter has changed, a second cascade with the new design starts from the state of the first, and the
    output moves from the old one to the new one along a straight line of `RAMP_MS`. What is asked for meanwhile starts
    when that line ends, at the very sample, even within a block.
    """

    def __init__(self, n_sections: int, parameters: Mapping[str, Smoothed]) -> None:
        self._n_sections = n_sections
        self._parameters = parameters
        # The values are not smoothed one by one, they only carry what was asked for.
        self._values = tuple(parameters.values())
        self._sample_rate = 0
        self._designed: tuple[float, ...] | None = None
        self._current = self._former = BlockRecurrence(2 * n_sections, 1)
        self._former_out: Block = np.zeros((1, 1), np.float32)
        self._former_weight: Block = np.zeros(1, np.float32)
        self._fade_left = 0

    @abstractmethod
    def _design(self, sample_rate: int) -> Sections:
        """Return the sections for the values that are asked for now."""

    @property
    def parameters(self) -> Mapping[str, Smoothed]:
        """Parameters by name."""
        return self._parameters

    @property
    def tail_samples(self) -> int:
        """Time in which the slowest pole falls by 100 dB."""
        if not self._sample_rate:
            return 0
        radius = max(float(np.abs(np.roots(section[3:])).max()) for section in self._design(self._sample_rate))
        return 2 * self._n_sections + (ceil(log(_TAIL) / log(radius)) if radius > 0.0 else 0)

    def prepare(self, config: StreamConfig) -> None:
        """Allocate, and design the filter for the stream's rate.

        Raises
        ------
        ConfigError
            If a frequency does not fit below half the sample rate.
        """
        for value in self._values:
            if value.parameter.unit == "Hz":
                _fit_to_rate(value, config.sample_rate)
        self._sample_rate = config.sample_rate
        self._current = BlockRecurrence(2 * self._n_sections, config.n_channels)
        self._former = BlockRecurrence(2 * self._n_sections, config.n_channels)
        self._former_out = np.zeros((config.n_channels, config.max_block), np.float32)
        ramp = max(1, samples(RAMP_MS, config.sample_rate))
        self._former_weight = np.linspace(1.0, 0.0, ramp + 1, dtype=np.float32)[1:]
        self._designed = None
        self.reset()

    def process(self, x: Block, out: Block) -> None:
        """Filter one block."""
        n, start = x.shape[1], 0
        while start < n:
            if not self._fade_left and self._asked() != self._designed:
                self._start_fade()
            stop = min(n, start + self._fade_left) if self._fade_left else n
            run = self._crossfade if self._fade_left else self._current.run
            run(x[:, start:stop], out[:, start:stop])
            start = stop

    def reset(self) -> None:
        """Forget all audio; a design that was still to come is there at once."""
        self._fade_left = 0
        self._current.state.fill(0.0)
        if self._asked() != self._designed:
            self._redesign()

    def _asked(self) -> tuple[float, ...]:
        return tuple([value.value for value in self._values])

    def _redesign(self) -> None:
        if not self._sample_rate:
            raise not_prepared()
        self._designed = self._asked()
        self._current.design(transposed_direct(self._design(self._sample_rate)))

    def _start_fade(self) -> None:
        self._former, self._current = self._current, self._former
        self._redesign()
        # Not from silence: a high-pass that holds back a constant would let its step through.
        np.copyto(self._current.state, self._former.state)
        self._fade_left = self._former_weight.size

    def _crossfade(self, x: Block, out: Block) -> None:
        n = x.shape[1]
        former = self._former_out[:, :n]
        self._former.run(x, former)  # first: `out` may be `x`
        self._current.run(x, out)
        done = self._former_weight.size - self._fade_left
        former -= out
        former *= self._former_weight[done : done + n]
        out += former
        self._fade_left -= n


def _fit_to_rate(value: Smoothed, sample_rate: int) -> None:
    """Narrow the range of a frequency to what can be designed at this rate."""
    parameter = replace(value.parameter, maximum=_HIGHEST * sample_rate)
    try:
        parameter.check(value.value)
    except ConfigError as error:
        raise ConfigError(f"{error}; the sample rate is {sample_rate} Hz") from None
    value.parameter = parameter


class Biquads(_Filter):
    """Any cascade of second-order sections.

    Parameters
    ----------
    sections : array_like [n_sections, 6]
        Rows ``b0 b1 b2 a0 a1 a2``, as `scipy.signal` makes them with ``output="sos"``, for the rate of the stream.

    Raises
    ------
    ConfigError
        If the shape is wrong, or a section is not finite or not stable.

    Notes
    -----
    Latency: 0 is declared, as for all minimum-phase filters. They delay each frequency by its own amount, the least
    that their response allows, so there is no one figure to align by. State: float64, separate for each channel.
    """

    def __init__(self, sections: npt.ArrayLike) -> None:
        self._sections = check_sections(sections)
        super().__init__(len(self._sections), {})

    def _design(self, sample_rate: int) -> Sections:
        return self._sections


class HighPass(_Filter):
    """Butterworth high-pass: takes away rumble, wind and constant offsets.

    Parameters
    ----------
    cutoff_hz : float
        Where the response has fallen by 3 dB; 1 Hz to just below half the sample rate. Parameter ``cutoff``.
    order : int
        1 to 8; the response falls by ``6 * order`` dB per octave.

    Raises
    ------
    ConfigError
        If a value lies outside its range; for the cut-off, also when the stream is prepared.

    Notes
    -----
    Latency: 0, see `Biquads`.
    """

    CUTOFF = Parameter("cutoff", "Hz", 1.0, 192_000.0, 80.0, "response 3 dB down")
    ORDER = Parameter("order", "", 1, 8, 2, "steepness in steps of 6 dB per octave")

    def __init__(self, cutoff_hz: float = CUTOFF.default, order: int = int(ORDER.default)) -> None:
        if self.ORDER.check(order) % 1:
            raise ConfigError(f"order must be a whole number, found {order!r}")
        self._order = int(order)
        self._cutoff_hz = Smoothed(self.CUTOFF, cutoff_hz)
        super().__init__((self._order + 1) // 2, {self.CUTOFF.name: self._cutoff_hz})

    def _design(self, sample_rate: int) -> Sections:
        return butterworth_high_pass(self._cutoff_hz.value, self._order, sample_rate)


@dataclass(frozen=True)
class Band:
    """One band of a `ParametricEq`.

    Parameters
    ----------
    kind : {"peak", "low_shelf", "high_shelf", "low_pass", "high_pass", "notch"}
    freq_hz : float
        Centre, midpoint of the slope or cut-off; 1 Hz to just below half the sample rate.
    gain_db : float
        -40 to 40 dB; peaks and shelves only.
    q : float
        0.05 to 50.
    """

    kind: BandKind
    freq_hz: float
    gain_db: float = 0.0
    q: float = BUTTERWORTH_Q


class ParametricEq(_Filter):
    """Parametric equaliser: one section per band.

    Parameters
    ----------
    bands : sequence of `Band`
        Or of tuples like it. Parameters ``band1.freq``, ``band1.gain``, ``band1.q``, ``band2.freq`` and so on.

    Raises
    ------
    ConfigError
        If there is no band, a kind is unknown or a value lies outside its range; for frequencies, also when the stream
        is prepared.

    Notes
    -----
    Latency: 0, see `Biquads`. Formulas: see `streamproc.dsp.cookbook`.
    """

    FREQ = Parameter("freq", "Hz", 1.0, 192_000.0, 1000.0, "centre, midpoint of the slope or cut-off")
    GAIN = Parameter("gain", "dB", -40.0, 40.0, 0.0, "at the centre or on the shelf")
    Q = Parameter("q", "", 0.05, 50.0, BUTTERWORTH_Q, "quality: centre over bandwidth")

    def __init__(self, bands: Sequence[Band | tuple[BandKind, float, float, float]]) -> None:
        if not bands:
            raise ConfigError("an equaliser needs at least one band")
        self._kinds: list[BandKind] = []
        parameters: dict[str, Smoothed] = {}
        for number, band in enumerate(bands, start=1):
            band = band if isinstance(band, Band) else Band(*band)
            if band.kind not in get_args(BandKind):
                kinds = ", ".join(get_args(BandKind))
                raise ConfigError(f"band {number}: kind must be one of {kinds}; found {band.kind!r}")
            self._kinds.append(band.kind)
            for parameter, value in ((self.FREQ, band.freq_hz), (self.GAIN, band.gain_db), (self.Q, band.q)):
                name = f"band{number}.{parameter.name}"
                parameters[name] = Smoothed(replace(parameter, name=name), value)
        super().__init__(len(bands), parameters)

    def _design(self, sample_rate: int) -> Sections:
        values = iter(self._asked())
        return np.concatenate(
            [band_section(kind, next(values), next(values), next(values), sample_rate) for kind in self._kinds]
        )
