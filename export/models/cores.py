"""The recurrent layers that a denoiser may be built around, under one way to make and to run them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, cast, get_args

from torch import Tensor, nn

from streamproc.errors import ConfigError
from streamproc.spec import StateSpec

from .base import StreamingModule
from .gated import GatedCell
from .layers import Gru
from .sfm import SfmCell

CoreKind = Literal["gru", "lstm", "sfm", "asfm"]


def make_core(kind: CoreKind, hidden: int, n_states: int, n_frequencies: int) -> nn.Module:
    """Make one layer from [channels, steps, hidden] to the same.

    Parameters
    ----------
    kind : {"gru", "lstm", "sfm", "asfm"}
        ``asfm`` is the accumulated adaptive cell, the one that streams.
    hidden : int
    n_states, n_frequencies : int
        D and K of a state-frequency memory; see `SfmCell`.

    Raises
    ------
    ConfigError
        For a core that does not exist.
    """
    if kind == "gru":
        return Gru(hidden, hidden)  # it trains faster than `GatedCell`, and its weights have the names of old files
    if kind == "lstm":
        return GatedCell("lstm", hidden, hidden)
    if kind in ("sfm", "asfm"):
        return SfmCell(hidden, n_states, n_frequencies, hidden, "fixed" if kind == "sfm" else "accumulated")
    raise ConfigError(f"core {kind!r} is unknown; known are {', '.join(get_args(CoreKind))}")


def core_states(kind: CoreKind, layers: Iterable[nn.Module]) -> tuple[StateSpec, ...]:
    """Return what all layers carry, named after layer and state: ``gru1``, ``lstm1_hidden``, ``sfm1_memory``."""
    specs = []
    for number, layer in enumerate(layers, start=1):
        if isinstance(layer, Gru):
            specs.append(StateSpec(f"gru{number}", (1, layer.hidden_size)))  # a step long, as what comes out of it
        else:
            carried = cast(StreamingModule, layer).states
            specs += [StateSpec(f"{kind}{number}_{state.name}", state.shape) for state in carried]
    return tuple(specs)


def run_core(layer: nn.Module, x: Tensor, states: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Run one layer of `make_core`; returns what comes out, and its next states."""
    if isinstance(layer, Gru):
        y, last = layer(x, states[0].transpose(0, 1))
        return y, last.transpose(0, 1)
    return cast(StreamingModule, layer).sequence(x, *states)
