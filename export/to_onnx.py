"""Export to ONNX: one step with explicit state, the channel axis free, the metadata inside."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import onnx
import torch

from streamproc.errors import ConfigError
from streamproc.verify import Comparison

from .eight_bit import use_8_bit_products
from .half import store_in_half
from .model_file import StepForward, StepModule, example_inputs, metadata_text, save_onnx
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
    The tracing exporter, not the newer ``dynamo=True``: both are equal to the module here, but on a step of a recurrent
    model the traced graph was smaller and faster when both were tried, because it does not slice and join the weights
    again at every step. The GRU operator beat the same GRU written as float32 products as well.
    """
    require_ending(path, "an ONNX", ".onnx")

    def write(partial: Path) -> None:
        _trace(module, partial)
        graph = onnx.load(partial)
        fold_known_sizes(graph)
        if module.spec.precision == "int8" and not use_8_bit_products(graph):
            raise ConfigError(f"{path}: no matrix of {module.spec.name} is worth 8 bits; use --weights float32")
        store_in_half(graph)
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


def fold_known_sizes(model: onnx.ModelProto) -> int:
    """Replace sizes that a graph asks for at every step, although they never change, by constants; return how many.

    Notes
    -----
    Whatever Python computes from ``tensor.shape`` is traced as operators, also for axes other than the channels, and
    onnxruntime folds the shape of a tensor all at once or not at all. Each of them, and of those that work on the
    result, costs a few tenths of a microsecond at every step.
    """
    inferred = onnx.shape_inference.infer_shapes(model).graph
    axes = {value.name: value.type.tensor_type.shape.dim for value in (*inferred.value_info, *inferred.input)}
    made_by = {name: node for node in model.graph.node for name in node.output}
    folded = 0
    for node in model.graph.node:
        shape, index = (made_by.get(name) for name in node.input[:2]) if node.op_type == "Gather" else (None, None)
        if shape is None or shape.op_type != "Shape" or shape.attribute or shape.input[0] not in axes:
            continue
        if index is None or index.op_type != "Constant":
            continue
        which = onnx.numpy_helper.to_array(index.attribute[0].t)
        known = axes[shape.input[0]]  # empty where inference did not even find the number of axes
        axis = known[int(which)] if which.ndim == 0 and -len(known) <= int(which) < len(known) else None
        if axis is not None and axis.HasField("dim_value"):
            size = onnx.numpy_helper.from_array(np.array(axis.dim_value, np.int64))
            node.CopyFrom(onnx.helper.make_node("Constant", [], node.output, node.name, value=size))
            folded += 1
    return folded
