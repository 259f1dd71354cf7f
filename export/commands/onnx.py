"""``python -m export onnx``: write an ONNX model file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import _shared as args


def onnx(
    target: args.Target,
    out: Annotated[Path, typer.Option(help="File to write: .onnx")],
    checkpoint: args.Checkpoint = None,
    io: args.Io = "as-is",
    steps: args.Steps = 512,
    model_version: args.ModelVersion = None,
    training_data: args.TrainingData = None,
    metrics: args.Metrics = None,
    weights: args.Weights = "float32",
) -> None:
    """Export a model to ONNX; the file appears only when it has proved equal to the model."""
    from ..to_onnx import export_onnx

    module = args.load_module(target, checkpoint, io, model_version, training_data, metrics, weights)
    args.export_and_report(export_onnx, module, out, steps)
