"""Streaming short-time Fourier transform and its inverse, one hop at a time."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .fourier import real_transforms
from .spec import Block
from .windows import WindowKind, window_pair


class StreamingStft:
    """Analysis and synthesis of one hop at a time on preallocated buffers.

    Parameters
    ----------
    kind : str
        Window pair, see `streamproc.windows.window_pair`.
    analysis_window, window, hop : int
    n_channels : int

    Notes
    -----
    A frame holds the newest `analysis_window` samples. Synthesis adds the newest `window` samples of each inverse
    transform. The oldest `hop` of them are complete afterwards and leave, so output lags input by ``window - hop``::

        frame      |------------ analysis_window ------------|  <- newest sample
        synthesis                    |------- window --------|
        complete                     |-- hop --|
    """

    def __init__(self, kind: WindowKind, analysis_window: int, window: int, hop: int, n_channels: int) -> None:
        analysis, synthesis = window_pair(kind, analysis_window, window, hop)
        self.hop = hop
        self.n_bins = analysis_window // 2 + 1
        self.latency = window - hop
        transforms = real_transforms(analysis_window)
        self._forward, self._unit = transforms.forward, transforms.unit
        self._inverse, self._scale = transforms.inverse, transforms.scale
        # As rows: numpy multiplies arrays of one shape without setting up an iterator.
        self._analysis = analysis.astype(np.float32)[np.newaxis]
        self._synthesis = synthesis.astype(np.float32)[np.newaxis]
        self._history = np.zeros((n_channels, analysis_window), np.float32)
        self._kept, self._moved = self._history[:, hop:], self._history[:, :-hop]
        self._new = self._history[:, -hop:]
        self._windowed = np.zeros((n_channels, analysis_window), np.float32)
        self._time = np.zeros((n_channels, analysis_window), np.float32)
        self._newest = self._time[:, -window:]
        self._segment = np.zeros((n_channels, window), np.float32)
        self._unfinished = self._segment[:, : self.latency]
        self._finished = self._segment[:, :hop]
        self._rest = self._segment[:, hop:]
        self._overlap = np.zeros((n_channels, self.latency), np.float32)

    def analyse(self, x: Block, spectrum: npt.NDArray[np.complex64]) -> None:
        """Transform the frame that ends with `x`.

        Parameters
        ----------
        x : float32 [channels, hop]
        spectrum : complex64 [channels, bins]
            Filled with the unnormalised transform of the windowed frame.
        """
        self._moved[...] = self._kept
        self._new[...] = x
        np.multiply(self._history, self._analysis, self._windowed)
        self._forward(self._windowed, self._unit, spectrum)

    def synthesise(self, spectrum: npt.NDArray[np.complex64], out: Block) -> None:
        """Add one frame to the output and hand over the hop that it completes.

        Parameters
        ----------
        spectrum : complex64 [channels, bins]
        out : float32 [channels, hop]
        """
        self._inverse(spectrum, self._scale, self._time)
        np.multiply(self._newest, self._synthesis, self._segment)
        np.add(self._unfinished, self._overlap, self._unfinished)
        out[...] = self._finished
        self._overlap[...] = self._rest

    def reset(self) -> None:
        """Forget all audio."""
        self._history.fill(0.0)
        self._overlap.fill(0.0)
