"""Parity: the same weights, offline and step by step, in torch, TorchScript and ONNX, must compute the same."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from streamproc.backends.loader import load_model
from streamproc.errors import ConfigError, ModelFileError, StreamprocError
from streamproc.model import FrameModel
from streamproc.places import require_file, require_folder
from streamproc.verify import Comparison, check_golden, run_steps

from .model_file import StepModule, initial_inputs, require_streaming, speech_like_frames

N_STEPS = 512
WARM_UP_STEPS = 64
N_CHANNELS = 2


class ParityError(StreamprocError):
    """A runtime computes something else than the module it was exported from."""


class Reference:
    """What the module itself computes, step by step: the frames, the start, and every output and state after it.

    The run starts in the state that the module reaches after `WARM_UP_STEPS` of another signal, because a graph that
    loses or swaps a state is right as long as all states are zero.

    Parameters
    ----------
    module : StepModule
    n_steps : int
    """

    @torch.no_grad()
    def __init__(self, module: StepModule, n_steps: int = N_STEPS) -> None:
        spec = module.spec
        self.module = module
        self.spec = spec
        frames = speech_like_frames(spec, WARM_UP_STEPS + n_steps, N_CHANNELS, seed=1)
        warm_up, self.frames = frames[:WARM_UP_STEPS], frames[WARM_UP_STEPS:]
        n_states = len(spec.states)
        inputs = initial_inputs(spec, N_CHANNELS)
        self.controls = inputs[n_states:]
        for frame in warm_up:
            _, *inputs[:n_states] = module.step(frame, *inputs)
        self.start = [state.clone() for state in inputs[:n_states]]
        self.outputs: list[np.ndarray] = []
        self.states: list[list[np.ndarray]] = []
        for frame in self.frames:
            out, *inputs[:n_states] = module.step(frame, *inputs)
            self.outputs.append(out.numpy().copy())
            self.states.append([state.numpy().copy() for state in inputs[:n_states]])

    @property
    def output_name(self) -> str:
        """Name of the frame that comes out."""
        return f"{self.spec.frame_input}_out"

    def compare_model(self, model: FrameModel) -> Comparison:
        """Run a model of the runtime over the same frames; every output and every state of every step counts."""
        if model.spec != self.spec:
            raise ModelFileError(f"{model.source}: its metadata is not that of the module: {_changed(self, model)}")
        comparison = Comparison(len(self.outputs), self.spec.precision)
        start = tuple(state.numpy() for state in self.start)
        steps = run_steps(model, list(self.frames.numpy()), start)
        for out, states, (found, found_states) in zip(self.outputs, self.states, steps, strict=True):
            comparison.update(self.output_name, found, out)
            for spec, state, found_state in zip(self.spec.states, states, found_states, strict=True):
                comparison.update(f"{spec.name}_out", found_state, state)
        return comparison

    @torch.no_grad()
    def compare_sequence(self) -> Comparison | None:
        """Run the module over all frames at once, as in training. None for a module that cannot."""
        sequence = getattr(self.module, "sequence", None)
        if sequence is None:
            return None
        comparison = Comparison(len(self.outputs))  # torch computes in float32, whatever a file does
        outputs, *states = sequence(self.frames.transpose(0, 1), *self.start, *self.controls)
        comparison.update(self.output_name, outputs.transpose(0, 1).numpy(), np.stack(self.outputs))
        for spec, found, state in zip(self.spec.states, states, self.states[-1], strict=True):
            comparison.update(f"{spec.name}_out", found.numpy(), state)
        return comparison


def require_ending(path: Path, kind: str, *allowed: str) -> None:
    """Raise `ConfigError` for a path that the runtime would not take for a file of this kind."""
    if path.suffix not in allowed:
        raise ConfigError(f"{path}: {kind} model file ends in {' or '.join(allowed)}")


def compare(module: StepModule, files: Iterable[Path], n_steps: int = N_STEPS) -> dict[str, Comparison]:
    """Compare a module with itself offline and with its exported files in the runtime.

    Parameters
    ----------
    module : StepModule
        In evaluation mode.
    files : paths of ``.onnx`` and ``.ts`` files
    n_steps : int

    Returns
    -------
    dict of str to Comparison
        By what was compared: the module offline, and each file's golden record and run.

    Raises
    ------
    ModelFileError, GoldenMismatch
        For a file that does not load, or fails its own golden record.
    """
    reference = Reference(module, n_steps)
    comparisons = {}
    offline = reference.compare_sequence()
    if offline is not None:
        comparisons["offline"] = offline
    for file in files:
        kind = "ONNX" if file.suffix == ".onnx" else "TorchScript"
        model = load_model(file)
        comparisons[f"{kind}, golden"] = check_golden(model)
        comparisons[kind] = reference.compare_model(model)
    return comparisons


def write_proven(
    module: StepModule, path: Path, write: Callable[[Path], None], n_steps: int = N_STEPS
) -> dict[str, Comparison]:
    """Write a model file under a temporary name, prove it in the runtime, and only then give it its name.

    Parameters
    ----------
    module : StepModule
        What the file must be equal to.
    path : Path
        Keeps what it held before when anything fails.
    write : callable
        Gets the temporary path.
    n_steps : int

    Returns
    -------
    dict of str to Comparison
        See `compare`.

    Raises
    ------
    ParityError, ModelFileError
        If the file does not compute what the module computes.
    ConfigError
        For a model that cannot stream (see `export.models.base.OfflineModel`), or a place that cannot be written.
    """
    require_streaming(module)
    require_folder(path.parent)
    path.parent.mkdir(parents=True, exist_ok=True)
    require_file(path)
    # It keeps its ending, by which the runtime chooses the backend.
    partial = path.with_name(f".{path.stem}.partial{path.suffix}")
    try:
        write(partial)
        comparisons = compare(module, [partial], n_steps)
        require_parity(comparisons)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return comparisons


def require_parity(comparisons: dict[str, Comparison]) -> None:
    """Raise `ParityError` that names every tensor of every comparison that failed."""
    failures = [f"{what}: {tensor}" for what, found in comparisons.items() for tensor in found.failures]
    if failures:
        raise ParityError(f"not equal to the module it was made from: {'; '.join(failures)}")


def print_table(comparisons: dict[str, Comparison], console: Console | None = None) -> None:
    """Print every comparison, tensor by tensor: largest difference, what is allowed, largest value of the reference."""
    table = Table(title="Parity with the module's own step")
    for heading in ("compared", "tensor"):
        table.add_column(heading, no_wrap=True)
    for heading in ("steps", "difference", "allowed", "magnitude"):
        table.add_column(heading, justify="right")
    table.add_column("")
    for what, comparison in comparisons.items():
        label = what
        for tensor in comparison.tensors.values():
            verdict = "[green]equal[/]" if tensor.passed else "[bold red]differs[/]"
            numbers = (f"{value:.1e}" for value in (tensor.error, tensor.tolerance, tensor.scale))
            table.add_row(label, tensor.name, str(comparison.n_steps), *numbers, verdict)
            label = ""
        table.add_section()
    (console or Console()).print(table)


def _changed(reference: Reference, model: FrameModel) -> str:
    ours, theirs = vars(reference.spec), vars(model.spec)
    return "; ".join(
        f"{name} is {theirs[name]!r}, the module says {ours[name]!r}" for name in ours if ours[name] != theirs[name]
    )
