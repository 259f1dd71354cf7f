"""Linear and recurrent layers that can train with bfloat16 products: the same weights, faster.

Cores with AVX-512 BF16 multiply matrices faster in bfloat16 than in float32. Only the operands of products are rounded,
and the gates that wait for the way back; sums, states and weights stay float32. Outside training (`reduced_precision`
off, the default) both layers are exactly those of torch, which is what is validated and exported.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .recurrence import GruSequence, fits, native


def reduce_precision(module: nn.Module, on: bool = True) -> None:
    """Switch every `Linear` and `Gru` inside `module` to bfloat16 products, or back."""
    for layer in module.modules():
        if isinstance(layer, (Linear, Gru)):
            layer.reduced_precision = on


class Linear(nn.Linear):
    """`torch.nn.Linear` whose products may run in bfloat16."""

    reduced_precision = False

    def forward(self, input: Tensor) -> Tensor:
        """Map [..., in_features] to [..., out_features]."""
        if not self.reduced_precision:
            return super().forward(input)
        out: Tensor = _Product.apply(input, self.weight, self.bias)
        return out


class Gru(nn.GRU):
    """One-layer, batch-first `torch.nn.GRU` whose products may run in bfloat16.

    They do where `GruSequence` can be built, which is several times as fast; elsewhere this is torch's layer.

    Parameters
    ----------
    input_size, hidden_size : int
    """

    reduced_precision = False

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size, batch_first=True)

    def forward(self, input: Tensor, hx: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Run over time.

        Parameters
        ----------
        input : [items, steps, input_size]
        hx : [1, items, hidden_size]

        Returns
        -------
        output : [items, steps, hidden_size]
        last : [1, items, hidden_size]
        """
        if not self.reduced_precision or not fits(self.hidden_size) or native() is None:
            result: tuple[Tensor, Tensor] = super().forward(input, hx)
            return result
        weights = (self.weight_ih_l0, self.weight_hh_l0, self.bias_ih_l0, self.bias_hh_l0)
        states = GruSequence.apply(input.transpose(0, 1).contiguous(), hx[0], *weights)
        return states.transpose(0, 1), states[-1:]


class _Product(torch.autograd.Function):
    """``x @ weight.T + bias``, operands rounded to bfloat16."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        rows, rounded = x.reshape(-1, x.shape[-1]).bfloat16(), weight.bfloat16()
        ctx.save_for_backward(rows, rounded)
        return (rows @ rounded.t().contiguous()).float().add_(bias).view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # type: ignore[override]
        rows, rounded = ctx.saved_tensors
        grad_rows = grad.reshape(-1, grad.shape[-1])
        narrow = grad_rows.bfloat16()
        grad_x = (narrow @ rounded).float().view(*grad.shape[:-1], -1) if ctx.needs_input_grad[0] else None
        return grad_x, (narrow.t() @ rows).float(), grad_rows.sum(0)  # type: ignore[return-value]
