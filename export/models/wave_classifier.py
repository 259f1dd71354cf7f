"""Which kind of wave it is: any small recurrent cell behind single samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast, get_args

import torch
from torch import Tensor, nn

from streamproc.errors import ConfigError
from streamproc.spec import ModelSpec

from .base import StreamableModel, StreamingModule
from .clockwork import ClockworkCell
from .gated import GatedCell, GatedKind
from .sfm import SfmCell, SfmKind


@dataclass(frozen=True)
class WaveClassifierConfig:
    """Sizes of a `WaveClassifier`.

    Parameters
    ----------
    cell : str
        ``lstm``, ``gru``, ``clockwork``, or ``sfm-fixed``, ``sfm-literal``, ``sfm-accumulated``.
    n_outputs : int
        Units of the first three, M of a state-frequency memory.
    n_states, n_frequencies : int
        D and K of a state-frequency memory.
    n_inputs : int
        1: values alone. 2: values, and the time since the value before. Only the first can be exported.
    """

    cell: str = "sfm-fixed"
    n_outputs: int = 4
    n_states: int = 20
    n_frequencies: int = 4
    n_inputs: int = 1


class WaveClassifier(StreamableModel):
    """A recurrent cell and one logistic unit: the probability, after every sample, that the wave is square.

    Frames are single samples. Out comes a probability for each, so that the output of a stream is a curve from 0
    (saw-tooth) to 1 (square).

    Parameters
    ----------
    config : WaveClassifierConfig
    """

    def __init__(self, config: WaveClassifierConfig | None = None) -> None:
        super().__init__()
        self.config = cfg = config or WaveClassifierConfig()
        self.cell = _make_cell(cfg)
        self.refusal = self.cell.refusal
        self.readout = nn.Linear(cfg.n_outputs, 1)
        self.spec = ModelSpec(
            name=f"wave-{cfg.cell}",
            version="0.1.0",
            sample_rate=1000,
            hop=1,
            io="waveform",
            window=1,
            weights_licence="MIT",
            states=self.cell.states,
            description="Tells square from saw-tooth waves: its output is the probability of a square wave.",
            training_data="Synthetic: square and saw-tooth waves at irregular times.",
        )

    @property
    def n_parameters(self) -> int:
        """Trained values."""
        cell = self.cell.n_parameters if isinstance(self.cell, ClockworkCell) else _count(self.cell)
        return cell + _count(self.readout)

    def logits(self, values: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """Log odds of a square wave after every sample, and the next states.

        Parameters
        ----------
        values : float32 [channels, steps, n_inputs]
        *states : as `states`

        Returns
        -------
        log_odds : [channels, steps, 1]
        *next_states : as `states`
        """
        z, *next_states = self.cell.sequence(values, *states)
        return self.readout(z), *next_states

    def sequence(self, frames: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """See `StreamableModel.sequence`; gives probabilities."""
        log_odds, *next_states = self.logits(frames, *states)
        return torch.sigmoid(log_odds), *next_states


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _make_cell(config: WaveClassifierConfig) -> StreamingModule:
    family, _, kind = config.cell.partition("-")
    if family == "sfm" and kind in get_args(SfmKind):
        return SfmCell(config.n_inputs, config.n_states, config.n_frequencies, config.n_outputs, cast(SfmKind, kind))
    if config.cell in get_args(GatedKind):
        return GatedCell(cast(GatedKind, config.cell), config.n_inputs, config.n_outputs)
    if config.cell == "clockwork":
        return ClockworkCell(config.n_inputs, config.n_outputs)
    raise ConfigError(
        f"cell {config.cell!r} is unknown; known are lstm, gru, clockwork, "
        f"{', '.join(f'sfm-{kind}' for kind in get_args(SfmKind))}"
    )
