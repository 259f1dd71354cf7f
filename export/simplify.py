"""Graphs of a step without operators that do nothing: each costs its call at every step, whatever its size."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, helper, numpy_helper

Shape = tuple[int | None, ...]
"""Lengths of axes; None where only a run can tell."""


def infer_shapes(model: ModelProto) -> ModelProto:
    """Return a graph with the shapes of all tensors written down, as far as they follow from its inputs.

    What the exporter wrote is forgotten first: it knows the number of channels of its example alone. Later steps rely
    on these shapes behind operators of onnxruntime, about which inference knows nothing.
    """
    del model.graph.value_info[:]
    return onnx.shape_inference.infer_shapes(model, data_prop=True)


def known_shapes(model: ModelProto) -> dict[str, Shape]:
    """Return the shapes of all tensors, as far as they can be inferred; none for those of unknown rank."""
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    return {
        value.name: tuple(
            axis.dim_value if axis.HasField("dim_value") else None for axis in value.type.tensor_type.shape.dim
        )
        for value in (*graph.value_info, *graph.input, *graph.output)
    }


def fold_known_sizes(model: ModelProto) -> int:
    """Replace sizes that a graph asks for at every step, although they never change, by constants; return how many.

    Notes
    -----
    Whatever Python computes from ``tensor.shape`` is traced as operators, also for axes other than the channels, and
    onnxruntime folds the shape of a tensor all at once or not at all. Each of them, and of those that work on the
    result, costs a few tenths of a microsecond at every step.
    """
    shapes = known_shapes(model)
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
    graph, shapes = model.graph, known_shapes(model)
    views = {node.output[0]: node for node in graph.node if _keeps_order(node, shapes, graph)}
    n_before = len(graph.node)
    for end in views.values():
        start = end
        while start.input[0] in views:
            start = views[start.input[0]]
        sizes = shapes.get(end.output[0], ())
        if start is end or sum(size is None for size in sizes) > 1 or not sizes or 0 in sizes:
            continue  # a reshape takes 0 for "as it was"
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
        used = results.union(names_read(graph))
        idle = [node for node in graph.node if not used.intersection(node.output)]
        if not idle:
            break
        for node in idle:
            graph.node.remove(node)
    kept = [weight for weight in graph.initializer if weight.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def names_read(graph: GraphProto) -> Iterator[str]:
    """Yield the names of all tensors that operators read, those in branches and loops included."""
    for node in graph.node:
        yield from node.input
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from names_read(inner)
                yield from (value.name for value in inner.output)


def _keeps_order(node: NodeProto, shapes: dict[str, Shape], graph: GraphProto) -> bool:
    """Whether a node gives back the numbers that it takes, in their order."""
    if node.op_type in ("Reshape", "Squeeze", "Unsqueeze"):
        return True
    attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    sizes = shapes.get(node.input[0], ()) if node.input else ()
    if node.op_type == "Transpose" and sizes:
        moved = [axis for axis in attributes["perm"] if sizes[axis] != 1]
        return moved == sorted(moved)
    if node.op_type == "Gather" and sizes:
        index = _constant(graph, node.input[1])
        return sizes[attributes.get("axis", 0)] == 1 and index is not None and index.size == 1
    return False


def _constant(graph: GraphProto, name: str) -> np.ndarray | None:
    """Value of a tensor that is the same at every step; None of any other."""
    for weight in graph.initializer:
        if weight.name == name:
            return numpy_helper.to_array(weight)
    for node in graph.node:
        if name in node.output:
            return numpy_helper.to_array(node.attribute[0].t) if node.op_type == "Constant" else None
    return None
