"""Export to ONNX: one step with explicit state, the channel axis free, the metadata inside."""

from __future__ import annotations

import warnings
from pathlib import Path

import onnx
import torch

from streamproc.verify import Comparison

from .model_file import (
    StepForward,
    StepModule,
    add_metadata_to_onnx,
    initial_inputs,
    metadata_text,
    speech_like_frames,
    write_proven,
)
from .verify import N_STEPS, require_parity, verify

OPSET = 18


def export_onnx(module: StepModule, path: Path, n_steps: int = N_STEPS) -> dict[str, Comparison]:
    """Write a module as an ONNX model file and prove it in the runtime.

    Parameters
    ----------
    module : StepModule
        In evaluation mode, on the CPU.
    path : Path
        Written only when the proof succeeds.
    n_steps : int
        Steps of the proof.

    Returns
    -------
    dict of str to Comparison
        See `export.verify.verify`.

    Raises
    ------
    ParityError, ModelFileError
        If the file does not compute what the module computes. Nothing is left behind.

    Notes
    -----
    The tracing exporter, not the newer ``dynamo=True``: both are equal to the module here, but on a step of a recurrent
    model the traced graph is smaller (36 nodes against 61) and faster (27 us against 35 us), because it does not slice
    and join the weights again at every step. The GRU operator beats the same GRU written as matrix products as well
    (27 us against 31 us; 2 layers of 128, one channel).
    """
    comparisons: dict[str, Comparison] = {}

    def write(partial: Path) -> None:
        _trace(module, partial)
        graph = onnx.load(partial)
        add_metadata_to_onnx(graph, metadata_text(module))
        onnx.checker.check_model(graph)
        onnx.save(graph, partial)

    def prove(partial: Path) -> None:
        comparisons.update(verify(module, [partial], n_steps))
        require_parity(comparisons)

    write_proven(path, write, prove)
    return comparisons


def _trace(module: StepModule, path: Path) -> None:
    """Write the bare graph under the names of the contract."""
    spec = module.spec
    states = [state.name for state in spec.states]
    carried = [spec.frame_input, *states]
    input_names = [*carried, *(control.name for control in spec.controls)]
    output_names = [f"{name}_out" for name in carried]
    n_channels = spec.channels or 1
    free = {} if spec.channels else {name: {0: "channels"} for name in (*carried, *output_names)}
    frame = speech_like_frames(spec, 1, n_channels)[0]
    with warnings.catch_warnings(), torch.no_grad():
        # What these would warn of (a fixed batch size, the exporter's age) is what the proof afterwards decides.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            StepForward(module),
            (frame, *initial_inputs(spec, n_channels)),
            str(path),
            input_names=input_names,
            output_names=output_names,
            dynamic_axes=free,
            opset_version=OPSET,
            dynamo=False,
        )
