"""Products in 8 bits: the file stays within 30 dB of the module, and only rounded weights are stored so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch_models import GruMask, Leaky

from export import to_onnx
from export.eight_bit import BLOCK, quantise, round_to_8_bits, use_8_bit_products
from export.models import build_model
from export.to_onnx import export_onnx
from export.to_torchscript import export_torchscript
from export.verify import ParityError, Reference
from export.waveform import WaveformModel
from streamproc.backends.loader import load_model
from streamproc.errors import ConfigError, GoldenMismatch
from streamproc.verify import INT8_SNR_DB, Comparison, run_steps


@pytest.fixture
def denoiser() -> Any:
    torch.manual_seed(0)
    module = build_model("GruDenoiser", {"hidden": 64, "n_layers": 2}).eval().requires_grad_(False)
    torch.nn.init.normal_(module.taps.weight, std=0.02)  # zeros, as they start, are no test
    return module


def _nodes(path: Path) -> list[str]:
    return [node.op_type for node in onnx.load(path).graph.node]


@pytest.mark.parametrize("n_inputs", [64, 70, 31])
def test_every_weight_is_within_half_a_step_of_itself(n_inputs: int) -> None:
    weight = np.random.default_rng(0).normal(size=(5, n_inputs)).astype(np.float32)
    weight[2] = 0.0
    integers, scales = quantise(weight)
    assert integers.shape == (5, -(-n_inputs // BLOCK), BLOCK)
    values = ((integers.astype(np.float32) - 128) * scales[..., None]).reshape(5, -1)
    assert not values[:, n_inputs:].any()
    assert (np.abs(values[:, :n_inputs] - weight) <= 0.501 * np.repeat(scales, BLOCK, axis=1)[:, :n_inputs]).all()


def test_rounding_twice_is_rounding_once(denoiser: Any) -> None:
    round_to_8_bits(denoiser)
    once = {name: weight.clone() for name, weight in denoiser.named_parameters()}
    round_to_8_bits(denoiser)
    for name, weight in denoiser.named_parameters():
        torch.testing.assert_close(weight, once[name], rtol=1e-6, atol=0)


def test_a_file_stays_close_to_the_module_in_every_output_and_state(denoiser: Any, tmp_path: Path) -> None:
    whole, small = tmp_path / "whole.onnx", tmp_path / "small.onnx"
    export_onnx(denoiser, whole)
    round_to_8_bits(denoiser)
    comparisons = export_onnx(denoiser, small)
    assert comparisons["ONNX"].precision == "int8"
    assert comparisons["offline"].precision == "float32"
    for name, tensor in comparisons["ONNX"].tensors.items():
        assert tensor.passed
        assert tensor.error == 0.0 if name == "past_out" else tensor.error > 0.0
    assert load_model(small).spec.precision == "int8"
    n_weights = sum(weight.numel() for weight in denoiser.parameters() if weight.dim() > 1)
    saved_a_weight = 4 - (1 + 4 / BLOCK)
    assert whole.stat().st_size - small.stat().st_size == pytest.approx(saved_a_weight * n_weights, rel=0.05)
    nodes = _nodes(small)
    assert "GRU" not in nodes
    # encoder, taps, gains, and three for each recurrent layer; the band matrices of fixed numbers stay as they are
    assert nodes.count("MatMulNBits") == 3 + 2 * 3
    assert nodes.count("MatMul") == _nodes(whole).count("MatMul") - 3


def test_channels_do_not_hear_each_other(denoiser: Any, tmp_path: Path) -> None:
    round_to_8_bits(denoiser)
    export_onnx(denoiser, tmp_path / "a.onnx")
    model = load_model(tmp_path / "a.onnx")
    frames = Reference(denoiser, 500).frames.numpy()[:50]

    def answers(frames: np.ndarray) -> np.ndarray:
        return np.stack([out.copy() for out, _ in run_steps(model, list(frames), model.init_state(2))])

    changed = frames.copy()
    changed[:, 1] *= 5.0  # another range of what is rounded, too
    before, after = answers(frames), answers(changed)
    np.testing.assert_array_equal(before[:, 0], after[:, 0])
    assert not np.array_equal(before[:, 1], after[:, 1])
    alone = np.stack([out.copy() for out, _ in run_steps(model, list(frames[:, :1]), model.init_state(1))])
    comparison = Comparison(50, "int8")
    comparison.update("out", before[:, :1], alone)
    assert comparison.passed


def test_transforms_inside_the_graph_stay_float(denoiser: Any, tmp_path: Path) -> None:
    round_to_8_bits(denoiser)
    export_onnx(WaveformModel(denoiser).eval(), tmp_path / "a.onnx")
    assert _nodes(tmp_path / "a.onnx").count("MatMulNBits") == 3 + 2 * 3
    assert load_model(tmp_path / "a.onnx").spec.io == "waveform"


def test_a_module_that_was_not_rounded_keeps_its_products(denoiser: Any, tmp_path: Path) -> None:
    to_onnx._trace(denoiser, tmp_path / "a.onnx")
    graph = onnx.load(tmp_path / "a.onnx")
    before = graph.SerializeToString()
    assert use_8_bit_products(graph) == 0
    assert graph.SerializeToString() == before


def test_recurrent_layers_of_another_shape_are_rewritten_too(tmp_path: Path) -> None:
    """Time first, stacked layers, linear layers on two axes."""
    module = GruMask().eval().requires_grad_(False)
    round_to_8_bits(module)
    comparisons = export_onnx(module, tmp_path / "a.onnx")
    assert not any(comparison.failures for comparison in comparisons.values())
    nodes = _nodes(tmp_path / "a.onnx")
    assert "MatMulNBits" in nodes
    assert not {"GRU", "Gemm", "MatMul"}.intersection(nodes)


def test_a_module_without_large_matrices_is_told_so(tmp_path: Path) -> None:
    module = Leaky().eval()
    round_to_8_bits(module)
    with pytest.raises(ConfigError, match=r"no matrix of .* is worth 8 bits; use --weights float32"):
        export_onnx(module, tmp_path / "a.onnx")
    assert not list(tmp_path.iterdir())


def test_a_wrong_file_is_never_written(denoiser: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def spoil(graph: onnx.ModelProto) -> int:
        count = use_8_bit_products(graph)
        scales = next(weight for weight in graph.graph.initializer if weight.name.endswith("h_scales"))
        scales.CopyFrom(numpy_helper.from_array(1.3 * numpy_helper.to_array(scales), scales.name))
        return count

    round_to_8_bits(denoiser)
    monkeypatch.setattr(to_onnx, "use_8_bit_products", spoil)
    with pytest.raises((ParityError, GoldenMismatch), match="gru1_out differs by"):
        export_onnx(denoiser, tmp_path / "a.onnx")
    assert not list(tmp_path.iterdir())


def test_torchscript_has_no_such_products(denoiser: Any, tmp_path: Path) -> None:
    round_to_8_bits(denoiser)
    with pytest.raises(ConfigError, match=r"a\.ts: products in int8 exist as ONNX only; use `export onnx`"):
        export_torchscript(denoiser, tmp_path / "a.ts")


@pytest.mark.parametrize(("error_db", "passes"), [(-INT8_SNR_DB - 1, True), (-INT8_SNR_DB + 1, False)])
def test_what_counts_is_the_power_of_the_difference(error_db: float, passes: bool) -> None:
    rng = np.random.default_rng(0)
    comparison = Comparison(100, "int8")
    for _ in range(100):
        reference = rng.normal(size=50)
        comparison.update("x", reference + 10 ** (error_db / 20) * rng.normal(size=50), reference)
    assert comparison.passed == passes
    comparison.update("x", np.full(3, np.nan), np.ones(3))
    assert not comparison.passed
