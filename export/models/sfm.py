"""State-frequency memory: a recurrent cell whose memory is a spectrum of its own past.

Written from the equations of Hu and Qi [1]_. ``x_t`` is the input (N values), ``z_t`` the output (M values), and the
memory ``S_t`` holds D states in K frequencies (complex, D x K)::

    f_t   = sigmoid(W_ste z_{t-1} + V_ste x_t + b_ste) outer sigmoid(W_fre z_{t-1} + V_fre x_t + b_fre)
    g_t   = sigmoid(W_g z_{t-1} + V_g x_t + b_g)           i_t = tanh(W_i z_{t-1} + V_i x_t + b_i)
    S_t   = f_t o S_{t-1} + (g_t o i_t) [e^{j w_1 t} ... e^{j w_K t}]
    A_t   = sqrt(Re(S_t)^2 + Im(S_t)^2 + eps)              its k-th column is A_t^k
    o_t^k = sigmoid(U_o^k A_t^k + W_o^k z_{t-1} + V_o^k x_t + b_o^k)
    z_t   = sum over k of o_t^k o tanh(W^k A_t^k + b^k)

**The rotating frame.** Only the amplitude of S is read, and a common phase does not change it. With
``R_t = e^{-j w t} S_t`` the second line from above becomes ``R_t = f_t o e^{-j w} R_{t-1} + g_t o i_t``: no clock, so
nothing grows while a stream runs. The adaptive cell takes its frequencies from ``w_t = W_w z_{t-1} + V_w x_t + b_w``.
There are two readings of ``e^{j w t}`` then: `literal`, ``w_t`` times the clock, whose gradient grows with the clock;
and `accumulated`, the sum of all frequencies so far, in which the rotating frame stays what it is with ``w_t`` in place
of ``w``.

References
----------
.. [1] H. Hu and G.-J. Qi, "State-frequency memory recurrent neural networks", ICML 2017.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from streamproc.errors import ConfigError
from streamproc.spec import StateSpec

from .base import StreamingModule

SfmKind = Literal["fixed", "literal", "accumulated"]

EPS = 1e-6
"""Added to the squared amplitude, whose root has no gradient at zero: the amplitude of an empty memory is 1e-3."""


class SfmCell(StreamingModule):
    """State-frequency memory with fixed or adaptive frequencies.

    Parameters
    ----------
    n_inputs, n_states, n_frequencies, n_outputs : int
        N, D, K and M of the equations.
    kind : {"fixed", "literal", "accumulated"}
        Where the frequencies come from; see the module. `literal` carries a clock and is for sequences of bounded
        length, the other two stream for ever.
    frequencies : sequence of float, optional
        The K fixed frequencies, or what the adaptive ones start from (b_w), in rad per step; ``2 pi k / K`` unless
        given.
    forget_bias : float
        b_ste and b_fre before training.

    Attributes
    ----------
    n_parameters : int
        ``G (N + M + 1) + K M (2 D + 1)`` with ``G = 3 D + K + K M`` rows of gates, and K more when adaptive.

    Notes
    -----
    States are ``memory`` [2, K, D] (real and imaginary part), ``output`` [M], and of `literal` ``clock`` [1], the
    number of steps so far.

    Where gradients are wanted the loop over time is one differentiable function: inputs of all steps meet their weights
    before it, weights get their gradients after it, each in a single product.
    """

    def __init__(
        self,
        n_inputs: int,
        n_states: int,
        n_frequencies: int,
        n_outputs: int,
        kind: SfmKind = "fixed",
        frequencies: Sequence[float] | None = None,
        forget_bias: float = 2.0,
    ) -> None:
        super().__init__()
        if kind not in ("fixed", "literal", "accumulated"):
            raise ConfigError(f"kind of a state-frequency memory is fixed, literal or accumulated; found {kind!r}")
        sizes = {"n_inputs": n_inputs, "n_states": n_states, "n_frequencies": n_frequencies, "n_outputs": n_outputs}
        for name, size in sizes.items():
            if size < 1:
                raise ConfigError(f"{name} of a state-frequency memory must be at least 1, found {size}")
        if frequencies is not None and len(frequencies) != n_frequencies:
            raise ConfigError(f"{n_frequencies} frequencies were announced, found {len(frequencies)}")
        self.n_inputs, self.n_states, self.n_frequencies, self.n_outputs = sizes.values()
        self.kind = kind
        if kind == "literal":
            self.refusal = (
                "the literal adaptive state-frequency memory multiplies its frequencies by a clock that grows for as "
                "long as it runs, and loses their phase in rounding. Use the accumulated one for streams"
            )
        self.layout = _Layout(n_states, n_frequencies, n_outputs, kind != "fixed")
        if frequencies is None:
            frequencies = [2 * math.pi * k / n_frequencies for k in range(1, n_frequencies + 1)]
        self.from_input = nn.Linear(n_inputs, self.layout.rows)
        self.from_output = nn.Linear(n_outputs, self.layout.rows, bias=False)
        self.from_amplitude = nn.Parameter(torch.empty(n_frequencies, n_states, 2 * n_outputs))
        self.output_bias = nn.Parameter(torch.zeros(n_frequencies, 1, n_outputs))
        self.register_buffer("turn", torch.from_numpy(rotation(frequencies)).reshape(2, n_frequencies, 1, 1))
        self._initialise(frequencies, forget_bias)

    @torch.no_grad()
    def _initialise(self, frequencies: Sequence[float], forget_bias: float) -> None:
        bound = 1.0 / math.sqrt(self.n_inputs + self.n_outputs)
        for weight in (self.from_input.weight, self.from_output.weight):
            nn.init.uniform_(weight, -bound, bound)
        nn.init.uniform_(self.from_amplitude, -1.0 / math.sqrt(self.n_states), 1.0 / math.sqrt(self.n_states))
        nn.init.zeros_(self.from_input.bias)
        self.from_input.bias[self.layout.state_forget] = forget_bias
        self.from_input.bias[self.layout.frequency_forget] = forget_bias
        if self.layout.adaptive:
            self.from_input.bias[self.layout.frequency] = torch.tensor(frequencies)
            self.from_input.weight[self.layout.frequency] *= 0.1  # near the given frequencies at first
            self.from_output.weight[self.layout.frequency] *= 0.1

    @property
    def n_parameters(self) -> int:
        """Trained values."""
        return sum(p.numel() for p in self.parameters())

    @property
    def states(self) -> tuple[StateSpec, ...]:
        """``memory``, ``output``, and the clock of the literal cell."""
        carried = (
            StateSpec("memory", (2, self.n_frequencies, self.n_states)),
            StateSpec("output", (self.n_outputs,)),
        )
        return (*carried, StateSpec("clock", (1,))) if self.kind == "literal" else carried

    def sequence(self, frames: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """Run any number of steps.

        Parameters
        ----------
        frames : float32 [channels, steps, N]
        *states : see `states`

        Returns
        -------
        z : [channels, steps, M]
        *next_states : as `states`
        """
        memory, output, *clock = states
        pre = self.from_input(frames.transpose(0, 1))
        by_frequency = memory.permute(1, 2, 0, 3)  # [2, K, channels, D]: the frequencies are the batch of the products
        arguments = (
            self.layout, self.kind, clock[0] if clock else None, pre, by_frequency, output,
            self.from_output.weight, self.from_amplitude, self.output_bias, self.turn,
        )  # fmt: skip
        if torch.is_grad_enabled() and not torch.jit.is_tracing():
            z, after = _Loop.apply(*arguments)
        else:
            z, after = _run(*arguments)
        next_memory = after.permute(2, 0, 1, 3)
        next_clock = [time + frames.shape[1] for time in clock]
        return z.transpose(0, 1), next_memory, z[-1], *next_clock

    def amplitude(self, *states: Tensor) -> Tensor:
        """A_t of a state: [channels, K, D]. What the pictures show."""
        memory = states[0]
        return torch.sqrt(memory.square().sum(1) + EPS)


def rotation(frequencies: Sequence[float]) -> np.ndarray:
    """Return cosine and sine of every frequency, float32 [2, K], with a modulus that is 1 as nearly as it can be.

    Rounding each on its own leaves a modulus that is off by 4e-8: a memory that is held for 1e6 steps would grow or
    shrink by some percent. So of the neighbours in float32 whose modulus is off by less than 1e-10 the one nearest in
    angle is taken (a few 1e-6 rad at most), and where there is none, the one with the best modulus.
    """
    reach = np.arange(-32, 33, dtype=np.float32)
    pairs = []
    for w in frequencies:
        exact = np.array([math.cos(w), math.sin(w)])
        if np.abs(exact).min() < 1e-12:  # a quarter turn: exact, but for a zero that pi in float64 does not quite give
            pairs.append(np.round(exact))
            continue
        nearest = exact.astype(np.float32)
        step = np.spacing(np.maximum(np.abs(nearest), np.float32(0.1)))
        cos, sin = (axis.ravel() for axis in np.meshgrid(*(nearest + reach[:, None] * step).T))
        growth = np.abs(np.hypot(np.float64(cos), np.float64(sin)) - 1.0)
        turned = np.abs(np.float64(sin) * exact[0] - np.float64(cos) * exact[1])
        good = growth < 1e-10
        best = np.where(good, turned, np.inf).argmin() if good.any() else growth.argmin()
        pairs.append(np.array([cos[best], sin[best]]))
    return np.array(pairs, np.float32).T


class _Layout:
    """Which rows of the gates' weights are what. Gates with the same function lie side by side."""

    def __init__(self, d: int, k: int, m: int, adaptive: bool) -> None:
        self.k, self.m, self.adaptive = k, m, adaptive
        self.state_forget = slice(0, d)
        self.input_gate = slice(d, 2 * d)
        self.frequency_forget = slice(2 * d, 2 * d + k)
        self.sigmoids = slice(0, 2 * d + k)
        self.modulation = slice(2 * d + k, 3 * d + k)
        self.output_gates = slice(3 * d + k, 3 * d + k + k * m)
        self.frequency = slice(3 * d + k + k * m, 3 * d + k + k * m + k)
        self.rows = 3 * d + k + k * m + (k if adaptive else 0)

    def by_frequency(self, rows: Tensor) -> Tensor:
        """Turn rows of output gates [channels, K * M] into [K, channels, M]."""
        return rows.reshape(rows.shape[0], self.k, self.m).transpose(0, 1)


