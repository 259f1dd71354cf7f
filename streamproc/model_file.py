"""What the metadata of a model file says, and whether the graph beside it keeps that promise.

The format is specified in ``docs/model-file.md``. This module knows the text and the checks; the backends know
where a file of their kind keeps the text (`METADATA_KEY`, `EXTRA_FILE`) and what its graph looks like.
"""

from __future__ import annotations

import base64
import difflib
import io
import json
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ._version import __version__
from .errors import ModelFileError
from .model import GoldenRecord
from .spec import ModelSpec

FORMAT_VERSION = 1

METADATA_KEY = "streamproc"
"""Key of the metadata text in ``metadata_props`` of an ONNX file."""

EXTRA_FILE = "streamproc.json"
"""Name of the extra file that holds the metadata text in a TorchScript file."""

SPECIFICATION = "docs/model-file.md"

_MEANING = {
    "sample_rate": "the rate in Hz that the model was trained for",
    "weights_licence": "the licence of the weights, for example 'MIT'",
    "hop": "the new samples per step",
    "window": "the samples of the synthesis window",
    "io": "'waveform' or 'spectrum'",
}


@dataclass(frozen=True)
class ForeignGraph:
    """How a graph that was not made for streamproc maps to the contract. Sidecars only.

    Parameters
    ----------
    file : str
        Name of the graph's file, beside the sidecar.
    sha256 : str
        Digest of that file; with it a shipped sidecar recognises the file wherever it lies.
    url : str
        Where to get it.
    names : dict of str to str
        Contract name to graph name, where the two differ.
    frame_layout : tuple of int, optional
        Shape that the graph gives to the frame of one channel, where it is not that of the contract.
    """

    file: str
    sha256: str = ""
    url: str = ""
    names: dict[str, str] = field(default_factory=dict)
    frame_layout: tuple[int, ...] | None = None


@dataclass(frozen=True, eq=False)
class Metadata:
    """Everything that a model file says about itself."""

    spec: ModelSpec
    golden: GoldenRecord | None = None
    graph: ForeignGraph | None = None


class Tensor(NamedTuple):
    """An input or output of a graph. A dimension that is not a number is free."""

    name: str
    shape: tuple[int | str | None, ...]
    dtype: str

    def __str__(self) -> str:
        return f"{self.dtype} {_shape_text(self.shape)}"


def dump_metadata(metadata: Metadata) -> str:
    """Return the metadata as JSON text; `parse_metadata` reads it back."""
    document: dict[str, Any] = {"format_version": FORMAT_VERSION, **_without_defaults(metadata.spec)}
    if metadata.graph is not None:
        document["graph"] = _without_defaults(metadata.graph)
    if metadata.golden is not None:
        document["golden"] = _pack_golden(metadata.golden, metadata.spec)
    return json.dumps(document, indent=1)


def parse_metadata(text: str | bytes, source: str) -> Metadata:
    """Read metadata and check every value in it.

    Parameters
    ----------
    text : str or bytes
        JSON.
    source : str
        The file it came from; messages begin with it.

    Raises
    ------
    ModelFileError
        For text that is not JSON, a newer format, missing, unknown or wrong values, and a graph for whole signals.
    """
    try:
        document = json.loads(text)
    except ValueError as error:
        raise ModelFileError(
            f"{source}: the metadata is not valid JSON ({error}); the file is damaged, write or download it again"
        ) from None
    if not isinstance(document, dict):
        raise ModelFileError(f"{source}: the metadata is {_brief(document)}, expected a JSON object ({SPECIFICATION})")
    _check_format_version(document.pop("format_version", None), source)
    offline = document.get("offline")
    if isinstance(offline, str):  # a graph for whole signals; it says itself why it cannot stream
        raise ModelFileError(f"{source}: {offline}")
    golden_text = document.pop("golden", None)
    graph_values = document.pop("graph", None)
    spec, graph = _validate(document, graph_values, source)
    golden = None if golden_text is None else _unpack_golden(golden_text, spec, source)
    return Metadata(spec, golden, graph)


