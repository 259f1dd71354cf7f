"""Sidecars: metadata beside a graph that was not made for streamproc, in a JSON file of its own."""

from __future__ import annotations

import hashlib
from pathlib import Path

from .errors import ModelFileError
from .model_file import SPECIFICATION, ForeignGraph, Metadata, parse_metadata

SHIPPED = Path(__file__).parent / "models"
"""Folder of the models and sidecars that come with the package."""


def read_sidecar(path: Path) -> tuple[Metadata, ForeignGraph]:
    """Read a sidecar.

    Raises
    ------
    ModelFileError
        For a file that cannot be read, breaks the format, or does not say which graph it describes.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise ModelFileError(f"{path}: the sidecar cannot be read: {error.strerror or error}") from None
    metadata = parse_metadata(text, str(path))
    if metadata.graph is None:
        raise ModelFileError(
            f"{path}: graph is missing, a sidecar must say which file it describes, "
            f'for example "graph": {{"file": "model.onnx"}} ({SPECIFICATION})'
        )
    return metadata, metadata.graph


def find_sidecar(graph: Path) -> tuple[Path, Metadata] | None:
    """Return the sidecar of a graph: ``<stem>.json`` beside it, or a shipped one that knows its digest."""
    beside = graph.with_suffix(".json")
    if beside.is_file():
        return beside, read_sidecar(beside)[0]
    digest = hashlib.sha256(graph.read_bytes()).hexdigest()
    for path in shipped_sidecars().values():
        metadata, described = read_sidecar(path)
        if described.sha256 == digest:
            return path, metadata
    return None


def graph_of_sidecar(path: Path) -> tuple[Path, Metadata]:
    """Return the graph that a sidecar describes, and what it says about it.

    Raises
    ------
    ModelFileError
        When the graph is not beside the sidecar.
    """
    metadata, described = read_sidecar(path)
    graph = path.parent / described.file
    if not graph.is_file():
        origin = f"it is published at {described.url}; " if described.url else ""
        raise ModelFileError(
            f"{path}: describes {described.file}, which is not beside it; {origin}"
            f"give the path of that .onnx file, or put the sidecar next to it"
        )
    return graph, metadata


def shipped_models() -> dict[str, Path]:
    """Return the models that come with the package by name."""
    return {path.stem: path for path in sorted(SHIPPED.glob("*.onnx"))}


def shipped_sidecars() -> dict[str, Path]:
    """Return the sidecars that come with the package by name; their graphs do not come with it."""
    return {path.stem: path for path in sorted(SHIPPED.glob("*.json"))}
