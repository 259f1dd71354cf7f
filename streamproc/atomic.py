"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TEMPORARY_PREFIX = ".streamproc-"
"""What unfinished files are called while they are written. Only a killed process or a power cut leaves one behind."""


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Yield a path to write to; it becomes `target` when the block ends well, and disappears when it does not.

    The file is written in the folder of `target`, so that the last step is a rename: whoever looks at `target` sees
    what was there before or all of what is new. Whatever ends the block early - an error, Ctrl-C, a full disk - removes
    the unfinished file and leaves an older `target` as it was.

    Parameters
    ----------
    target : Path
        A link is followed: the file that it points to is replaced, not the link.

    Raises
    ------
    OSError
        If the folder is missing or cannot be written to, or if `target` exists and is not a regular file.
    """
    target = target.resolve()
    if target.exists() and not target.is_file():
        # A rename would put a file in the place of /dev/null.
        raise OSError(f"{target} exists and is not a regular file")
    # Short, so that a target with the longest name that the file system allows does not fail here.
    temporary = target.parent / f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}.part"
    try:
        # Claiming the name first gives the error that fits (libraries only say "system error") and the usual mode.
        temporary.open("xb").close()
        yield temporary
        _flush_to_disk(temporary)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def _flush_to_disk(path: Path) -> None:
    """Wait until the data is on the disk: some file systems report a full disk only here."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())
