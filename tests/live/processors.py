"""Processors that the audio process of a test builds: everything here can be pickled by name."""

from __future__ import annotations

import time

import numpy as np

from streamproc.dsp import HighPass
from streamproc.processor import BaseProcessor, Processor
from streamproc.spec import Block, StreamConfig


class Inverter(BaseProcessor):
    """Turns the sound upside down, so that processed and dry sound are easy to tell apart."""

    def process(self, x: Block, out: Block) -> None:
        np.negative(x, out=out)


class Sleeper(Inverter):
    """Turns the sound upside down, and now and then takes 50 ms for it."""

    def prepare(self, config: StreamConfig) -> None:
        super().prepare(config)
        self._rng = np.random.default_rng(7)
        self._share = 0.02 * config.max_block / 128 / 10

    def process(self, x: Block, out: Block) -> None:
        if self._rng.random() < self._share:
            time.sleep(0.05)
        super().process(x, out)


class Breaker(Inverter):
    """Works for a third of a second, then breaks."""

    def prepare(self, config: StreamConfig) -> None:
        super().prepare(config)
        self._left = config.sample_rate // 3

    def process(self, x: Block, out: Block) -> None:
        self._left -= x.shape[1]
        if self._left < 0:
            raise ZeroDivisionError("this processor breaks on purpose")
        super().process(x, out)


def high_pass() -> Processor:
    """Return a high-pass filter: no latency, a state that lasts."""
    return HighPass(120.0)


def gtcrn(path: str) -> Processor:
    """Return the denoiser of that sidecar or model file, with everything that rates and blocks need around it."""
    from streamproc.loading import load

    return load(path)


def inverter() -> Processor:
    """Return an inverter."""
    return Inverter()


def sleeper() -> Processor:
    """Return a processor that is late now and then."""
    return Sleeper()


def breaker() -> Processor:
    """Return a processor that breaks."""
    return Breaker()
