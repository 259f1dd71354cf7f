"""Places for results: refused before anything is measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from streamproc.errors import ConfigError
from streamproc.places import require_file, require_folder


def test_a_folder_that_takes_no_files_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require_folder(tmp_path / "made" / "later")

    def full(dir: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("streamproc.places.TemporaryFile", full)
    for require in (require_file, require_folder):
        with pytest.raises(ConfigError, match=r"new cannot be written: .* takes no files \(No space left"):
            require(tmp_path / "new")
