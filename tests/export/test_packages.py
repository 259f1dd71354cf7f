"""Recordings out of Debian packages, from packages made here."""

from __future__ import annotations

import csv
import shutil
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from export.data import packages
from export.data.cache import open_cache
from export.data.packages import Source, fetch_sounds

pytestmark = pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="needs dpkg-deb, which Debian and Ubuntu have")

RATE = 16_000
SOURCES = (
    Source("talk", "speech", "talk/*.wav", "ann", "CC0"),
    Source("game", "noise", "rain/*", "weather/water", "CC BY 4.0", "game/all.zip"),
    Source("game", "noise", "*", "sfx/other", "CC BY 4.0", "game/all.zip", every=2),
)


def tone(seconds: float, level: float = 0.5) -> np.ndarray:
    return level * np.sin(np.arange(round(seconds * RATE)))


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Return a folder with two packages: talk as files, and a game's sounds in a zip."""
    talk, game = tmp_path / "talk/usr/share/talk", tmp_path / "game/usr/share/game"
    for folder in (talk, game):
        folder.mkdir(parents=True)
    for name, level in (("a", 0.3), ("b", 0.3), ("hush", 1e-3)):
        sf.write(talk / f"{name}.wav", tone(0.5, level), RATE)
    (talk / "broken.wav").write_bytes(b"RIFF")
    with zipfile.ZipFile(game / "all.zip", "w") as file:
        for name in ("rain/long.wav", "hit/1.wav", "hit/2.wav", "hit/3.wav"):
            sf.write(tmp_path / "x.wav", tone(70.0 if "long" in name else 0.2), RATE)
            file.write(tmp_path / "x.wav", name)
        file.writestr("hit/readme.txt", "no sound")
    out = tmp_path / "archive"
    out.mkdir()
    for package in ("talk", "game"):
        control = tmp_path / package / "DEBIAN"
        control.mkdir()
        (control / "control").write_text(
            f"Package: {package}\nVersion: 1\nArchitecture: all\nMaintainer: no one <a@example.org>\nDescription: x\n"
        )
        subprocess.run(
            ["dpkg-deb", "-b", str(tmp_path / package), str(out / f"{package}.deb")], check=True, capture_output=True
        )
    return out


def from_folder(archive: Path) -> packages.Download:
    """Return a download that copies from a folder."""

    def download(package: str, folder: Path) -> None:
        shutil.copy(archive / f"{package}.deb", folder)

    return download


def index(folder: Path) -> list[dict[str, str]]:
    with (folder / "index.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_recordings_become_folders_that_training_reads(archive: Path, tmp_path: Path) -> None:
    out = tmp_path / "more"
    lines: list[str] = []
    fetch_sounds(out, SOURCES, from_folder(archive), lines.append)
    assert [(row["speaker"], row["licence"]) for row in index(out / "speech")] == [("ann", "CC0")]
    speech = open_cache(out / "speech", tmp_path / "cache", RATE)
    assert speech.speaker == ["ann"]
    assert speech.length[0] / RATE == pytest.approx(0.5 + 0.15 + 0.5), (
        "two recordings; what is silent or broken is left out"
    )
    assert speech.bandwidth_hz[0] == RATE / 2
    noise = open_cache(out / "noise", tmp_path / "cache", RATE)
    assert noise.category == ["weather/water", "sfx/other"]
    assert noise.length[1] / RATE == pytest.approx(0.2 + 0.15 + 0.2), "every second of three"
    assert len(lines) == len(SOURCES)


def test_a_failure_leaves_nothing_behind(archive: Path, tmp_path: Path) -> None:
    (archive / "game.deb").unlink()
    with pytest.raises(FileNotFoundError):
        fetch_sounds(tmp_path / "more", SOURCES, from_folder(archive), lambda _: None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["archive", "game", "talk", "x.wav"]


def test_a_package_that_cannot_be_unpacked_is_named(archive: Path, tmp_path: Path) -> None:
    (archive / "talk.deb").write_bytes(b"no package")
    with pytest.raises(RuntimeError, match=r"dpkg-deb did not unpack talk\.deb: .*"):
        fetch_sounds(tmp_path / "more", SOURCES, from_folder(archive), lambda _: None)
    assert not (tmp_path / "more").exists()


def test_a_tool_that_is_missing_is_named(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(RuntimeError, match="dpkg-deb is not installed"):
        fetch_sounds(tmp_path / "more", SOURCES, from_folder(archive), lambda _: None)


def test_a_folder_that_is_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileExistsError, match="give another folder"):
        fetch_sounds(tmp_path, SOURCES)


def test_every_source_names_a_licence_and_no_pattern_twice() -> None:
    assert all(source.licence for source in packages.SOURCES)
    wanted = [(source.package, source.pattern) for source in packages.SOURCES]
    assert len(wanted) == len(set(wanted))