def _check_format_version(version: object, source: str) -> None:
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        found = "missing" if version is None else f"{_brief(version)}, not a positive integer"
        raise ModelFileError(f"{source}: format_version is {found}; expected {FORMAT_VERSION} ({SPECIFICATION})")
    if version > FORMAT_VERSION:
        raise ModelFileError(
            f"{source}: the file has model-file format {version}, streamproc {__version__} reads up to "
            f"{FORMAT_VERSION}: upgrade with `pip install -U streamproc`, or export the model again"
        )


def _validate(spec: dict[str, Any], graph: object, source: str) -> tuple[ModelSpec, ForeignGraph | None]:
    from pydantic import ConfigDict, TypeAdapter, ValidationError  # not needed until a model file is read

    # The configuration reaches plain dataclasses only from a type around them. JSON, and not the parsed values,
    # because strict validation takes a list for a tuple only there.
    adapter = TypeAdapter(tuple[ModelSpec, ForeignGraph | None], config=ConfigDict(extra="forbid", strict=True))
    try:
        return adapter.validate_json(json.dumps([spec, graph]))
    except ValidationError as error:
        problems = [_explain(problem["type"], problem["loc"], problem) for problem in error.errors()]
        raise ModelFileError(f"{source}: {'; '.join(problems)} ({SPECIFICATION} describes every field)") from None


def _explain(kind: str, location: tuple[int | str, ...], problem: Mapping[str, Any]) -> str:
    """Say in a few words what pydantic found."""
    part, *path = location
    keys = [key for key in path if key != "ForeignGraph"]
    where = ".".join(map(str, ["graph", *keys] if part == 1 else keys))
    if kind == "value_error":
        return str(problem["ctx"]["error"])
    if kind == "missing":
        meaning = _MEANING.get(where)
        return f"{where} is missing" + (f", it must give {meaning}" if meaning else "")
    if kind in ("unexpected_keyword_argument", "extra_forbidden"):
        close = difflib.get_close_matches(where, [known.name for known in fields(ModelSpec)], 1)
        return f"{where} is not a known field" + (f", did you mean {close[0]}?" if close else "")
    expected = problem["msg"].removeprefix("Input should be ")
    return f"{where or 'the metadata'} is {_brief(problem['input'])}, expected {expected}"


def expected_tensors(metadata: Metadata) -> tuple[list[Tensor], list[Tensor]]:
    """Return the inputs and outputs that the graph of a model must have, under the names of the graph.

    The first dimension is the word ``channels`` unless the graph is fixed to one channel.
    """
    spec, graph = metadata.spec, metadata.graph or ForeignGraph("")
    free: tuple[str, ...] = () if spec.channels == 1 else ("channels",)
    frame = free + (graph.frame_layout or spec.frame_shape)
    carried = [(spec.frame_input, frame, "float32")]
    carried += [(state.name, free + state.shape, str(state.dtype)) for state in spec.states]
    inputs = [*carried, *((control.name, (1,), "float32") for control in spec.controls)]
    outputs = [(f"{name}_out", shape, dtype) for name, shape, dtype in carried]
    names = graph.names

    def under_graph_names(tensors: Sequence[tuple[str, tuple[int | str, ...], str]]) -> list[Tensor]:
        return [Tensor(names.get(name, name), shape, dtype) for name, shape, dtype in tensors]

    return under_graph_names(inputs), under_graph_names(outputs)


def check_tensors(kind: str, expected: Sequence[Tensor], found: Sequence[Tensor], source: str) -> None:
    """Compare the inputs, or the outputs, of a graph with what its metadata promises.

    Parameters
    ----------
    kind : {"input", "output"}
    expected, found : sequence of Tensor
    source : str

    Raises
    ------
    ModelFileError
        For a tensor that is missing, not announced, or of the wrong shape or type.
    """
    promised = {tensor.name: tensor for tensor in expected}
    present = {tensor.name: tensor for tensor in found}
    problems = [f"{kind} {name!r} ({promised[name]}) is missing" for name in promised if name not in present]
    problems += [f"{kind} {name!r} is not in the metadata" for name in present if name not in promised]
    for name in promised.keys() & present.keys():
        problem = _difference(promised[name], present[name])
        if problem:
            problems.append(f"{kind} {name!r} {problem}")
    if problems:
        raise ModelFileError(
            f"{source}: the graph does not keep to its metadata: {'; '.join(problems)}; the graph's {kind}s are "
            f"{', '.join(present) or 'none'}; export the model again, or correct its sidecar"
        )


