"""What anybody would write by hand, as the measure of what an engine may cost.

No checks, no counters, no blocks other than a hop, one channel: the least that numpy and onnxruntime can do.
"""

from __future__ import annotations

from math import prod
from pathlib import Path

import numpy as np

from ..backends.onnx import OnnxModel, open_session
from ..model import Frame, FrameModel, State
from ..model_file import METADATA_KEY
from ..sidecar import find_sidecar
from ..spec import Block, ModelSpec
from ..windows import window_pair
from .timing import Call


def noise(n_channels: int, n: int) -> Block:
    """Return noise at the level of speech ``[n_channels, n]``: silence would be cheaper than sound for some models."""
    return np.random.default_rng(0).normal(0.0, 0.05, (n_channels, n)).astype(np.float32)


class FreeModel(FrameModel):
    """A model step that costs nothing: whatever time remains is not the model's."""

    def step(self, frame: Frame, state: State, out: Frame, next_state: State) -> None:
        """Leave `out` as it is."""


class BareStep:
    """A model in onnxruntime, bound to two copies of its state that are swapped, and nothing around it.

    Parameters
    ----------
    model : OnnxModel
        Only its file and its metadata are used; the session is another.

    Attributes
    ----------
    frame, result : float32, in the shape of the graph
    """

    def __init__(self, model: OnnxModel) -> None:
        spec = model.spec
        session = open_session(model.source)
        foreign = None
        if METADATA_KEY not in session.get_modelmeta().custom_metadata_map:
            found = find_sidecar(Path(model.source))
            foreign = found[1].graph if found else None
        names = foreign.names if foreign else {}
        layout = (foreign.frame_layout if foreign else None) or spec.frame_shape
        shape = (1, *spec.frame_shape) if spec.channels is None else layout
        self.frame, self.result = noise(1, prod(shape)).reshape(shape), np.zeros(shape, np.float32)
        inputs = {spec.frame_input: self.frame, **model.controls}
        states = [model.init_state(1), model.init_state(1)]
        if spec.channels is not None:
            states = [tuple(array[0] for array in state) for state in states]
        self._keep_alive = (session, inputs, states)
        self._bindings = []
        for here, there in (states, states[::-1]):
            binding = session.io_binding()
            read = inputs | {s.name: array for s, array in zip(spec.states, here, strict=True)}
            written = {spec.frame_input: self.result}
            written |= {s.name: array for s, array in zip(spec.states, there, strict=True)}
            for name, array in read.items():
                graph_name = names.get(name, name)
                binding.bind_input(graph_name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
            for name, array in written.items():
                graph_name = names.get(f"{name}_out", f"{name}_out")
                binding.bind_output(graph_name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
            self._bindings.append(binding)
        self._run = session.run_with_iobinding
        self._turn = 0

    def __call__(self) -> None:
        """Run one step."""
        self._run(self._bindings[self._turn])
        self._turn ^= 1

    def run(self) -> None:
        """Run the graph on the same arrays again, no state being swapped."""
        self._run(self._bindings[0])


def bare_stft(spec: ModelSpec, step: BareStep | None = None) -> Call:
    """Return one hop of numpy: shift, window, transform, back, window, overlap-add.

    Parameters
    ----------
    spec : ModelSpec
        Of a spectrum model.
    step : BareStep, optional
        Run between the transforms; without it the spectrum goes straight back.
    """
    assert spec.window_kind is not None
    size, window, hop_size = spec.fft_size, spec.window, spec.hop
    pair = window_pair(spec.window_kind, size, window, hop_size)
    analysis, synthesis = (one.astype(np.float32) for one in pair)
    history, windowed, time = (np.zeros(size, np.float32) for _ in range(3))
    segment, overlap = np.zeros(window, np.float32), np.zeros(window, np.float32)
    x, out = noise(1, hop_size)[0], np.zeros(hop_size, np.float32)
    if step is None:
        spectrum = processed = np.zeros(spec.n_bins, np.complex64)
    else:
        spectrum, processed = (array.reshape(-1).view(np.complex64) for array in (step.frame, step.result))

    def hop() -> None:
        history[:-hop_size] = history[hop_size:]
        history[-hop_size:] = x
        np.multiply(history, analysis, out=windowed)
        np.fft.rfft(windowed, out=spectrum)  # type: ignore[arg-type]  # numpy's stubs know float64 only
        if step is not None:
            step()
        np.fft.irfft(processed, out=time)  # type: ignore[arg-type]  # as above
        np.multiply(time[-window:], synthesis, out=segment)
        np.add(overlap, segment, out=overlap)
        out[:] = overlap[:hop_size]
        overlap[:-hop_size] = overlap[hop_size:]
        overlap[-hop_size:] = 0.0

    return hop


def bare_waveform(spec: ModelSpec, step: BareStep) -> Call:
    """Return one hop of a waveform model: copy in, step, copy out."""
    x, out = noise(1, spec.hop), np.zeros((1, spec.hop), np.float32)

    def hop() -> None:
        step.frame[...] = x
        step()
        out[...] = step.result

    return hop
