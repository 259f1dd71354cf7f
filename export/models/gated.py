"""LSTM and GRU on the streaming base, to stand beside other cells under the same code."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from streamproc.spec import StateSpec

from .base import StreamingModule

GatedKind = Literal["lstm", "gru"]


class GatedCell(StreamingModule):
    """One layer of torch's LSTM or GRU.

    Parameters
    ----------
    kind : {"lstm", "gru"}
    n_inputs, n_outputs : int

    Notes
    -----
    States are ``hidden`` [n_outputs] and, of an LSTM, ``cell`` [n_outputs]. With G = 4 gates (LSTM) or 3 (GRU) there
    are ``G n_outputs (n_inputs + n_outputs + 2)`` parameters.
    """

    def __init__(self, kind: GatedKind, n_inputs: int, n_outputs: int) -> None:
        super().__init__()
        self.kind, self.n_inputs, self.n_outputs = kind, n_inputs, n_outputs
        self.rnn = {"lstm": nn.LSTM, "gru": nn.GRU}[kind](n_inputs, n_outputs, batch_first=True)

    @property
    def states(self) -> tuple[StateSpec, ...]:
        """``hidden``, and the ``cell`` of an LSTM."""
        names = ("hidden", "cell") if self.kind == "lstm" else ("hidden",)
        return tuple(StateSpec(name, (self.n_outputs,)) for name in names)

    def sequence(self, frames: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """Run any number of steps: [channels, steps, n_inputs] to [channels, steps, n_outputs]."""
        layers = tuple(state.unsqueeze(0).contiguous() for state in states)
        if self.kind == "lstm":
            out, after = self.rnn(frames, layers)
        else:
            out, last = self.rnn(frames, layers[0])
            after = (last,)
        return out, *(state.squeeze(0) for state in after)
