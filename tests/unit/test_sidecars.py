"""Foreign graphs through sidecars, up to equality with a loop that knows nothing of this project."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest
import scipy.signal
from helpers import equal_blocks, run_blocks, varying_blocks
from onnx import helper
from onnx_graphs import HOP, SPEC, leaky_model, write_model

from streamproc.backends.loader import load_model
from streamproc.errors import ModelFileError
from streamproc.model import FrameModel, SpectrumFrames
from streamproc.model_file import ForeignGraph, Metadata, dump_metadata
from streamproc.reblock import Reblock
from streamproc.sidecar import read_sidecar, shipped_sidecars
from streamproc.spec import Block, StreamConfig

PEERS = ["gtcrn_simple.onnx", "ulunas_stream_simple.onnx"]


def voice(n_frames: int, seed: int) -> Block:
    """Something like a voice in noise at 16 kHz, float32 [1, n_frames]."""
    rng = np.random.default_rng(seed)
    time = np.arange(n_frames) / 16_000
    phase = 2 * np.pi * np.cumsum(130 + 30 * np.sin(2 * np.pi * 2 * time)) / 16_000
    buzz = sum(np.sin(k * phase) / k for k in range(1, 25)) * np.clip(np.sin(2 * np.pi * 3 * time), 0, 1)
    return (0.05 * buzz + 0.01 * rng.standard_normal(n_frames))[None].astype(np.float32)


def reference(path: Path, audio: Block) -> npt.NDArray[np.float64]:
    """Frame by frame as the authors' own scripts do it: whole-signal framing, float64 transforms, plain ``run``."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    mix, *caches = session.get_inputs()
    state = {cache.name: np.zeros(cache.shape, np.float32) for cache in caches}
    hann = scipy.signal.get_window("hann", 512, fftbins=True)
    if path.name.startswith("gtcrn"):
        analysis, synthesis = np.sqrt(hann), np.sqrt(hann)
    else:
        analysis, synthesis = hann, hann / (hann**2 + np.roll(hann, 256) ** 2)
    padded = np.concatenate([np.zeros(256), audio[0]])
    result = np.zeros(padded.size)
    for start in range(0, padded.size - 511, 256):
        spectrum = np.fft.rfft(padded[start : start + 512] * analysis)
        frame = np.stack([spectrum.real, spectrum.imag], axis=-1)[None, :, None, :].astype(np.float32)
        enhanced, *updated = session.run(None, {mix.name: frame, **state})
        state = dict(zip(state, updated, strict=True))
        result[start : start + 512] += np.fft.irfft(enhanced[0, :, 0, 0] + 1j * enhanced[0, :, 0, 1]) * synthesis
    return result[256:-256]


def through_engine(model: FrameModel, audio: Block, blocks: list[int]) -> tuple[Block, int]:
    """Output of the engine and its delay."""
    hop = model.spec.hop
    processor = Reblock(SpectrumFrames(model), hop)
    fixed = blocks[0] if len(set(blocks)) == 1 else None
    processor.prepare(StreamConfig(16_000, audio.shape[0], max(blocks), fixed))
    return run_blocks(processor, audio, blocks), processor.latency_samples


@pytest.fixture(params=PEERS)
def peer(request: pytest.FixtureRequest, shared_dir: Path) -> Path:
    path: Path = shared_dir / "models" / request.param
    return path


def test_the_engine_equals_a_direct_loop(peer: Path) -> None:
    audio = voice(16_384, seed=0)
    expected = reference(peer, audio)
    assert np.abs(expected).max() > 0.02, "the model removed everything, which proves nothing"
    for blocks in (equal_blocks(16_384, 256), varying_blocks(16_384)):
        found, delay = through_engine(load_model(peer), audio, blocks)
        n = min(found.shape[1] - delay, expected.size)
        assert n > 15_000
        np.testing.assert_allclose(found[0, delay : delay + n], expected[:n], atol=1e-5)


def test_two_channels_are_two_runs_of_one(peer: Path) -> None:
    audio = np.concatenate([voice(4096, seed=1), voice(4096, seed=2)])
    blocks = equal_blocks(4096, 128)
    together, _ = through_engine(load_model(peer), audio, blocks)
    for channel in range(2):
        alone, _ = through_engine(load_model(peer), audio[channel : channel + 1], blocks)
        np.testing.assert_array_equal(together[channel], alone[0])
    assert np.abs(together[0] - together[1]).max() > 1e-3


def test_a_shipped_sidecar_knows_its_graph_by_content(peer: Path, tmp_path: Path) -> None:
    renamed = tmp_path / "whatever.onnx"
    shutil.copyfile(peer, renamed)
    model = load_model(renamed)
    assert model.source == str(renamed)
    assert model.spec == load_model(peer).spec
    assert model.spec.channels == 1
    assert model.spec.latency == 256


def test_a_shipped_sidecar_next_to_its_graph_is_a_model_of_its_own(peer: Path, tmp_path: Path) -> None:
    name = load_model(peer).spec.name
    shutil.copyfile(peer, tmp_path / peer.name)
    shutil.copyfile(shipped_sidecars()[name], tmp_path / f"{name}.json")
    assert load_model(tmp_path / f"{name}.json").spec.name == name


