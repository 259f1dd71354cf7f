"""The metadata text: what is written can be read, and whatever is wrong with it is said in one sentence."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx_graphs import SPEC, leaky_golden

from streamproc.errors import ConfigError, ModelFileError
from streamproc.model_file import (
    FORMAT_VERSION,
    ForeignGraph,
    Metadata,
    Tensor,
    check_tensors,
    dump_metadata,
    expected_tensors,
    parse_metadata,
)
from streamproc.spec import ControlSpec, ModelSpec, StateSpec

TEXT = dump_metadata(Metadata(SPEC, leaky_golden()))


def changed(*without: str, **fields: Any) -> str:
    document = {**json.loads(TEXT), **fields}
    return json.dumps({name: value for name, value in document.items() if name not in without})


def test_what_is_written_can_be_read() -> None:
    golden = leaky_golden()
    found = parse_metadata(TEXT, "a.onnx")
    assert found.spec == SPEC
    assert found.graph is None
    assert found.golden is not None
    np.testing.assert_array_equal(found.golden.frames, golden.frames)
    np.testing.assert_array_equal(found.golden.outputs, golden.outputs)
    for array, expected in zip(found.golden.final_state, golden.final_state, strict=True):
        np.testing.assert_array_equal(array, expected)
        assert array.dtype == expected.dtype


specs = st.builds(
    ModelSpec,
    name=st.text(),
    version=st.text(),
    sample_rate=st.integers(1000, 768_000),
    hop=st.integers(1, 512),
    io=st.just("spectrum"),
    window=st.integers(512, 4096),
    analysis_window=st.none() | st.integers(512, 4096),
    window_kind=st.sampled_from(["sqrt_hann", "hann_dual", "asymmetric_hann"]),
    lookahead=st.integers(0, 3),
    channels=st.sampled_from([None, 1]),
    weights_licence=st.text(min_size=1),
    metrics=st.dictionaries(st.text(), st.integers() | st.text() | st.lists(st.booleans())),
    states=st.lists(st.integers(1, 9), max_size=4).map(
        lambda sizes: tuple(StateSpec(f"s{i}", (n, i + 1), init=float(n)) for i, n in enumerate(sizes))
    ),
    controls=st.just((ControlSpec("amount", 0.5, 0.0, 1.0, "dB", "how much"),)),
)


@given(specs)
def test_every_spec_survives_the_text(spec: ModelSpec) -> None:
    graph = ForeignGraph("g.onnx", names={"spectrum": "mix"}, frame_layout=(1, 3, 2))
    found = parse_metadata(dump_metadata(Metadata(spec, graph=graph)), "a.onnx")
    assert found.spec == spec
    assert found.graph == graph


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not valid JSON"),
        (TEXT[: len(TEXT) // 2], "not valid JSON"),
        ("[1, 2]", r"the metadata is \[1, 2\], expected a JSON object"),
        (changed("format_version"), "format_version is missing; expected 1"),
        (changed(format_version="1"), "format_version is '1', not a positive integer"),
        (changed(format_version=True), "format_version is True"),
        (changed("sample_rate"), "sample_rate is missing, it must give the rate in Hz"),
        (changed("weights_licence"), "weights_licence is missing, it must give the licence"),
        (changed("weights_licence", "hop"), "hop is missing.*weights_licence is missing"),
        (changed(weights_licence=""), "weights_licence is empty"),
        (changed(sample_rate="48k"), "sample_rate is '48k', expected a valid integer"),
        (changed(sample_rate=48000.5), "sample_rate is 48000.5, expected a valid integer"),
        (changed(sample_rate=True), "sample_rate is True, expected a valid integer"),
        (changed(sample_rate=4_800_000), "sample_rate must lie between 1000 and 768000 Hz, found 4800000"),
        (changed(sample_rate=-1), "sample_rate must lie between"),
        (changed(io="magnitude"), "io is 'magnitude', expected 'waveform' or 'spectrum'"),
        (changed(io="spectrum"), "window_kind belongs to spectrum models"),
        (changed(channels=2), "channels is 2, expected 1"),
        (changed(hop=0), "hop must be positive"),
        (changed(lookahed=1), "lookahed is not a known field, did you mean lookahead?"),
        (changed(states=[{"name": "h"}]), r"states\.0\.shape is missing"),
        (changed(states=[{"name": "h", "shape": [0]}]), "every size must be at least 1"),
        (changed(states=[{"name": "h", "shape": [2.5]}]), r"states\.0\.shape\.0 is 2\.5, expected a valid integer"),
        (changed(states=[{"name": "h", "shape": [2], "dtype": "int8"}]), r"states\.0\.dtype is 'int8'"),
        (changed(states=[{"name": "h 1", "shape": [2]}]), "must be letters, digits and underscores"),
        (changed(graph={"names": {}}), r"graph\.file is missing"),
        (changed(golden=3), "golden is 3, expected base64 text"),
        (changed(golden="%%%"), "the golden record cannot be read"),
        (changed(golden="aGVsbG8="), "the golden record cannot be read"),
        (changed(golden=json.loads(TEXT)["golden"][:-400] + "=="), "the golden record cannot be read"),
        (changed(states=[]), "the golden record holds .*count_out.*; expected audio"),
    ],
)
def test_wrong_metadata_is_refused_in_one_sentence(text: str, message: str) -> None:
    with pytest.raises(ModelFileError, match=message) as caught:
        parse_metadata(text, "models/a.onnx")
    assert str(caught.value).startswith("models/a.onnx: ")
    assert "\n" not in str(caught.value)


def test_a_newer_format_names_both_versions_and_the_remedy() -> None:
    newer = FORMAT_VERSION + 1
    with pytest.raises(ModelFileError, match=rf"format {newer}.*reads up to {FORMAT_VERSION}: upgrade with `pip"):
        parse_metadata(changed(format_version=newer, something_new={}), "a.onnx")


def test_the_tensors_of_a_foreign_graph_carry_its_own_names() -> None:
    spec = ModelSpec(
        "g",
        "1",
        16_000,
        256,
        "spectrum",
        512,
        "MIT",
        window_kind="sqrt_hann",
        channels=1,
        states=(StateSpec("c", (2, 1)),),
    )
    graph = ForeignGraph("g.onnx", names={"spectrum": "mix", "c_out": "cache"}, frame_layout=(1, 257, 1, 2))
    inputs, outputs = expected_tensors(Metadata(spec, graph=graph))
    assert inputs == [Tensor("mix", (1, 257, 1, 2), "float32"), Tensor("c", (2, 1), "float32")]
    assert outputs == [Tensor("spectrum_out", (1, 257, 1, 2), "float32"), Tensor("cache", (2, 1), "float32")]


@pytest.mark.parametrize("dtype", ["int64", "float", np.float32])
def test_a_state_is_of_a_type_that_a_file_can_hold(dtype: object) -> None:
    with pytest.raises(ConfigError, match="state 'h': dtype must be one of float32, float64; found"):
        StateSpec("h", (1,), dtype)


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ([], "input 'h' .*is missing; the graph's inputs are none"),
        ([Tensor("h", ("channels", 3), "float32"), Tensor("x", (1,), "float32")], "input 'x' is not in the metadata"),
        (
            [Tensor("h", ("channels", 4), "float32")],
            r"input 'h' is float32 \[channels, 4\], expected .*\[channels, 3\]",
        ),
        ([Tensor("h", ("channels", 3), "float64")], r"input 'h' is float64 \[channels, 3\], expected float32"),
        ([Tensor("h", ("channels", 3, 1), "float32")], r"is float32 \[channels, 3, 1\], expected"),
        ([Tensor("h", (1, 3), "float32")], "has a first axis of 1, expected one that is free"),
        ([Tensor("h", (), "float32")], "has a first axis of absent"),
    ],
)
def test_a_graph_that_breaks_its_metadata_is_refused(found: list[Tensor], message: str) -> None:
    with pytest.raises(ModelFileError, match=message):
        check_tensors("input", [Tensor("h", ("channels", 3), "float32")], found, "a.onnx")


def test_a_dimension_that_is_free_in_the_graph_fits_any_promise() -> None:
    check_tensors("input", [Tensor("h", ("channels", 3), "float32")], [Tensor("h", ("n", None), "float32")], "a.onnx")
