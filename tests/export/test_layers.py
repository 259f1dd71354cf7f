"""Layers that train in bfloat16 compute what torch's own layers compute, to the precision of bfloat16."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from export.models import layers, recurrence
from export.models.layers import Gru, Linear, reduce_precision
from export.models.recurrence import GruSequence, has_fast_bfloat16, native

BFLOAT16 = 2.0**-8
"""Relative step of a bfloat16."""


@pytest.fixture
def gru() -> Gru:
    torch.manual_seed(0)
    return Gru(6, 64)


def _run(layer: nn.GRU, x: torch.Tensor, initial: torch.Tensor) -> list[torch.Tensor]:
    """Output, last state, and every gradient of a loss that weighs all of them differently."""
    x, initial = x.clone().requires_grad_(), initial.clone().requires_grad_()
    out, last = layer(x, initial)
    weight = torch.linspace(-1.0, 1.0, out.numel()).view_as(out)
    loss = (out * weight).sum() + last.square().sum()
    return [out.detach(), last.detach(), *torch.autograd.grad(loss, [x, initial, *layer.parameters()])]


def test_a_gru_is_torchs_until_it_is_told_otherwise(gru: Gru) -> None:
    reference = nn.GRU(6, 64, batch_first=True)
    reference.load_state_dict(gru.state_dict())
    x, initial = torch.randn(3, 7, 6), torch.randn(1, 3, 64)
    for own, theirs in zip(_run(gru, x, initial), _run(reference, x, initial), strict=True):
        assert torch.equal(own, theirs)


@pytest.mark.skipif(not has_fast_bfloat16(), reason="this processor has no bfloat16 products: torch's layer runs")
@pytest.mark.parametrize("tiles", [False, True])
@pytest.mark.parametrize(("items", "steps"), [(4, 1), (1, 2), (4, 40), (16, 3), (37, 5), (72, 4)])
def test_output_and_all_gradients_agree_to_bfloat16(
    gru: Gru, monkeypatch: pytest.MonkeyPatch, items: int, steps: int, tiles: bool
) -> None:
    """Also where the items do not fill tiles and registers; without tiles as a processor that has none."""
    assert native() is not None, "with a compiler it builds"
    monkeypatch.setattr(GruSequence, "tiles", tiles)
    x, initial = torch.randn(items, steps, 6), torch.randn(1, items, 64)
    exact = _run(gru, x, initial)
    reduce_precision(gru)
    assert not torch.equal(gru(x, initial)[0], exact[0])
    for own, theirs in zip(_run(gru, x, initial), exact, strict=True):
        assert own.shape == theirs.shape
        assert own.dtype == torch.float32
        assert float((own - theirs).norm() / theirs.norm()) < 2 * BFLOAT16
    reduce_precision(gru, on=False)
    for own, theirs in zip(_run(gru, x, initial), exact, strict=True):
        assert torch.equal(own, theirs)


@pytest.mark.skipif(not has_fast_bfloat16(), reason="this processor has no bfloat16 products: torch's layer runs")
def test_gates_that_are_shut_or_open_stay_finite(gru: Gru) -> None:
    reduce_precision(gru)
    for found in _run(gru, 1e4 * torch.randn(5, 8, 6), torch.zeros(1, 5, 64)):
        assert torch.isfinite(found).all()


def test_widths_that_vectors_do_not_divide_are_left_to_torch() -> None:
    torch.manual_seed(0)
    layer, x, initial = Gru(6, 10), torch.randn(3, 7, 6), torch.randn(1, 3, 10)
    exact = _run(layer, x, initial)
    reduce_precision(layer)
    for own, theirs in zip(_run(layer, x, initial), exact, strict=True):
        assert torch.equal(own, theirs)


@pytest.mark.skipif(not has_fast_bfloat16(), reason="this processor has no bfloat16 products: nothing is built")
def test_without_a_compiler_torch_does_the_work_and_says_so(gru: Gru, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    fresh = recurrence.native.__wrapped__
    with pytest.warns(UserWarning, match="recurrent layers train slower: no-such-compiler did not build"):
        assert fresh() is None
    monkeypatch.setattr(layers, "native", lambda: None)
    x, initial = torch.randn(3, 7, 6), torch.randn(1, 3, 64)
    exact = _run(gru, x, initial)
    reduce_precision(gru)
    for own, theirs in zip(_run(gru, x, initial), exact, strict=True):
        assert torch.equal(own, theirs)


def test_a_linear_layer_agrees_to_bfloat16() -> None:
    torch.manual_seed(0)
    layer, x = Linear(12, 5), torch.randn(2, 3, 12, requires_grad=True)
    inputs = [x, *layer.parameters()]
    exact = [layer(x).detach(), *torch.autograd.grad(layer(x).square().sum(), inputs)]
    reduce_precision(layer)
    narrow = [layer(x).detach(), *torch.autograd.grad(layer(x).square().sum(), inputs)]
    for own, theirs in zip(narrow, exact, strict=True):
        assert own.shape == theirs.shape
        assert float((own - theirs).norm() / theirs.norm()) < 2 * BFLOAT16


def test_narrow_products_do_change_something() -> None:
    torch.manual_seed(0)
    layer, x = Linear(12, 5), torch.randn(2, 12)
    exact = layer(x)
    reduce_precision(layer)
    assert not torch.equal(layer(x), exact)
