"""The model step in TorchScript. The only file of the runtime that imports torch."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ..errors import ModelFileError
from ..model import Frame, FrameModel, State
from ..model_file import EXTRA_FILE, Metadata, Tensor, check_tensors, expected_tensors, parse_metadata
from ..spec import ModelSpec


class TorchScriptModel(FrameModel):
    """A model step in a TorchScript module: ``forward(frame, *states, *controls) -> (out, *next_states)``.

    Parameters
    ----------
    module : torch.nn.Module
        In evaluation mode. One that is not scripted is run by Python, operation by operation.
    spec : ModelSpec

    Notes
    -----
    Arguments go by position; TorchScript does not keep names that could be checked. A module fixed to one channel
    (``spec.channels == 1``) runs once per channel, on that channel's slice of every array.
    """

    def __init__(self, module: torch.nn.Module, spec: ModelSpec) -> None:
        super().__init__(spec)
        self._module = module

    def step(self, frame: Frame, state: State, out: Frame, next_state: State) -> None:
        """Run one step on arrays that were not bound before."""
        self.bind(frame, state, out, next_state)()

    def bind(self, frame: Frame, state: State, out: Frame, next_state: State) -> Callable[[], None]:
        """Wrap the arrays in tensors that share their memory, once, and return the call that runs on them.

        Results are new tensors, which TorchScript cannot avoid, and are copied into `out` and `next_state`.
        Torch computes with one thread from here on, in the whole process: a second thread costs more to wake than a
        step of this size takes, and torch has no setting for one module alone.
        """
        torch.set_num_threads(1)
        controls = [torch.from_numpy(array) for array in self.controls.values()]
        channels = [slice(None)] if self.spec.channels is None else range(frame.shape[0])
        runs = [
            (
                [torch.from_numpy(array[channel, ...]) for array in (frame, *state)] + controls,
                [torch.from_numpy(array[channel, ...]) for array in (out, *next_state)],
            )
            for channel in channels
        ]
        module = self._module

        def bound() -> None:
            with torch.inference_mode():
                for inputs, results in runs:
                    for result, value in zip(results, _as_tuple(module(*inputs)), strict=True):
                        result.copy_(value)

        return bound


def load(path: Path) -> TorchScriptModel:
    """Load a TorchScript file and check, by running one step, that it keeps to its metadata.

    From here on this thread, and every thread that it starts, flushes denormals to zero, as with onnxruntime.

    Raises
    ------
    ModelFileError
        For a file that is not TorchScript, has no metadata, or breaks it.
    """
    torch.set_flush_denormal(True)
    extra_files: dict[str, Any] = {EXTRA_FILE: ""}
    try:
        module = torch.jit.load(  # type: ignore[no-untyped-call]
            str(path), map_location="cpu", _extra_files=extra_files
        )
    except (RuntimeError, ValueError, OSError) as error:
        hint = "if it should be one, it is damaged: write or download it again"
        if zipfile.is_zipfile(path):
            hint = "it looks like a checkpoint: export it with `python -m export torchscript`"
        reason = str(error).splitlines()[0][:200]
        raise ModelFileError(f"{path}: not a TorchScript file ({reason}); {hint}") from error
    text = extra_files[EXTRA_FILE]
    if not text:
        raise ModelFileError(
            f"{path}: a TorchScript module without streamproc metadata (extra file {EXTRA_FILE!r}), which says its "
            f"rate, hop and states; export it with `python -m export torchscript`"
        )
    metadata = parse_metadata(text, str(path))
    module.eval()
    _check_one_step(module, metadata.spec, path)
    model = TorchScriptModel(module, metadata.spec)
    model.golden = metadata.golden
    model.source = str(path)
    return model


def _check_one_step(module: torch.jit.ScriptModule, spec: ModelSpec, path: Path) -> None:
    """Run one step and compare its results with the metadata. Two channels show an axis that is fixed at one."""
    inputs, outputs = expected_tensors(Metadata(spec))
    promised = [tensor._replace(shape=_with_two_channels(tensor)) for tensor in outputs]
    values = [torch.zeros(_with_two_channels(tensor), dtype=getattr(torch, tensor.dtype)) for tensor in inputs]
    listing = ", ".join(f"{tensor.name} ({tensor})" for tensor in inputs)
    try:
        with torch.inference_mode():
            results = _as_tuple(module(*values))
    except (RuntimeError, TypeError) as error:
        reason = str(error).strip().splitlines()[-1][:200]
        raise ModelFileError(
            f"{path}: one step on the inputs of the metadata, {listing}, fails ({reason}); export the model again"
        ) from error
    if len(results) != len(promised):
        raise ModelFileError(
            f"{path}: one step gives {len(results)} tensors, the metadata promises {len(promised)} "
            f"({', '.join(tensor.name for tensor in promised)}); export the model again"
        )
    found = [
        Tensor(tensor.name, tuple(result.shape), str(result.dtype).removeprefix("torch."))
        for tensor, result in zip(promised, results, strict=True)
    ]
    check_tensors("output", promised, found, str(path))


def _as_tuple(results: Any) -> tuple[torch.Tensor, ...]:
    """Return what a module returned as a tuple: one without states may return its frame alone."""
    return results if isinstance(results, tuple) else (results,)


def _with_two_channels(tensor: Tensor) -> tuple[Any, ...]:
    return tuple(2 if size == "channels" else size for size in tensor.shape)
