"""A GRU over a whole sequence with bfloat16 products, its loop over time in C++ (`recurrence.cpp`).

Built by the C++ compiler of the machine when it is first needed, which takes about a second. Where there is none, or
the processor has no bfloat16 products, `native` says so by returning None and `torch.nn.GRU` does the work.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import tempfile
import warnings
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_SOURCE = Path(__file__).with_suffix(".cpp")
_LANES = 32
"""The hidden size has to be a multiple of this: no vector and no tile is ever cut."""


def has_fast_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 matrices in hardware."""
    return bool(torch.cpu._is_avx512_bf16_supported())


@lru_cache(maxsize=1)
def native() -> ctypes.CDLL | None:
    """Build and load the loop over time.

    Returns
    -------
    ctypes.CDLL or None
        None where the processor has no bfloat16 products; also, with a warning, where there is no compiler.
    """
    if not has_fast_bfloat16():
        return None
    compiler = os.environ.get("CXX", "g++")
    with tempfile.TemporaryDirectory(prefix="streamproc-") as folder:
        library = Path(folder) / "recurrence.so"
        command = [compiler, "-O3", "-march=native", "-std=c++17", "-shared", "-fPIC", "-o", str(library), str(_SOURCE)]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True)
            loaded = ctypes.CDLL(str(library))
        except (OSError, subprocess.CalledProcessError) as error:
            reason = getattr(error, "stderr", "") or str(error)
            warnings.warn(
                f"recurrent layers train slower: {compiler} did not build {_SOURCE.name}: {reason[:300]}", stacklevel=2
            )
            return None
    return loaded


def fits(hidden_size: int) -> bool:
    """Whether the loop in C++ takes layers of this width."""
    return hidden_size % _LANES == 0


class GruSequence(torch.autograd.Function):
    r"""States of a GRU [steps, items, hidden] from [steps, items, inputs], in torch's order of gates.

    .. math::  h_t = z h_{t-1} + (1 - z) n,  \quad  n = \tanh(W x_t + b + r (U h_{t-1} + c))

    The gradients of gates stand in the order of the state part of n, r, z, n: what met the state is the first three
    quarters, what met the input the last three, so the gradients of all weights are one product each over all steps.
    """

    tiles = True
    """Whether AMX may be used, where it is there; tests compare both ways."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, initial: Tensor, weight_ih: Tensor, weight_hh: Tensor, bias_ih: Tensor, bias_hh: Tensor
    ) -> Tensor:
        """Run over time; `initial` is the state [items, hidden] before the first step."""
        steps, items, n_inputs = x.shape
        hidden = weight_hh.shape[1]
        rows = x.reshape(-1, n_inputs).bfloat16()
        from_input = rows @ weight_ih.bfloat16().t().contiguous()  # oneDNN takes twice as long for a transposed view
        rounded = weight_hh.bfloat16()
        states = torch.empty(steps + 1, items, hidden)
        states[0] = initial
        narrow = torch.empty(steps + 1, items, hidden, dtype=torch.bfloat16)
        gates = torch.empty(steps, items, 4 * hidden, dtype=torch.bfloat16)
        _call("gru_forward", steps, items, hidden, from_input, rounded, bias_ih, bias_hh, states, narrow, gates)
        ctx.save_for_backward(rows, weight_ih, rounded, states, narrow, gates)
        return states[1:]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        """Return the gradients of what `forward` took."""
        rows, weight_ih, rounded, states, narrow, gates = ctx.saved_tensors
        steps, items, width = gates.shape
        hidden = width // 4
        grads = torch.empty(steps, items, width, dtype=torch.bfloat16)
        d_initial = torch.empty(items, hidden)
        _call("gru_backward", steps, items, hidden, grad.contiguous(), rounded, states, gates, grads, d_initial)
        flat = grads.view(-1, width)
        of_state, of_input = flat[:, : 3 * hidden], flat[:, hidden:]
        d_x = (of_input @ weight_ih.bfloat16()).float().view(steps, items, -1) if ctx.needs_input_grad[0] else None
        d_weight_ih = (of_input.t() @ rows).float()
        d_weight_hh = (of_state.t() @ narrow[:-1].view(-1, hidden)).float().roll(-hidden, 0)
        sums = (flat.new_ones(1, len(flat)) @ flat)[0].float()  # a sixth of the time of `sum`
        return d_x, d_initial, d_weight_ih, d_weight_hh, sums[hidden:], sums[: 3 * hidden].roll(-hidden, 0)


def _call(name: str, steps: int, items: int, hidden: int, *tensors: Tensor) -> None:
    library = native()
    assert library is not None, "ask `native` first"
    kept = [tensor.detach().contiguous() for tensor in tensors]
    pointers = [ctypes.c_void_p(tensor.data_ptr()) for tensor in kept]
    getattr(library, name)(steps, items, hidden, *pointers, int(GruSequence.tiles))
