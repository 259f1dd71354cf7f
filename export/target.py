"""From what was typed on the command line to a module that can be exported."""

from __future__ import annotations

import importlib
import inspect
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from streamproc.errors import StreamprocError
from streamproc.model_file import Metadata, Tensor, check_tensors, expected_tensors
from streamproc.spec import ModelSpec

from . import models
from .model_file import StepModule, initial_inputs, require_streaming, run_step, speech_like_frames

SHIPPED = {
    **dict.fromkeys(models.DENOISERS, "GruDenoiser"),
    "sine": "SampleDenoiser",
    "sine-bidirectional": "BidirectionalSampleDenoiser",
    "pedal": "PedalModel",
    "signal-type": "WaveClassifier",
    "music": "NotePredictor",
    "noize": "NoizeNet",
}
"""Name on the command line to model class of `export.models`."""


class ExportError(StreamprocError):
    """Something that cannot be exported, and why."""


def load_target(target: str, checkpoint: Path | None = None, **changes: Any) -> StepModule:
    """Make the module that `target` names, with its weights, in evaluation mode.

    Parameters
    ----------
    target : str
        A model of this project (``denoise``), or ``package.module:callable``. The callable returns a module with
        `spec` and `step`. Where it has a parameter called ``checkpoint`` it is given the path, or None, and loads
        what it likes; otherwise it takes no argument.
    checkpoint : Path, optional
        For a callable without that parameter: a file that `torch.load` reads with ``weights_only=True``, holding a
        state dict, or a dict with one under ``state_dict``, ``model`` or ``weights``.
    **changes
        Fields of the spec to set, for example ``version="1.2"``.

    Raises
    ------
    ExportError
        When there is no such thing, or what it makes is not a step module.
    """
    module = _build_own(target, checkpoint) if ":" in target else _build_shipped(target, checkpoint)
    require_streaming(module)
    spec = getattr(module, "spec", None)
    if (
        not isinstance(module, nn.Module)
        or not isinstance(spec, ModelSpec)
        or not callable(getattr(module, "step", None))
    ):
        raise ExportError(
            f"{target}: made {type(module).__name__}, expected a torch.nn.Module with `spec` (a streamproc.ModelSpec) "
            f"and `step(frame, *states)`; examples/own_model.py shows one"
        )
    if changes:
        module.spec = replace(spec, **changes)
    module.eval().requires_grad_(False)
    check_step(module, target)
    return module


def check_step(module: StepModule, name: str) -> None:
    """Run one step on two channels and hold its results to the spec.

    Raises
    ------
    ExportError
        If the step fails, or gives other tensors than the spec promises.
    """
    spec, n_channels = module.spec, 2
    if spec.channels is not None:
        raise ExportError(f"{name}: its spec fixes the channels; a module to export takes any number on its first axis")
    frame = speech_like_frames(spec, 1, n_channels)[0]
    try:
        with torch.no_grad():
            results = run_step(module, frame, *initial_inputs(spec, n_channels))
    except Exception as error:
        raise ExportError(f"{name}: step fails on {n_channels} channels at its initial state: {error}") from error
    _, promised = expected_tensors(Metadata(spec))
    if not isinstance(results, tuple | list) or len(results) != len(promised):
        found = f"{len(results)} values" if isinstance(results, tuple | list) else type(results).__name__
        raise ExportError(f"{name}: step returns {found}, expected ({', '.join(tensor.name for tensor in promised)})")
    for tensor, result in zip(promised, results, strict=True):
        if not isinstance(result, torch.Tensor):
            raise ExportError(f"{name}: step returns {type(result).__name__} for {tensor.name}, expected a tensor")
    expected = [t._replace(shape=tuple(n_channels if n == "channels" else n for n in t.shape)) for t in promised]
    given = [
        Tensor(tensor.name, tuple(result.shape), str(result.dtype).removeprefix("torch."))
        for tensor, result in zip(expected, results, strict=True)
    ]
    check_tensors("output", expected, given, name)


def _build_shipped(target: str, checkpoint: Path | None) -> nn.Module:
    if target not in SHIPPED:
        raise ExportError(
            f"{target}: no model of this project has this name ({', '.join(SHIPPED)}); "
            f"for one of your own say package.module:callable"
        )
    if checkpoint is None:
        config = models.DENOISERS.get(target)
        return models.build_model(SHIPPED[target], asdict(config) if config else None)
    if not checkpoint.is_file():
        raise ExportError(f"{checkpoint}: there is no such checkpoint")
    module = models.load_checkpoint(checkpoint)
    if type(module).__name__ != SHIPPED[target]:
        raise ExportError(f"{checkpoint}: holds a {type(module).__name__}, and {target} is a {SHIPPED[target]}")
    return module


def _build_own(target: str, checkpoint: Path | None) -> Any:
    module_name, _, attribute = target.partition(":")
    try:
        build = getattr(importlib.import_module(module_name), attribute)
    except Exception as error:  # whatever the code of a module raises
        raise ExportError(
            f"{target}: cannot be imported ({_said(error)}); expected package.module:callable, importable from here"
        ) from error
    if not callable(build):
        raise ExportError(f"{target}: is {type(build).__name__}, expected a callable that returns a module")
    if checkpoint is not None and not checkpoint.is_file():
        raise ExportError(f"{checkpoint}: there is no such checkpoint")
    try:
        loads = "checkpoint" in inspect.signature(build).parameters
        module = build(checkpoint=checkpoint) if loads else build()
    except Exception as error:  # whatever the callable raises
        raise ExportError(
            f"{target}: makes no module ({_said(error)}); expected a callable without arguments, or with `checkpoint`"
        ) from error
    if checkpoint is not None and not loads:
        _load_weights(module, checkpoint)
    return module


def _load_weights(module: nn.Module, checkpoint: Path) -> None:
    try:
        stored = torch.load(checkpoint, map_location="cpu", weights_only=True)
        # A parameter may have one of these names, too.
        wrapped = (stored.get(key) for key in ("state_dict", "model", "weights"))
        weights = next((value for value in wrapped if isinstance(value, dict)), stored)
        module.load_state_dict(weights)
    except Exception as error:  # pickle, zip and torch each have their own way to say no
        raise ExportError(f"{checkpoint}: does not fit {type(module).__name__}: {error}") from error


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
