"""Weights of 16 bits in a file: half as large to ship, widened once when it is loaded, as fast to run."""

from __future__ import annotations

import numpy as np
import onnx
import torch
from torch import nn

from streamproc.errors import ConfigError

_MIN_SIZE = 1024
"""Smaller arrays are not worth an operator."""


@torch.no_grad()
def round_weights(module: nn.Module) -> None:
    """Round the matrices of a module to what 16-bit floats (IEEE 754 binary16) hold: 11 significant bits.

    Parameters
    ----------
    module : nn.Module
        Changed in place: what is exported from it afterwards, in either format, computes with the rounded weights.
        Biases and buffers stay as they are.

    Raises
    ------
    ConfigError
        For a weight beyond +-65504.
    """
    for name, weight in module.named_parameters():
        if weight.dim() < 2:
            continue
        rounded = weight.half().float()
        if not torch.isfinite(rounded).all():
            largest = float(weight.abs().max())
            raise ConfigError(f"{name}: weights of up to {largest:g} do not fit 16 bits, which end at 65504")
        weight.copy_(rounded)


def store_in_half(model: onnx.ModelProto) -> int:
    """Store every weight array that 16 bits hold exactly in 16 bits; return how many.

    The graph widens them again before anything reads them. onnxruntime computes what is constant when it loads a file,
    so a step runs on the same float32 weights as before.
    """
    graph = model.graph
    widened = []
    for weight in graph.initializer:
        if weight.data_type != onnx.TensorProto.FLOAT or np.prod(weight.dims) < _MIN_SIZE:
            continue
        values = onnx.numpy_helper.to_array(weight)
        with np.errstate(over="ignore"):
            half = values.astype(np.float16)
        if not np.array_equal(half.astype(np.float32), values):
            continue
        name, stored = weight.name, f"{weight.name}_in_half"
        weight.CopyFrom(onnx.numpy_helper.from_array(half, stored))
        widened.append(onnx.helper.make_node("Cast", [stored], [name], name, to=onnx.TensorProto.FLOAT))
    for node in reversed(widened):
        graph.node.insert(0, node)
    return len(widened)
