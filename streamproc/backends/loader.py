"""From the name or path of a model to a model that can step. The file type chooses the backend."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import BackendUnavailable, ModelFileError
from ..model import FrameModel
from ..model_file import Metadata
from ..sidecar import graph_of_sidecar, shipped_models, shipped_sidecars

_SUFFIXES = {".onnx": "ONNX", ".ts": "TorchScript", ".pt": "TorchScript", ".json": "sidecar of an ONNX file"}


def load_model(model: str | os.PathLike[str]) -> FrameModel:
    """Load a model and check it against its metadata.

    Parameters
    ----------
    model : str or path
        The name of a shipped model, or the path of a file: ``.onnx``, ``.ts`` or ``.pt`` (TorchScript), or the
        ``.json`` sidecar of a foreign ``.onnx``. A foreign ``.onnx`` finds its own sidecar when that is called
        ``<stem>.json`` and lies beside it, or is one of the shipped ones.

    Returns
    -------
    FrameModel

    Raises
    ------
    ModelFileError
        For a name that is unknown, a file that is missing, of no known type or damaged, or that breaks its contract.
    BackendUnavailable
        If the package that runs this type of file is not installed.
    """
    path = _locate(model)
    suffix = path.suffix.lower()
    if suffix == ".json":
        graph, metadata = graph_of_sidecar(path)
        return _load_onnx(graph, metadata)
    if suffix == ".onnx":
        return _load_onnx(path)
    return _load_torchscript(path)


def _locate(model: str | os.PathLike[str]) -> Path:
    """Return the path of a model file that exists and has a known type."""
    shipped = shipped_models()
    if isinstance(model, str) and model in shipped:
        return shipped[model]
    if isinstance(model, str) and model in shipped_sidecars() and not Path(model).exists():
        return shipped_sidecars()[model]
    path = Path(model)
    allowed = ", ".join(f"{suffix} ({kind})" for suffix, kind in _SUFFIXES.items())
    if path.is_dir():
        raise ModelFileError(f"{path}: is a folder, expected a model file: {allowed}")
    if path.is_file():
        if path.suffix.lower() not in _SUFFIXES:
            raise ModelFileError(f"{path}: {path.suffix or 'no suffix'} is not a type of model file; known: {allowed}")
        return path
    if path.suffix or len(path.parts) > 1:
        raise ModelFileError(f"{path}: there is no such file")
    names = ", ".join(shipped) or "none in this build"
    raise ModelFileError(f"{model}: no shipped model has this name ({names}), and there is no such file; {allowed}")


def _load_onnx(path: Path, sidecar: Metadata | None = None) -> FrameModel:
    try:
        from . import onnx
    except ImportError as error:
        raise BackendUnavailable(
            f"{path}: ONNX models need onnxruntime ({error}); install it with `pip install onnxruntime`"
        ) from error
    return onnx.load(path, sidecar)


def _load_torchscript(path: Path) -> FrameModel:
    try:
        from . import torchscript
    except ImportError as error:
        raise BackendUnavailable(
            f"{path}: TorchScript models need torch ({error}); install it with "
            f"`pip install 'streamproc[torchscript]'`, or use the .onnx file of the model"
        ) from error
    return torchscript.load(path)
