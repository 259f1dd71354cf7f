"""Parameters: named values with a unit and a range that move between blocks without clicks."""

from __future__ import annotations

from dataclasses import dataclass
from math import nan

import numpy as np
import numpy.typing as npt

from .errors import ConfigError

RAMP_MS = 20.0
"""Time in milliseconds that a parameter takes to reach a new value."""


@dataclass(frozen=True)
class Parameter:
    """What a parameter is: its name, unit, range and default."""

    name: str
    unit: str
    minimum: float
    maximum: float
    default: float
    description: str = ""

    def check(self, value: float) -> float:
        """Return `value` as a float, or raise `ConfigError` when it lies outside the range."""
        try:
            number = float(value)
        except OverflowError:  # an integer that is larger than any float
            number = nan
        if not self.minimum <= number <= self.maximum:  # also refuses NaN
            unit = f" {self.unit}" if self.unit else ""
            raise ConfigError(
                f"{self.name} must lie between {self.minimum:g} and {self.maximum:g}{unit}, found {value!r}"
            )
        return number


class Smoothed:
    """The moving value of one parameter.

    `set` may be called from any thread: it stores one number, which the audio path reads once per block. The value
    then travels to it along a straight line of `RAMP_MS`, sample by sample, however the stream is cut into blocks.
    """

    def __init__(self, parameter: Parameter, value: float | None = None) -> None:
        self.parameter = parameter
        self._requested = parameter.check(parameter.default if value is None else value)
        self._target = self._value = self._requested
        self._step = 0.0
        self._remaining = 0
        self._ramp_length = 1
        self._count = np.empty(0)
        self._ramp = np.empty(0)

    @property
    def value(self) -> float:
        """The value last asked for."""
        return self._requested

    def set(self, value: float) -> None:
        """Ask for a new value. Thread: any.

        Raises
        ------
        ConfigError
            If `value` lies outside the parameter's range.
        """
        self._requested = self.parameter.check(value)

    def prepare(self, sample_rate: int, max_block: int) -> None:
        """Allocate for blocks of up to `max_block` frames and jump to the value asked for."""
        self._ramp_length = max(1, round(sample_rate * RAMP_MS / 1000.0))
        self._count = np.arange(1.0, max_block + 1.0)
        self._ramp = np.empty(max_block)
        self.reset()

    def reset(self) -> None:
        """Jump to the value asked for."""
        self._target = self._value = self._requested
        self._remaining = 0

    def advance(self, n: int) -> float | npt.NDArray[np.float64]:
        """Return the value during the next `n` samples.

        Returns
        -------
        float or float64 [n]
            A number when the value rests; the values sample by sample (valid until the next call) while it moves.
        """
        if self._requested != self._target:
            self._target = self._requested
            self._step = (self._target - self._value) / self._ramp_length
            self._remaining = self._ramp_length
        if self._remaining == 0 or n == 0:
            return self._value
        ramp = self._ramp[:n]
        np.multiply(self._count[:n], self._step, out=ramp)
        ramp += self._value
        if n >= self._remaining:
            ramp[self._remaining - 1 :] = self._target
            self._remaining = 0
            self._value = self._target
        else:
            self._remaining -= n
            self._value = float(ramp[-1])
        return ramp
