"""Backends: what loads, what is refused and why, and the contract of the step that every backend keeps."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from helpers import assert_processor_properties, noise, varying_blocks
from onnx_graphs import HOP, SPEC, leaky_golden, leaky_model, with_spec, write_model

from streamproc.backends.loader import load_model
from streamproc.errors import BackendUnavailable, GoldenMismatch, ModelFileError
from streamproc.model import FrameModel, WaveformFrames
from streamproc.model_file import EXTRA_FILE, Metadata, dump_metadata
from streamproc.reblock import Reblock
from streamproc.spec import StateSpec, StreamConfig
from streamproc.verify import check_golden, run_steps


class LeakyModule(torch.nn.Module):
    """The model of `onnx_graphs.leaky_model` in torch."""

    def __init__(self, decay: float = 0.5) -> None:
        super().__init__()
        self.decay = decay

    def forward(self, audio: Any, memory: Any, count: Any, gain: Any) -> Any:
        return gain * (audio + memory), memory * self.decay + audio, count + 1.0


def write_script(path: Path, module: Any = None, text: str | None = None) -> Path:
    text = dump_metadata(Metadata(SPEC, leaky_golden())) if text is None else text
    example = (torch.zeros(1, HOP), torch.zeros(1, HOP), torch.zeros(1, 1, dtype=torch.float64), torch.ones(1))
    traced = torch.jit.trace(module or LeakyModule(), example)
    torch.jit.save(traced, str(path), _extra_files={EXTRA_FILE: text} if text else {})
    return path


@pytest.fixture(params=["model.onnx", "model.ts", "model.pt", "MODEL.ONNX"])
def model(request: pytest.FixtureRequest, tmp_path: Path) -> FrameModel:
    path = tmp_path / request.param
    (write_model if path.suffix.lower() == ".onnx" else write_script)(path)
    return load_model(path)


# --- the contract ---------------------------------------------------------------------------------------------------


def test_a_file_loads_with_its_spec_and_proves_itself(model: FrameModel) -> None:
    assert model.spec == SPEC
    assert set(model.controls) == {"gain"}
    comparison = check_golden(model)
    assert comparison.n_steps == 5
    assert set(comparison.tensors) == {"audio_out", "memory_out", "count_out"}
    assert max(tensor.error for tensor in comparison.tensors.values()) < 1e-7


def test_channels_are_independent_and_state_is_double_precision_where_declared(model: FrameModel) -> None:
    frames = np.random.default_rng(1).normal(size=(6, 3, HOP)).astype(np.float32)
    together = [(out.copy(), [s.copy() for s in state]) for out, state in run_steps(model, frames, model.init_state(3))]
    for channel in range(3):
        one = slice(channel, channel + 1)
        for (out, state), (out_one, state_one) in zip(
            together, run_steps(model, frames[:, one], model.init_state(1)), strict=True
        ):
            np.testing.assert_array_equal(out[one], out_one)
            for array, array_one in zip(state, state_one, strict=True):
                np.testing.assert_array_equal(array[one], array_one)
    assert [array.dtype for array in together[-1][1]] == [np.float32, np.float64]
    np.testing.assert_array_equal(together[-1][1][1], np.full((3, 1), 7.0))


def test_a_control_is_read_at_every_step(model: FrameModel) -> None:
    frames = np.ones((3, 1, HOP), np.float32)
    levels = []
    for gain, (out, _) in zip((0.0, 1.0, 2.0), _moving_gain(model, frames, (0.0, 1.0, 2.0)), strict=True):
        levels.append(float(out[0, 0]))
        assert model.controls["gain"][0] == gain
    assert levels == [0.0, 2.0, 5.0]
    check_golden(model)
    assert model.controls["gain"][0] == SPEC.controls[0].default


def _moving_gain(model: FrameModel, frames: Any, gains: tuple[float, ...]) -> Any:
    model.controls["gain"][0] = gains[0]
    steps = run_steps(model, frames, model.init_state(1))
    for step, result in enumerate(steps):
        yield result
        model.controls["gain"][0] = gains[min(step + 1, len(gains) - 1)]


def test_a_step_without_binding_gives_the_same(model: FrameModel) -> None:
    golden = leaky_golden()
    state, next_state, out = model.init_state(1), model.init_state(1), np.empty((1, HOP), np.float32)
    for frame, expected in zip(golden.frames, golden.outputs, strict=True):
        model.step(frame, state, out, next_state)
        np.testing.assert_allclose(out, expected, atol=1e-7)
        state, next_state = next_state, state


def test_a_bound_step_keeps_its_arrays_alive(model: FrameModel) -> None:
    frame, out = np.ones((1, HOP), np.float32), np.zeros((1, HOP), np.float32)
    step = model.bind(frame, model.init_state(1), out, model.init_state(1))
    del frame
    gc.collect()
    rubbish = [np.full((1, HOP), 1e9, np.float32) for _ in range(100)]
    step()
    np.testing.assert_array_equal(out, 0.5)
    assert len(rubbish) == 100


def test_as_a_processor_it_keeps_every_property(model: FrameModel) -> None:
    blocks = varying_blocks(300, largest=31)
    config = StreamConfig(SPEC.sample_rate, 2, max_block=300)
    assert_processor_properties(lambda: Reblock(WaveformFrames(model), HOP), config, noise(2, 300), blocks)


def test_a_graph_is_never_given_one_array_to_read_and_to_write(tmp_path: Path) -> None:
    model = load_model(write_model(tmp_path / "a.onnx"))
    frame, out, state = np.zeros((1, HOP), np.float32), np.zeros((1, HOP), np.float32), model.init_state(1)
    with pytest.raises(ValueError, match="both input and output"):
        model.bind(frame, state, out, state)
    with pytest.raises(ValueError, match="both input and output"):
        model.bind(frame, state, frame, model.init_state(1))
    with pytest.raises(ValueError, match="C-contiguous"):
        model.bind(np.zeros((1, 2 * HOP), np.float32)[:, ::2], state, out, model.init_state(1))


def test_sessions_have_one_thread_that_does_not_spin(tmp_path: Path) -> None:
    from streamproc.backends.onnx import open_session

    options = open_session(str(write_model(tmp_path / "a.onnx"))).get_session_options()
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (1, 1)
    for key in ("session.intra_op.allow_spinning", "session.inter_op.allow_spinning"):
        assert options.get_session_config_entry(key) == "0"


@pytest.mark.parametrize("suffix", [".onnx", ".ts"])
def test_denormals_become_zero_where_a_model_was_loaded_and_in_later_threads(tmp_path: Path, suffix: str) -> None:
    path = (write_model if suffix == ".onnx" else write_script)(tmp_path / f"a{suffix}")
    code = f"""
