"""Products in 8 bits: the file stays within 30 dB of the module, and only rounded weights are stored so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn
from torch_models import BINS, GruMask, Leaky

from export import to_onnx
from export.eight_bit import block_size, quantise, round_to_8_bits, use_8_bit_products
from export.models import build_model
from export.to_onnx import export_onnx
from export.to_torchscript import export_torchscript
from export.verify import ParityError, Reference
from export.waveform import WaveformModel
from streamproc.backends.loader import load_model
from streamproc.errors import ConfigError, GoldenMismatch
from streamproc.spec import StateSpec
from streamproc.verify import INT8_SNR_DB, Comparison, run_steps


@pytest.fixture
def denoiser() -> Any:
    torch.manual_seed(0)
    module = build_model("GruDenoiser", {"hidden": 64, "n_layers": 2}).eval().requires_grad_(False)
    torch.nn.init.normal_(module.taps.weight, std=0.02)  # zeros, as they start, are no test
    return module


def _nodes(path: Path) -> list[str]:
    return [node.op_type for node in onnx.load(path).graph.node]


@pytest.mark.parametrize(
    ("n_inputs", "block"), [(256, 128), (384, 128), (320, 64), (64, 64), (96, 32), (70, 32), (31, 32)]
)
def test_every_weight_is_within_half_a_step_of_itself(n_inputs: int, block: int) -> None:
    assert block_size(n_inputs) == block
    weight = np.random.default_rng(0).normal(size=(5, n_inputs)).astype(np.float32)
    weight[2] = 0.0
    integers, scales = quantise(weight, block)
    assert integers.shape == (5, -(-n_inputs // block), block)
    values = ((integers.astype(np.float32) - 128) * scales[..., None]).reshape(5, -1)
    assert not values[:, n_inputs:].any()
    assert (np.abs(values[:, :n_inputs] - weight) <= 0.501 * np.repeat(scales, block, axis=1)[:, :n_inputs]).all()


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
    saved_a_weight = 4 - (1 + 4 / block_size(64))
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
    assert use_8_bit_products(graph, denoiser) == 0
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


class Recurrent(nn.Module):
    """A gated layer between two linear ones, and something around it that a rewrite could lose."""

    def __init__(self, n_inputs: int = 64, hidden: int = 64, bias: bool = True, kind: str = "plain") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.kind = kind
        self.encode = nn.Linear(BINS, n_inputs, bias=kind != "scalar bias")
        self.offset = nn.Parameter(torch.tensor([0.1]))
        self.core = nn.GRU(n_inputs, hidden, batch_first=True, bias=bias)
        self.decode = nn.Linear(hidden, BINS)
        self.register_buffer("pick", torch.eye(BINS))
        self.spec = replace(
            GruMask().spec,
            states=(StateSpec("hidden", (1, hidden)), StateSpec("last", (1, hidden)), StateSpec("seen", (n_inputs,))),
            controls=(),
        )

    def step(self, frame: Tensor, hidden: Tensor, last: Tensor, seen: Tensor) -> tuple[Tensor, ...]:
        power = torch.log1p(frame.square().sum(-1) @ self.pick)
        x = self.encode(power)
        encoded = x + self.offset if self.kind == "scalar bias" else x
        sequence = torch.stack([encoded, x], 1) if self.kind == "two steps" else encoded.unsqueeze(1)
        y, after = self.core(sequence, hidden.transpose(0, 1).contiguous())
        y = y[:, -1:]
        core = (y.square() if self.kind == "read twice" else y) + 0.1 * last
        mask = torch.sigmoid(self.decode(core.squeeze(1)) + seen.mean(-1, keepdim=True))
        return frame * mask.unsqueeze(-1), after.transpose(0, 1), y, x if self.kind == "product out" else 0.5 * seen


@pytest.mark.parametrize(
    "options",
    [
        {},  # the layer's output is a state as well
        {"bias": False},
        {"kind": "read twice"},  # y * y
        {"kind": "product out"},  # a product without its bias is a state
        {"kind": "scalar bias"},
        {"kind": "two steps"},  # in one hop: nothing for products of one vector
        {"n_inputs": 40},  # blocks of weights would lie across input and state
        {"n_inputs": 128},  # or have two sizes
        {"hidden": 18},  # the recurrent weights are too few to be rounded
    ],
    ids=str,
)
def test_whatever_is_around_a_layer_the_file_holds_the_rounded_module(options: dict[str, Any], tmp_path: Path) -> None:
    module = Recurrent(**options).eval().requires_grad_(False)
    round_to_8_bits(module)
    comparisons = export_onnx(module, tmp_path / "a.onnx")
    assert not any(comparison.failures for comparison in comparisons.values())
    graph = onnx.load(tmp_path / "a.onnx").graph
    assert ("GRU" in {node.op_type for node in graph.node}) == (options in ({"kind": "two steps"}, {"hidden": 18}))
    stored = {weight.name: numpy_helper.to_array(weight) for weight in graph.initializer}
    parameters = np.concatenate([weight.numpy().ravel() for weight in module.parameters()])
    for name, integers in stored.items():
        if name.endswith("_integers"):
            scales = stored[name.removesuffix("integers") + "scales"]
            values = ((integers.astype(np.float32) - 128) * scales[..., None])[scales > 0]
            nearest = parameters[np.abs(values.reshape(-1, 1)[:500] - parameters).argmin(1)]
            np.testing.assert_allclose(values.ravel()[:500], nearest, atol=1e-6)


def test_fixed_matrices_of_few_values_stay_float(tmp_path: Path) -> None:
    """A matrix of zeros and ones looks rounded, and rounding what it takes would cost sound its last bits."""
    module = Recurrent().eval().requires_grad_(False)
    round_to_8_bits(module)
    export_onnx(module, tmp_path / "a.onnx")
    assert "MatMul" in _nodes(tmp_path / "a.onnx")


def test_a_module_without_large_matrices_is_told_so(tmp_path: Path) -> None:
    module = Leaky().eval()
    round_to_8_bits(module)
    with pytest.raises(ConfigError, match=r"no matrix of .* is worth 8 bits; use --weights float32"):
        export_onnx(module, tmp_path / "a.onnx")
    assert not list(tmp_path.iterdir())


def test_a_wrong_file_is_never_written(denoiser: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def spoil(graph: onnx.ModelProto, module: Any) -> int:
        count = use_8_bit_products(graph, module)
        scales = next(weight for weight in graph.graph.initializer if weight.name.endswith("new_h_scales"))
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
