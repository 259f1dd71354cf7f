"""How several channels share one processor."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .processor import Processor, Wrapper
from .spec import Block, StreamConfig


class Mono(Wrapper):
    """Give `inner` the mean of all channels, and every channel what it returns.

    Parameters
    ----------
    inner : Processor
        Prepared for one channel, whatever the stream has. It does the work once.

    Notes
    -----
    The mean, not the sum: what all channels share keeps its level and cannot clip. What differs in sign cancels.
    """

    def __init__(self, inner: Processor) -> None:
        super().__init__(inner)
        self._mean: Block = np.zeros((1, 0), np.float32)

    def prepare(self, config: StreamConfig) -> None:
        """Prepare `inner` for one channel."""
        super().prepare(replace(config, n_channels=1))
        self._mean = np.zeros((1, config.max_block), np.float32)

    def process(self, x: Block, out: Block) -> None:
        """Process the mean of the channels."""
        n_channels, n = x.shape
        if n_channels == 1:
            self.inner.process(x, out)
            return
        mean = self._mean[:, :n]
        np.add.reduce(x, axis=0, keepdims=True, out=mean)
        np.multiply(mean, np.float32(1.0 / n_channels), out=mean)
        self.inner.process(mean, mean)
        np.copyto(out, mean)
