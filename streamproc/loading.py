"""From a model's name or path to a processor."""

from __future__ import annotations

from os import PathLike
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .model_processor import ModelProcessor


def load(model: str | PathLike[str] = "denoise", channel_mode: str | None = None) -> ModelProcessor:
    """Load a model as a processor for streams of any rate, block size and number of channels.

    Parameters
    ----------
    model : str or path
        Name of a shipped model, or a model file: ``.onnx``, ``.ts``, or the ``.json`` sidecar of a foreign ``.onnx``.
    channel_mode : {"linked", "independent", "mono"}, optional
        How several channels share the model. By default ``linked`` (one gain for all, the stereo image stays)
        for spectrum models and ``independent`` for waveform models.

    Raises
    ------
    ModelFileError
        If the file is missing, unreadable or breaks its contract.
    BackendUnavailable
        If the package that runs this kind of file is not installed.
    """
    from .backends.loader import load_model
    from .model_processor import ModelProcessor

    frame_model = load_model(model)
    if channel_mode is None:
        channel_mode = "linked" if frame_model.spec.io == "spectrum" else "independent"
    return ModelProcessor(frame_model, channel_mode)
