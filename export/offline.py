"""Export of models that need the whole signal: one graph from signal to signal, which streaming code refuses."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import onnx
import torch

from streamproc.atomic import replacing
from streamproc.backends.onnx import open_session
from streamproc.model_file import FORMAT_VERSION
from streamproc.verify import Comparison

from .model_file import save_onnx
from .models.base import OfflineModel
from .to_onnx import OPSET
from .verify import require_ending, require_parity


def export_offline(model: OfflineModel, path: Path, n_frames: int = 480) -> dict[str, Comparison]:
    """Write a model of whole signals as ONNX and prove it; onnxruntime runs it, streams refuse it.

    Parameters
    ----------
    model : OfflineModel
        In evaluation mode. Maps float32 [channels, frames] to the same, for any number of both.
    path : Path
        ``.onnx``. Written only when the proof succeeds.
    n_frames : int
        Frames of the signal that is traced; the proof takes other lengths as well.

    Returns
    -------
    dict of str to Comparison

    Raises
    ------
    ParityError
        If onnxruntime computes something else than the module.
    """
    require_ending(path, "an ONNX", ".onnx")
    path.parent.mkdir(parents=True, exist_ok=True)
    note = {
        "format_version": FORMAT_VERSION,
        "name": model.name,
        "sample_rate": model.sample_rate,
        "offline": model.refusal,
    }
    with replacing(path) as partial:
        with warnings.catch_warnings(), torch.no_grad():
            for category in (DeprecationWarning, torch.jit.TracerWarning, UserWarning):
                warnings.simplefilter("ignore", category)
            torch.onnx.export(
                model,
                (torch.zeros(1, n_frames),),
                str(partial),
                input_names=["audio"],
                output_names=["audio_out"],
                dynamic_axes={name: {0: "channels", 1: "frames"} for name in ("audio", "audio_out")},
                opset_version=OPSET,
                dynamo=False,
            )
        save_onnx(onnx.load(partial), partial, json.dumps(note, indent=1))
        comparisons = {"ONNX, whole signals": _compare(model, partial, (1, n_frames, 2 * n_frames + 7))}
        require_parity(comparisons)
    return comparisons


@torch.no_grad()
def _compare(model: OfflineModel, path: Path, lengths: tuple[int, ...]) -> Comparison:
    session = open_session(str(path))
    comparison = Comparison(len(lengths))
    rng = np.random.default_rng(1)
    for n_frames in lengths:
        audio = rng.uniform(-0.5, 0.5, (2, n_frames)).astype(np.float32)
        (found,) = session.run(None, {"audio": audio})
        comparison.update("audio_out", found, model(torch.from_numpy(audio)).numpy())
    return comparison
