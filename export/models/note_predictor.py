"""Which notes sound next: any recurrent cell behind a piano roll."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast, get_args

import torch
from torch import Tensor, nn

from streamproc.errors import ConfigError
from streamproc.spec import ModelSpec

from .base import StreamableModel
from .gated import GatedCell, GatedKind
from .sfm import SfmCell, SfmKind

N_NOTES = 88


@dataclass(frozen=True)
class NotePredictorConfig:
    """Sizes of a `NotePredictor`.

    Parameters
    ----------
    cell : str
        ``lstm``, ``gru``, or ``sfm-fixed``, ``sfm-literal``, ``sfm-accumulated``.
    n_outputs : int
        Values that the cell hands to the readout: the hidden size of an LSTM or GRU, M of a state-frequency memory.
    n_states, n_frequencies : int
        D and K of a state-frequency memory.
    frequencies : tuple of float, optional
        In rad per step; see `SfmCell`.
    """

    cell: str = "sfm-fixed"
    n_outputs: int = 92
    n_states: int = 50
    n_frequencies: int = 4
    frequencies: tuple[float, ...] | None = None


class NotePredictor(StreamableModel):
    """A recurrent cell and a linear readout, from the notes that sound now to the probabilities of the next ones.

    A frame is not sound but one step of a piano roll: 88 values, 1 where a note sounds. In the model file it travels
    as a hop of 88 "samples"; its sample rate means nothing.

    Parameters
    ----------
    config : NotePredictorConfig
    """

    def __init__(self, config: NotePredictorConfig | None = None) -> None:
        super().__init__()
        self.config = cfg = config or NotePredictorConfig()
        self.cell = make_cell(cfg)
        self.refusal = self.cell.refusal
        self.readout = nn.Linear(cfg.n_outputs, N_NOTES)
        nn.init.constant_(self.readout.bias, -3.0)  # few notes sound at a time
        self.spec = ModelSpec(
            name=f"notes-{cfg.cell}",
            version="0.1.0",
            sample_rate=8000,
            hop=N_NOTES,
            io="waveform",
            window=N_NOTES,
            weights_licence="MIT",
            states=self.cell.states,
            description="Probabilities of the next step of a piano roll. A frame is 88 notes, not samples of sound.",
        )

    def logits(self, frames: Tensor, *states: Tensor, dropout: float = 0.0) -> tuple[Tensor, ...]:
        """Log odds of the notes of the next step, and the next states.

        Parameters
        ----------
        frames : float32 [channels, steps, 88]
        *states : as `states`
        dropout : float
            Share of the cell's outputs that the readout does not see.
        """
        z, *next_states = self.cell.sequence(frames, *states)
        return self.readout(nn.functional.dropout(z, dropout)), *next_states

    def sequence(self, frames: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """See `StreamableModel.sequence`; gives probabilities."""
        logits, *next_states = self.logits(frames, *states)
        return torch.sigmoid(logits), *next_states


def make_cell(config: NotePredictorConfig) -> SfmCell | GatedCell:
    """Make the cell that a configuration names."""
    family, _, kind = config.cell.partition("-")
    if family == "sfm" and kind in get_args(SfmKind):
        return SfmCell(
            N_NOTES, config.n_states, config.n_frequencies, config.n_outputs, cast(SfmKind, kind), config.frequencies
        )
    if config.cell in get_args(GatedKind):
        return GatedCell(cast(GatedKind, config.cell), N_NOTES, config.n_outputs)
    kinds = ", ".join([*get_args(GatedKind), *(f"sfm-{kind}" for kind in get_args(SfmKind))])
    raise ConfigError(f"cell {config.cell!r} is unknown; known are {kinds}")
