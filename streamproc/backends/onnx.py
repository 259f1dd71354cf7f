"""The model step in onnxruntime: one thread, no spinning, preallocated buffers, bindings made once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from ..errors import ModelFileError
from ..model import Frame, FrameModel, State
from ..model_file import METADATA_KEY, SPECIFICATION, Metadata, Tensor, check_tensors, expected_tensors, parse_metadata
from ..sidecar import find_sidecar
from ..spec import ModelSpec

TensorNames = dict[str, str]
"""Name in the contract (``spectrum``, ``h0_out``) to name in the graph, where the two differ."""


def open_session(model: bytes | str) -> ort.InferenceSession:
    """Open a graph for low, even latency: one thread, no spinning, denormals flushed to zero.

    Notes
    -----
    onnxruntime flushes denormals by setting the mode of the processor, and does so once: in the thread that opens the
    first session of the process, if that session asks for it. Threads started from there later inherit the mode, older
    ones do not have it. A model is therefore loaded before the threads that run it are started.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    options.log_severity_level = 3
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def load(path: Path, sidecar: Metadata | None = None) -> OnnxModel:
    """Load an ONNX file and check its graph against its metadata.

    Parameters
    ----------
    path : Path
    sidecar : Metadata, optional
        What to believe about the graph. Without it: the metadata inside the file, or a sidecar that can be found.

    Raises
    ------
    ModelFileError
        For a file that onnxruntime cannot read, has no metadata, or breaks it.
    """
    try:
        session = open_session(str(path))
    except Exception as error:  # onnxruntime has a dozen unrelated types for a file that it cannot use
        reason = str(error).splitlines()[0][:200]
        raise ModelFileError(
            f"{path}: not an ONNX model that onnxruntime {ort.__version__} can run ({reason}); "
            f"if it should be one, it is damaged: write or download it again"
        ) from error
    metadata = sidecar or _metadata_of(session, path)
    _check_layout(metadata, path)
    inputs, outputs = expected_tensors(metadata)
    check_tensors("input", inputs, _tensors(session.get_inputs()), str(path))
    check_tensors("output", outputs, _tensors(session.get_outputs()), str(path))
    if metadata.graph is None:
        model = OnnxModel(session, metadata.spec)
    else:
        model = OnnxModel(session, metadata.spec, metadata.graph.names, metadata.graph.frame_layout)
    model.golden = metadata.golden
    model.source = str(path)
    return model


def _metadata_of(session: ort.InferenceSession, path: Path) -> Metadata:
    text = session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
    if text is not None:
        return parse_metadata(text, str(path))
    found = find_sidecar(path)
    if found is None:
        raise ModelFileError(
            f"{path}: an ONNX graph without streamproc metadata, which says its rate, hop and states; export it with "
            f"`python -m export onnx`, or describe it in {path.with_suffix('.json').name} beside it ({SPECIFICATION})"
        )
    return found[1]


def _check_layout(metadata: Metadata, path: Path) -> None:
    """Refuse a layout into which a frame does not fit as it lies in memory."""
    layout = metadata.graph.frame_layout if metadata.graph else None
    shape = metadata.spec.frame_shape
    if layout and [size for size in layout if size != 1] != [size for size in shape if size != 1]:
        raise ModelFileError(
            f"{path}: graph.frame_layout of the sidecar is {list(layout)}, and a frame of this model is {list(shape)}; "
            f"a layout may insert or drop axes of size 1, not transpose or cut ({SPECIFICATION}): correct the sidecar, "
            f"or the graph if it has the frame like that"
        )


def _tensors(nodes: Sequence[Any]) -> list[Tensor]:
    types = {"tensor(float)": "float32", "tensor(double)": "float64"}
    return [Tensor(node.name, tuple(node.shape), types.get(node.type, node.type)) for node in nodes]


class OnnxModel(FrameModel):
    """A model step in an ONNX graph.

    Parameters
    ----------
    session : onnxruntime.InferenceSession
    spec : ModelSpec
        Already checked against the graph.
    names : dict, optional
        Contract name to graph name for foreign graphs.
    frame_layout : tuple of int, optional
        Shape that the graph gives to the frame of one channel: the contract's, but for axes of size 1.

    Notes
    -----
    A graph fixed to one channel (``spec.channels == 1``) runs once per channel, on that channel's slice of every array.
    """

    def __init__(
        self,
        session: ort.InferenceSession,
        spec: ModelSpec,
        names: TensorNames | None = None,
        frame_layout: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__(spec)
        self._session = session
        self._names = names or {}
        self._frame_layout = frame_layout or spec.frame_shape

    def step(self, frame: Frame, state: State, out: Frame, next_state: State) -> None:
        """Run one step on arrays that were not bound before."""
        self.bind(frame, state, out, next_state)()

    def bind(self, frame: Frame, state: State, out: Frame, next_state: State) -> Callable[[], None]:
        """Bind the arrays to the graph once, and return the call that runs it on them."""
        inputs, outputs = (frame, *state), (out, *next_state)
        if any(not array.flags.c_contiguous for array in (*inputs, *outputs)):
            raise ValueError("arrays bound to a graph must be C-contiguous")
        # onnxruntime would write results over values that other operators still have to read.
        if any(np.may_share_memory(a, b) for a, b in zip(inputs, outputs, strict=True)):
            raise ValueError("an array bound to a graph is both input and output; a step needs two copies of the state")
        if self.spec.channels is None:
            shape = (frame.shape[0], *self._frame_layout)
            return self._bind_one(frame.reshape(shape), state, out.reshape(shape), next_state)
        runs = [
            self._bind_one(
                frame[channel].reshape(self._frame_layout),
                tuple(array[channel, ...] for array in state),
                out[channel].reshape(self._frame_layout),
                tuple(array[channel, ...] for array in next_state),
            )
            for channel in range(frame.shape[0])
        ]
        if len(runs) == 1:
            return runs[0]

        def run_all() -> None:
            for run in runs:
                run()

        return run_all

    def _bind_one(self, frame: Frame, state: State, out: Frame, next_state: State) -> Callable[[], None]:
        binding = self._session.io_binding()
        frame_input, names = self.spec.frame_input, [state_spec.name for state_spec in self.spec.states]
        inputs: dict[str, npt.NDArray[Any]] = {frame_input: frame, **dict(zip(names, state, strict=True))}
        inputs.update(self.controls)
        outputs = {frame_input: out, **dict(zip(names, next_state, strict=True))}
        for name, array in inputs.items():
            binding.bind_input(self._names.get(name, name), "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
        for name, array in outputs.items():
            graph_name = self._names.get(f"{name}_out", f"{name}_out")
            binding.bind_output(graph_name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
        run = self._session.run_with_iobinding
        keep_alive = (inputs, outputs)

        def bound(_: object = keep_alive) -> None:
            run(binding)

        return bound
