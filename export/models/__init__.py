"""Models that train on whole sequences and run one step at a time."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from streamproc.atomic import replacing
from streamproc.errors import ConfigError

from .base import OfflineModel, StreamableModel, StreamingModule, enhance, istft, stft
from .denoiser import DENOISERS, GruDenoiser, GruDenoiserConfig
from .iir import IirFilter, PedalModel, PedalModelConfig, TanhFilter
from .noize import NoizeNet, NoizeNetConfig
from .note_predictor import NotePredictor, NotePredictorConfig
from .sine import BidirectionalSampleDenoiser, SampleDenoiser, SampleDenoiserConfig
from .wave_classifier import WaveClassifier, WaveClassifierConfig

__all__ = [
    "DENOISERS",
    "BidirectionalSampleDenoiser",
    "GruDenoiser",
    "GruDenoiserConfig",
    "IirFilter",
    "NoizeNet",
    "NoizeNetConfig",
    "NotePredictor",
    "NotePredictorConfig",
    "OfflineModel",
    "PedalModel",
    "PedalModelConfig",
    "SampleDenoiser",
    "SampleDenoiserConfig",
    "StreamableModel",
    "StreamingModule",
    "TanhFilter",
    "WaveClassifier",
    "WaveClassifierConfig",
    "build_model",
    "describe_model",
    "enhance",
    "istft",
    "load_checkpoint",
    "read_stored",
    "require_format",
    "save_checkpoint",
    "stft",
    "training_record",
]

CHECKPOINT_FORMAT = 2
"""What the weights of a checkpoint mean: since 2 the taps of a complex filter stand oldest first."""

_MODELS: dict[str, tuple[type[Any], type[Any]]] = {
    "GruDenoiser": (GruDenoiser, GruDenoiserConfig),
    "SampleDenoiser": (SampleDenoiser, SampleDenoiserConfig),
    "BidirectionalSampleDenoiser": (BidirectionalSampleDenoiser, SampleDenoiserConfig),
    "NoizeNet": (NoizeNet, NoizeNetConfig),
    "NotePredictor": (NotePredictor, NotePredictorConfig),
    "WaveClassifier": (WaveClassifier, WaveClassifierConfig),
    "PedalModel": (PedalModel, PedalModelConfig),
}
"""Models that are known by name, each with its configuration."""


def build_model(name: str, config: dict[str, Any] | None = None) -> StreamableModel:
    """Make an untrained model by class name, with any of its configuration's fields."""
    if name not in _MODELS:
        raise ValueError(f"model {name!r} is unknown; known are {', '.join(_MODELS)}")
    model_class, config_class = _MODELS[name]
    model: StreamableModel = model_class(config_class(**(config or {})))
    return model


def describe_model(model: StreamableModel) -> dict[str, Any]:
    """Return what `build_model` needs to make this model again, and what its weights mean."""
    return {
        "format": CHECKPOINT_FORMAT,
        "model": type(model).__name__,
        "model_config": asdict(model.config),  # type: ignore[arg-type]
    }


def save_checkpoint(model: StreamableModel, path: Path) -> None:
    """Write a trained model so that `load_checkpoint` makes it again."""
    with replacing(path) as partial:
        torch.save({**describe_model(model), "ema": model.state_dict()}, partial)


def load_checkpoint(path: Path | str) -> StreamableModel:
    """Return a trained model in evaluation mode, from an ``ema.pt`` or a whole training checkpoint.

    Parameters
    ----------
    path : path
        A file that `export.train` or `save_checkpoint` wrote. It is read with ``weights_only``: no code in it is run.

    Raises
    ------
    ConfigError
        For any other file.
    """
    stored = read_stored(path)
    if not {"model", "model_config", "ema"} <= stored.keys():
        raise ConfigError(f"{path}: not a checkpoint of this project's training: it holds no model")
    require_format(stored, path)
    try:
        model = build_model(stored["model"], stored["model_config"])
        model.load_state_dict(stored["ema"])
    except (ValueError, TypeError, RuntimeError) as error:
        raise ConfigError(f"{path}: not a checkpoint of this project's training ({error})") from error
    return model.eval()


def require_format(stored: dict[str, Any], path: Path | str) -> None:
    """Raise `ConfigError` for a checkpoint whose weights would fit, and mean something else."""
    found = stored.get("format", 1)
    if stored.get("model") == "GruDenoiser" and found != CHECKPOINT_FORMAT:
        raise ConfigError(
            f"{path}: a checkpoint of format {found}, and this version reads {CHECKPOINT_FORMAT}: its complex filter "
            f"would run backwards in time; train again, or start from export/checkpoints"
        )


def training_record(checkpoint: Path) -> dict[str, Any]:
    """Return what a training checkpoint says of the run that made it; empty for weights from elsewhere.

    Hours and minutes are of that run alone: what it started from is named, and has a record of its own.
    """
    stored = read_stored(checkpoint)
    if not {"train_config", "progress"} <= stored.keys():
        return {}
    config, progress = stored["train_config"], stored["progress"]
    return {
        "run": config["name"],
        "started_from": config.get("start") or "random weights",
        "steps": progress["step"],
        "minutes": round(progress["seconds"] / 60, 1),
        "hours_of_audio": round(progress["audio_hours"], 1),
        "seed": config["seed"],
        "environment": stored["environment"],
    }


def read_stored(path: Path | str) -> dict[str, Any]:
    """Return everything that is in a checkpoint; nothing for weights that lie in a file without names.

    Raises
    ------
    ConfigError
        If the file cannot be read, or is none that torch writes.
    """
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # pickle, which takes a text for a program, has as many ways to fail as a program has
        raise ConfigError(
            f"{path}: not a checkpoint of this project's training: torch reads no weights in it, or more than weights"
        ) from error
    return stored if isinstance(stored, dict) else {}
