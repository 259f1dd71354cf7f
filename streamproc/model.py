"""The model step, which is the one thing a backend implements, and models one hop at a time as processors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from .errors import ConfigError
from .processor import BaseProcessor
from .spec import Block, LatencyBreakdown, ModelSpec, StreamConfig
from .stft import StreamingStft

Frame = npt.NDArray[np.float32]
"""One frame: ``[channels, hop]`` of a waveform model or ``[channels, bins, 2]`` of a spectrum model."""

State = tuple[npt.NDArray[Any], ...]
"""Every state array, each ``[channels, *shape]``, in the order of `ModelSpec.states`."""

ChannelMode = Literal["independent", "linked"]

WARM_UP_STEPS = 8

_TINY = np.float32(1e-30)


@dataclass(frozen=True, eq=False)
class GoldenRecord:
    """What a model did when it was made: from its initial state, with its controls at their defaults.

    Parameters
    ----------
    frames, outputs : float32 [steps, channels, *frame_shape]
    final_state : State
        The state after the last step.
    """

    frames: npt.NDArray[np.float32]
    outputs: npt.NDArray[np.float32]
    final_state: State


class FrameModel(ABC):
    """A pure function from one frame and a state to one frame and the next state.

    Attributes
    ----------
    spec : ModelSpec
    controls : dict of str to float32 [1]
        The control inputs, read at every step. A host writes to them between steps.
    golden : GoldenRecord or None
        What `streamproc.verify.check_golden` holds the model to; None for a model that did not come from a file.
    source : str
        Where the model came from, for messages: the path of its file.
    """

    golden: GoldenRecord | None = None
    source: str = "a model made in Python"

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec
        self.controls = {control.name: np.array([control.default], np.float32) for control in spec.controls}

    def init_state(self, n_channels: int) -> State:
        """Return a state as it is before the first step."""
        return tuple(state.allocate(n_channels) for state in self.spec.states)

    @abstractmethod
    def step(self, frame: Frame, state: State, out: Frame, next_state: State) -> None:
        """Run one step. Thread: any, one at a time.

        Parameters
        ----------
        frame, out : float32 [channels, *frame_shape]
            `out` is filled. The two are different arrays.
        state, next_state : State
            `state` is read and `next_state` filled. The two share no array.
        """

    def bind(self, frame: Frame, state: State, out: Frame, next_state: State) -> Callable[[], None]:
        """Return a call that runs `step` on exactly these arrays, prepared as far as the backend can.

        The arrays must be C-contiguous and stay alive for as long as the call is used.
        """
        return partial(self.step, frame, state, out, next_state)


class _ModelFrames(BaseProcessor):
    """A frame model as a processor of blocks of exactly one hop; holds the two copies of the state."""

    def __init__(self, model: FrameModel) -> None:
        self.model = model
        self._states: tuple[State, State] = ((), ())
        self._steps: tuple[Callable[[], None], Callable[[], None]] | None = None
        self._turn = 0

    def prepare(self, config: StreamConfig) -> None:
        """Allocate, bind both directions of the state swap, warm up and reset."""
        spec = self.model.spec
        if config.fixed_block != spec.hop:
            raise ConfigError(
                f"model {spec.name!r} works on blocks of exactly {spec.hop} frames, the stream has "
                f"{config.fixed_block or 'blocks of any size'}; wrap it in Reblock or use ModelProcessor"
            )
        n = config.n_channels
        self._frame = np.zeros((n, *spec.frame_shape), np.float32)
        self._result = np.zeros((n, *spec.frame_shape), np.float32)
        self._states = (self.model.init_state(n), self.model.init_state(n))
        self._initial = self.model.init_state(n)
        here, there = self._states
        self._steps = (
            self.model.bind(self._frame, here, self._result, there),
            self.model.bind(self._frame, there, self._result, here),
        )
        for _ in range(WARM_UP_STEPS):
            self._step()
        self._rewind()

    def _step(self) -> None:
        assert self._steps is not None, "prepare comes before process"
        self._steps[self._turn]()
        self._turn ^= 1

    def _rewind(self) -> None:
        self._turn = 0
        for current, initial in zip(self._states[0], self._initial, strict=True):
            np.copyto(current, initial)

    @property
    def latency(self) -> LatencyBreakdown:
        """The model's algorithmic latency in samples at its own rate."""
        return LatencyBreakdown(algorithmic=self.model.spec.latency)  # type: ignore[arg-type]  # int becomes Fraction

    @property
    def tail_samples(self) -> int:
        """The analysis window: older samples reach the output through the state alone."""
        spec = self.model.spec
        return spec.fft_size if spec.io == "spectrum" else spec.hop

    def reset(self) -> None:
        """Return every state to its initial value."""
        self._rewind()

    @property
    def state(self) -> State:
        """The state that the next step will read."""
        return self._states[self._turn]