def test_digests_are_those_of_the_files(peer: Path) -> None:
    digests = {described.file: described.sha256 for _, described in map(read_sidecar, shipped_sidecars().values())}
    assert digests[peer.name] == hashlib.sha256(peer.read_bytes()).hexdigest()


# --- sidecars without the peers -------------------------------------------------------------------------------------


def write_sidecar(path: Path, **graph: object) -> Path:
    names = {"audio": "x", "audio_out": "y"}
    path.write_text(dump_metadata(Metadata(SPEC, graph=ForeignGraph("foreign.onnx", names=names))))
    document = json.loads(path.read_text())
    document["graph"].update(graph)
    path.write_text(json.dumps(document))
    return path


def write_foreign(path: Path) -> Path:
    graph = leaky_model()
    renamed = {"audio": "x", "audio_out": "y"}
    for node in graph.graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
    for value in (*graph.graph.input, *graph.graph.output):
        value.name = renamed.get(value.name, value.name)
    return write_model(path, graph, metadata="")


def write_spectrum_graph(path: Path, shape: list[Any], layout: list[int], channels: Literal[1] | None) -> Path:
    """Write a graph that passes frames of five bins on, in this shape, and a sidecar that states this layout."""
    inputs, outputs = ([helper.make_tensor_value_info(name, 1, shape)] for name in ("spectrum", "spectrum_out"))
    graph = helper.make_graph([helper.make_node("Identity", ["spectrum"], ["spectrum_out"])], "g", inputs, outputs)
    write_model(path, helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), metadata="")
    spec = replace(
        SPEC, io="spectrum", hop=4, window=8, window_kind="sqrt_hann", states=(), controls=(), channels=channels
    )
    foreign = ForeignGraph(path.name, frame_layout=tuple(layout))
    path.with_suffix(".json").write_text(dump_metadata(Metadata(spec, graph=foreign)))
    return path


def test_shipped_sidecars_are_valid() -> None:
    assert set(shipped_sidecars()) == {"gtcrn", "ulunas"}
    for name, path in shipped_sidecars().items():
        metadata, described = read_sidecar(path)
        assert metadata.spec.name == name
        assert metadata.spec.frame_shape == (257, 2)
        assert len(described.sha256) == 64


def test_a_sidecar_beside_the_graph_is_found_and_maps_names(tmp_path: Path) -> None:
    graph = write_foreign(tmp_path / "foreign.onnx")
    sidecar = write_sidecar(tmp_path / "foreign.json")
    for given in (graph, sidecar, str(graph)):
        model = load_model(given)
        assert model.spec == SPEC
        frame, out = np.ones((1, HOP), np.float32), np.empty((1, HOP), np.float32)
        model.step(frame, model.init_state(1), out, model.init_state(1))
        np.testing.assert_array_equal(out, 0.5)


def test_a_sidecar_with_a_wrong_name_says_what_the_graph_has(tmp_path: Path) -> None:
    graph = write_foreign(tmp_path / "foreign.onnx")
    write_sidecar(tmp_path / "foreign.json", names={"audio": "z", "audio_out": "y"})
    with pytest.raises(ModelFileError, match=r"input 'z' .*is missing; input 'x' is not in .*inputs are x, memory"):
        load_model(graph)


@pytest.mark.parametrize(
    ("channels", "shape", "layout"),
    [
        (1, [1, 5, 1, 2], [1, 5, 1, 2]),
        (1, [5, 2], [5, 2]),
        (None, ["channels", 1, 5, 2], [1, 5, 2]),
    ],
)
def test_a_layout_may_insert_axes(
    tmp_path: Path, channels: Literal[1] | None, shape: list[int | str], layout: list[int]
) -> None:
    path = write_spectrum_graph(tmp_path / "a.onnx", shape, layout, channels)
    processor = SpectrumFrames(load_model(path))
    processor.prepare(StreamConfig(16_000, 2, fixed_block=4))
    x, out = np.ones((2, 4), np.float32), np.zeros((2, 4), np.float32)
    for _ in range(3):
        processor.process(x, out)
    np.testing.assert_allclose(out, 1.0, rtol=1e-6)


@pytest.mark.parametrize("layout", [[1, 2, 5], [1, 4, 1, 2], [5], [5, 2, 2], [10]])
def test_a_layout_that_cuts_or_transposes_a_frame_is_refused(tmp_path: Path, layout: list[int]) -> None:
    path = write_spectrum_graph(tmp_path / "a.onnx", layout, layout, channels=1)
    with pytest.raises(ModelFileError, match=rf"frame_layout of the sidecar is {re.escape(str(layout))}.* \[5, 2\]"):
        load_model(path)


def test_a_sidecar_without_its_graph(tmp_path: Path) -> None:
    sidecar = write_sidecar(tmp_path / "foreign.json", url="https://example.org/foreign")
    with pytest.raises(ModelFileError, match=r"foreign\.onnx, which is not beside it; it is published at https"):
        load_model(sidecar)
    with pytest.raises(ModelFileError, match=r"gtcrn_simple\.onnx, which is not beside it; it is published at"):
        load_model("gtcrn")


def test_a_json_file_that_is_no_sidecar(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(dump_metadata(Metadata(SPEC)))
    with pytest.raises(ModelFileError, match="graph is missing, a sidecar must say which file it describes"):
        load_model(path)
