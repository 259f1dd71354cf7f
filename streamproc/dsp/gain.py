"""Gain."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..parameters import Parameter, Smoothed
from ..processor import BaseProcessor
from ..spec import Block
from .units import amplitude


class Gain(BaseProcessor):
    """Make sound louder or softer.

    Parameters
    ----------
    gain_db : float
        -100 to 40 dB; 0 passes the input on exactly. Parameter ``gain``, which moves along a straight line in dB.

    Raises
    ------
    ConfigError
        If the gain lies outside its range.
    """

    GAIN = Parameter("gain", "dB", -100.0, 40.0, 0.0, "amplification")

    def __init__(self, gain_db: float = GAIN.default) -> None:
        self._gain_db = Smoothed(self.GAIN, gain_db)

    @property
    def parameters(self) -> Mapping[str, Smoothed]:
        """``gain``."""
        return {self.GAIN.name: self._gain_db}

    def process(self, x: Block, out: Block) -> None:
        """Scale one block."""
        np.multiply(x, amplitude(self._gain_db.advance(x.shape[1])), out=out)