class WaveformFrames(_ModelFrames):
    """A waveform model: analysis and synthesis, if any, are inside it."""

    def process(self, x: Block, out: Block) -> None:
        """Run one step on one hop."""
        np.copyto(self._frame, x)
        self._step()
        np.copyto(out, self._result)


class SpectrumFrames(_ModelFrames):
    """A spectrum model between streaming analysis and synthesis.

    Parameters
    ----------
    model : FrameModel
    channel_mode : {"independent", "linked"}
        ``linked`` applies one complex gain per bin to all channels, so that a stereo image does not move. Of all common
        gains it takes the one nearest in the least-squares sense to what the model did to each channel,
        ``sum(Y conj(X)) / sum(|X|^2)`` over channels, where X is the frame that Y answers, ``lookahead`` frames before
        the newest; with one channel that is the model's own output.
    """

    def __init__(self, model: FrameModel, channel_mode: ChannelMode = "independent") -> None:
        super().__init__(model)
        self.channel_mode = channel_mode

    def prepare(self, config: StreamConfig) -> None:
        """Allocate and warm up."""
        spec = self.model.spec
        assert spec.window_kind is not None
        super().prepare(config)
        self._stft = StreamingStft(spec.window_kind, spec.fft_size, spec.window, spec.hop, config.n_channels)
        self._spectrum = self._frame.view(np.complex64)[..., 0]
        self._processed = self._result.view(np.complex64)[..., 0]
        self._link = self.channel_mode == "linked" and config.n_channels > 1
        self._recent = np.zeros((spec.lookahead + 1, *self._spectrum.shape), np.complex64)
        self._newest = 0
        self._product = np.zeros_like(self._spectrum)
        self._cross = np.zeros(spec.n_bins, np.complex64)
        self._power = np.zeros(spec.n_bins, np.float32)

    def process(self, x: Block, out: Block) -> None:
        """Analyse one hop, run one step, synthesise one hop."""
        self._stft.analyse(x, self._spectrum)
        self._step()
        if self._link:
            self._apply_common_gain(self._answered())
        self._stft.synthesise(self._processed, out)

    def _answered(self) -> npt.NDArray[np.complex64]:
        """Return the spectrum that the model's output describes: with a lookahead an earlier one than the newest."""
        if len(self._recent) == 1:
            return self._spectrum
        np.copyto(self._recent[self._newest], self._spectrum)
        self._newest = (self._newest + 1) % len(self._recent)
        answered: npt.NDArray[np.complex64] = self._recent[self._newest]
        return answered

    def _apply_common_gain(self, spectrum: npt.NDArray[np.complex64]) -> None:
        processed, product = self._processed, self._product
        np.conjugate(spectrum, out=product)
        np.multiply(processed, product, out=processed)
        np.add.reduce(processed, axis=0, out=self._cross)
        np.multiply(spectrum, product, out=product)
        np.add.reduce(product.real, axis=0, out=self._power)
        # A bin without power has no cross power either: any divisor but zero leaves its gain at zero.
        np.maximum(self._power, _TINY, out=self._power)
        np.divide(self._cross, self._power, out=self._cross)
        np.multiply(spectrum, self._cross, out=processed)

    def reset(self) -> None:
        """Return to silence and the initial state."""
        super().reset()
        self._stft.reset()
        self._recent.fill(0.0)
