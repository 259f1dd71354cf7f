"""Products in 8 bits: what a step reads of its weights is a quarter, so it waits less for memory.

A step of a recurrent model is one matrix times one vector after another, and lasts as long as it takes to read the
matrices. Here every block of `block_size` weights along the input shares a scale and each weight is an 8-bit integer;
onnxruntime's ``MatMulNBits`` rounds blocks of the vector likewise, multiplies integers, and adds up floats. Biases,
gates, states and all other arithmetic stay float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import NodeProto, TensorProto, helper, numpy_helper
from torch import nn

from .model_file import StepModule
from .simplify import Shape, drop_unused, known_shapes, names_read

_BLOCKS = (128, 64, 32)
"""How many weights may share a scale. Against blocks of 32 those of 128 leave 2 to 3 dB more error, and a hop of the
shipped models takes 6 and 10 % less time."""

_DOMAIN = "com.microsoft"
_OPERATOR_VERSION = 1
_INTEGER_PRODUCTS = 4
"""``accuracy_level`` of the operator: operands of 8 bits. Others widen the weights at every step, which is slow."""

_ZERO = 128
_LARGEST = 127
_MIN_SIZE = 1024
"""Smaller matrices are not worth it."""

Array = npt.NDArray[np.float32]


@torch.no_grad()
def round_to_8_bits(module: StepModule) -> None:
    """Round the matrices of a module to what a file stores of them, and let its spec say so; see `quantise`.

    Parameters
    ----------
    module : StepModule
        Changed in place. `export.to_onnx` then writes products in 8 bits.
    """
    assert isinstance(module, nn.Module)
    for weight in module.parameters():
        if _is_large(weight):
            weight.copy_(torch.from_numpy(_rounded(weight.detach().numpy())))
    module.spec = replace(module.spec, precision="int8")


def block_size(n_inputs: int) -> int:
    """Return how many weights of an output share a scale: the most that fill all blocks, or else the fewest."""
    return next((size for size in _BLOCKS if n_inputs % size == 0), _BLOCKS[-1])


def quantise(weight: Array, block: int) -> tuple[npt.NDArray[np.uint8], Array]:
    """Round a matrix [outputs, inputs] to 8 bits, symmetrically, with one scale for `block` inputs of an output.

    Returns
    -------
    integers : uint8 [outputs, blocks, block]
        128 is zero; the last block is filled up with it.
    scales : float32 [outputs, blocks]

    Notes
    -----
    Rounding what is rounded already changes nothing but the last bit of a scale: the largest weight of a block is 127
    scales.
    """
    n_outputs, n_inputs = weight.shape
    blocks = np.pad(weight, ((0, 0), (0, -n_inputs % block))).reshape(n_outputs, -1, block)
    scales = (np.abs(blocks).max(-1) / np.float32(_LARGEST)).astype(np.float32)
    safe = np.where(scales > 0, scales, 1.0)[..., None]
    return (np.rint(blocks / safe) + _ZERO).astype(np.uint8), scales


def use_8_bit_products(model: onnx.ModelProto, module: StepModule) -> int:
    """Rewrite every product with rounded weights of a module, those inside GRUs included; return how many.

    Parameters
    ----------
    model : onnx.ModelProto
        One step, as `export.to_onnx` traces it. Changed in place.
    module : StepModule
        What was traced, after `round_to_8_bits`.
    """
    assert isinstance(module, nn.Module)
    graph, shapes = model.graph, known_shapes(model)
    rounded = {_fingerprint(weight.detach().numpy()) for weight in module.parameters() if _is_large(weight)}
    weights = {weight.name: weight for weight in graph.initializer}
    made: list[TensorProto] = []
    n_products = 0
    for node in list(graph.node):
        if _is_product(node, weights) and _is_rounded(weights.get(node.input[1]), node.op_type, rounded):
            new = [_matmul(graph, node, weights, made)]
        elif _is_one_step_of_a_gru(node, shapes) and all(
            _is_rounded(weights.get(name), node.op_type, rounded) for name in node.input[1:3]
        ):
            new = list(_gru(graph, node, weights, made))
        else:
            continue
        n_products += sum(part.op_type == "MatMulNBits" for part in new)
        place = list(graph.node).index(node)
        graph.node.remove(node)
        for part in reversed(new):
            graph.node.insert(place, part)
    graph.initializer.extend(made)
    drop_unused(graph)
    if n_products:
        model.opset_import.append(helper.make_opsetid(_DOMAIN, _OPERATOR_VERSION))
    return n_products


def _matmul(
    graph: onnx.GraphProto, node: NodeProto, weights: dict[str, TensorProto], made: list[TensorProto]
) -> NodeProto:
    """Rewrite a product and the constant vector that is added to it, if any: the operator can do that itself."""
    matrix = _matrix(weights[node.input[1]], node.op_type)
    out, bias = node.output[0], node.input[2] if node.op_type == "Gemm" else ""
    readers = _readers(graph, out)
    if node.op_type == "MatMul" and [reader.op_type for reader in readers] == ["Add"] and not _is_result(graph, out):
        (other,) = set(readers[0].input) - {out} or {out}
        if other in weights and list(weights[other].dims) == [len(matrix)]:
            graph.node.remove(readers[0])
            out, bias = readers[0].output[0], other
    return _product(node.name, node.input[0], matrix, bias, out, made)


def _is_large(weight: torch.Tensor) -> bool:
    return weight.dim() == 2 and weight.numel() >= _MIN_SIZE


def _is_product(node: NodeProto, weights: dict[str, TensorProto]) -> bool:
    """Whether a node is a matrix product, or a linear layer as torch writes it for two axes."""
    if node.op_type != "Gemm":
        return node.op_type == "MatMul"
    attributes = _attributes(node)
    plain = attributes.get("transB") == 1 and attributes.get("transA", 0) == 0
    unscaled = attributes.get("alpha", 1.0) == attributes.get("beta", 1.0) == 1.0
    bias = weights.get(node.input[2]) if len(node.input) == 3 else None
    return plain and unscaled and bias is not None and list(bias.dims) == list(weights[node.input[1]].dims[:1])


def _is_one_step_of_a_gru(node: NodeProto, shapes: dict[str, Shape]) -> bool:
    """Whether a node is a GRU as torch has it: one direction, and the reset gate behind the product."""
    attributes = _attributes(node)
    forward = attributes.pop("direction", b"forward") == b"forward"
    plain = attributes.keys() == {"hidden_size", "linear_before_reset"} and len(node.input) == 6
    return node.op_type == "GRU" and forward and plain and shapes.get(node.input[0], ())[:1] == (1,)


def _attributes(node: NodeProto) -> dict[str, Any]:
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def _matrix(weight: TensorProto, operator: str) -> Array:
    """Return the weights of a product, or the input weights of a GRU, as [outputs, inputs]."""
    values = numpy_helper.to_array(weight)
    return np.ascontiguousarray({"MatMul": values.T, "Gemm": values, "GRU": values[0]}[operator])


def _is_rounded(weight: TensorProto | None, operator: str, rounded: set[bytes]) -> bool:
    """Whether this is a rounded parameter of the module, and not the matrix of a transform beside it."""
    n_axes = 3 if operator == "GRU" else 2
    if weight is None or weight.data_type != TensorProto.FLOAT or len(weight.dims) != n_axes:
        return False
    matrix = _matrix(weight, operator)
    if _fingerprint(matrix) not in rounded:
        return False
    return bool(np.abs(_rounded(matrix) - matrix).max() <= 1e-6 * np.abs(matrix).max())


def _fingerprint(matrix: Array) -> bytes:
    """Tell a matrix by its values: the exporter transposes it, or has its gates in another order."""
    return sha256(np.sort(matrix, axis=None).tobytes()).digest()


def _product(
    name: str, x: str, matrix: Array, bias: str, out: str, made: list[TensorProto], block: int | None = None
) -> NodeProto:
    """Make ``x @ matrix.T + bias``; `block` if the matrix was rounded in other blocks than its own size asks for."""
    block = block or block_size(matrix.shape[1])
    integers, scales = quantise(matrix, block)
    stored = [f"{name}_integers", f"{name}_scales"]
    made += [numpy_helper.from_array(array, label) for array, label in zip((integers, scales), stored, strict=True)]
    return helper.make_node(
        "MatMulNBits", [x, *stored, "", "", bias] if bias else [x, *stored], [out], name, domain=_DOMAIN,
        K=matrix.shape[1], N=matrix.shape[0], bits=8, block_size=block, accuracy_level=_INTEGER_PRODUCTS,
    )  # fmt: skip


def _gru(
    graph: onnx.GraphProto, node: NodeProto, weights: dict[str, TensorProto], made: list[TensorProto]
) -> Iterator[NodeProto]:
    """Make one step of a GRU, gates in the order z, r, n: ``n = tanh(x_n + r h_n)``, ``h = n + z (h - n)``."""
    x, weight_x, weight_h, bias, _, before = node.input
    of_all_steps, after = (*node.output, "")[:2]
    from_x, from_h = (numpy_helper.to_array(weights[name])[0] for name in (weight_x, weight_h))
    bias_x, bias_h = np.split(numpy_helper.to_array(weights[bias])[0] if bias else np.zeros(2 * len(from_h)), 2)
    gates, new = slice(2 * from_h.shape[1]), slice(2 * from_h.shape[1], None)

    def own(name: str) -> str:
        return f"{node.name}_{name}"

    def node_of(kind: str, inputs: list[str], *outputs: str, **attributes: int) -> NodeProto:
        return helper.make_node(kind, inputs, [*outputs], own(f"{kind}_{outputs[0]}"), **attributes)

    def product_of(source: str, matrix: Array, values: Array, out: str, block: int | None = None) -> NodeProto:
        made.append(numpy_helper.from_array(values.astype(np.float32), own(f"bias_{out}")))
        return _product(own(out), source, matrix, own(f"bias_{out}"), own(out), made, block)

    moved = _batch_first(graph, node)
    if moved is not None:
        x, before, after = moved
    after = after or own("after")
    block = block_size(from_x.shape[1])
    if block == block_size(from_h.shape[1]) and from_x.shape[1] % block == 0:
        # Input and state as one vector for both gates: one operator less than adding two products and cutting them up.
        yield node_of("Concat", [x, before], own("both"), axis=-1)
        both = np.hstack([from_x[gates], from_h[gates]])
        yield product_of(own("both"), both, bias_x[gates] + bias_h[gates], "gates", block)
    else:  # weights would be rounded a second time, in other blocks
        yield product_of(x, from_x[gates], bias_x[gates], "gates_x")
        yield product_of(before, from_h[gates], bias_h[gates], "gates_h")
        yield node_of("Add", [own("gates_x"), own("gates_h")], own("gates"))
    yield product_of(x, from_x[new], bias_x[new], "new_x")
    yield product_of(before, from_h[new], bias_h[new], "new_h")
    yield node_of("Sigmoid", [own("gates")], own("open"))
    yield node_of("Split", [own("open")], own("update"), own("reset"), axis=-1, num_outputs=2)
    yield node_of("Mul", [own("reset"), own("new_h")], own("let_in"))
    yield node_of("Add", [own("new_x"), own("let_in")], own("sum"))
    yield node_of("Tanh", [own("sum")], own("new"))
    yield node_of("Sub", [before, own("new")], own("change"))
    yield node_of("Mul", [own("update"), own("change")], own("kept"))
    yield node_of("Add", [own("new"), own("kept")], after)
    if moved is None:
        made.append(numpy_helper.from_array(np.array([1]), own("second_axis")))
        yield node_of("Unsqueeze", [after, own("second_axis")], of_all_steps)


def _batch_first(graph: onnx.GraphProto, node: NodeProto) -> tuple[str, str, str] | None:
    """Take away the operators that move axes around a GRU, where they are those of a batch-first layer.

    The operator wants time first, and says twice what comes out, with an axis more. With one step nothing has to
    move: everything may stay ``[channels, 1, ...]``, and what comes out is the next state.

    Returns
    -------
    x, state, out : str
        The tensors around them; None where the graph looks different.
    """
    pattern = (
        _made_by(graph, node.input[0], "Transpose"),
        _made_by(graph, node.input[5], "Transpose"),
        squeezed := _only_reader(graph, node.output[0], "Squeeze"),
        _only_reader(graph, squeezed.output[0] if squeezed else "", "Transpose"),
        _only_reader(graph, node.output[1], "Transpose"),
    )
    if not all(pattern):
        return None
    turned, lifted, squeezed, turned_back, last = (part for part in pattern if part is not None)
    turns = (turned, lifted, turned_back, last)
    if any(_attributes(turn)["perm"] != [1, 0, 2] for turn in turns) or _is_result(graph, turned_back.output[0]):
        return None
    for moving in (squeezed, turned_back, last):
        graph.node.remove(moving)
    for reader in _readers(graph, turned_back.output[0]):
        for place, name in enumerate(reader.input):
            if name == turned_back.output[0]:
                reader.input[place] = last.output[0]
    return turned.input[0], lifted.input[0], last.output[0]


def _made_by(graph: onnx.GraphProto, name: str, kind: str) -> NodeProto | None:
    return next((node for node in graph.node if name in node.output and node.op_type == kind), None)


def _only_reader(graph: onnx.GraphProto, name: str, kind: str) -> NodeProto | None:
    readers = _readers(graph, name)
    alone = [reader.op_type for reader in readers] == [kind] and not _is_result(graph, name)
    return readers[0] if alone else None


def _readers(graph: onnx.GraphProto, name: str) -> list[NodeProto]:
    return [node for node in graph.node if name in node.input]


def _is_result(graph: onnx.GraphProto, name: str) -> bool:
    """Whether somebody else than operators of this graph wants a tensor: whoever runs it, or a branch or loop in it."""
    n_read = sum(list(node.input).count(name) for node in graph.node)
    return name in {value.name for value in graph.output} or list(names_read(graph)).count(name) > n_read


def _rounded(weight: Array) -> Array:
    """Return what `quantise` leaves of a matrix."""
    integers, scales = quantise(weight, block_size(weight.shape[1]))
    values = (integers.astype(np.float32) - np.float32(_ZERO)) * scales[..., None]
    return values.reshape(len(integers), -1)[:, : weight.shape[1]]
