"""Graphs of a step without operators that do nothing: each costs its call at every step, whatever its size."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, helper, numpy_helper


def fold_known_sizes(model: ModelProto) -> int:
    """Replace sizes that a graph asks for at every step, although they never change, by constants; return how many.

    Notes
    -----
    Whatever Python computes from ``tensor.shape`` is traced as operators, also for axes other than the channels, and
    onnxruntime folds the shape of a tensor all at once or not at all. Each of them, and of those that work on the
    result, costs a few tenths of a microsecond at every step.
    """
    shapes = _shapes(model)
    made_by = {name: node for node in model.graph.node for name in node.output}
    folded = 0
    for node in model.graph.node:
        shape, index = (made_by.get(name) for name in node.input[:2]) if node.op_type == "Gather" else (None, None)
        if shape is None or shape.op_type != "Shape" or shape.attribute or shape.input[0] not in shapes:
            continue
        if index is None or index.op_type != "Constant":
            continue
        which = numpy_helper.to_array(index.attribute[0].t)
        known = shapes[shape.input[0]]  # empty where inference did not even find the number of axes
        size = known[int(which)] if which.ndim == 0 and -len(known) <= int(which) < len(known) else None
        if size is not None:
            value = numpy_helper.from_array(np.array(size, np.int64))
            node.CopyFrom(helper.make_node("Constant", [], node.output, node.name, value=value))
            folded += 1
    return folded


def join_reshapes(model: ModelProto) -> int:
    """Make one reshape of every chain of operators that leave all numbers in their order; return how many are gone.

    Lifting an axis of length one, dropping it, moving it, choosing its only element and reshaping are all the same to
    the numbers, so of such a chain only what comes out at its end matters.
    """
    graph, shapes = model.graph, _shapes(model)
    views = {node.output[0]: node for node in graph.node if _keeps_order(node, shapes, graph)}
    n_before = len(graph.node)
    for end in views.values():
        start = end
        while start.input[0] in views:
            start = views[start.input[0]]
        sizes = shapes.get(end.output[0], ())
        if start is end or sum(size is None for size in sizes) > 1 or not sizes:
            continue
        target = f"{end.output[0]}_sizes"
        asked = np.array([-1 if size is None else size for size in sizes])
        graph.initializer.append(numpy_helper.from_array(asked, target))
        end.CopyFrom(helper.make_node("Reshape", [start.input[0], target], end.output, end.name))
    drop_unused(graph)
    return n_before - len(graph.node)


def drop_unused(graph: GraphProto) -> None:
    """Take out what nothing reads any more: weights, and the operators that fed what was replaced."""
    results = {value.name for value in graph.output}
    while True:
        used = results | {name for node in graph.node for name in node.input}
        idle = [node for node in graph.node if not used.intersection(node.output)]
        if not idle:
            break
        for node in idle:
            graph.node.remove(node)
    kept = [weight for weight in graph.initializer if weight.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _shapes(model: ModelProto) -> dict[str, tuple[int | None, ...]]:
    """Shapes of all tensors, as far as they can be inferred; None is an axis of unknown length."""
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    return {
        value.name: tuple(
            axis.dim_value if axis.HasField("dim_value") else None for axis in value.type.tensor_type.shape.dim
        )
        for value in (*graph.value_info, *graph.input, *graph.output)
    }


def _keeps_order(node: NodeProto, shapes: dict[str, tuple[int | None, ...]], graph: GraphProto) -> bool:
    """Whether a node gives back the numbers that it takes, in their order."""
    if node.op_type in ("Reshape", "Squeeze", "Unsqueeze"):
        return True
    attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    sizes = shapes.get(node.input[0], ()) if node.input else ()
    if node.op_type == "Transpose" and sizes:
        moved = [axis for axis in attributes["perm"] if sizes[axis] != 1]
        return _rises(moved)
    if node.op_type == "Gather" and sizes:
        index = _constant(graph, node.input[1])
        return sizes[attributes.get("axis", 0)] == 1 and index is not None and index.size == 1
    return False


def _rises(numbers: Sequence[int]) -> bool:
    return all(first < second for first, second in pairwise(numbers))


def _constant(graph: GraphProto, name: str) -> np.ndarray | None:
    """Value of a tensor that is the same at every step; None of any other."""
    for weight in graph.initializer:
        if weight.name == name:
            return numpy_helper.to_array(weight)
    for node in graph.node:
        if name in node.output:
            return numpy_helper.to_array(node.attribute[0].t) if node.op_type == "Constant" else None
    return None
