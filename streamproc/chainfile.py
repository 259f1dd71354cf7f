"""Chains of processors written down in a file. The format is described in ``docs/chains.md``."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from os import PathLike, fspath
from pathlib import Path
from typing import Any, Protocol, TypeVar, get_origin

from .dsp import PROCESSORS, Band
from .errors import ConfigError, StreamprocError
from .mix import Mix
from .processor import Chain, Processor

_T = TypeVar("_T")


class ModelResolver(Protocol):
    """Turns the name or path of a model into a processor; `streamproc.load` is one."""

    def __call__(self, model: str, channel_mode: str | None = None, /) -> Processor:
        """Return a new processor."""


def load_chain(path: str | PathLike[str], resolve_model: ModelResolver) -> Chain:
    """Build the chain that a TOML file describes.

    Parameters
    ----------
    path : str or path
    resolve_model : callable
        Called with the `model` and the `channel_mode` (None where it is left out) of each model table.

    Returns
    -------
    Chain
        New processors in the order of the file, not yet prepared.

    Raises
    ------
    ConfigError
        If the file cannot be read or says something that cannot work: names the file, the table, what was found and
        what is allowed.
    StreamprocError
        Whatever `resolve_model` raises, with the place in front.

    Notes
    -----
    The keys of a table are the parameters of a constructor, by the same names and in the same units. So there is no
    second list of them here that could fall behind.
    """
    path = Path(path)

    def model(
        model: str,
        mix: float = Mix.MIX.default,
        attenuation_limit_db: float = Mix.ATTENUATION_LIMIT.default,
        channel_mode: str | None = None,
    ) -> Processor:
        beside = path.parent / model
        processor = resolve_model(fspath(beside) if beside.is_file() else model, channel_mode)
        return Mix(processor, mix, attenuation_limit_db)

    factories: Mapping[str, Callable[..., Processor]] = {**PROCESSORS, "model": model}
    processors = []
    for number, table in enumerate(_read_tables(path), start=1):
        where = f"{path}, processor {number}"
        kind = table.pop("type", None)
        if not isinstance(kind, str) or kind not in factories:
            found = "no type" if kind is None else f"type {kind!r}"
            raise ConfigError(f"{where}: found {found}; type must be one of {', '.join(factories)}")
        processors.append(_build(factories[kind], table, f"{where} ({kind})"))
    return Chain(processors)


def _read_tables(path: Path) -> list[dict[str, Any]]:
    """Return the ``[[processor]]`` tables of a file."""
    try:
        content = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: the chain file cannot be read: {error.strerror}") from error
    except ValueError as error:  # not UTF-8, or not TOML
        raise ConfigError(f"{path}: not a TOML file: {error}") from error
    tables = content.pop("processor", [])
    if content:
        raise ConfigError(f"{path}: found {', '.join(map(repr, content))}; a chain has only [[processor]] tables")
    if not tables or not _is_list_of_tables(tables):
        raise ConfigError(f"{path}: a chain needs at least one [[processor]] table, in double brackets")
    return list(tables)


def _build(make: Callable[..., _T], table: Mapping[str, Any], where: str) -> _T:
    """Call `make` with the values of a table, or say what is wrong with them."""
    accepted = signature(make, eval_str=True).parameters
    for key in table:
        if key not in accepted:
            raise ConfigError(f"{where}: {key!r} is unknown; allowed are {', '.join(accepted)}")
    for key, parameter in accepted.items():
        if parameter.default is parameter.empty and key not in table:
            raise ConfigError(f"{where}: {key!r} is missing")
    arguments = {key: _checked(value, accepted[key].annotation, f"{where}: {key}") for key, value in table.items()}
    try:
        return make(**arguments)
    except StreamprocError as error:
        raise type(error)(f"{where}: {error}") from error.__cause__


def _checked(value: Any, wanted: Any, where: str) -> Any:
    """Return a value from the file as its parameter's annotation wants it."""
    if get_origin(wanted) is Sequence:  # of bands, the only tables within a table
        if not _is_list_of_tables(value):
            raise ConfigError(f"{where} must be a list of tables, found {value!r}")
        return [_build(Band, band, f"{where}, band {number}") for number, band in enumerate(value, start=1)]
    if wanted is float:
        fits, what = isinstance(value, int | float) and not isinstance(value, bool), "a number"
    elif wanted is int:
        fits, what = isinstance(value, int) and not isinstance(value, bool), "a whole number"
    else:
        fits, what = isinstance(value, str), "a text"
    if not fits:
        raise ConfigError(f"{where} must be {what}, found {value!r}")
    return value


def _is_list_of_tables(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, dict) for item in value)
