"""Proof that a model runs here as it ran when it was made."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import GoldenMismatch, ModelFileError
from .model import Frame, FrameModel, State
from .spec import Precision

RELATIVE_TOLERANCE = 1e-4
SMALLEST_SCALE = 1e-3
INT8_SNR_DB = 30.0


@dataclass
class TensorComparison:
    """How far one tensor strays from its reference over a run.

    With products in float32 the largest difference counts. Products in 8 bits round their operands, and where a value
    falls on one side or the other is up to the processor: there the power of the difference counts.

    Attributes
    ----------
    name : str
    precision : {"float32", "int8"}
        Of the products of the model.
    """

    name: str
    precision: Precision = "float32"
    _largest_error: float = 0.0
    _largest: float = 0.0
    _error_energy: float = 0.0
    _energy: float = 0.0
    _count: int = 0

    def update(self, found: npt.NDArray[Any], reference: npt.NDArray[Any]) -> None:
        """Take one pair of arrays into account; NaN anywhere counts as an infinite error."""
        difference = np.abs(found - reference, dtype=np.float64)
        if not np.isfinite(difference).all():
            difference = np.full_like(difference, np.inf)
        self._largest_error = max(self._largest_error, float(difference.max()))
        self._largest = max(self._largest, float(np.abs(reference).max()))
        self._error_energy += float(np.square(difference).sum())
        self._energy += float(np.square(reference, dtype=np.float64).sum())
        self._count += difference.size

    @property
    def error(self) -> float:
        """Largest absolute difference, or for 8 bits its root mean square."""
        return self._largest_error if self.precision == "float32" else self._rms(self._error_energy)

    @property
    def scale(self) -> float:
        """Largest magnitude of the reference, or for 8 bits its root mean square."""
        return self._largest if self.precision == "float32" else self._rms(self._energy)

    @property
    def tolerance(self) -> float:
        """Largest error that passes: ``1e-4 * max(1e-3, scale)``, or for 8 bits 30 dB below `scale`."""
        if self.precision == "float32":
            return RELATIVE_TOLERANCE * max(SMALLEST_SCALE, self.scale)
        return float(self.scale * 10 ** (-INT8_SNR_DB / 20))

    @property
    def passed(self) -> bool:
        """Whether the error is within the tolerance."""
        return self.error <= self.tolerance

    def _rms(self, energy: float) -> float:
        return float(np.sqrt(energy / max(1, self._count)))

    def __str__(self) -> str:
        return f"{self.name} differs by {self.error:.2e}, allowed {self.tolerance:.2e}"


@dataclass
class Comparison:
    """Every tensor of a model against its reference."""

    n_steps: int = 0
    precision: Precision = "float32"
    tensors: dict[str, TensorComparison] = field(default_factory=dict)

    def update(self, name: str, found: npt.NDArray[Any], reference: npt.NDArray[Any]) -> None:
        """Take one pair of arrays of the tensor `name` into account."""
        self.tensors.setdefault(name, TensorComparison(name, self.precision)).update(found, reference)

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
        If a tensor differs by more than `TensorComparison.tolerance`.
    ModelFileError
        If the model has no golden record.
    """
    golden, spec = model.golden, model.spec
    if golden is None:
        raise ModelFileError(
            f"{model.source}: has no golden record to compare with; files that `python -m export` writes have one"
        )
    n_steps, n_channels = golden.frames.shape[:2]
    comparison = Comparison(n_steps, spec.precision)
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
