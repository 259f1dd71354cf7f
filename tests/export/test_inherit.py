"""A denoiser that begins where another one ended."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import soundfile as sf
import torch

from export.models import GruDenoiser, GruDenoiserConfig, enhance, stft
from export.models.inherit import inherit
from streamproc.errors import ConfigError

DEMO = Path(__file__).parents[2] / "examples" / "demo"
SMALL = GruDenoiserConfig(hidden=24, n_layers=3, analysis_window=1024, n_low=20, n_bands=6)


@pytest.fixture(scope="module")
def model() -> GruDenoiser:
    """Away from its initial weights, so that filter, gains and core all do something."""
    torch.manual_seed(3)
    model = GruDenoiser(SMALL)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    model.calibrate(stft(sound(0.0, 1.0), model.spec))
    return model.eval().requires_grad_(False)


def sound(start_s: float, end_s: float) -> torch.Tensor:
    noisy, rate = sf.read(DEMO / "noisy.flac", dtype="float32")
    return torch.as_tensor(noisy[None, int(start_s * rate) : int(end_s * rate)])


def heir_of(model: GruDenoiser, **changes: Any) -> GruDenoiser:
    torch.manual_seed(5)
    heir = GruDenoiser(replace(model.config, **changes))
    inherit(heir, model)
    return heir.eval()


@pytest.mark.parametrize(
    "larger",
    [{"n_layers": 4}, {"hidden": 32}, {"n_taps": 5}, {"hidden": 32, "n_layers": 5}],
)
def test_a_larger_model_begins_as_the_smaller_one_and_can_learn(model: GruDenoiser, larger: dict[str, int]) -> None:
    grown = heir_of(model, **larger)
    frames = torch.randn(1, 6, model.config.analysis_window // 2 + 1, 2, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(grown(frames)[0], model(frames)[0])
    names, parameters = zip(*grown.named_parameters(), strict=True)
    gradients = dict(zip(names, torch.autograd.grad(grown(frames)[0].square().sum(), parameters), strict=True))
    silent = tuple(f"core.{index}." for index in range(model.config.n_layers, grown.config.n_layers))
    for name, gradient in gradients.items():
        if not name.startswith(silent) or "bias_ih" in name:  # the gates of a silent layer learn once it speaks
            assert gradient.abs().max() > 0.0, name


def test_what_was_added_can_be_left_out_again(model: GruDenoiser) -> None:
    grown = heir_of(model, hidden=32, n_layers=4)
    samples = sound(1.0, 1.1)
    cut = heir_of(grown, hidden=24, n_layers=3)
    torch.testing.assert_close(enhance(cut, samples), enhance(model, samples))


def test_an_equal_model_of_any_core_is_taken_over() -> None:
    one, other = (GruDenoiser(replace(SMALL, core="sfm", n_layers=1)) for _ in range(2))
    inherit(other, one)
    samples = sound(1.0, 1.1)
    torch.testing.assert_close(enhance(other, samples), enhance(one, samples))


def test_a_longer_lookahead_begins_with_the_same_filter_on_the_older_frame(model: GruDenoiser) -> None:
    ahead = heir_of(model, lookahead=2, n_taps=5)
    bias, old = (m.taps.bias.unflatten(0, (m.config.n_taps, -1)) for m in (ahead, model))
    torch.testing.assert_close(bias[:3], old)
    assert not bias[3:].any()


@pytest.mark.parametrize(
    ("other", "found"),
    [
        ({"analysis_window": 512, "n_low": 10}, "analysis_window 1024 against 512, n_low 20 against 10"),
        ({"n_low": 21}, "n_low 20 against 21"),
        ({"lookahead": 1}, "n_taps 3 against 3"),
        ({"core": "sfm", "n_layers": 4}, "core gru against sfm"),
    ],
)
def test_beginning_from_what_does_not_fit_says_what_differs(
    model: GruDenoiser, other: dict[str, Any], found: str
) -> None:
    with pytest.raises(ConfigError, match=f"begins from a GRU model.*{found}"):
        heir_of(model, **other)
