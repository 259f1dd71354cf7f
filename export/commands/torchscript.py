"""``python -m export torchscript``: write a TorchScript model file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import _shared as args


def torchscript(
    target: args.Target,
    out: Annotated[Path, typer.Option(help="File to write: .ts")],
    checkpoint: args.Checkpoint = None,
    io: args.Io = "as-is",
    steps: args.Steps = 512,
    model_version: args.ModelVersion = None,
    training_data: args.TrainingData = None,
    metrics: args.Metrics = None,
    weights: args.Weights = "float32",
) -> None:
    """Export a model to TorchScript; the file appears only when it has proved equal to the model."""
    from ..to_torchscript import export_torchscript

    module = args.load_module(target, checkpoint, io, model_version, training_data, metrics, weights)
    args.export_and_report(export_torchscript, module, out, steps)
