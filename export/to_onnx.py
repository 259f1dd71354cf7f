"""Export to ONNX: one step with explicit state, the channel axis free, the metadata inside."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import onnx
import torch

from streamproc.errors import ConfigError
from streamproc.model_file import Metadata, expected_tensors
from streamproc.spec import ModelSpec
from streamproc.verify import Comparison

from .eight_bit import use_8_bit_products
from .half import store_in_half
from .model_file import StepForward, StepModule, example_inputs, metadata_text, save_onnx
from .simplify import fold_known_sizes, infer_shapes, join_reshapes
from .verify import N_STEPS, require_ending, write_proven

OPSET = 18


def export_onnx(module: StepModule, path: Path, n_steps: int = N_STEPS) -> dict[str, Comparison]:
    """Write a module as an ONNX model file and prove it in the runtime.

    Parameters
    ----------
    module : StepModule
        In evaluation mode, on the CPU.
    path : Path
        Written only when the proof succeeds.
    n_steps : int
        Steps of the proof.

    Returns
    -------
    dict of str to Comparison
        See `export.verify.compare`.

    Raises
    ------
    ParityError, ModelFileError
        If the file does not compute what the module computes. Nothing is left behind.
    ConfigError
        If `path` has another ending, or a module that wants products in 8 bits has none that could have them.

    Notes
    -----
    The step is traced, so it must not read the values of tensors in Python; `export.verify` warns of it.

    The tracing exporter, not the newer ``dynamo=True``: both are equal to the module here, but on a step of a recurrent
    model the traced graph was smaller and faster when both were tried, because it does not slice and join the weights
    again at every step. The GRU operator beat the same GRU written as float32 products as well.
    """
    require_ending(path, "an ONNX", ".onnx")

    def write(partial: Path) -> None:
        _trace(module, partial)
        graph = infer_shapes(onnx.load(partial))
        fold_known_sizes(graph)
        if module.spec.precision == "int8" and not use_8_bit_products(graph, module):
            raise ConfigError(f"{path}: no matrix of {module.spec.name} is worth 8 bits; use --weights float32")
        join_reshapes(graph)
        del graph.graph.value_info[:]
        store_in_half(graph)
        _declare_inputs(graph.graph, module.spec)
        save_onnx(graph, partial, metadata_text(module))

    return write_proven(module, path, write, n_steps)


def _trace(module: StepModule, path: Path) -> None:
    """Write the bare graph under the names of the contract."""
    spec = module.spec
    states = [state.name for state in spec.states]
    carried = [spec.frame_input, *states]
    input_names = [*carried, *(control.name for control in spec.controls)]
    output_names = [f"{name}_out" for name in carried]
    with warnings.catch_warnings(), torch.no_grad():
        # They warn of the exporter's age, of Python that looks at shapes, and of batch sizes; the proof decides.
        for category in (DeprecationWarning, torch.jit.TracerWarning, UserWarning):
            warnings.simplefilter("ignore", category)
        torch.onnx.export(
            StepForward(module),
            example_inputs(spec),
            str(path),
            input_names=input_names,
            output_names=output_names,
            dynamic_axes={name: {0: "channels"} for name in (*carried, *output_names)},
            opset_version=OPSET,
            dynamo=False,
        )


def _declare_inputs(graph: onnx.GraphProto, spec: ModelSpec) -> None:
    """Add the inputs of the contract that the step does not read: a trace leaves them out, and hosts bind them all."""
    inputs, _ = expected_tensors(Metadata(spec))
    present = {value.name for value in graph.input}
    for name, shape, dtype in inputs:
        if name not in present:
            kind = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
            graph.input.append(onnx.helper.make_tensor_value_info(name, kind, shape))