import threading
import numpy as np
from streamproc.backends.loader import load_model

model = load_model({str(path)!r})

def run():
    frame, out = np.full((1, {HOP}), 1e-39, np.float32), np.ones((1, {HOP}), np.float32)
    model.step(frame, model.init_state(1), out, model.init_state(1))
    print(out[0, 0] == 0.0)

run()
thread = threading.Thread(target=run)
thread.start()
thread.join()
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["True", "True"]


# --- golden records -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["onnx", "ts"])
def test_changed_weights_are_found_out(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"changed.{kind}"
    if kind == "onnx":
        write_model(path, leaky_model(decay=0.501))
    else:
        write_script(path, LeakyModule(decay=0.501))
    with pytest.raises(GoldenMismatch, match=r"changed\.\w+: does not run as it did.*audio_out differs by .*allowed"):
        check_golden(load_model(path))


def test_a_file_without_a_golden_record_says_so(tmp_path: Path) -> None:
    model = load_model(write_model(tmp_path / "a.onnx", metadata=with_spec()))
    with pytest.raises(ModelFileError, match=r"a\.onnx: has no golden record"):
        check_golden(model)


# --- files that are refused -----------------------------------------------------------------------------------------


def refuses(model: str | Path, message: str) -> None:
    with pytest.raises(ModelFileError, match=message) as caught:
        load_model(model)
    text = str(caught.value)
    assert text.startswith(f"{model}: ")
    assert "\n" not in text


def test_what_is_not_there(tmp_path: Path) -> None:
    refuses(tmp_path / "none.onnx", "there is no such file")
    refuses("denoize", r"no shipped model has this name.*\.onnx \(ONNX\)")
    refuses(tmp_path, r"is a folder, expected a model file: \.onnx")


@pytest.mark.parametrize("suffix", [".wav", ".tflite", ""])
def test_an_unknown_type(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"model{suffix}"
    path.write_bytes(b"whatever")
    refuses(path, r"is not a type of model file; known: \.onnx \(ONNX\), \.ts \(TorchScript\)")


@pytest.mark.parametrize("content", [b"", b"not a model at all", b"\x00" * 4096])
@pytest.mark.parametrize("suffix", [".onnx", ".ts"])
def test_what_is_not_a_model(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"model{suffix}"
    path.write_bytes(content)
    refuses(path, "not an ONNX model|not a TorchScript file|without streamproc metadata")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("suffix", [".onnx", ".ts"])
def test_a_truncated_file(tmp_path: Path, suffix: str, share: float) -> None:
    path = (write_model if suffix == ".onnx" else write_script)(tmp_path / f"model{suffix}")
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    refuses(path, "not an ONNX model.*damaged|not a TorchScript file.*damaged")


def test_a_graph_without_metadata(tmp_path: Path) -> None:
    refuses(write_model(tmp_path / "bare.onnx", metadata=""), "an ONNX graph without streamproc metadata.*bare.json")
    refuses(write_script(tmp_path / "bare.ts", text=""), "a TorchScript module without streamproc metadata")


def test_a_checkpoint_is_not_a_model(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    torch.save({"weights": torch.zeros(3)}, path)
    refuses(path, "not a TorchScript file.*looks like a checkpoint: export it")


def test_metadata_that_is_damaged_or_newer(tmp_path: Path) -> None:
    text = dump_metadata(Metadata(SPEC))
    newer = json.dumps({**json.loads(text), "format_version": 99})
    for name, write in (("a.onnx", lambda path, text: write_model(path, metadata=text)), ("a.ts", _script_with)):
        refuses(write(tmp_path / name, text[:50]), "the metadata is not valid JSON")
        refuses(write(tmp_path / name, newer), "model-file format 99.*upgrade")
        refuses(write(tmp_path / name, text.replace('"sample_rate"', '"rate"')), "rate is not a known field")


def _script_with(path: Path, text: str) -> Path:
    return write_script(path, text=text)


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        (leaky_model(memory="history"), r"input 'memory' .*is missing; input 'history' is not in the metadata"),
        (leaky_model(extra_input=True), "input 'mystery' is not in the metadata"),
        (leaky_model(count_type="float32"), r"input 'count' is float32 \[channels, 1\], expected float64"),
        (leaky_model(hop=16), r"'audio' is float32 \[channels, 16\], expected float32 \[channels, 8\]"),
        (leaky_model(channels=1), "has a first axis of 1, expected one that is free"),
    ],
)
def test_a_graph_that_breaks_its_metadata(tmp_path: Path, graph: onnx.ModelProto, message: str) -> None:
    refuses(write_model(tmp_path / "a.onnx", graph, with_spec()), message)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"states": SPEC.states[:1]}, "fails|gives 3 tensors"),
        ({"states": (*SPEC.states, StateSpec("more", (2,)))}, "one step on the inputs of the metadata"),
        ({"states": (StateSpec("memory", (1,)), SPEC.states[1])}, r"output 'memory_out' is float32 \[2, 8\]"),
        ({"states": (StateSpec("memory", (5,)), SPEC.states[1])}, "one step on the inputs of the metadata.*fails"),
        ({"hop": 4, "window": 4}, "fails"),
    ],
)
def test_a_script_that_breaks_its_metadata(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    refuses(write_script(tmp_path / "a.ts", text=dump_metadata(with_spec(**changes))), message)


# --- shapes at the edge of the contract -----------------------------------------------------------------------------


class HalfModule(torch.nn.Module):
    """A model without states, which returns its frame alone."""

    def forward(self, audio: Any) -> Any:
        return 0.5 * audio


@pytest.mark.parametrize("n_channels", [1, 2])
def test_a_script_without_states_may_return_its_frame_alone(tmp_path: Path, n_channels: int) -> None:
    traced = torch.jit.trace(HalfModule(), torch.zeros(1, HOP))
    text = dump_metadata(with_spec(states=(), controls=()))
    torch.jit.save(traced, str(tmp_path / "half.ts"), _extra_files={EXTRA_FILE: text})
    model = load_model(tmp_path / "half.ts")
    frame, out = noise(n_channels, HOP), np.zeros((n_channels, HOP), np.float32)
    model.step(frame, (), out, ())
    np.testing.assert_array_equal(out, 0.5 * frame)


class LevelModule(torch.nn.Module):
    """A gain control for one channel, whose level is a single number."""

    def forward(self, audio: Any, level: Any) -> Any:
        level = torch.maximum(level, audio.abs().max())
        return audio / level, level


def test_a_script_for_one_channel_runs_once_per_channel(tmp_path: Path) -> None:
    traced = torch.jit.trace(LevelModule(), (torch.ones(HOP), torch.ones(())))
    spec = with_spec(states=(StateSpec("level", (), init=1e-3),), controls=(), channels=1)
    torch.jit.save(traced, str(tmp_path / "a.ts"), _extra_files={EXTRA_FILE: dump_metadata(spec)})
    processor = WaveformFrames(load_model(tmp_path / "a.ts"))
    processor.prepare(StreamConfig(16_000, 2, fixed_block=HOP))
    out = np.zeros((2, HOP), np.float32)
    for loudest in (0.5, 0.25):
        processor.process(np.full((2, HOP), [[loudest], [loudest / 100]], np.float32), out)
        np.testing.assert_allclose(out, 2 * loudest, rtol=1e-6)  # the quiet channel is as loud as the other


def test_a_graph_for_one_channel_may_carry_a_single_number(tmp_path: Path) -> None:
    nodes = [
        onnx.helper.make_node("Add", ["audio", "level"], ["audio_out"]),
        onnx.helper.make_node("Add", ["level", "level"], ["level_out"]),
    ]
    frame, number = [HOP], []

    def values(suffix: str) -> list[onnx.ValueInfoProto]:
        shapes = {"audio": frame, "level": number}
        return [onnx.helper.make_tensor_value_info(name + suffix, 1, shape) for name, shape in shapes.items()]

    graph = onnx.helper.make_graph(nodes, "one", values(""), values("_out"))
    graph_model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
    spec = with_spec(states=(StateSpec("level", (), init=1.0),), controls=(), channels=1)
    model = load_model(write_model(tmp_path / "a.onnx", graph_model, spec))
    processor = WaveformFrames(model)
    processor.prepare(StreamConfig(16_000, 2, fixed_block=HOP))
    out = np.zeros((2, HOP), np.float32)
    for level in (1.0, 2.0):
        processor.process(np.zeros((2, HOP), np.float32), out)
        np.testing.assert_array_equal(out, level)


# --- backends that are missing --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("package", "backend", "name", "remedy"),
    [
        ("onnxruntime", "onnx", "a.onnx", "pip install onnxruntime"),
        ("torch", "torchscript", "a.ts", r"pip install 'streamproc\[torchscript\]'"),
    ],
)
def test_a_missing_package_is_named_with_its_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, backend: str, name: str, remedy: str
) -> None:
    import streamproc.backends

    path = (write_model if backend == "onnx" else write_script)(tmp_path / name)
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, f"streamproc.backends.{backend}", raising=False)
    monkeypatch.delattr(streamproc.backends, backend, raising=False)
    with pytest.raises(BackendUnavailable, match=f"{name}: .*{remedy}"):
        load_model(path)
