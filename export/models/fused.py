"""Training a small recurrent layer on one core, several times faster than `torch.nn.RNN` and `torch.nn.GRU` do it.

Layers of tens of units on thousands of sequences spend their time in moving memory and in adding up the gradient of the
recurrent weights at every step. Here the batch is the last axis, so that every gate of a step is one contiguous block;
state, input and a one for the biases form one matrix, so that a step is one product; and the gradient of all weights is
one product over all steps, after the way back through time. The arithmetic is float32 throughout, the weights are those
of the torch layer, and the results differ from its own by rounding only.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from streamproc.errors import ConfigError


def run_layer(layer: nn.RNN | nn.GRU, x: Tensor, reverse: bool = False) -> Tensor:
    """Run one direction of a layer from the zero state.

    Parameters
    ----------
    layer : nn.RNN or nn.GRU
        One layer; tanh, with biases. One or two directions.
    x : float32 [steps, inputs, items]
        Not differentiated: it is data, not the output of something that learns.
    reverse : bool
        Run the direction that goes back through time.

    Returns
    -------
    float32 [steps, hidden, items]

    Raises
    ------
    ConfigError
        For a layer that is not of this kind, or an input that wants a gradient.
    """
    if layer.num_layers != 1 or not layer.bias or getattr(layer, "nonlinearity", "tanh") != "tanh":
        raise ConfigError(f"expected one layer with biases and tanh, found {layer}")
    if x.requires_grad:
        raise ConfigError("the input of a fused layer is data; it gets no gradient")
    suffix = "_l0_reverse" if reverse else "_l0"
    weights = [getattr(layer, name + suffix) for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
    function = _Gru if isinstance(layer, nn.GRU) else _Rnn
    states: Tensor = function.apply(x.flip(0) if reverse else x, _joined(layer, *weights))
    return states.flip(0) if reverse else states


def _joined(layer: nn.RNN | nn.GRU, weight_ih: Tensor, weight_hh: Tensor, bias_ih: Tensor, bias_hh: Tensor) -> Tensor:
    """Return one matrix [gates, hidden + inputs + 1] that multiplies (state, input, 1).

    The new gate of a GRU has two blocks of rows, because the reset gate stands between its state and its input part.
    """
    if not isinstance(layer, nn.GRU):
        return torch.cat([weight_hh, weight_ih, (bias_ih + bias_hh).unsqueeze(1)], 1)
    hidden, inputs = layer.hidden_size, layer.input_size
    both = 2 * hidden  # reset and update
    reset_update = torch.cat([weight_hh[:both], weight_ih[:both], (bias_ih + bias_hh)[:both].unsqueeze(1)], 1)
    from_state = torch.cat([weight_hh[both:], weight_hh.new_zeros(hidden, inputs), bias_hh[both:].unsqueeze(1)], 1)
    from_input = torch.cat([weight_hh.new_zeros(hidden, hidden), weight_ih[both:], bias_ih[both:].unsqueeze(1)], 1)
    return torch.cat([reset_update, from_state, from_input])


def _augmented(x: Tensor, hidden: int) -> Tensor:
    """Return [steps + 1, hidden + inputs + 1, items]: room for the states, the input, and ones."""
    steps, inputs, items = x.shape
    rows = torch.empty(steps + 1, hidden + inputs + 1, items, dtype=x.dtype)
    rows[0, :hidden] = 0.0
    rows[:steps, hidden : hidden + inputs] = x
    rows[:, hidden + inputs] = 1.0
    return rows


def _weight_gradient(grads: Tensor, rows: Tensor) -> Tensor:
    return torch.bmm(grads, rows[: len(grads)].transpose(1, 2)).sum(0)


class _Rnn(torch.autograd.Function):
    r"""States of :math:`h_t = \tanh(W (h_{t-1}, x_t, 1))`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        hidden = weight.shape[0]
        rows = _augmented(x, hidden)
        states = rows[:, :hidden].unbind(0)
        for row, state in zip(rows, states[1:], strict=False):
            # The state is a contiguous block of its row: the product goes straight to its place.
            torch.mm(weight, row, out=state).tanh_()
        ctx.save_for_backward(weight, rows)
        return rows[1:, :hidden].clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor]:  # type: ignore[override]
        weight, rows = ctx.saved_tensors
        hidden = weight.shape[0]
        back = weight[:, :hidden].t().contiguous()
        grads = torch.empty_like(grad)
        d_state = torch.zeros_like(grad[0])
        states = rows[1:, :hidden].unbind(0)
        for t in range(len(grads) - 1, -1, -1):
            d_state += grad[t]
            torch.ops.aten.tanh_backward(d_state, states[t], grad_input=grads[t])
            torch.mm(back, grads[t], out=d_state)
        return None, _weight_gradient(grads, rows)


class _Gru(torch.autograd.Function):
    r"""States of a GRU with gates in torch's order.

    .. math::  h_t = n + z (h_{t-1} - n),  \quad  n = \tanh(x_n + r s)

    where :math:`s` is the state part of the new gate with its bias and :math:`x_n` its input part.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        hidden = weight.shape[0] // 4
        rows = _augmented(x, hidden)
        gates = torch.empty(x.shape[0], 4 * hidden, x.shape[2], dtype=x.dtype)
        difference = torch.empty(hidden, x.shape[2], dtype=x.dtype)
        states = rows[:, :hidden].unbind(0)
        both = gates[:, : 2 * hidden].unbind(0)
        reset, update, inner, new = (part.unbind(0) for part in gates.split(hidden, 1))
        for t in range(x.shape[0]):
            torch.mm(weight, rows[t], out=gates[t])
            both[t].sigmoid_()
            new[t].addcmul_(reset[t], inner[t]).tanh_()
            torch.sub(states[t], new[t], out=difference)
            torch.addcmul(new[t], update[t], difference, out=states[t + 1])
        ctx.save_for_backward(weight, rows, gates)
        return rows[1:, :hidden].clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor]:  # type: ignore[override]
        weight, rows, gates = ctx.saved_tensors
        hidden = weight.shape[0] // 4
        back = weight[:, :hidden].t().contiguous()
        grads = torch.empty_like(gates)
        d_state = torch.zeros_like(grad[0])
        kept = torch.empty_like(d_state)
        states = rows[:, :hidden].unbind(0)
        both, d_both = gates[:, : 2 * hidden].unbind(0), grads[:, : 2 * hidden].unbind(0)
        reset, update, inner, new = (part.unbind(0) for part in gates.split(hidden, 1))
        d_reset, d_update, d_inner, d_new = (part.unbind(0) for part in grads.split(hidden, 1))
        for t in range(len(grads) - 1, -1, -1):
            d_state += grad[t]
            torch.sub(states[t], new[t], out=kept)
            torch.mul(d_state, kept, out=d_update[t])
            torch.mul(d_state, update[t], out=kept)
            d_state -= kept
            torch.ops.aten.tanh_backward(d_state, new[t], grad_input=d_new[t])
            torch.mul(d_new[t], inner[t], out=d_reset[t])
            torch.mul(d_new[t], reset[t], out=d_inner[t])
            torch.ops.aten.sigmoid_backward(d_both[t], both[t], grad_input=d_both[t])
            torch.addmm(kept, back, grads[t], out=d_state)
        return None, _weight_gradient(grads, rows)
