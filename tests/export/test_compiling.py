"""Compiled arithmetic gives the results and gradients of plain one, and training does without where there is none."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Barrier

import pytest
import torch

from export import losses
from export.compiling import Compiled
from export.losses import LossConfig, denoising_loss
from export.models import DENOISERS, GruDenoiser

RATE = 48_000


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the compiler's own code
def test_compiled_loss_is_the_loss() -> None:
    generator = torch.Generator().manual_seed(0)
    target = 0.1 * torch.randn(2, 8192, generator=generator)
    target[1] = 0.0
    results = []
    for compiled in (False, True):
        estimate = (0.5 * target + 0.01).requires_grad_()
        rms, bandwidth = torch.full((2,), 0.1), torch.full((2,), 24_000.0)
        loss = denoising_loss(
            estimate, target, rms, bandwidth, torch.tensor([True, False]), RATE, LossConfig(), compiled
        )
        results.append((loss.detach(), *torch.autograd.grad(loss.sum(), estimate)))
    torch.testing.assert_close(results[0], results[1], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", DENOISERS)
@pytest.mark.filterwarnings("ignore")  # of the compiler's own code
def test_compiled_models_have_the_gradients_of_plain_ones(name: str) -> None:
    """Of the sizes that ship: torch 2.13 compiles `split` to right gradients of three taps, to wrong ones of five."""
    config, steps = replace(DENOISERS[name], hidden=8), 20
    model = GruDenoiser(config)
    generator = torch.Generator().manual_seed(0)
    low = torch.randn(2, steps + config.n_taps - 1, 2, config.n_low, generator=generator)
    heard, high = model._heard(low), torch.randn(2, steps, 2 * model.n_high, generator=generator)
    taps = torch.randn(2, steps, model.taps.out_features, generator=generator, requires_grad=True)
    gains = torch.randn(2, steps, model.gains.out_features, generator=generator, requires_grad=True)
    found = []
    for shape in (model.shape, Compiled(model.shape)):
        out = shape(heard, high, taps, gains)
        found.append([out.detach(), *torch.autograd.grad(out.square().sum(), [taps, gains])])
    for plain, compiled in zip(*found, strict=True):
        torch.testing.assert_close(compiled, plain, rtol=1e-4, atol=1e-4)


def test_training_goes_on_where_nothing_can_be_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_function: object, dynamic: bool) -> Callable[..., object]:
        def fail(*_arguments: object) -> object:
            raise RuntimeError("no compiler")

        return fail

    monkeypatch.setattr(torch, "compile", broken)
    losses._compiled_compare.cache_clear()
    estimate = 0.1 * torch.randn(1, 8192, generator=torch.Generator().manual_seed(0))
    arguments = (estimate, 0.5 * estimate, torch.ones(1), torch.full((1,), 24_000.0), torch.tensor([True]), RATE)
    with pytest.warns(UserWarning, match="without compiled arithmetic, which is slower: no compiler"):
        compiled = denoising_loss(*arguments, LossConfig(), True)
    assert torch.equal(compiled, denoising_loss(*arguments, LossConfig()))
    losses._compiled_compare.cache_clear()


def test_threads_that_fail_to_compile_together_all_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    both_inside = Barrier(2, timeout=10)

    def broken(_function: object, dynamic: bool) -> Callable[..., object]:
        def fail(*_arguments: object) -> object:
            both_inside.wait()
            raise RuntimeError("no compiler")

        return fail

    monkeypatch.setattr(torch, "compile", broken)
    function = Compiled(lambda value: 2 * value)
    with pytest.warns(UserWarning, match="no compiler"), ThreadPoolExecutor(2) as pool:
        assert list(pool.map(function, (1, 2))) == [2, 4]
