"""Proof that a model runs here as it ran when it was made."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import GoldenMismatch, ModelFileError
from .model import Frame, FrameModel, State

RELATIVE_TOLERANCE = 1e-4
SMALLEST_SCALE = 1e-3


@dataclass
class TensorComparison:
    """How far one tensor strays from its reference over a run.

    Attributes
    ----------
    name : str
    error : float
        Largest absolute difference.
    scale : float
        Largest magnitude of the reference.
    """

    name: str
    error: float = 0.0
    scale: float = 0.0

    def update(self, found: npt.NDArray[Any], reference: npt.NDArray[Any]) -> None:
        """Take one pair of arrays into account; NaN anywhere counts as an infinite error."""
        error = float(np.abs(found - reference).max())
        self.error = max(self.error, error if np.isfinite(error) else np.inf)
        self.scale = max(self.scale, float(np.abs(reference).max()))

    @property
    def tolerance(self) -> float:
        """Largest difference that passes: ``1e-4 * max(1e-3, scale)``."""
        return RELATIVE_TOLERANCE * max(SMALLEST_SCALE, self.scale)

    @property
    def passed(self) -> bool:
        """Whether the difference is within the tolerance."""
        return self.error <= self.tolerance

    def __str__(self) -> str:
        return f"{self.name} differs by {self.error:.2e}, allowed {self.tolerance:.2e}"


@dataclass
class Comparison:
    """Every tensor of a model against its reference."""

    n_steps: int = 0
    tensors: dict[str, TensorComparison] = field(default_factory=dict)

    def update(self, name: str, found: npt.NDArray[Any], reference: npt.NDArray[Any]) -> None:
        """Take one pair of arrays of the tensor `name` into account."""
        self.tensors.setdefault(name, TensorComparison(name)).update(found, reference)

    @property
    def failures(self) -> list[TensorComparison]:
        """The tensors that differ too much."""
        return [tensor for tensor in self.tensors.values() if not tensor.passed]

    @property
    def passed(self) -> bool:
        """Whether every tensor is within its tolerance."""
        return not self.failures


def run_steps(model: FrameModel, frames: Sequence[Frame] | Frame, state: State) -> Iterator[tuple[Frame, State]]:
    """Run a model over frames exactly as the engine does: arrays bound once, two copies of the state that swap.

    Parameters
    ----------
    model : FrameModel
    frames : sequence of float32 [channels, *frame_shape]
    state : State
        Where to start; not changed.

    Yields
    ------
    out : float32 [channels, *frame_shape]
    state : State
        After the step. Both belong to the run and are overwritten by the next two steps.
    """
    frame, out = np.empty_like(frames[0]), np.empty_like(frames[0])
    here, there = (tuple(array.copy() for array in state) for _ in range(2))
    forth, back = model.bind(frame, here, out, there), model.bind(frame, there, out, here)
    for step, current in enumerate(frames):
        np.copyto(frame, current)
        (forth, back)[step % 2]()
        yield out, (there, here)[step % 2]


def check_golden(model: FrameModel) -> Comparison:
    """Run the golden record of a model and compare. Its controls go back to their defaults.

    Returns
    -------
    Comparison
        Outputs of every step and the final state, tensor by tensor.

    Raises
    ------
    GoldenMismatch
        If a tensor differs by more than ``1e-4 * max(1e-3, max|reference|)``.
    ModelFileError
        If the model has no golden record.
    """
    golden, spec = model.golden, model.spec
    if golden is None:
        raise ModelFileError(
            f"{model.source}: has no golden record to compare with; files that `python -m export` writes have one"
        )
    n_steps, n_channels = golden.frames.shape[:2]
    comparison = Comparison(n_steps)
    for control in spec.controls:
        model.controls[control.name].fill(control.default)
    final_state = model.init_state(n_channels)
    for reference, (out, state) in zip(golden.outputs, run_steps(model, golden.frames, final_state), strict=True):
        comparison.update(f"{spec.frame_input}_out", out, reference)
        final_state = state
    for state_spec, array, expected in zip(spec.states, final_state, golden.final_state, strict=True):
        comparison.update(f"{state_spec.name}_out", array, expected)
    if not comparison.passed:
        raise GoldenMismatch(
            f"{model.source}: does not run as it did when it was made: {'; '.join(map(str, comparison.failures))} "
            f"over {n_steps} steps; the file is damaged, or this backend computes something else"
        )
    return comparison
