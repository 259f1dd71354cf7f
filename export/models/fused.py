"""Training small recurrent layers on one core, several times faster than `torch.nn.RNN` and `torch.nn.GRU` do it.

Layers of tens of units spend their time in moving memory, in the overhead of many small operations at every step, and
in adding up the gradient of the recurrent weights there. Here sequences are the last axis, so that every gate of a step
is one contiguous block; state, input and a one for the biases form one matrix, so that a step is one product; the
gradient of all weights is one product over all steps, after the way back through time; and several networks (seeds of
one experiment) share every operation. The arithmetic is float32, the weights are those of the torch layer, and the
results differ from its own by rounding only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from streamproc.errors import ConfigError


def run_layers(parameters: Mapping[str, Tensor], x: Tensor, reverse: bool = False) -> Tensor:
    """Run one direction of a layer of each of several networks, from the zero state.

    Parameters
    ----------
    parameters : mapping of str to Tensor
        Those of one-layer tanh RNNs or GRUs under torch's names (``weight_ih_l0``, ``bias_hh_l0_reverse``, ...), each
        with a first axis for the networks. Which of the two it is shows in their shapes.
    x : float32 [steps, networks, inputs, items]
        Not differentiated: it is data, not the output of something that learns.
    reverse : bool
        Run the direction that goes back through time.

    Returns
    -------
    float32 [steps, networks, hidden, items]

    Raises
    ------
    ConfigError
        For parameters of another kind of layer, or an input that wants a gradient.
    """
    if x.requires_grad:
        raise ConfigError("the input of a fused layer is data; it gets no gradient")
    suffix = "_l0_reverse" if reverse else "_l0"
    names = [name + suffix for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
    if missing := [name for name in names if name not in parameters]:
        raise ConfigError(f"expected the parameters of one layer with biases; {', '.join(missing)} missing")
    weight_ih, weight_hh, bias_ih, bias_hh = (parameters[name] for name in names)
    hidden = weight_hh.shape[2]
    n_gates = weight_hh.shape[1] // hidden
    if n_gates not in (1, 3):
        raise ConfigError(f"expected an RNN (1 gate) or a GRU (3 gates), found {n_gates} gates")
    bias = (bias_ih + bias_hh).unsqueeze(2)
    if n_gates == 1:
        joined = torch.cat([weight_hh, weight_ih, bias], 2)
        function: Any = _Rnn
    else:
        # The new gate has two blocks of rows, because the reset gate stands between its state and its input part.
        both = 2 * hidden
        reset_update = torch.cat([weight_hh[:, :both], weight_ih[:, :both], bias[:, :both]], 2)
        from_state = [weight_hh[:, both:], torch.zeros_like(weight_ih[:, both:]), bias_hh[:, both:].unsqueeze(2)]
        from_input = [torch.zeros_like(weight_hh[:, both:]), weight_ih[:, both:], bias_ih[:, both:].unsqueeze(2)]
        joined = torch.cat([reset_update, torch.cat(from_state, 2), torch.cat(from_input, 2)], 1)
        function = _Gru
    states: Tensor = function.apply(x.flip(0) if reverse else x, joined)
    return states.flip(0) if reverse else states


def _augmented(x: Tensor, hidden: int) -> Tensor:
    """Return [steps + 1, networks, hidden + inputs + 1, items]: room for the states, the input, and ones."""
    steps, networks, inputs, items = x.shape
    rows = torch.empty(steps + 1, networks, hidden + inputs + 1, items, dtype=x.dtype)
    rows[0, :, :hidden] = 0.0
    rows[:steps, :, hidden : hidden + inputs] = x
    rows[:, :, hidden + inputs] = 1.0
    return rows


def _weight_gradient(grads: Tensor, rows: Tensor) -> Tensor:
    """Return the gradient of the joined weights [networks, gates, hidden + inputs + 1]."""
    return torch.matmul(grads, rows[: len(grads)].transpose(2, 3)).sum(0)


class _Rnn(torch.autograd.Function):
    r"""States of :math:`h_t = \tanh(W (h_{t-1}, x_t, 1))`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        rows = _augmented(x, weight.shape[1])
        states = rows[:, :, : weight.shape[1]].unbind(0)
        before = torch.empty(*weight.shape[:2], x.shape[3], dtype=x.dtype)
        for row, state in zip(rows, states[1:], strict=False):
            torch.bmm(weight, row, out=before)
            torch.tanh(before, out=state)
        ctx.save_for_backward(weight, rows)
        return rows[1:, :, : weight.shape[1]].clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor]:  # type: ignore[override]
        weight, rows = ctx.saved_tensors
        hidden = weight.shape[1]
        back = weight[:, :, :hidden].transpose(1, 2).contiguous()
        grads = torch.empty_like(grad, memory_format=torch.contiguous_format)
        d_state = torch.zeros_like(grads[0])
        states = rows[1:, :, :hidden].unbind(0)
        for t in range(len(grads) - 1, -1, -1):
            d_state += grad[t]
            torch.ops.aten.tanh_backward(d_state, states[t], grad_input=grads[t])
            torch.bmm(back, grads[t], out=d_state)
        return None, _weight_gradient(grads, rows)


class _Gru(torch.autograd.Function):
    r"""States of a GRU with gates in torch's order.

    .. math::  h_t = n + z (h_{t-1} - n),  \quad  n = \tanh(x_n + r s)

    where :math:`s` is the state part of the new gate with its bias and :math:`x_n` its input part.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        steps, networks, _, items = x.shape
        hidden = weight.shape[1] // 4
        rows = _augmented(x, hidden)
        gates = torch.empty(steps, networks, 4 * hidden, items, dtype=x.dtype)
        difference = torch.empty(networks, hidden, items, dtype=x.dtype)
        states = rows[:, :, :hidden].unbind(0)
        both = gates[:, :, : 2 * hidden].unbind(0)
        reset, update, inner, new = (part.unbind(0) for part in gates.split(hidden, 2))
        for t in range(steps):
            torch.bmm(weight, rows[t], out=gates[t])
            both[t].sigmoid_()
            new[t].addcmul_(reset[t], inner[t]).tanh_()
            torch.sub(states[t], new[t], out=difference)
            torch.addcmul(new[t], update[t], difference, out=states[t + 1])
        ctx.save_for_backward(weight, rows, gates)
        return rows[1:, :, :hidden].clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor]:  # type: ignore[override]
        weight, rows, gates = ctx.saved_tensors
        hidden = weight.shape[1] // 4
        back = weight[:, :, :hidden].transpose(1, 2).contiguous()
        grads = torch.empty_like(gates)
        d_state = torch.zeros_like(rows[0, :, :hidden], memory_format=torch.contiguous_format)
        kept = torch.empty_like(d_state)
        states = rows[:, :, :hidden].unbind(0)
        both, d_both = gates[:, :, : 2 * hidden].unbind(0), grads[:, :, : 2 * hidden].unbind(0)
        reset, update, inner, new = (part.unbind(0) for part in gates.split(hidden, 2))
        d_reset, d_update, d_inner, d_new = (part.unbind(0) for part in grads.split(hidden, 2))
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
            torch.baddbmm(kept, back, grads[t], out=d_state)
        return None, _weight_gradient(grads, rows)