def _run(
    layout: _Layout, kind: SfmKind, clock: Tensor | None, pre: Tensor, memory: Tensor, z: Tensor,
    from_output: Tensor, from_amplitude: Tensor, output_bias: Tensor, turn: Tensor,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Run the equations of the module over all steps.

    Parameters
    ----------
    layout, kind
    clock : [channels, 1], optional
        Of the literal cell.
    pre : [steps, channels, G]
        What the gates get from the input.
    memory : [2, K, channels, D]
    z : [channels, M]
    from_output, from_amplitude, output_bias, turn
        As in the cell.

    Returns
    -------
    z : [steps, channels, M]
    memory : [2, K, channels, D]
    """
    re, im = memory[0], memory[1]
    outputs = []
    for t in range(pre.shape[0]):
        rows = torch.addmm(pre[t], z, from_output.t())
        gates = torch.sigmoid(rows[:, layout.sigmoids])
        state_forget = gates[:, layout.state_forget]
        frequency_forget = gates[:, layout.frequency_forget].t().unsqueeze(-1)
        new = gates[:, layout.input_gate] * torch.tanh(rows[:, layout.modulation])
        if layout.adaptive:
            w = rows[:, layout.frequency]
            angle = (w if clock is None else w * (clock + (t + 1))).t().unsqueeze(-1)
            cos, sin = torch.cos(angle), torch.sin(angle)
        else:
            cos, sin = turn[0], turn[1]
        kept_re, kept_im = state_forget * re, state_forget * im
        if kind == "literal":
            re = kept_re * frequency_forget + new * cos
            im = kept_im * frequency_forget + new * sin
        else:
            f_cos, f_sin = frequency_forget * cos, frequency_forget * sin
            re = new + kept_re * f_cos + kept_im * f_sin
            im = kept_im * f_cos - kept_re * f_sin
        amplitude = torch.sqrt(re * re + im * im + EPS)
        both = torch.bmm(amplitude, from_amplitude)
        content = torch.tanh(both[..., : layout.m] + output_bias)
        opened = torch.sigmoid(both[..., layout.m :] + layout.by_frequency(rows[:, layout.output_gates]))
        z = (opened * content).sum(0)
        outputs.append(z)
    return torch.stack(outputs), torch.stack([re, im])


class _Loop(torch.autograd.Function):
    """`_run` for training: the same equations with their gradient written out.

    Small tensors spend more time in being made than in arithmetic. So room for every step is made at once, and so are
    the views of it; each operation of a step writes into its place; and every weight is met once per sequence, before
    the loop or after it, and not once per step.
    """

    @staticmethod
    def forward(ctx: Any, layout: _Layout, kind: SfmKind, clock: Tensor | None, *tensors: Tensor) -> Any:
        """Run, and keep what the way back needs."""
        pre, memory, z, from_output, from_amplitude, output_bias, turn = tensors
        (n_steps, n_channels, _), (k, d, _), m = pre.shape, from_amplitude.shape, layout.m
        literal = kind == "literal"
        rows = pre.clone()
        memories = pre.new_empty(n_steps + 1, 2, k, n_channels, d)
        memories[0] = memory
        kept = torch.empty_like(memories[1:])
        outputs = pre.new_empty(n_steps + 1, n_channels, m)
        outputs[0] = z
        # A column of ones beside the amplitudes brings the bias of the content into the product.
        amplitudes = pre.new_ones(n_steps, k, n_channels, d + 1)
        weight = torch.cat([from_amplitude, functional.pad(output_bias, (0, m))], 1)
        both = pre.new_empty(n_steps, k, n_channels, 2 * m)
        turns = pre.new_empty(n_steps, 2, k, n_channels, 1) if layout.adaptive else None
        forgets = pre.new_empty(n_steps, 2, k, n_channels, 1)

        gates = _Views(layout, rows, both)
        res, ims = memories[:, 0].unbind(0), memories[:, 1].unbind(0)
        kept_res, kept_ims = kept[:, 0].unbind(0), kept[:, 1].unbind(0)
        memory_list, kept_list, output_list, both_list, row_list, amplitude_list, room_list = (
            values.unbind(0) for values in (memories, kept, outputs, both, rows, amplitudes, amplitudes[..., :d])
        )
        to_rows = from_output.t()
        eps = pre.new_tensor(EPS)
        new = pre.new_empty(n_channels, d)
        square, product = pre.new_empty(k, n_channels, d), pre.new_empty(k, n_channels, m)
        for t in range(n_steps):
            row_list[t].addmm_(output_list[t], to_rows)
            gates.sigmoids[t].sigmoid_()
            gates.modulation[t].tanh_()
            torch.mul(gates.input_gate[t], gates.modulation[t], out=new)
            if turns is not None:
                w = gates.frequency[t] if clock is None else gates.frequency[t] * (clock + (t + 1)).t().unsqueeze(-1)
                torch.cos(w, out=turns[t, 0])
                torch.sin(w, out=turns[t, 1])
                turn = turns[t]
            torch.mul(memory_list[t], gates.state_forget[t], out=kept_list[t])
            if literal:
                torch.mul(kept_list[t], gates.frequency_forget[t], out=memory_list[t + 1])
                memory_list[t + 1].addcmul_(turn, new)
            else:
                torch.mul(turn, gates.frequency_forget[t], out=forgets[t])
                f_cos, f_sin = forgets[t].unbind(0)
                torch.mul(kept_list[t], f_cos, out=memory_list[t + 1])
                res[t + 1].addcmul_(kept_ims[t], f_sin).add_(new)
                ims[t + 1].addcmul_(kept_res[t], f_sin, value=-1.0)
            torch.addcmul(eps, res[t + 1], res[t + 1], out=square)
            torch.sqrt(square.addcmul_(ims[t + 1], ims[t + 1]), out=room_list[t])
            torch.bmm(amplitude_list[t], weight, out=both_list[t])
            # tanh as 2 sigmoid(2 x) - 1: torch has the logistic function as vector code, and it is nine times faster.
            gates.content[t].mul_(2.0)
            gates.opened[t].add_(gates.output_gates[t])
            both_list[t].sigmoid_()
            gates.content[t].mul_(2.0).sub_(1.0)
            torch.sum(torch.mul(gates.opened[t], gates.content[t], out=product), 0, out=output_list[t + 1])
        ctx.layout, ctx.literal, ctx.clock = layout, literal, clock
        ctx.save_for_backward(
            from_output, from_amplitude, turn, rows, memories, kept, outputs, amplitudes, both, turns, forgets
        )
        return outputs[1:].clone(), memories[-1].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_z: Tensor, grad_memory: Tensor) -> Any:
        """Go back through time; return gradients of `pre`, the states and the weights."""
        layout, literal, clock = ctx.layout, ctx.literal, ctx.clock
        (
            from_output, from_amplitude, turn, rows, memories, kept, outputs, amplitudes, both, turns, forgets,
        ) = ctx.saved_tensors  # fmt: skip
        (n_steps, n_channels, _), (k, d, _), m = rows.shape, from_amplitude.shape, layout.m
        d_rows, d_both = torch.empty_like(rows), torch.empty_like(both)
        gates, d_gates = _Views(layout, rows, both), _Views(layout, d_rows, d_both)
        memory_list, kept_list, row_list, both_list, room_list = (
            values.unbind(0) for values in (memories, kept, d_rows, d_both, amplitudes[..., :d])
        )
        kept_res, kept_ims = kept[:, 0].unbind(0), kept[:, 1].unbind(0)
        to_amplitude = from_amplitude.transpose(1, 2).contiguous()
        d_memory = grad_memory.clone()
        d_re, d_im = d_memory.unbind(0)
        d_z = torch.zeros_like(outputs[0])
        scaled = rows.new_empty(k, n_channels, d)
        wide, d_kept = torch.empty_like(d_memory), torch.empty_like(d_memory)
        d_kept_re, d_kept_im = d_kept.unbind(0)
        part = rows.new_empty(k, n_channels, m)
        d_new = rows.new_empty(n_channels, d)
        for t in range(n_steps - 1, -1, -1):
            d_z += grad_z[t]
            torch.mul(gates.opened[t], d_z, out=part)
            torch.ops.aten.tanh_backward.grad_input(part, gates.content[t], grad_input=d_gates.content[t])
            torch.mul(gates.content[t], d_z, out=part)
            torch.ops.aten.sigmoid_backward.grad_input(part, gates.opened[t], grad_input=d_gates.opened[t])
            d_gates.output_gates[t].copy_(d_gates.opened[t])
            torch.bmm(both_list[t], to_amplitude, out=scaled)
            d_memory.addcmul_(scaled.div_(room_list[t]), memory_list[t + 1])
            if turns is not None:
                turn = turns[t]
            if literal:
                forget = gates.frequency_forget[t]
                new = gates.input_gate[t] * gates.modulation[t]
                torch.sum(torch.mul(d_memory, turn, out=wide), (0, 1), out=d_new)
                d_angle = ((d_im * turn[0] - d_re * turn[1]) * new).sum(-1, keepdim=True)
                d_gates.frequency_forget[t].copy_(torch.mul(d_memory, kept_list[t], out=wide).sum((0, 3)).unsqueeze(-1))
                torch.mul(d_memory, forget, out=d_kept)
            else:
                f_cos, f_sin = forgets[t].unbind(0)
                torch.sum(d_re, 0, out=d_new)
                d_f_cos = torch.mul(d_memory, kept_list[t], out=wide).sum((0, 3)).unsqueeze(-1)
                torch.mul(d_re, kept_ims[t], out=scaled)
                d_f_sin = scaled.addcmul_(d_im, kept_res[t], value=-1.0).sum(-1, keepdim=True)
                torch.addcmul(d_f_cos * turn[0], d_f_sin, turn[1], out=d_gates.frequency_forget[t])
                torch.mul(d_memory, f_cos, out=d_kept)
                d_kept_re.addcmul_(d_im, f_sin, value=-1.0)
                d_kept_im.addcmul_(d_re, f_sin)
                if layout.adaptive:
                    d_angle = (d_f_sin * turn[0] - d_f_cos * turn[1]) * gates.frequency_forget[t]
            torch.sum(torch.mul(d_kept, memory_list[t], out=wide), (0, 1), out=d_gates.state_forget[t])
            torch.mul(d_kept, gates.state_forget[t], out=d_memory)
            torch.mul(d_new, gates.modulation[t], out=d_gates.input_gate[t])
            torch.ops.aten.sigmoid_backward.grad_input(
                d_gates.sigmoids[t], gates.sigmoids[t], grad_input=d_gates.sigmoids[t]
            )
            d_new *= gates.input_gate[t]
            torch.ops.aten.tanh_backward.grad_input(d_new, gates.modulation[t], grad_input=d_gates.modulation[t])
            if layout.adaptive:
                times = 1.0 if clock is None else (clock + (t + 1)).t().unsqueeze(-1)
                d_gates.frequency[t].copy_(d_angle * times)
            torch.mm(row_list[t], from_output, out=d_z)
        d_from_output = d_rows.flatten(0, 1).t() @ outputs[:-1].flatten(0, 1)
        by_frequency = amplitudes.transpose(0, 1).flatten(1, 2), d_both.transpose(0, 1).flatten(1, 2)
        d_weight = torch.bmm(by_frequency[0].transpose(1, 2), by_frequency[1])
        d_weight, d_bias = d_weight[:, :d], d_weight[:, d:, :m]
        return None, None, None, d_rows, d_memory, d_z, d_from_output, d_weight, d_bias, None


class _Views:
    """Parts of all steps, each as a list with one view per step; made once, because a view costs as much as a sum."""

    def __init__(self, layout: _Layout, rows: Tensor, both: Tensor) -> None:
        self.sigmoids = rows[..., layout.sigmoids].unbind(0)
        self.state_forget = rows[..., layout.state_forget].unbind(0)
        self.input_gate = rows[..., layout.input_gate].unbind(0)
        self.frequency_forget = rows[..., layout.frequency_forget].transpose(1, 2).unsqueeze(-1).unbind(0)
        self.modulation = rows[..., layout.modulation].unbind(0)
        output_gates = rows[..., layout.output_gates].unflatten(-1, (layout.k, layout.m))
        self.output_gates = output_gates.transpose(1, 2).unbind(0)
        self.frequency = rows[..., layout.frequency].transpose(1, 2).unsqueeze(-1).unbind(0)
        self.content, self.opened = both[..., : layout.m].unbind(0), both[..., layout.m :].unbind(0)
