"""Whether results have somewhere to go: asked before minutes of measuring, not after."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from tempfile import TemporaryFile

from .errors import ConfigError


def require_file(path: Path) -> None:
    """Raise `ConfigError` unless a file could be written here, in the way of `streamproc.atomic.replacing`.

    A missing folder is not made: as part of a file's name it may be a typing error.
    """
    target = path.resolve()
    try:
        target.lstat()
    except OSError as error:
        if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
            raise ConfigError(f"{path} cannot be written: {error.strerror}; give another name") from error
    if os.path.exists(target) and not target.is_file():
        raise ConfigError(f"{path} cannot be written: it exists and is not a file; give another name")
    if not os.path.exists(target.parent):
        raise ConfigError(f"{path} cannot be written: there is no folder {path.parent}; make it, or give another one")
    _try_folder(target.parent, path)


def require_folder(path: Path) -> None:
    """Raise `ConfigError` unless this is a folder that can be written to, or one that could be made. Makes nothing."""
    place = path.resolve()
    while not os.path.exists(place):  # unlike Path.exists, no error below a folder that must not be looked into
        place = place.parent
    _try_folder(place, path)


def _try_folder(folder: Path, asked_for: Path) -> None:
    """Write a nameless file: permissions alone do not tell of read-only disks, nor of folders like /proc."""
    try:
        with TemporaryFile(dir=folder):
            pass
    except NotADirectoryError:
        raise ConfigError(f"{asked_for} cannot be written: {folder} is not a folder; give another place") from None
    except OSError as error:
        raise ConfigError(
            f"{asked_for} cannot be written: {folder} takes no files ({error.strerror or error}); give another place"
        ) from error
