"""Streamable models: one code for training and streaming, and framing that matches the runtime."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from export.losses import LossConfig, denoising_loss
from export.models import (
    GruDenoiser,
    GruDenoiserConfig,
    SampleDenoiser,
    StreamableModel,
    build_model,
    enhance,
    istft,
    stft,
)
from export.models.denoiser import band_matrices
from export.models.inherit import inherit
from streamproc.errors import ConfigError
from streamproc.sidecar import shipped_models
from streamproc.spec import ModelSpec
from streamproc.windows import window_pair

torch.set_num_threads(1)  # tensors this small only wait for a second thread

STEPS = 24
SMALL = GruDenoiserConfig(hidden=24, n_low=20, n_bands=6)


@pytest.fixture(scope="module")
def model() -> GruDenoiser:
    """A small model away from its initial weights, so that filter, gains and core all do something."""
    torch.manual_seed(3)
    model = GruDenoiser(SMALL)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    model.calibrate(random_frames(model, 2, 50))
    return model.eval().requires_grad_(False)


def random_frames(model: StreamableModel, channels: int, steps: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(steps)
    return 5.0 * torch.randn(channels, steps, *model.spec.frame_shape, generator=generator)


def random_state(model: StreamableModel, channels: int) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(7)
    return tuple(0.5 * torch.randn(channels, *state.shape, generator=generator) for state in model.spec.states)


def test_steps_one_by_one_equal_the_sequence_from_any_state(model: GruDenoiser) -> None:
    frames, state = random_frames(model, 2, STEPS), random_state(model, 2)
    whole, *whole_state = model.sequence(frames, *state)
    pieces = []
    for step in range(STEPS):
        out, *next_state = model.step(frames[:, step], *state)
        state = tuple(next_state)
        pieces.append(out)
    torch.testing.assert_close(torch.stack(pieces, 1), whole, rtol=1e-5, atol=1e-5)
    for name, a, b in zip([spec.name for spec in model.spec.states], state, whole_state, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")


def test_states_have_the_shapes_that_the_spec_promises(model: GruDenoiser) -> None:
    out, *states = model(random_frames(model, 3, 5))
    assert out.shape == (3, 5, *model.spec.frame_shape)
    for spec, state, first in zip(model.spec.states, states, model.init_state(3), strict=True):
        assert state.shape == first.shape == (3, *spec.shape)
        assert not first.any()


def test_a_later_frame_changes_nothing_before_it(model: GruDenoiser) -> None:
    frames = random_frames(model, 1, STEPS)
    changed = frames.clone()
    changed[:, 15:] = 100.0
    before, after = model(frames)[0], model(changed)[0]
    assert torch.equal(before[:, :15], after[:, :15])
    assert not torch.allclose(before[:, 15], after[:, 15])


def test_channels_do_not_hear_each_other(model: GruDenoiser) -> None:
    frames = random_frames(model, 2, STEPS)
    alone = torch.cat([model(frames[channel : channel + 1])[0] for channel in range(2)])
    torch.testing.assert_close(model(frames)[0], alone, rtol=1e-5, atol=1e-5)


def test_digital_silence_stays_silent_also_after_sound(model: GruDenoiser) -> None:
    frames = random_frames(model, 1, STEPS)
    frames[:, 10:] = 0.0
    out = model(frames)[0]
    past = SMALL.n_taps - 1  # the complex filter still hears that many frames
    assert not out[:, 10 + past :].any()
    assert not model(torch.zeros_like(frames))[0].any()


def test_the_filter_of_an_untrained_model_is_the_identity() -> None:
    model = GruDenoiser(SMALL)
    with torch.no_grad():
        model.gains.bias.fill_(40.0)  # gains of one
        model.gains.weight.zero_()
    frames = random_frames(model, 1, STEPS)
    torch.testing.assert_close(model(frames)[0], frames)


def test_bands_share_every_bin_and_pool_to_a_mean() -> None:
    pool, spread = band_matrices(GruDenoiserConfig())
    np.testing.assert_allclose(spread.sum(axis=0), 1.0)
    np.testing.assert_allclose(pool.sum(axis=0), 1.0)
    assert (spread.sum(axis=1) > 0).all()


def test_the_default_model_answers_after_512_samples_and_fits_in_4_mb() -> None:
    model = GruDenoiser()
    assert model.spec.hop + model.spec.latency == 512
    assert shipped_models()["denoise"].stat().st_size < 4_000_000


def heir_of(model: GruDenoiser, **changes: Any) -> GruDenoiser:
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
    samples = 0.1 * torch.randn(1, 5000, generator=torch.Generator().manual_seed(1))
    cut = heir_of(grown, hidden=24, n_layers=3)
    torch.testing.assert_close(enhance(cut, samples), enhance(model, samples))


def test_an_equal_model_of_any_core_is_taken_over() -> None:
    one, other = (GruDenoiser(replace(SMALL, core="sfm", n_layers=1)) for _ in range(2))
    inherit(other, one)
    samples = 0.1 * torch.randn(1, 5000, generator=torch.Generator().manual_seed(1))
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


def test_nothing_but_a_denoiser_is_begun_from(model: GruDenoiser) -> None:
    with pytest.raises(ConfigError, match=r"begins from a denoiser.*found 'sine'"):
        inherit(model, SampleDenoiser())


@pytest.mark.parametrize("sizes", [{"lookahead": 2, "n_taps": 5}, {"window": 1024}, {"hop": 512, "window": 1024}])
def test_an_untrained_filter_gives_the_input_back_as_late_as_declared(sizes: dict[str, int]) -> None:
    model = GruDenoiser(replace(SMALL, **sizes))
    torch.nn.init.zeros_(model.gains.weight)
    torch.nn.init.constant_(model.gains.bias, 100.0)
    samples = torch.randn(2, 5000, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(enhance(model, samples), samples, atol=2e-5, rtol=0)
        made = istft(model(stft(samples, model.spec))[0], model.spec)
    late = model.spec.latency
    torch.testing.assert_close(made[:, late:5000], samples[:, : 5000 - late], atol=2e-5, rtol=0)


def test_too_few_taps_for_the_lookahead_are_refused() -> None:
    with pytest.raises(ConfigError, match="2 taps and 2 frames"):
        GruDenoiserConfig(n_taps=2, lookahead=2)


def test_unknown_model_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match="GruDenoiser"):
        build_model("Denoiser9000")


def test_a_frame_holds_the_newest_samples_ending_with_its_hop(model: GruDenoiser) -> None:
    spec = model.spec
    samples = torch.randn(2, 5 * spec.hop - 40, generator=torch.Generator().manual_seed(0))
    spectrum = torch.view_as_complex(stft(samples, spec).contiguous()).numpy()
    assert spectrum.shape == (2, 5, spec.n_bins)
    analysis, _ = window_pair(spec.window_kind, spec.fft_size, spec.window, spec.hop)
    padded = np.concatenate([np.zeros((2, spec.fft_size)), samples.numpy(), np.zeros((2, 40))], axis=1)
    for step in range(5):
        end = spec.fft_size + (step + 1) * spec.hop
        expected = np.fft.rfft(padded[:, end - spec.fft_size : end] * analysis)
        np.testing.assert_allclose(spectrum[:, step], expected, atol=2e-5)


@pytest.mark.parametrize(
    ("kind", "analysis_window", "window", "hop"),
    [("asymmetric_hann", 1024, 512, 256), ("sqrt_hann", 512, 512, 128), ("hann_dual", 512, 512, 256)],
)
def test_synthesis_undoes_analysis_late_by_window_minus_hop(
    kind: str, analysis_window: int, window: int, hop: int
) -> None:
    spec = ModelSpec(
        "identity", "1", 48_000, hop, "spectrum", window, "MIT", analysis_window=analysis_window, window_kind=kind
    )
    samples = torch.randn(2, 40 * hop, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    delay = window - hop
    out = istft(stft(samples, spec), spec)[:, delay:]
    error = (out - samples[:, : out.shape[1]]).square().mean() / samples.square().mean()
    assert out.shape[1] == 40 * hop - delay
    assert 10 * torch.log10(error) < -200
    single = istft(stft(samples.float(), spec), spec)[:, delay:]
    assert 10 * torch.log10((single - out).square().mean()) < -110


def test_gradient_of_the_synthesis_is_the_true_one() -> None:
    spec = ModelSpec(
        name="tiny", version="1", sample_rate=8000, hop=4, io="spectrum", window=8, analysis_window=16,
        window_kind="asymmetric_hann", weights_licence="none",
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    spectrum = torch.randn(2, 5, 9, 2, dtype=torch.float64, generator=generator, requires_grad=True)
    assert torch.autograd.gradcheck(partial(istft, spec=spec), spectrum)


def test_enhance_is_aligned_and_as_long_as_its_input() -> None:
    model = GruDenoiser(SMALL).requires_grad_(False)
    model.gains.bias.fill_(40.0)
    model.gains.weight.zero_()
    samples = torch.randn(1, 10_007, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(enhance(model, samples), samples, atol=1e-4, rtol=0)


def test_windows_first_asked_for_while_evaluating_serve_training_too() -> None:
    spec = replace(GruDenoiser(SMALL).spec, analysis_window=896)  # sizes that nobody else asks for
    loss = partial(
        denoising_loss,
        noisy_rms=torch.ones(1),
        bandwidth_hz=torch.full((1,), 24_000.0),
        has_speech=torch.ones(1, dtype=torch.bool),
        sample_rate=48_000,
        config=LossConfig(resolutions=((640, 320),)),
    )
    x = torch.randn(1, 4096)
    with torch.inference_mode():
        loss(istft(stft(x, spec), spec), x)
    y = x.clone().requires_grad_()
    loss(istft(stft(y, spec), spec), x).sum().backward()
    assert y.grad is not None
    assert torch.isfinite(y.grad).all()
