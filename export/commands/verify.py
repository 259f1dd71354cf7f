"""``python -m export verify``: prove that every form of a model computes the same."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from . import _shared as args


def verify(
    target: args.Target,
    files: Annotated[
        list[Path] | None, typer.Argument(help="Model files; none: export both kinds and throw away.")
    ] = None,
    checkpoint: args.Checkpoint = None,
    io: args.Io = "as-is",
    steps: args.Steps = 512,
    weights: args.Weights = "float32",
) -> None:
    """Compare offline, step by step, TorchScript and ONNX: outputs and every state, from a state that is not zero."""
    from streamproc.backends.loader import load_model

    from ..to_onnx import export_onnx
    from ..to_torchscript import export_torchscript
    from ..verify import compare, print_table, require_parity

    told = load_model(files[0]).spec if files else None
    if told and told.precision == "int8":
        weights = "int8"
    module = args.load_module(target, checkpoint, io, weights=weights)
    if told:
        # What a file tells of its making is not in a checkpoint, and computes nothing.
        module.spec = replace(module.spec, version=told.version, training_data=told.training_data, metrics=told.metrics)
        comparisons = compare(module, files, steps)
    else:
        with args.warnings_as_lines(), tempfile.TemporaryDirectory() as folder:
            comparisons = export_onnx(module, Path(folder, "model.onnx"), steps)
            if weights != "int8":
                comparisons |= export_torchscript(module, Path(folder, "model.ts"), steps)
    print_table(comparisons)
    require_parity(comparisons)
