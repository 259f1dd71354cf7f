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
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

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
        parts = memory.permute(1, 2, 0, 3)  # [2, K, channels, D]: the frequencies are the batch of the products
        arguments = (
            self.layout, self.kind, clock[0] if clock else None, pre, parts[0], parts[1], output,
            self.from_output.weight, self.from_amplitude, self.output_bias, self.turn,
        )  # fmt: skip
        if torch.is_grad_enabled() and not torch.jit.is_tracing():
            z, re, im = _Loop.apply(*arguments)
        else:
            z, re, im = _run(*arguments)
        next_memory = torch.stack([re, im]).permute(2, 0, 1, 3)
        next_clock = [time + frames.shape[1] for time in clock]
        return z.transpose(0, 1), next_memory, z[-1], *next_clock

    def amplitude(self, *states: Tensor) -> Tensor:
        """A_t of a state: [channels, K, D]. What the pictures show."""
        memory = states[0]
        return torch.sqrt(memory.square().sum(1) + EPS)


def rotation(frequencies: Sequence[float]) -> np.ndarray:
    """Return cosine and sine of every frequency, float32 [2, K], with a modulus that is 1 as nearly as it can be.

    Rounding each on its own leaves a modulus that is off by 4e-8: a memory that is held for 1e6 steps would grow or
    shrink by some percent. Among the neighbours in float32 there is a pair that is ten to a hundred times nearer; the
    angle moves by about 1e-6 rad at most.
    """
    reach = np.arange(-12, 13, dtype=np.float32)
    pairs = []
    for w in frequencies:
        exact = np.array([math.cos(w), math.sin(w)])
        if np.abs(exact).min() < 1e-12:  # a quarter turn: exact, but for a zero that pi in float64 does not quite give
            pairs.append(np.round(exact))
            continue
        nearest = exact.astype(np.float32)
        step = np.spacing(np.maximum(np.abs(nearest), np.float32(0.1)))
        cos, sin = (axis.ravel() for axis in np.meshgrid(*(nearest + reach[:, None] * step).T))
        best = np.abs(np.float64(cos) ** 2 + np.float64(sin) ** 2 - 1.0).argmin()
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


class _Step(NamedTuple):
    """One step, with all that its gradient needs. Shapes: [channels, ...] and [K, channels, ...]."""

    gates: Tensor
    modulation: Tensor
    turn: tuple[Tensor, Tensor]
    re: Tensor
    im: Tensor
    amplitude: Tensor
    opened: Tensor
    content: Tensor
    z: Tensor


def _tanh(x: Tensor) -> Tensor:
    """Hyperbolic tangent through the logistic function, which torch computes nine times faster on a CPU."""
    return 2.0 * torch.sigmoid(2.0 * x) - 1.0


def _step(
    layout: _Layout, kind: SfmKind, time: Tensor | None, pre: Tensor, re: Tensor, im: Tensor, z: Tensor,
    from_output: Tensor, from_amplitude: Tensor, output_bias: Tensor, turn: Tensor,
) -> _Step:  # fmt: skip
    """Run the equations of the module once; `pre` [channels, G] holds what the gates get from the input."""
    pre = torch.addmm(pre, z, from_output.t())
    gates = torch.sigmoid(pre[:, layout.sigmoids])
    modulation = _tanh(pre[:, layout.modulation])
    state_forget = gates[:, layout.state_forget]
    frequency_forget = gates[:, layout.frequency_forget].t().unsqueeze(-1)
    new = gates[:, layout.input_gate] * modulation
    if layout.adaptive:
        w = pre[:, layout.frequency]
        if time is not None:
            w = w * time
        angle = w.t().unsqueeze(-1)
        cos, sin = torch.cos(angle), torch.sin(angle)
    else:
        cos, sin = turn[0], turn[1]
    kept_re, kept_im = state_forget * re, state_forget * im
    if kind == "literal":
        re = torch.addcmul(kept_re * frequency_forget, new, cos)
        im = torch.addcmul(kept_im * frequency_forget, new, sin)
    else:
        f_cos, f_sin = frequency_forget * cos, frequency_forget * sin
        re = torch.addcmul(torch.addcmul(new, kept_re, f_cos), kept_im, f_sin)
        im = kept_im * f_cos - kept_re * f_sin
    amplitude = torch.sqrt(torch.addcmul(re * re + EPS, im, im))
    both = torch.bmm(amplitude, from_amplitude)
    content = _tanh(both[..., : layout.m] + output_bias)
    opened = torch.sigmoid(both[..., layout.m :] + layout.by_frequency(pre[:, layout.output_gates]))
    return _Step(gates, modulation, (cos, sin), re, im, amplitude, opened, content, (opened * content).sum(0))


