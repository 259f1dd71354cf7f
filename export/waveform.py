"""A spectrum model with its analysis and synthesis inside: samples in, samples out, for hosts without a transform."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from streamproc.errors import ConfigError
from streamproc.spec import StateSpec
from streamproc.windows import window_pair

from .model_file import StepModule

HISTORY, OVERLAP = "stft_history", "stft_overlap"


class FactoredDft(nn.Module):
    """Real Fourier transform, and the newest samples of its inverse, as two small matrix products each.

    Parameters
    ----------
    size : int
        Samples of the transform, even.

    Notes
    -----
    With ``size = A * B``, sample ``n = B*a + b`` and bin ``k = c + A*d`` (Cooley and Tukey [1]_)::

        X[c + A*d] = sum_b W(size)^(b*c) W(B)^(b*d)  sum_a W(A)^(a*c) x[B*a + b],    W(N) = exp(-2j pi / N)

    The inner sum is one product with a matrix of complex ``A x A``; the outer sum one product per `c` with a matrix of
    ``B x (B/2 + 1)`` that takes in the factors between the stages. For 1024 points that is 0.14 M multiplications and
    0.3 MB of constants, where a single matrix has 1.05 M and 4.2 MB, and unlike the DFT operator every runtime has it
    and no size is slow. Complex numbers are pairs of real ones in the last but one place of every product.

    References
    ----------
    .. [1] J. W. Cooley and J. W. Tukey, "An algorithm for the machine calculation of complex Fourier series", 1965.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        if size % 2:
            raise ConfigError(f"a transform inside the graph needs an even size, found {size}")
        self.size = size
        self.n_bins = size // 2 + 1
        self.outer = max(d for d in range(1, int(size**0.5) + 1) if size % d == 0)
        self.inner = size // self.outer
        self.n_columns = self.inner // 2 + 1
        a, b = np.arange(self.outer), np.arange(self.inner)
        c, d = np.arange(self.outer), np.arange(self.n_columns)
        first = np.exp(-2j * np.pi * np.outer(c, a) / self.outer)
        second = np.exp(-2j * np.pi * b[:, None] * (c[:, None, None] + self.outer * d) / size)
        # [re; im] of a real input; then (re, im) -> (re, im) of a complex one.
        self._constant("first", np.concatenate([first.real, first.imag]))
        self._constant("second", _complex_product(second))
        # The inverse is the transposed conjugate. Bins between 0 and the last stand for two of the whole spectrum.
        bins = c[:, None] + self.outer * d
        weight = np.where((bins == 0) | (bins == size // 2), 1.0, 2.0) * (bins <= size // 2) / size
        back = (np.conj(second) * weight[:, None, :]).swapaxes(1, 2)
        self._constant("back", _complex_product(back))
        last = np.conj(first).T
        self._constant("last", np.concatenate([last.real, -last.imag], axis=1))

    def _constant(self, name: str, value: np.ndarray) -> None:
        self.register_buffer(name, torch.as_tensor(value, dtype=torch.float32), persistent=False)

    def forward(self, samples: Tensor) -> Tensor:
        """Transform [channels, size] to [channels, bins, 2]."""
        grid = samples.reshape(-1, self.outer, self.inner)
        rows = (self.first @ grid).reshape(-1, 2, self.outer, self.inner)
        rows = rows.permute(2, 0, 1, 3).reshape(self.outer, -1, 2 * self.inner)
        columns = (rows @ self.second).reshape(self.outer, -1, 2, self.n_columns)
        spectrum = columns.permute(1, 3, 0, 2).reshape(-1, self.outer * self.n_columns, 2)
        return spectrum[:, : self.n_bins]

    def inverse(self, spectrum: Tensor, n_newest: int) -> Tensor:
        """Transform [channels, bins, 2] to the last `n_newest` of its samples, [channels, n_newest]."""
        missing = self.outer * self.n_columns - self.n_bins
        padded = nn.functional.pad(spectrum, (0, 0, 0, missing))
        columns = padded.reshape(-1, self.n_columns, self.outer, 2).permute(2, 0, 3, 1)
        rows = columns.reshape(self.outer, -1, 2 * self.n_columns) @ self.back
        rows = rows.reshape(self.outer, -1, 2, self.inner).permute(1, 2, 0, 3)
        n_rows = -(-n_newest // self.inner)
        grid = self.last[-n_rows:] @ rows.reshape(-1, 2 * self.outer, self.inner)
        return grid.reshape(-1, n_rows * self.inner)[:, -n_newest:]


class WaveformModel(nn.Module):
    """A spectrum model between analysis and synthesis, which themselves keep to the step contract.

    Parameters
    ----------
    inner : StepModule
        A spectrum model.

    Notes
    -----
    Two more states: ``stft_history``, the samples that the next frame begins with, and ``stft_overlap``, the unfinished
    samples of the frames before. Same latency, same output as `inner` between the runtime's analysis and synthesis.
    """

    def __init__(self, inner: StepModule) -> None:
        super().__init__()
        spec = inner.spec
        if spec.io != "spectrum" or spec.window_kind is None:
            raise ConfigError(f"model {spec.name!r} takes {spec.io} already; io waveform is for spectrum models")
        self.inner = inner
        self.hop, self.window = spec.hop, spec.window
        analysis, synthesis = window_pair(spec.window_kind, spec.fft_size, spec.window, spec.hop)
        self.register_buffer("analysis", torch.as_tensor(analysis, dtype=torch.float32), persistent=False)
        self.register_buffer("synthesis", torch.as_tensor(synthesis, dtype=torch.float32), persistent=False)
        self.dft = FactoredDft(spec.fft_size)
        stft_states = (
            StateSpec(HISTORY, (spec.fft_size - spec.hop,)),
            StateSpec(OVERLAP, (spec.window - spec.hop,)),
        )
        self.spec = replace(
            spec, io="waveform", window_kind=None, analysis_window=None, states=(*stft_states, *spec.states)
        )

    def step(self, audio: Tensor, history: Tensor, overlap: Tensor, *states_and_controls: Tensor) -> tuple[Tensor, ...]:
        """Run one step on [channels, hop]."""
        frame = torch.cat([history, audio], dim=1)
        spectrum = self.dft(frame * self.analysis)
        spectrum, *next_states = self.inner.step(spectrum, *states_and_controls)
        segment = self.dft.inverse(spectrum, self.window) * self.synthesis
        finished = torch.cat([segment[:, : -self.hop] + overlap, segment[:, -self.hop :]], dim=1)
        return finished[:, : self.hop], frame[:, self.hop :], finished[:, self.hop :], *next_states


def _complex_product(matrix: np.ndarray) -> np.ndarray:
    """Return the real matrix [.., 2m, 2n] that multiplies (re, im) rows as complex `matrix` [.., m, n] would."""
    upper = np.concatenate([matrix.real, matrix.imag], axis=-1)
    lower = np.concatenate([-matrix.imag, matrix.real], axis=-1)
    return np.concatenate([upper, lower], axis=-2)
