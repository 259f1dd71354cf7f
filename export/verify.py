"""Parity: the same weights, offline and step by step, in torch, TorchScript and ONNX, must compute the same."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.overrides import TorchFunctionMode

from streamproc.atomic import replacing
from streamproc.backends.loader import load_model
from streamproc.errors import ConfigError, ModelFileError, StreamprocError
from streamproc.model import FrameModel
from streamproc.places import require_file, require_folder
from streamproc.spec import ModelSpec
from streamproc.verify import Comparison, check_golden, run_steps

from .model_file import (
    StepModule,
    example_inputs,
    initial_inputs,
    require_streaming,
    run_step,
    speech_like_frames,
    stored_spec,
)

N_STEPS = 512
WARM_UP_STEPS = 64
N_CHANNELS = 2
FULL_SCALE_GAIN = 20.0
"""From the level of speech to where the voice clips, and the noise in its pauses nearly does."""


class ParityError(StreamprocError):
    """A runtime computes something else than the module it was exported from."""


class ValueReadWarning(UserWarning):
    """A step reads the value of a tensor in Python, and a trace keeps the one that it had at that moment."""


class Reference:
    """What the module itself computes, step by step: the frames, the start, and every output and state after it.

    The run starts in the state that the module reaches after `WARM_UP_STEPS` of another signal, because a graph that
    loses or swaps a state is right as long as all states are zero. Digital silence and full scale come up four times,
    and the controls move, because a trace keeps what the module does at one level and one setting.

    Parameters
    ----------
    module : StepModule
    n_steps : int
    """

    @torch.no_grad()
    def __init__(self, module: StepModule, n_steps: int = N_STEPS) -> None:
        spec = stored_spec(module.spec)
        self.module = module
        self.spec = spec
        gains = _gains(n_steps)
        # Errors in loud sound count as if it were speech: speech itself is not judged by what loud sound would allow.
        self.louder = np.maximum(gains, 1.0).astype(np.float32)
        all_gains = np.concatenate([np.ones(WARM_UP_STEPS), gains])
        frames = speech_like_frames(spec, WARM_UP_STEPS + n_steps, N_CHANNELS, seed=1, gains=all_gains)
        warm_up, self.frames = frames[:WARM_UP_STEPS], frames[WARM_UP_STEPS:]
        n_states = len(spec.states)
        inputs = initial_inputs(spec, N_CHANNELS)
        for frame in warm_up:
            _, *inputs[:n_states] = run_step(module, frame, *inputs)
        self.start = inputs[:n_states]
        self.settings = _settings(spec)
        self.outputs: list[np.ndarray] = []
        self.states: list[list[np.ndarray]] = []
        states = self.start
        for controls, frames in self.parts():
            for frame in frames:
                out, *states = run_step(module, frame, *states, *controls)
                _require_finite((out, *states), controls, spec)
                self.outputs.append(out.numpy().copy())
                self.states.append([state.numpy().copy() for state in states])

    def parts(self) -> Iterable[tuple[list[Tensor], Tensor]]:
        """Return the run in parts of equal length: where the controls are, and the frames."""
        return zip(self.settings, self.frames.tensor_split(len(self.settings)), strict=True)

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
        pairs = zip(self.outputs, self.states, steps, self.louder, strict=True)
        for controls, frames in self.parts():
            for control, value in zip(self.spec.controls, controls, strict=True):
                model.controls[control.name][:] = value.numpy()
            for out, states, (found, found_states), louder in islice(pairs, len(frames)):
                comparison.update(self.output_name, found / louder, out / louder)
                for spec, state, found_state in zip(self.spec.states, states, found_states, strict=True):
                    comparison.update(f"{spec.name}_out", found_state / louder, state / louder)
        return comparison

    @torch.no_grad()
    def compare_sequence(self) -> Comparison | None:
        """Run the module over all frames of a part at once, as in training. None for a module that cannot."""
        sequence = getattr(self.module, "sequence", None)
        if sequence is None:
            return None
        comparison = Comparison(len(self.outputs))  # torch computes in float32, whatever a file does
        outputs, states = [], self.start
        for controls, frames in self.parts():
            inputs = (frames.transpose(0, 1), *states, *controls)
            out, *states = sequence(*(value.clone() for value in inputs))
            outputs.append(out.transpose(0, 1).numpy())
        for found, out, louder in zip(np.concatenate(outputs), self.outputs, self.louder, strict=True):
            comparison.update(self.output_name, found / louder, out / louder)
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
    warn_of_read_values(module)
    with replacing(path) as unproven:
        # The runtime chooses the backend by the ending.
        partial = unproven.with_suffix(path.suffix)
        try:
            write(partial)
            comparisons = compare(module, [partial], n_steps)
            require_parity(comparisons)
            os.replace(partial, unproven)
        except ModelFileError as error:
            raise type(error)(str(error).replace(str(partial), str(path))) from error
        finally:
            partial.unlink(missing_ok=True)
    return comparisons


@torch.no_grad()
def warn_of_read_values(module: StepModule) -> None:
    """Give a `ValueReadWarning` for every line where a step reads the value of a tensor in Python.

    The warnings of the tracer itself do not tell values from sizes, which a step may well look at.
    """
    with _ValuesRead(module):
        run_step(module, *example_inputs(module.spec))


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


def _gains(n_steps: int) -> np.ndarray:
    """Return the gain of every step: four times most at the level of speech, then silence, then full scale."""
    place = 4 * np.arange(n_steps) / n_steps % 1
    return np.select([place < 5 / 8, place < 13 / 16], [1.0, 0.0], FULL_SCALE_GAIN)


def _settings(spec: ModelSpec) -> list[list[Tensor]]:
    """Return where the controls are in each of eight parts: at their defaults, minima, maxima, and between.

    There each is at another place of its range, so that a graph that swaps two of them is found.
    """
    controls = spec.controls
    ends = [[getattr(c, end) for c in controls] for end in ("default", "default", "minimum", "maximum")]
    places = [[(part / 4 + 1 / 8 + 0.382 * n) % 1 for n in range(len(controls))] for part in range(4)]
    between = [
        [c.minimum + place * (c.maximum - c.minimum) for c, place in zip(controls, row, strict=True)] for row in places
    ]
    return [[torch.tensor([value], dtype=torch.float32) for value in setting] for setting in ends + between]


def _require_finite(results: tuple[Tensor, ...], controls: list[Tensor], spec: ModelSpec) -> None:
    if not all(bool(torch.isfinite(value).all()) for value in results):
        where = ", ".join(f"{c.name} {value.item():g}" for c, value in zip(spec.controls, controls, strict=True))
        raise ParityError(
            f"{spec.name}: its step gives numbers that are not finite{where and f' with {where}'}; they must be finite "
            "for all audio within -1..1, silence included, and controls within their range: mend the step or the range"
        )


class _ValuesRead(TorchFunctionMode):
    """While it is entered, Python that turns a tensor into a value gets a warning; weights do not change."""

    _READERS = ("item", "tolist", "numpy", "equal", "is_nonzero", "__bool__", "__float__", "__index__", "__int__")

    def __init__(self, module: StepModule) -> None:
        super().__init__()
        assert isinstance(module, torch.nn.Module)
        self._constants = {id(value) for value in (*module.parameters(), *module.buffers())}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in self._READERS and not self._constants.intersection(map(id, args[:1])):
            warnings.warn(
                "the step reads the value of a tensor in Python; the file keeps the one that it has now. "
                "Compute with tensors instead, for example with torch.where",
                ValueReadWarning,
                stacklevel=2,
            )
        return func(*args, **(kwargs or {}))
