"""Graphs without operators that do nothing compute what they computed before."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from export.simplify import fold_known_sizes, infer_shapes, join_reshapes, known_shapes
from streamproc.backends.onnx import open_session


def test_sizes_that_never_change_are_not_asked_for_at_every_step() -> None:
    """The number of channels is; a graph with either known beforehand computes the same."""
    graph = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 18]>
        sizes (float[channels, 3, 4] x) => (float[channels, 3, 4] y, int64 n_channels)
        {
            first = Constant <value: tensor = int64 {0}> ()
            second = Constant <value: tensor = int64 {1}> ()
            shape = Shape (x)
            n_channels = Gather (shape, first)
            rows = Gather (shape, second)
            scale = Cast <to: int = 1> (rows)
            y = Mul (x, scale)
        }
    """)
    assert fold_known_sizes(graph) == 1
    assert [node.op_type for node in graph.graph.node].count("Gather") == 1
    x = np.ones((2, 3, 4), np.float32)
    y, n_channels = open_session(graph.SerializeToString()).run(None, {"x": x})
    np.testing.assert_array_equal(y, 3 * x)
    assert n_channels == 2


def test_sizes_that_nobody_can_know_beforehand_stay() -> None:
    graph = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 18]>
        sizes (float[channels, 4] x, int64[axes] wanted) => (int64 n)
        {
            second = Constant <value: tensor = int64 {1}> ()
            y = Reshape (x, wanted)
            shape = Shape (y)
            n = Gather (shape, second)
        }
    """)
    assert fold_known_sizes(graph) == 0
    wanted = np.array([4, 2], np.int64)
    assert open_session(graph.SerializeToString()).run(None, {"x": np.ones((2, 4), np.float32), "wanted": wanted}) == [
        2
    ]


def test_chains_that_keep_the_order_become_one_reshape() -> None:
    graph = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 18]>
        chain (float[channels, 6] x) => (float[channels, 3, 2] y, float[1, channels, 6] z)
        {
            one = Constant <value: tensor = int64[1] {1}> ()
            zero = Constant <value: tensor = int64 {0}> ()
            sizes = Constant <value: tensor = int64[4] {-1, 1, 3, 2}> ()
            lifted = Unsqueeze (x, one)
            z = Transpose <perm = [1, 0, 2]> (lifted)
            cut = Reshape (lifted, sizes)
            y = Gather <axis = 1> (cut, zero)
        }
    """)
    x = np.arange(12, dtype=np.float32).reshape(2, 6)
    before = open_session(graph.SerializeToString()).run(None, {"x": x})
    assert join_reshapes(graph) > 0
    assert [node.op_type for node in graph.graph.node] == ["Reshape", "Reshape"]
    assert all("x" in node.input for node in graph.graph.node)
    for expected, found in zip(before, open_session(graph.SerializeToString()).run(None, {"x": x}), strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    "step",
    [
        "y = Transpose <perm = [0, 2, 1]> (lifted)",  # of two axes that are longer than one
        "y = Gather <axis = 1> (lifted, second)",  # of several
        "y = Gather <axis = 2> (lifted, several)",
    ],
)
def test_what_changes_the_order_stays(step: str) -> None:
    graph = onnx.parser.parse_model(f"""
        <ir_version: 8, opset_import: ["" : 18]>
        chain (float[channels, 6] x) => (y)
        {{
            sizes = Constant <value: tensor = int64[3] {{-1, 2, 3}}> ()
            second = Constant <value: tensor = int64 {{1}}> ()
            several = Constant <value: tensor = int64[2] {{2, 0}}> ()
            lifted = Reshape (x, sizes)
            {step}
        }}
    """)
    join_reshapes(graph)
    assert [node.op_type for node in graph.graph.node if node.op_type != "Constant"] == ["Reshape", step.split()[2]]


def test_an_axis_of_unknown_length_may_move_past_one_of_length_one_only() -> None:
    graph = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 18]>
        chain (float[channels, 1, steps] x) => (float[1, channels, steps] y)
        {
            z = Transpose <perm = [1, 0, 2]> (x)
            sizes = Constant <value: tensor = int64[3] {1, -1, 4}> ()
            y = Reshape (z, sizes)
        }
    """)
    x = np.arange(8, dtype=np.float32).reshape(2, 1, 4)
    before = open_session(graph.SerializeToString()).run(None, {"x": x})[0]
    join_reshapes(graph)
    assert [node.op_type for node in graph.graph.node] == ["Reshape"]
    np.testing.assert_array_equal(open_session(graph.SerializeToString()).run(None, {"x": x})[0], before)


def test_what_branches_read_is_used() -> None:
    graph = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 18]>
        branches (float[channels, 4] x, bool loud) => (float[channels, 4] y)
        {
            one = Constant <value: tensor = int64[1] {1}> ()
            twice = Add (x, x)
            lifted = Unsqueeze (x, one)
            back = Squeeze (lifted, one)
            y = If (loud) <
                then_branch = then () => (float[channels, 4] a) { a = Mul (twice, back) },
                else_branch = other () => (float[channels, 4] b) { b = Identity (back) }
            >
        }
    """)
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    join_reshapes(graph)
    assert [node.op_type for node in graph.graph.node] == ["Add", "Reshape", "If"]
    session = open_session(graph.SerializeToString())
    np.testing.assert_array_equal(session.run(None, {"x": x, "loud": np.array(True)})[0], 2 * x * x)
    np.testing.assert_array_equal(session.run(None, {"x": x, "loud": np.array(False)})[0], x)


def test_nothing_at_all_is_not_reshaped() -> None:
    """A reshape takes a length of 0 for "as it was"."""
    graph = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 18]>
        nothing (float[channels, 0] x) => (float[channels, 1, 1, 0] y)
        {
            one = Constant <value: tensor = int64[1] {1}> ()
            lifted = Unsqueeze (x, one)
            y = Unsqueeze (lifted, one)
        }
    """)
    assert join_reshapes(graph) == 0
    assert open_session(graph.SerializeToString()).run(None, {"x": np.ones((2, 0), np.float32)})[0].shape == (
        2,
        1,
        1,
        0,
    )


def test_shapes_that_hold_for_the_example_only_are_forgotten() -> None:
    graph = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 18]>
        channels (float[channels, 4] x) => (float[channels, 4] z) <float[1, 4] y>
        {
            y = Add (x, x)
            z = Add (y, x)
        }
    """)
    assert known_shapes(infer_shapes(graph))["y"] == (None, 4)
