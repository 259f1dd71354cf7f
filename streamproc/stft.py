"""Streaming short-time Fourier transform and its inverse, one hop at a time."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .spec import Block
from .windows import WindowKind, window_pair

_SHIFTS_PER_COPY = 16


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
        self._size = analysis_window
        self._analysis = analysis.astype(np.float32)
        self._synthesis = synthesis.astype(np.float32)
        # The last `analysis_window` samples slide through a longer buffer, so that they move only now and then.
        self._history = np.zeros((n_channels, analysis_window + _SHIFTS_PER_COPY * hop), np.float32)
        self._end = analysis_window
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
        end = self._end + self.hop
        if end > self._history.shape[1]:
            keep = self._size - self.hop
            self._history[:, :keep] = self._history[:, self._end - keep : self._end]
            end = self._size
        self._history[:, end - self.hop : end] = x
        self._end = end
        np.multiply(self._history[:, end - self._size : end], self._analysis, out=self._windowed)
        np.fft.rfft(self._windowed, out=spectrum)  # type: ignore[arg-type]  # numpy's stubs know float64 only

    def synthesise(self, spectrum: npt.NDArray[np.complex64], out: Block) -> None:
        """Add one frame to the output and hand over the hop that it completes.

        Parameters
        ----------
        spectrum : complex64 [channels, bins]
        out : float32 [channels, hop]
        """
        np.fft.irfft(spectrum, self._size, out=self._time)  # type: ignore[arg-type]  # as above
        np.multiply(self._newest, self._synthesis, out=self._segment)
        np.add(self._unfinished, self._overlap, out=self._unfinished)
        np.copyto(out, self._finished)
        np.copyto(self._overlap, self._rest)

    def reset(self) -> None:
        """Forget all audio."""
        self._history.fill(0.0)
        self._end = self._size
        self._overlap.fill(0.0)
