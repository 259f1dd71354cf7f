"""Writes model files: metadata into ONNX and TorchScript, and the golden record that proves them.

What the text says is specified in ``docs/model-file.md``; `streamproc.model_file` writes and reads it.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from streamproc.errors import ConfigError
from streamproc.model import GoldenRecord
from streamproc.model_file import EXTRA_FILE, METADATA_KEY, Metadata, dump_metadata
from streamproc.spec import ModelSpec
from streamproc.stft import StreamingStft

GOLDEN_STEPS = 16


class StepModule(Protocol):
    """What can be exported: any torch module with a contract and a step that keeps to it."""

    spec: ModelSpec

    def step(self, frame: Tensor, *states_and_controls: Tensor) -> tuple[Tensor, ...]:
        """Run one step.

        Parameters
        ----------
        frame : float32 [channels, *spec.frame_shape]
        *states : [channels, *shape], in the order of ``spec.states``
        *controls : float32 [1], in the order of ``spec.controls``

        Returns
        -------
        out : float32 [channels, *spec.frame_shape]
        *next_states : [channels, *shape]
        """


class StepForward(nn.Module):
    """A module whose `forward` is the step of another, because exporters trace `forward`.

    What the step overwrites of its inputs is copied first, because the arrays of a host are not the file's to change.
    """

    def __init__(self, module: StepModule) -> None:
        super().__init__()
        self.module = module
        # Exporters leave a module in the mode they found it in, its parts included: dropout must stay off.
        self.train(module.training)
        inputs = example_inputs(module.spec)
        before = [value._version for value in inputs]
        with torch.no_grad():
            module.step(*inputs)
        self._overwritten = [value._version != version for value, version in zip(inputs, before, strict=True)]

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Run one step."""
        kept = zip(inputs, self._overwritten, strict=True)
        return tuple(self.module.step(*(value.clone() if overwritten else value for value, overwritten in kept)))


def run_step(module: StepModule, *inputs: Tensor) -> tuple[Tensor, ...]:
    """Run one step on copies: it may work in place, and the inputs are needed again."""
    return module.step(*(value.clone() for value in inputs))


def require_streaming(module: object) -> None:
    """Raise `ConfigError` for a model that cannot run for ever; the message says why, and what to use instead."""
    refusal = getattr(module, "refusal", "")
    if refusal:
        raise ConfigError(refusal)


def initial_inputs(spec: ModelSpec, n_channels: int) -> list[Tensor]:
    """Return what the first step reads after its frame: every state, then every control at its default."""
    states = [torch.from_numpy(state.allocate(n_channels)) for state in spec.states]
    return [*states, *(torch.tensor([control.default], dtype=torch.float32) for control in spec.controls)]


def speech_like_frames(
    spec: ModelSpec, n_steps: int, n_channels: int = 1, seed: int = 0, gains: np.ndarray | None = None
) -> Tensor:
    """Return frames of a signal at the level of speech: a gliding voice-like tone with pauses, in light noise.

    Parameters
    ----------
    spec : ModelSpec
    n_steps, n_channels, seed : int
    gains : float [n_steps], optional
        What the audio of every step is multiplied by; what then exceeds full scale is clipped.

    Returns
    -------
    float32 [n_steps, n_channels, *spec.frame_shape]
    """
    rng = np.random.default_rng(seed)
    time = np.arange(n_steps * spec.hop) / spec.sample_rate
    audio = np.empty((n_channels, time.size), np.float32)
    for channel in audio:
        pitch_hz = rng.uniform(90.0, 220.0) * (1.0 + 0.2 * np.sin(2 * np.pi * 3.0 * time))
        phase = 2 * np.pi * np.cumsum(pitch_hz) / spec.sample_rate
        voice = sum(np.sin(k * phase + rng.uniform(0, 2 * np.pi)) / k for k in range(1, 21))
        syllables = np.clip(np.sin(2 * np.pi * 4.0 * time + rng.uniform(0, np.pi)) + 0.3, 0.0, 1.0)
        channel[:] = 0.1 * voice * syllables + 0.01 * rng.standard_normal(time.size)
    if gains is not None:
        audio = np.clip(audio * np.repeat(gains, spec.hop), -1.0, 1.0).astype(np.float32)
    hops = audio.reshape(n_channels, n_steps, spec.hop).swapaxes(0, 1)
    if spec.io == "waveform":
        return torch.from_numpy(hops.copy())
    assert spec.window_kind is not None
    stft = StreamingStft(spec.window_kind, spec.fft_size, spec.window, spec.hop, n_channels)
    spectra = np.empty((n_steps, n_channels, spec.n_bins), np.complex64)
    for hop, spectrum in zip(hops, spectra, strict=True):
        stft.analyse(np.ascontiguousarray(hop), spectrum)
    return torch.from_numpy(spectra.view(np.float32).reshape(n_steps, n_channels, spec.n_bins, 2))


def example_inputs(spec: ModelSpec) -> tuple[Tensor, ...]:
    """Return one frame of one channel and what the first step reads after it, for tracing."""
    return (speech_like_frames(spec, 1)[0], *initial_inputs(spec, 1))


@torch.no_grad()
def make_golden(module: StepModule) -> GoldenRecord:
    """Run a module for a few steps from its initial state and record what it did."""
    spec = module.spec
    frames = speech_like_frames(spec, GOLDEN_STEPS)
    inputs = initial_inputs(spec, 1)
    n_states = len(spec.states)
    outputs = []
    for frame in frames:
        out, *inputs[:n_states] = run_step(module, frame, *inputs)
        outputs.append(out.numpy().copy())
    return GoldenRecord(frames.numpy(), np.stack(outputs), tuple(state.numpy() for state in inputs[:n_states]))


def metadata_text(module: StepModule) -> str:
    """Return the metadata of a module, golden record included."""
    return dump_metadata(Metadata(stored_spec(module.spec), make_golden(module)))


def stored_spec(spec: ModelSpec) -> ModelSpec:
    """Return a spec as a file gives it back: its metrics are JSON, so arrays and tuples become lists.

    Raises
    ------
    ConfigError
        For metrics that JSON cannot hold.
    """
    try:
        metrics = json.loads(json.dumps(spec.metrics, default=lambda value: value.tolist(), allow_nan=False))
    except (AttributeError, TypeError, ValueError) as error:
        raise ConfigError(
            f"{spec.name}: its metrics cannot be stored ({error}); give finite numbers, text, lists and dicts of them"
        ) from error
    return replace(spec, metrics=metrics)


def save_onnx(graph: onnx.ModelProto, path: Path, text: str) -> None:
    """Save a graph with the metadata text inside, in one file."""
    onnx.helper.set_model_props(graph, {METADATA_KEY: text})
    onnx.checker.check_model(graph)
    onnx.save(graph, path)


def save_torchscript(module: torch.jit.ScriptModule, path: Path, text: str) -> None:
    """Save a TorchScript module with the metadata text inside."""
    torch.jit.save(module, str(path), _extra_files={EXTRA_FILE: text})
