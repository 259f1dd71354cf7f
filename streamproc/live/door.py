"""The callback that a device knows, whoever answers it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np


class Door:
    """Silence, then whoever answers, then a fade back to silence.

    A stream keeps one callback for life, but who answers is known only when the stream has shown its block size.

    Parameters
    ----------
    has_output : bool
        Whether the device wants sound back.

    Attributes
    ----------
    beats : int
        Blocks so far.
    largest : int
        Frames of the largest.
    promised : int or None
        Frames of every block, if that was promised; only such blocks are let through.
    broken_promise : int
        Frames of a block that was of another size; 0 as long as there was none.
    """

    def __init__(self, has_output: bool) -> None:
        self.has_output = has_output
        self.beats = 0
        self.largest = 0
        self.broken_promise = 0
        self.promised: int | None = None
        self._answer: Callable[..., None] | None = None
        self._fade_length = 0
        self._faded = 0
        self._last_beats = 0
        self._last_moment = time.monotonic()

    def __call__(self, *block: Any) -> None:
        """Answer one block: ``([indata,] [outdata,] frames, time, status)``. Thread: audio."""
        self.beats += 1
        frames = block[-3]
        if frames > self.largest:
            self.largest = frames
        answer = self._answer
        if answer is None:
            if self.has_output:
                block[-4].fill(0.0)
        elif self.promised is not None and frames != self.promised:
            self.broken_promise = frames
            if self.has_output:
                block[-4].fill(0.0)
        else:
            answer(*block)
            if self._fade_length:
                self._fade(block, frames)

    def _fade(self, block: tuple[Any, ...], frames: int) -> None:
        if self.has_output:
            gain = 1.0 - (self._faded + np.arange(1.0, frames + 1.0, dtype=np.float32)) / self._fade_length
            np.multiply(block[-4], np.maximum(gain, 0.0)[:, np.newaxis], out=block[-4])
        self._faded += frames
        if self._faded >= self._fade_length:
            self._answer = None

    def open(self, answer: Callable[..., None]) -> None:
        """Let `answer` have every block from now on."""
        self._answer = answer

    def close(self, fade_length: int) -> None:
        """Fade to silence over so many frames."""
        self._fade_length = fade_length

    @property
    def is_open(self) -> bool:
        """Whether somebody answers."""
        return self._answer is not None

    def silent_s(self) -> float:
        """Seconds, at least, since the device last called. Thread: control."""
        now = time.monotonic()
        if self.beats != self._last_beats:
            self._last_beats, self._last_moment = self.beats, now
        return now - self._last_moment
