"""Export to TorchScript: the same step, with the same metadata, for hosts that have torch and no onnxruntime."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch

from streamproc.errors import ConfigError
from streamproc.verify import Comparison

from .model_file import StepForward, StepModule, example_inputs, metadata_text, save_torchscript
from .verify import N_STEPS, require_ending, write_proven


def export_torchscript(module: StepModule, path: Path, n_steps: int = N_STEPS) -> dict[str, Comparison]:
    """Write a module as a TorchScript model file and prove it in the runtime.

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
        See `export.verify.compare`.

    Raises
    ------
    ParityError, ModelFileError
        If the file does not compute what the module computes. Nothing is left behind.
    ConfigError
        If `path` has another ending, or the module multiplies in 8 bits: torch has no such step.

    Notes
    -----
    The step is traced, so it must not read the values of tensors in Python; `export.verify` warns of it. Freezing the
    module, or torch's own ``optimize_for_inference``, gained nothing on a recurrent step when it was tried.
    ``streamproc bench a.onnx a.ts`` shows what the two formats cost.
    """
    require_ending(path, "a TorchScript", ".ts", ".pt")

    def write(partial: Path) -> None:
        if module.spec.precision != "float32":
            raise ConfigError(
                f"{path}: products in {module.spec.precision} exist as ONNX only; "
                f"use `export onnx`, or --weights float16"
            )
        with warnings.catch_warnings(), torch.no_grad():
            warnings.filterwarnings("ignore", r".*torch\.jit.*", DeprecationWarning)
            # A trace warns wherever Python looks at a shape; what matters of that is decided by the proof.
            warnings.simplefilter("ignore", torch.jit.TracerWarning)
            traced = torch.jit.trace(StepForward(module), example_inputs(module.spec), check_trace=False)
            save_torchscript(traced, partial, metadata_text(module))

    return write_proven(module, path, write, n_steps)