def _difference(expected: Tensor, found: Tensor) -> str | None:
    """Say how a tensor of a graph differs from its metadata, if it does."""
    if expected.shape[:1] == ("channels",) and isinstance(found.shape[0] if found.shape else 0, int):
        fixed = found.shape[0] if found.shape else "absent"
        return f"has a first axis of {fixed}, expected one that is free (or `channels: 1` in a sidecar)"
    same_rank = len(expected.shape) == len(found.shape)
    clash = (isinstance(b, int) and a != b for a, b in zip(expected.shape, found.shape, strict=False))
    if not same_rank or any(clash) or expected.dtype != found.dtype:
        return f"is {found}, expected {expected}"
    return None


def _pack_golden(golden: GoldenRecord, spec: ModelSpec) -> str:
    """Return a golden record as the base64 text of a compressed npz archive."""
    buffer = io.BytesIO()
    names = [spec.frame_input, f"{spec.frame_input}_out", *(f"{state.name}_out" for state in spec.states)]
    arrays: tuple[Any, ...] = (golden.frames, golden.outputs, *golden.final_state)
    np.savez_compressed(buffer, **dict(zip(names, arrays, strict=True)))
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def _unpack_golden(text: object, spec: ModelSpec, source: str) -> GoldenRecord:
    """Read a golden record and check that every array has the shape that the metadata gives it."""
    if not isinstance(text, str):
        raise ModelFileError(f"{source}: golden is {_brief(text)}, expected base64 text ({SPECIFICATION})")
    try:
        with np.load(io.BytesIO(base64.b64decode(text, validate=True)), allow_pickle=False) as archive:
            arrays: dict[str, npt.NDArray[Any]] = dict(archive)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ModelFileError(
            f"{source}: the golden record cannot be read ({error}); the file is damaged, write or download it again"
        ) from None
    frames = arrays.get(spec.frame_input, np.empty(0))
    n_steps, n_channels = frames.shape[:2] if frames.ndim > 2 else (0, 0)
    audio = (n_steps, n_channels, *spec.frame_shape)
    expected = [Tensor(spec.frame_input, audio, "float32"), Tensor(f"{spec.frame_input}_out", audio, "float32")]
    expected += [Tensor(f"{s.name}_out", (n_channels, *s.shape), s.dtype) for s in spec.states]
    found = {Tensor(name, array.shape, str(array.dtype)) for name, array in arrays.items()}
    if found != set(expected) or n_steps < 1 or n_channels < 1:
        raise ModelFileError(
            f"{source}: the golden record holds {_listing(found)}; expected {_listing(expected)} of at least one "
            f"step and channel; export the model again"
        )
    _, outputs, *final_state = (arrays[tensor.name] for tensor in expected)
    return GoldenRecord(frames, outputs, tuple(final_state))


def _without_defaults(value: Any) -> dict[str, Any]:
    """Return the fields of a dataclass as a dictionary, without those that only repeat their default."""
    defaults = {f.name: f.default if f.default_factory is MISSING else f.default_factory() for f in fields(value)}
    return {name: item for name, item in asdict(value).items() if item != defaults[name]}


def _listing(tensors: Iterable[Tensor]) -> str:
    return ", ".join(sorted(f"{tensor.name} ({tensor})" for tensor in tensors)) or "nothing"


def _shape_text(shape: Sequence[int | str | None]) -> str:
    return f"[{', '.join('?' if size is None else str(size) for size in shape)}]"


def _brief(value: object, length: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= length else text[: length - 3] + "..."
