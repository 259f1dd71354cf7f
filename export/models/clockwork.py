"""Clockwork RNN: groups of units that update at periods of their own."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from streamproc.errors import ConfigError
from streamproc.spec import StateSpec

from .base import StreamingModule


class ClockworkCell(StreamingModule):
    """A plain recurrent layer whose groups of units are updated every 1, 2, 4, ... steps [1]_.

    Parameters
    ----------
    n_inputs, n_outputs : int
        `n_outputs` units, an equal share for every period.
    periods : sequence of int
        In steps, from the fastest group to the slowest. A group hears itself and all slower ones.

    Notes
    -----
    States are ``hidden`` [n_outputs] and ``clock`` [1], which counts to the longest period and begins again. Of the
    recurrent weights only the blocks that connect anything are parameters that count: with H units and P periods
    there are ``H^2 (P + 1) / (2 P) + H (n_inputs + 1)``.

    References
    ----------
    .. [1] J. Koutnik, K. Greff, F. Gomez and J. Schmidhuber, "A clockwork RNN", ICML 2014.
    """

    def __init__(self, n_inputs: int, n_outputs: int, periods: Sequence[int] = (1, 2, 4, 8, 16)) -> None:
        super().__init__()
        if not periods or list(periods) != sorted(periods) or periods[0] < 1 or periods[-1] % math.lcm(*periods):
            raise ConfigError(f"periods must rise, each a part of the last, from 1 up; found {list(periods)}")
        if n_outputs % len(periods):
            raise ConfigError(f"{n_outputs} units cannot be shared among {len(periods)} periods")
        self.n_inputs, self.n_outputs, self.longest = n_inputs, n_outputs, periods[-1]
        group = torch.arange(n_outputs) // (n_outputs // len(periods))
        self.from_input = nn.Linear(n_inputs, n_outputs)
        bound = 1.0 / math.sqrt(n_outputs)
        self.from_hidden = nn.Parameter(torch.empty(n_outputs, n_outputs).uniform_(-bound, bound))
        self.register_buffer("connected", (group[:, None] <= group[None, :]).float())
        self.register_buffer("period", torch.tensor(periods, dtype=torch.float32)[group])

    @property
    def n_parameters(self) -> int:
        """Trained values; what the groups cannot hear of each other does not count."""
        return sum(p.numel() for p in self.parameters()) - int((1.0 - self.connected).sum())

    @property
    def states(self) -> tuple[StateSpec, ...]:
        """``hidden`` and ``clock``."""
        return StateSpec("hidden", (self.n_outputs,)), StateSpec("clock", (1,))

    def sequence(self, frames: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """Run any number of steps: [channels, steps, n_inputs] to [channels, steps, n_outputs]."""
        hidden, clock = states
        pre = self.from_input(frames).unbind(1)
        weight = (self.from_hidden * self.connected).t()
        outputs = []
        for row in pre:
            due = torch.remainder(clock, self.period) < 0.5
            hidden = torch.where(due, torch.tanh(torch.addmm(row, hidden, weight)), hidden)
            clock = torch.remainder(clock + 1.0, float(self.longest))
            outputs.append(hidden)
        return torch.stack(outputs, 1), hidden, clock
