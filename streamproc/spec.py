"""The values that describe streams, models and latency. Frozen, checked when made, free of behaviour."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields
from fractions import Fraction
from math import prod
from operator import index
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from .errors import ConfigError
from .windows import WindowKind

Block = npt.NDArray[np.float32]
"""Audio as float32 ``[channels, frames]``, nominal range [-1, 1]."""

IoKind = Literal["waveform", "spectrum"]
StateDtype = Literal["float32", "float64"]
Precision = Literal["float32", "int8"]

_TENSOR_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def positive_integer(name: str, value: Any) -> int:
    """Return an integer of any kind, numpy's too, as an int.

    Raises
    ------
    ConfigError
        If it is no integer, or below 1.
    """
    try:
        number = index(value)
    except TypeError:
        number = 0
    if number < 1:
        raise ConfigError(f"{name} must be a positive integer, found {value!r}")
    return number


@dataclass(frozen=True)
class StreamConfig:
    """What a processor is told before audio flows.

    Parameters
    ----------
    sample_rate : int
        Host rate in Hz.
    n_channels : int
        Channels of every block.
    max_block : int
        Largest block, in frames, that `process` will be given.
    fixed_block : int, optional
        Set when *every* block has exactly this many frames; adapters then need less delay.
    """

    sample_rate: int
    n_channels: int = 1
    max_block: int = 8192
    fixed_block: int | None = None

    def __post_init__(self) -> None:
        if self.fixed_block is not None:
            object.__setattr__(self, "fixed_block", positive_integer("fixed_block", self.fixed_block))
        for name in ("sample_rate", "n_channels", "max_block"):
            object.__setattr__(self, name, positive_integer(name, getattr(self, name)))
        if self.fixed_block is not None and self.fixed_block > self.max_block:
            raise ConfigError(
                f"fixed_block must lie between 1 and max_block = {self.max_block}, found {self.fixed_block}"
            )


@dataclass(frozen=True)
class LatencyBreakdown:
    """Where latency comes from: samples at the host rate, exact.

    A part may be a fraction of a sample (a filter delay at another rate); `total` is always whole.
    """

    device_in: Fraction = Fraction(0)
    resample: Fraction = Fraction(0)
    reblock: Fraction = Fraction(0)
    algorithmic: Fraction = Fraction(0)
    queue: Fraction = Fraction(0)
    device_out: Fraction = Fraction(0)

    def __post_init__(self) -> None:
        for part in fields(self):
            object.__setattr__(self, part.name, Fraction(getattr(self, part.name)))
        if sum(self.parts().values()).denominator != 1:
            raise ConfigError(f"the parts of a latency must add up to whole samples, found {self.parts()}")

    def parts(self) -> dict[str, Fraction]:
        """Return every part by name, in the order of the signal path."""
        return {part.name: getattr(self, part.name) for part in fields(self)}

    @property
    def total(self) -> int:
        """Sum of all parts in samples."""
        return int(sum(self.parts().values()))

    def ms(self, sample_rate: int) -> dict[str, float]:
        """Return every part, and the total, in milliseconds at `sample_rate` Hz."""
        parts = {**self.parts(), "total": Fraction(self.total)}
        return {name: float(1000 * value / sample_rate) for name, value in parts.items()}

    def __add__(self, other: LatencyBreakdown) -> LatencyBreakdown:
        theirs = other.parts()
        return LatencyBreakdown(**{name: value + theirs[name] for name, value in self.parts().items()})


@dataclass(frozen=True)
class StateSpec:
    """One tensor that a model carries from step to step.

    Parameters
    ----------
    name : str
        Input name; the output is ``<name>_out``.
    shape : tuple of int
        Shape for one channel; the array that holds the state is ``[channels, *shape]``.
    dtype : {"float32", "float64"}
    init : float
        Value of every element before the first step.
    """

    name: str
    shape: tuple[int, ...]
    dtype: StateDtype = "float32"
    init: float = 0.0

    def __post_init__(self) -> None:
        _require_tensor_name(self.name)
        if self.dtype not in get_args(StateDtype):
            raise ConfigError(
                f"state {self.name!r}: dtype must be one of {', '.join(get_args(StateDtype))}; found {self.dtype!r}"
            )
        if any(size < 1 for size in self.shape):
            raise ConfigError(f"state {self.name!r}: every size must be at least 1, found {list(self.shape)}")

    def allocate(self, n_channels: int) -> npt.NDArray[Any]:
        """Return a fresh array ``[n_channels, *shape]`` at its initial value."""
        return np.full((n_channels, *self.shape), self.init, dtype=self.dtype)


@dataclass(frozen=True)
class ControlSpec:
    """A scalar input of a model, float32 ``[1]``, that the host may move between blocks."""

    name: str
    default: float
    minimum: float
    maximum: float
    unit: str = ""
    description: str = ""

    def __post_init__(self) -> None:
        _require_tensor_name(self.name)
        if not self.minimum <= self.default <= self.maximum:
            raise ConfigError(
                f"control {self.name!r}: default {self.default} lies outside {self.minimum}..{self.maximum}"
            )


@dataclass(frozen=True)
class ModelSpec:
    """The contract of one model file: what a step eats, carries and gives.

    Parameters
    ----------
    name, version, description : str
    sample_rate : int
        Rate in Hz that the model was trained for.
    hop : int
        New samples per step.
    io : {"waveform", "spectrum"}
        ``waveform``: ``audio`` in, ``audio_out`` out, ``[channels, hop]``.
        ``spectrum``: ``spectrum`` in, ``spectrum_out`` out, ``[channels, bins, 2]`` (real, imaginary) of the
        unnormalised real FFT of the windowed frame.
    window : int
        Samples of the synthesis window. A waveform model that answers within its hop says ``window == hop``.
    lookahead : int
        Hops of future that the model waits for.
    analysis_window : int, optional
        Samples of the analysis window, which is also the FFT size; `window` unless given. Spectrum models only.
    window_kind : str, optional
        See `streamproc.windows.window_pair`. Spectrum models only.
    channels : int, optional
        1 where the graph is fixed to one channel; the runtime then keeps one state set per channel.
        None where the first axis of every tensor is the channel axis.
    precision : {"float32", "int8"}
        Of the products of matrices. It says how closely two backends, or two processors, can agree on the rest:
        see `streamproc.verify`.
    states, controls : tuples of `StateSpec`, `ControlSpec`
    weights_licence : str
    training_data : str
    metrics : dict
        Figures measured when the file was made, with how they were measured.

    Notes
    -----
    ``latency = window - hop + lookahead * hop`` samples at `sample_rate`: a frame ends with its newest sample, and
    synthesis completes the oldest `hop` samples of its window.
    """

    name: str
    version: str
    sample_rate: int
    hop: int
    io: IoKind
    window: int
    weights_licence: str
    lookahead: int = 0
    analysis_window: int | None = None
    window_kind: WindowKind | None = None
    channels: Literal[1] | None = None
    precision: Precision = "float32"
    states: tuple[StateSpec, ...] = ()
    controls: tuple[ControlSpec, ...] = ()
    description: str = ""
    training_data: str = ""
    metrics: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.io not in get_args(IoKind):
            raise ConfigError(f"io must be one of {', '.join(get_args(IoKind))}; found {self.io!r}")
        if self.precision not in get_args(Precision):
            raise ConfigError(f"precision must be one of {', '.join(get_args(Precision))}; found {self.precision!r}")
        if not 1000 <= self.sample_rate <= 768_000:
            raise ConfigError(f"sample_rate must lie between 1000 and 768000 Hz, found {self.sample_rate}")
        if self.hop < 1 or self.window < self.hop:
            raise ConfigError(f"hop must be positive and window at least one hop; found {self.hop}, {self.window}")
        if self.lookahead < 0:
            raise ConfigError(f"lookahead must be at least 0 hops, found {self.lookahead}")
        if not self.weights_licence:
            raise ConfigError("weights_licence is empty; name the licence of the weights, for example 'MIT'")
        if (self.window_kind is None) == (self.io == "spectrum"):
            raise ConfigError(f"window_kind belongs to spectrum models and only to them; io is {self.io!r}")
        if self.analysis_window is not None and self.io == "waveform":
            raise ConfigError("analysis_window belongs to spectrum models only")
        names = [state.name for state in self.states] + [control.name for control in self.controls]
        taken = {"audio", "spectrum"}
        for name in names:
            if name in taken:
                raise ConfigError(f"tensor name {name!r} is used twice or reserved")
            taken |= {name, f"{name}_out"}

    @property
    def fft_size(self) -> int:
        """Length of the transform: the analysis window."""
        return self.analysis_window or self.window

    @property
    def n_bins(self) -> int:
        """Bins of one spectrum frame."""
        return self.fft_size // 2 + 1

    @property
    def latency(self) -> int:
        """Algorithmic latency in samples at the model's rate, without the hop that blocks must gather."""
        return self.window - self.hop + self.lookahead * self.hop

    @property
    def frame_shape(self) -> tuple[int, ...]:
        """Shape of one frame without its channel axis."""
        return (self.hop,) if self.io == "waveform" else (self.n_bins, 2)

    @property
    def n_state_values(self) -> int:
        """State elements per channel."""
        return sum(prod(state.shape) for state in self.states)

    @property
    def frame_input(self) -> str:
        """Name of the tensor that carries the frame in; it comes out as ``<name>_out``."""
        return "audio" if self.io == "waveform" else "spectrum"


def _require_tensor_name(name: str) -> None:
    if not _TENSOR_NAME.fullmatch(name):
        raise ConfigError(f"tensor name {name!r} must be letters, digits and underscores")
