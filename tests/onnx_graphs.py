"""Small ONNX graphs written by hand, right and wrong, for the tests of the model file and its backends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from streamproc.model import GoldenRecord
from streamproc.model_file import METADATA_KEY, Metadata, dump_metadata
from streamproc.spec import ControlSpec, ModelSpec, StateSpec

HOP = 8

SPEC = ModelSpec(
    name="leaky",
    version="1.0",
    sample_rate=16_000,
    hop=HOP,
    io="waveform",
    window=HOP,
    weights_licence="MIT",
    states=(StateSpec("memory", (HOP,)), StateSpec("count", (1,), dtype="float64", init=1.0)),
    controls=(ControlSpec("gain", 0.5, 0.0, 2.0),),
)
"""``audio_out = gain * (audio + memory)``, ``memory_out = memory / 2 + audio``, ``count_out = count + 1``."""

_TYPES = {"float32": TensorProto.FLOAT, "float64": TensorProto.DOUBLE}

Shapes = dict[str, tuple[Sequence[int | str], str]]


def leaky_model(
    decay: float = 0.5,
    channels: int | str = "channels",
    memory: str = "memory",
    extra_input: bool = False,
    count_type: str = "float64",
    hop: int = HOP,
) -> onnx.ModelProto:
    """The graph that `SPEC` describes, or one that is wrong in the way the arguments say."""
    shapes: Shapes = {
        "audio": ([channels, hop], "float32"),
        memory: ([channels, hop], "float32"),
        "count": ([channels, 1], count_type),
    }
    inputs: Shapes = {**shapes, "gain": ([1], "float32")}
    if extra_input:
        inputs["mystery"] = ([1], "float32")
    nodes = [
        helper.make_node("Add", ["audio", memory], ["sum"]),
        helper.make_node("Mul", ["sum", "gain"], ["audio_out"]),
        helper.make_node("Mul", [memory, "decay"], ["decayed"]),
        helper.make_node("Add", ["decayed", "audio"], [f"{memory}_out"]),
        helper.make_node("Add", ["count", "one"], ["count_out"]),
    ]
    if extra_input:
        nodes[0] = helper.make_node("Sum", ["audio", memory, "mystery"], ["sum"])
    constants = [
        helper.make_tensor("decay", TensorProto.FLOAT, [1], [decay]),
        helper.make_tensor("one", _TYPES[count_type], [1], [1.0]),
    ]
    outputs = {f"{name}_out": shape for name, shape in shapes.items()}
    graph = helper.make_graph(nodes, "leaky", _values(inputs), _values(outputs), constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    return model


def leaky_golden(n_steps: int = 5) -> GoldenRecord:
    """What `leaky_model` does from its initial state, computed in numpy."""
    frames = np.random.default_rng(0).normal(0.0, 0.1, (n_steps, 1, HOP)).astype(np.float32)
    memory = np.zeros((1, HOP), np.float32)
    outputs = []
    for frame in frames:
        outputs.append(np.float32(0.5) * (frame + memory))
        memory = np.float32(0.5) * memory + frame
    return GoldenRecord(frames, np.stack(outputs), (memory, np.array([[1.0 + n_steps]])))


def write_model(path: Path, graph: onnx.ModelProto | None = None, metadata: Metadata | str | None = None) -> Path:
    """Write a model file. By default the right graph, and metadata with a golden record; "" means no metadata."""
    graph = graph or leaky_model()
    if metadata is None:
        metadata = Metadata(SPEC, leaky_golden())
    text = metadata if isinstance(metadata, str) else dump_metadata(metadata)
    if text:
        helper.set_model_props(graph, {METADATA_KEY: text})
    onnx.save(graph, path)
    return path


def with_spec(**changes: object) -> Metadata:
    """Metadata of `SPEC` with some fields changed, without a golden record."""
    return Metadata(replace(SPEC, **changes))


def _values(shapes: Shapes) -> list[onnx.ValueInfoProto]:
    return [helper.make_tensor_value_info(name, _TYPES[kind], shape) for name, (shape, kind) in shapes.items()]
