"""What a streamable model is, and the differentiable framing that trains it exactly as the runtime runs it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from streamproc.spec import ModelSpec, StateSpec
from streamproc.windows import window_pair


class StreamingModule(nn.Module, ABC):
    """A pure function from a sequence and states to a sequence and next states, cut anywhere in time.

    The one streaming base of every recurrent cell and model: a subclass says which states it carries and writes
    `sequence`; `step` is the same code with one frame, so what was trained is what runs. Nothing may be kept in the
    module between calls, and no frame may see a later one.

    Attributes
    ----------
    refusal : str
        Why it cannot be exported for streams, and what can; empty for what streams for ever.
    """

    refusal = ""

    @property
    @abstractmethod
    def states(self) -> tuple[StateSpec, ...]:
        """What is carried from step to step, in the order in which `sequence` takes and returns it."""

    @abstractmethod
    def sequence(self, frames: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """Run any number of steps.

        Parameters
        ----------
        frames : float32 [channels, steps, ...]
        *states : [channels, *shape], in the order of `states`

        Returns
        -------
        out : [channels, steps, ...]
        *next_states : as `states`
        """

    def step(self, frame: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """Run one step: `frame` is float32 [channels, ...]."""
        out, *next_states = self.sequence(frame.unsqueeze(1), *states)
        return (out[:, 0], *next_states)

    def init_state(self, n_channels: int) -> tuple[Tensor, ...]:
        """Return every state at its initial value, on the device of the weights."""
        reference = next(self.parameters(), torch.empty(0))
        return tuple(
            torch.full(
                (n_channels, *state.shape), state.init, dtype=getattr(torch, state.dtype), device=reference.device
            )
            for state in self.states
        )

    def forward(self, frames: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """`sequence`, from the initial state where none is given."""
        return self.sequence(frames, *(states or self.init_state(frames.shape[0])))


class StreamableModel(StreamingModule):
    """A streaming module with a contract, `spec`, by which the runtime can run it.

    Frames are float32 [channels, steps, *spec.frame_shape] in and out, and the states are those of the spec.
    """

    spec: ModelSpec
    compilable: tuple[str, ...] = ()
    """Methods that are nothing but arithmetic, which training may compile (`export.compiling`)."""

    @property
    def states(self) -> tuple[StateSpec, ...]:
        """The states of the spec."""
        return self.spec.states

    def calibrate(self, frames: Tensor) -> None:
        """Set fixed constants of the model from example input, once, before training. Does nothing here.

        Parameters
        ----------
        frames : float32 [channels, steps, *spec.frame_shape]
        """


class OfflineModel(nn.Module, ABC):
    """A model that needs the whole signal at once. It trains and runs offline; everything that streams refuses it.

    Attributes
    ----------
    name : str
    sample_rate : int
        Hz.
    why_offline, use_instead : str
        The two halves of what a refusal says.
    """

    name: str
    sample_rate: int
    why_offline: str
    use_instead: str

    @property
    def refusal(self) -> str:
        """Why this cannot stream, and what can."""
        return f"{self.name} cannot run as a stream: {self.why_offline}. Use {self.use_instead}"


def stft(samples: Tensor, spec: ModelSpec) -> Tensor:
    """Return spectra exactly as the streaming runtime makes them.

    Frame ``t`` is the unnormalised real FFT of the `analysis_window` newest samples ending at sample
    ``(t + 1) * hop``, windowed; before the start there are zeros, and the last hop is completed with zeros.

    Parameters
    ----------
    samples : [channels, frames]

    Returns
    -------
    [channels, steps, bins, 2]
        Real and imaginary parts; ``steps = ceil(frames / hop)``.
    """
    analysis, _ = _windows(spec, samples.device, samples.dtype)
    missing = -samples.shape[-1] % spec.hop
    padded = functional.pad(samples, (spec.fft_size - spec.hop, missing))
    return torch.view_as_real(torch.fft.rfft(padded.unfold(-1, spec.fft_size, spec.hop) * analysis))


def istft(spectrum: Tensor, spec: ModelSpec) -> Tensor:
    """Synthesise samples exactly as the streaming runtime does: late by ``window - hop`` samples.

    Parameters
    ----------
    spectrum : [channels, steps, bins, 2]

    Returns
    -------
    [channels, steps * hop]
        Sample ``n`` describes input sample ``n - (window - hop)``.
    """
    _, synthesis = _windows(spec, spectrum.device, spectrum.dtype)
    out: Tensor = _Synthesis.apply(spectrum, synthesis, spec.fft_size, spec.hop)
    return out


def enhance(model: StreamableModel, samples: Tensor) -> Tensor:
    """Run a spectrum model over whole signals; output aligned with and as long as the input.

    Parameters
    ----------
    samples : float32 [channels, frames]
    """
    n, delay = samples.shape[-1], model.spec.latency
    spectrum = stft(functional.pad(samples, (0, delay)), model.spec)
    return istft(model(spectrum)[0], model.spec)[..., delay : delay + n]


class _Synthesis(torch.autograd.Function):
    """`istft`; its gradient is one FFT, less work than differentiating the steps one by one."""

    @staticmethod
    def forward(ctx: Any, spectrum: Tensor, synthesis: Tensor, fft_size: int, hop: int) -> Tensor:
        ctx.save_for_backward(synthesis)
        ctx.fft_size, ctx.hop = fft_size, hop
        frames = torch.fft.irfft(torch.view_as_complex(spectrum.contiguous()), fft_size)
        pieces = frames[..., -len(synthesis) :] * synthesis
        channels, steps, _ = pieces.shape
        pieces = pieces.view(channels, steps, -1, hop)
        # Hop t of the output is the first hop of frame t's window, plus the later hops of the frames before it.
        out = pieces[:, :, 0].clone()
        for late in range(1, pieces.shape[2]):
            out[:, late:] += pieces[:, : steps - late, late]
        return out.view(channels, steps * hop)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:  # type: ignore[override]
        (synthesis,) = ctx.saved_tensors
        window, late = len(synthesis), len(synthesis) - ctx.hop
        pieces = functional.pad(grad, (0, late)).unfold(-1, window, ctx.hop) * synthesis
        frames = functional.pad(pieces, (ctx.fft_size - window, 0))
        spectrum = torch.fft.rfft(frames, norm="forward")
        spectrum[..., 1:-1] *= 2.0  # the inverse counts bins between 0 and half the sample rate twice
        return torch.view_as_real(spectrum), None, None, None


@lru_cache(maxsize=16)
@torch.inference_mode(mode=False)  # what is kept here must serve training too, whoever asks first
def _windows_of(
    kind: str, analysis_window: int, window: int, hop: int, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    analysis, synthesis = window_pair(kind, analysis_window, window, hop)  # type: ignore[arg-type]
    return (
        torch.as_tensor(analysis, device=device, dtype=dtype),
        torch.as_tensor(synthesis, device=device, dtype=dtype),
    )


def _windows(spec: ModelSpec, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    if spec.window_kind is None:
        raise ValueError(f"model {spec.name!r} takes {spec.io}, not spectra: it has no windows")
    return _windows_of(spec.window_kind, spec.fft_size, spec.window, spec.hop, device, dtype)
