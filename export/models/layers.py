"""Linear and recurrent layers that can train with bfloat16 products: the same weights, faster.

Cores with AVX-512 BF16 multiply matrices faster in bfloat16 than in float32. Only the operands of products are rounded;
sums, states, gates and weights stay float32. Outside training (`reduced_precision` off, the default) both layers are
exactly those of torch, which is what is validated and exported.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def has_fast_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 matrices in hardware."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


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

    Autograd of `torch.nn.GRU` adds up the gradient of the recurrent weights at every step. Here it is one product
    over all steps, made after the way back through time.

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
        if not self.reduced_precision:
            result: tuple[Tensor, Tensor] = super().forward(input, hx)
            return result
        from_input = _Product.apply(input.transpose(0, 1).contiguous(), self.weight_ih_l0, self.bias_ih_l0)
        states = _Recurrence.apply(from_input, hx[0], self.weight_hh_l0, self.bias_hh_l0)
        return states.transpose(0, 1), states[-1:]


class _Product(torch.autograd.Function):
    """``x @ weight.T + bias``, operands rounded to bfloat16."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        rows, rounded = x.reshape(-1, x.shape[-1]).bfloat16(), weight.bfloat16()
        ctx.save_for_backward(rows, rounded)
        return (rows @ rounded.t()).float().add_(bias).view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # type: ignore[override]
        rows, rounded = ctx.saved_tensors
        grad_rows = grad.reshape(-1, grad.shape[-1])
        narrow = grad_rows.bfloat16()
        grad_x = (narrow @ rounded).float().view(*grad.shape[:-1], -1) if ctx.needs_input_grad[0] else None
        return grad_x, (narrow.t() @ rows).float(), grad_rows.sum(0)  # type: ignore[return-value]


class _Recurrence(torch.autograd.Function):
    r"""States of a GRU [steps, items, hidden] from its input part [steps, items, 3 * hidden].

    Gates in torch's order r, z, n:

    .. math::  h_t = z h_{t-1} + (1 - z) n,  \quad  n = \tanh(x_n + r (W_n h_{t-1} + b_n))

    All factors between ``dh_t`` and the gradients of the gates are known before the way back, so a step of it is
    one product of matrices and four elementwise operations.
    """

    @staticmethod
    def forward(ctx: Any, from_input: Tensor, initial: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        steps, items, width = from_input.shape
        hidden = width // 3
        rounded = weight.bfloat16().t().contiguous()
        states = torch.empty(steps + 1, items, hidden)
        states[0] = initial
        narrow_states = torch.empty(steps, items, hidden, dtype=torch.bfloat16)
        from_state = torch.empty(steps, items, width, dtype=torch.bfloat16)
        inner = torch.empty(steps, items, hidden)  # W_n h + b_n
        gates = from_input.clone()
        gates[..., : 2 * hidden] += bias[: 2 * hidden]
        bias_n = bias[2 * hidden :]
        # Views are made once for all steps: making them inside the loop would cost as much as the arithmetic.
        reset, update, new = (part.unbind(0) for part in gates.split(hidden, -1))
        both = gates[..., : 2 * hidden].unbind(0)
        both_from_state, new_from_state = (part.unbind(0) for part in from_state.split([2 * hidden, hidden], -1))
        rows, state_list, narrow_list, inner_list = (
            values.unbind(0) for values in (from_state, states, narrow_states, inner)
        )
        for t in range(steps):
            torch.mm(narrow_list[t].copy_(state_list[t]), rounded, out=rows[t])
            both[t].add_(both_from_state[t]).sigmoid_()
            torch.add(new_from_state[t], bias_n, out=inner_list[t])
            new[t].addcmul_(reset[t], inner_list[t]).tanh_()
            torch.lerp(new[t], state_list[t], update[t], out=state_list[t + 1])
        ctx.save_for_backward(weight, gates, states, narrow_states, inner)
        return states[1:]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # type: ignore[override]
        weight, gates, states, narrow_states, inner = ctx.saved_tensors
        steps, items, width = gates.shape
        hidden = width // 3
        reset, update, new = gates.split(hidden, -1)
        # d(r, z, inner, n before tanh) / dh, in this order: the first three are what multiplies W h.
        factors = torch.empty(steps, items, 4, hidden)
        d_reset, d_update, d_inner, d_new = factors.unbind(2)
        keep = 1.0 - update
        torch.mul(new, new, out=d_new).neg_().add_(1.0).mul_(keep)
        torch.mul(d_new, reset, out=d_inner)
        torch.mul(d_inner, inner, out=d_reset).mul_(1.0 - reset)
        torch.sub(states[:-1], new, out=d_update).mul_(update).mul_(keep)
        rounded = weight.bfloat16()
        grads = torch.empty(steps, items, 4, hidden, dtype=torch.bfloat16)
        flat = grads.view(steps, items, 4 * hidden)
        to_weight = flat[..., :width].unbind(0)
        factor_list, grad_list, update_list, out_list = (v.unbind(0) for v in (factors, grads, update, grad))
        d_state = out_list[-1].clone()
        for t in range(steps - 1, -1, -1):
            torch.mul(d_state.unsqueeze(1), factor_list[t], out=grad_list[t])
            d_state = d_state.mul(update_list[t]).add_(torch.mm(to_weight[t], rounded))
            if t:
                d_state.add_(out_list[t - 1])
        rows = flat.view(steps * items, 4 * hidden)[:, :width]
        d_weight = (rows.t() @ narrow_states.view(steps * items, hidden)).float()
        d_input = torch.cat([flat[..., : 2 * hidden], flat[..., width:]], -1).float()
        return d_input, d_state, d_weight, rows.sum(0, dtype=torch.float32)