def _run(
    layout: _Layout, kind: SfmKind, clock: Tensor | None, pre: Tensor, re: Tensor, im: Tensor, z: Tensor,
    *weights: Tensor, keep: list[_Step] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Run all steps of `pre` [steps, channels, G]; return every z and the memory after the last one."""
    outputs = []
    for t in range(pre.shape[0]):
        time = None if clock is None else clock + (t + 1)
        done = _step(layout, kind, time, pre[t], re, im, z, *weights)
        re, im, z = done.re, done.im, done.z
        outputs.append(z)
        if keep is not None:
            keep.append(done)
    return torch.stack(outputs), re, im


class _Loop(torch.autograd.Function):
    """`_run` with its gradient written out, so that each weight is met once per sequence and not once per step."""

    @staticmethod
    def forward(ctx: Any, layout: _Layout, kind: SfmKind, clock: Tensor | None, *tensors: Tensor) -> Any:
        """Run, and keep every step."""
        ctx.layout, ctx.kind, ctx.clock = layout, kind, clock
        ctx.steps = []
        z, re, im = _run(layout, kind, clock, *tensors, keep=ctx.steps)
        ctx.save_for_backward(*tensors)
        # Copies: a result that is kept here as well would keep itself alive, and with it every step of the sequence.
        return z, re.clone(), im.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_z: Tensor, d_re: Tensor, d_im: Tensor) -> Any:
        """Go back through time; return gradients of `pre`, the states and the weights."""
        layout, steps, literal = ctx.layout, ctx.steps, ctx.kind == "literal"
        pre, re0, im0, z0, from_output, from_amplitude, _, _ = ctx.saved_tensors
        n_steps, n_channels, _ = pre.shape
        (k, d, _), m = from_amplitude.shape, layout.m
        d_pre = torch.empty_like(pre)
        d_both = pre.new_empty(k, n_steps, n_channels, 2 * m)
        amplitudes = pre.new_empty(k, n_steps, n_channels, d)
        to_amplitude = from_amplitude.transpose(1, 2)
        d_z = torch.zeros_like(z0)
        for t in range(n_steps - 1, -1, -1):
            done = steps[t]
            before_re, before_im = (steps[t - 1].re, steps[t - 1].im) if t else (re0, im0)
            rows = d_pre[t]
            state_forget = done.gates[:, layout.state_forget]
            frequency_forget = done.gates[:, layout.frequency_forget].t().unsqueeze(-1)
            input_gate = done.gates[:, layout.input_gate]
            (cos, sin) = done.turn

            d_z = d_z + grad_z[t]
            step_both = d_both[:, t]
            d_content, d_opened = step_both.split(m, -1)
            torch.ops.aten.tanh_backward.grad_input(done.opened * d_z, done.content, grad_input=d_content)
            torch.ops.aten.sigmoid_backward.grad_input(done.content * d_z, done.opened, grad_input=d_opened)
            layout.by_frequency(rows[:, layout.output_gates]).copy_(d_opened)
            amplitudes[:, t] = done.amplitude

            scaled = torch.bmm(step_both, to_amplitude) / done.amplitude
            d_re = torch.addcmul(d_re, scaled, done.re)
            d_im = torch.addcmul(d_im, scaled, done.im)
            kept_re, kept_im = state_forget * before_re, state_forget * before_im
            if literal:
                new = input_gate * done.modulation
                d_new = torch.addcmul(d_re * cos, d_im, sin).sum(0)
                d_angle = ((d_im * cos - d_re * sin) * new).sum(-1)
                d_frequency_forget = torch.addcmul(d_re * kept_re, d_im, kept_im).sum(-1)
                d_kept_re, d_kept_im = d_re * frequency_forget, d_im * frequency_forget
            else:
                d_new = d_re.sum(0)
                d_f_cos = torch.addcmul(d_re * kept_re, d_im, kept_im).sum(-1)
                d_f_sin = (d_re * kept_im - d_im * kept_re).sum(-1)
                flat_cos, flat_sin = cos.squeeze(-1), sin.squeeze(-1)
                d_frequency_forget = d_f_cos * flat_cos + d_f_sin * flat_sin
                d_angle = (d_f_sin * flat_cos - d_f_cos * flat_sin) * frequency_forget.squeeze(-1)
                f_cos, f_sin = frequency_forget * cos, frequency_forget * sin
                d_kept_re = d_re * f_cos - d_im * f_sin
                d_kept_im = torch.addcmul(d_im * f_cos, d_re, f_sin)
            d_state_forget = torch.addcmul(d_kept_re * before_re, d_kept_im, before_im).sum(0)
            d_re, d_im = d_kept_re * state_forget, d_kept_im * state_forget

            d_gates = torch.cat([d_state_forget, d_new * done.modulation, d_frequency_forget.t()], 1)
            rows[:, layout.sigmoids] = torch.ops.aten.sigmoid_backward(d_gates, done.gates)
            rows[:, layout.modulation] = torch.ops.aten.tanh_backward(d_new * input_gate, done.modulation)
            if layout.adaptive:
                rows[:, layout.frequency] = d_angle.t() if ctx.clock is None else d_angle.t() * (ctx.clock + (t + 1))
            d_z = rows @ from_output
        outputs = torch.stack([z0, *(done.z for done in steps[:-1])])
        d_from_output = d_pre.flatten(0, 1).t() @ outputs.flatten(0, 1)
        d_from_amplitude = torch.bmm(amplitudes.flatten(1, 2).transpose(1, 2), d_both.flatten(1, 2))
        d_output_bias = d_both[..., :m].sum((1, 2)).unsqueeze(1)
        return None, None, None, d_pre, d_re, d_im, d_z, d_from_output, d_from_amplitude, d_output_bias, None
