"""The denoiser around every recurrent core: streams, learns, exports; around a GRU it is what it always was."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from export.models import build_model, load_checkpoint
from export.models.denoiser import GruDenoiser
from export.to_onnx import export_onnx
from export.to_torchscript import export_torchscript
from streamproc.errors import ConfigError

torch.set_num_threads(1)

CORES = ("gru", "lstm", "sfm", "asfm")
SMALL = {"hidden": 16, "n_low": 20, "n_bands": 6, "n_states": 6, "n_frequencies": 3, "n_layers": 2}


def make(core: str) -> GruDenoiser:
    torch.manual_seed(0)
    model = build_model("GruDenoiser", {**SMALL, "core": core})
    assert isinstance(model, GruDenoiser)
    with torch.no_grad():
        model.taps.weight.normal_(0.0, 0.1)
    return model


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("form", ["onnx", "ts"])
def test_every_core_is_exported_equal(core: str, form: str, tmp_path: Path) -> None:
    model = make(core).eval().requires_grad_(False)
    export = {"onnx": export_onnx, "ts": export_torchscript}[form]
    comparisons = export(model, tmp_path / f"a.{form}", 500)
    expected = {
        "gru": ["gru1", "gru2"],
        "lstm": ["lstm1_hidden", "lstm1_cell", "lstm2_hidden", "lstm2_cell"],
        "sfm": ["sfm1_memory", "sfm1_output", "sfm2_memory", "sfm2_output"],
        "asfm": ["asfm1_memory", "asfm1_output", "asfm2_memory", "asfm2_output"],
    }[core]
    assert [state.name for state in model.states] == ["past", *expected]
    for comparison in comparisons.values():
        assert all(tensor.scale > 1e-3 for tensor in comparison.tensors.values())


@pytest.mark.parametrize("core", CORES)
def test_every_core_gets_a_gradient_and_hears_no_future(core: str) -> None:
    model = make(core)
    frames = 5.0 * torch.randn(2, 8, *model.spec.frame_shape, generator=torch.Generator().manual_seed(0))
    out, *_ = model(frames)
    out.square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name
    changed = frames.clone()
    changed[:, 5:] += 1.0
    with torch.no_grad():
        assert torch.equal(model(frames)[0][:, :5], model(changed)[0][:, :5])


def test_weights_that_say_nothing_of_later_choices_load_unchanged(tmp_path: Path) -> None:
    weights = make("gru").state_dict()
    assert "core.1.weight_hh_l0" in weights
    old = {name: value for name, value in SMALL.items() if name not in ("n_states", "n_frequencies")}
    torch.save({"format": 2, "model": "GruDenoiser", "model_config": old, "ema": weights}, tmp_path / "ema.pt")
    loaded = load_checkpoint(tmp_path / "ema.pt")
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, weights[name])


def test_one_memory_layer_is_as_large_as_two_gated_ones() -> None:
    def size(**config: object) -> int:
        return sum(p.numel() for p in build_model("GruDenoiser", {"hidden": 192, **config}).parameters())

    gru = size(n_layers=2)
    for core in ("sfm", "asfm"):
        assert size(core=core, n_layers=1) == pytest.approx(gru, rel=0.01)


def test_an_unknown_core_is_refused() -> None:
    with pytest.raises(ConfigError, match="core 'rnn' is unknown; known are gru, lstm, sfm, asfm"):
        build_model("GruDenoiser", {"core": "rnn"})
