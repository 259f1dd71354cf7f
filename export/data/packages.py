"""More sound to train on: recordings that Debian distributes under free licences, as folders of speech and noise."""

from __future__ import annotations

import csv
import io
import shutil
import subprocess
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import soundfile as sf

Audio = npt.NDArray[np.float32]

Download = Callable[[str, Path], None]
"""Puts one package, by its name, as a .deb file into a folder."""

_GAP_S = 0.15
_SCENE_S = 120.0
_G722_RATE = 16_000
_SILENT = 0.02
_PEAK = 0.9


@dataclass(frozen=True)
class Source:
    """Recordings out of one Debian package.

    Parameters
    ----------
    package : str
    kind : {"speech", "noise"}
    pattern : str
        Which of its files, below ``usr/share`` or inside `archive`; ``*`` stands for any part of a path.
    category : str
        Kind of noise; of speech the talker.
    licence : str
        Of these files, after the package's own copyright file.
    archive : str
        Zip file that the recordings are in; empty where they are files of the package.
    every : int
        Only every so many files: whole soundtracks would drown out everything else.
    """

    package: str
    kind: Literal["speech", "noise"]
    pattern: str
    category: str
    licence: str
    archive: str = ""
    every: int = 1


_0AD = "games/0ad/mods/public/public.zip"
_SHARE_ALIKE = "CC BY-SA 3.0"
_PROMPTS = {"en": _SHARE_ALIKE, "es": _SHARE_ALIKE, "fr": _SHARE_ALIKE, "it": "CC BY 3.0", "ru": "CC BY 3.0"}

SOURCES = (
    *(
        Source(f"asterisk-core-sounds-{language}-g722", "speech", "asterisk/*.g722", f"asterisk_{language}", licence)
        for language, licence in _PROMPTS.items()
    ),
    Source("festvox-ru", "speech", "festival/*/wav/*.wav", "festvox_ru_nsh", "BSD-like, see the package"),
    *(
        Source("0ad-data", "speech", f"audio/voice/{people}/*", f"0ad_{people}", _SHARE_ALIKE, _0AD)
        for people in ("greek", "latin", "napatan", "persian")
    ),
    Source("0ad-data", "noise", "audio/ambient/weather/*", "weather/water", _SHARE_ALIKE, _0AD),
    Source("0ad-data", "noise", "audio/ambient/water/*", "weather/water", _SHARE_ALIKE, _0AD),
    Source("0ad-data", "noise", "audio/ambient/dayscape/*", "animal", _SHARE_ALIKE, _0AD),
    Source("0ad-data", "noise", "audio/ambient/building/*", "sfx/other", _SHARE_ALIKE, _0AD),
    Source("0ad-data", "noise", "audio/actor/fauna/*", "animal", _SHARE_ALIKE, _0AD),
    Source("0ad-data", "noise", "audio/actor/*", "sfx/other", _SHARE_ALIKE, _0AD),
    Source("0ad-data", "noise", "audio/attack/*", "sfx/other", _SHARE_ALIKE, _0AD),
    Source("0ad-data", "noise", "audio/resource/*", "sfx/other", _SHARE_ALIKE, _0AD),
    Source("0ad-data", "noise", "audio/interface/*", "sfx/other", _SHARE_ALIKE, _0AD),
    Source("0ad-data", "noise", "audio/music/*", "music", _SHARE_ALIKE, _0AD, every=5),
    Source("redeclipse-data", "noise", "*/sounds/ambience/*", "weather/water", "CC BY-SA 3.0, CC BY 3.0 per file"),
    Source("redeclipse-data", "noise", "*/sounds/sfx/*", "sfx/other", "CC BY-SA 3.0 or later"),
    Source("redeclipse-data", "noise", "*/sounds/player/*", "human non-speech", "CC BY-SA 3.0 or later"),
    Source("redeclipse-data", "noise", "*/sounds/weapons/*", "sfx/other", "CC BY-SA 3.0 or later"),
    Source("endless-sky-data", "noise", "*/sounds/*", "machine", "public domain, two files CC BY-SA 3.0"),
    Source("flare-game", "noise", "*/soundfx/environment/*", "weather/water", "CC BY-SA 3.0 or later"),
    *(
        Source("flare-game", "noise", f"*/soundfx/{folder}/*", "sfx/other", "CC BY-SA 3.0 or later")
        for folder in ("enemies", "inventory", "powers", "steps")
    ),
    Source("scratch", "noise", "*/Media/Sounds/Animal/*", "animal", _SHARE_ALIKE),
    Source("scratch", "noise", "*/Media/Sounds/Effects/*", "sfx/other", _SHARE_ALIKE),
    Source("scratch", "noise", "*/Media/Sounds/Percussion/*", "sfx/other", _SHARE_ALIKE),
)
"""What is taken, each file by the first source that asks for it; licences are those that Debian 12 states.

Packages under the GPL are left alone, and so are voices among other sounds: they would be noise that is speech.
"""


def apt_download(package: str, folder: Path) -> None:
    """Fetch a package from the archive that this machine is set up for."""
    _run(["apt-get", "download", package], f"download {package} (apt-get update first?)", cwd=folder)


def fetch_sounds(
    out: Path,
    sources: tuple[Source, ...] = SOURCES,
    download: Download = apt_download,
    report: Callable[[str], None] = print,
) -> None:
    """Download packages and write ``out/speech`` and ``out/noise``, each with an ``index.csv``.

    Nothing is installed. Recordings of one folder are joined, with short gaps, into scenes of two minutes or a little
    more: training draws a recording by its length, and a single click says little. Of longer ones two minutes are kept.

    Parameters
    ----------
    out : path
        New folder.
    sources : tuple of Source
    download : Download
    report : callable
        Told what was found, line by line.

    Raises
    ------
    FileExistsError
        If `out` is there already.
    RuntimeError
        If a tool is missing or a package cannot be downloaded. Nothing is left behind.
    """
    if out.exists():
        raise FileExistsError(f"{out} is there already; remove it, or give another folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as unfinished:
        folder = Path(unfinished) / "done"
        rows: dict[str, list[dict[str, Any]]] = {"speech": [], "noise": []}
        for kind in rows:
            (folder / kind).mkdir(parents=True)
        for package in dict.fromkeys(source.package for source in sources):
            taken: set[str] = set()
            with TemporaryDirectory(dir=unfinished) as here:
                share = _unpack(package, Path(here), download)
                for source in (source for source in sources if source.package == package):
                    number = len(rows[source.kind])
                    own = list(_scenes(source, share, taken, folder / source.kind, number))
                    rows[source.kind] += own
                    minutes = sum(row["length"] / row["sample_rate"] for row in own) / 60
                    report(f"{package}: {minutes:.1f} min, {source.category} ({source.licence})")
        for kind, own in rows.items():
            with (folder / kind / "index.csv").open("w", newline="") as file:
                writer = csv.DictWriter(file, list(own[0]) if own else ["file"])
                writer.writeheader()
                writer.writerows(own)
        folder.rename(out)


def _unpack(package: str, folder: Path, download: Download) -> Path:
    """Download and unpack a package; return its ``usr/share``."""
    download(package, folder)
    (file,) = folder.glob("*.deb")
    _run(["dpkg-deb", "-x", file.name, "."], f"unpack {file.name}", cwd=folder)
    return folder / "usr" / "share"


def _scenes(source: Source, share: Path, taken: set[str], folder: Path, first: int) -> Iterator[dict[str, Any]]:
    """Write the recordings of a source, joined folder by folder; yield a row of the index for each scene."""
    for number, (sample_rate, parts) in enumerate(_joined(source, share, taken), first):
        name = f"{number:03d}-{source.package}.flac"
        gap = np.zeros(round(_GAP_S * sample_rate), np.float32)
        scene = np.concatenate([piece for part in parts for piece in (part, gap)][:-1])
        sf.write(folder / name, scene, sample_rate, subtype="PCM_16")
        yield {
            "file": name,
            "start": 0,
            "length": len(scene),
            "sample_rate": sample_rate,
            "source": source.package,
            "speaker": source.category if source.kind == "speech" else "",
            "category": source.category if source.kind == "noise" else "",
            "licence": source.licence,
        }


def _joined(source: Source, share: Path, taken: set[str]) -> Iterator[tuple[int, list[Audio]]]:
    """Yield rate and recordings of one scene after another: neighbours of the same folder and rate."""
    parts: list[Audio] = []
    place, seconds = (0, ""), 0.0
    for name, data in _files(source, share, taken):
        samples, sample_rate = _read(name, data)
        peak = float(np.abs(samples).max(initial=0.0))
        if peak < _SILENT:
            continue
        if source.kind == "noise":  # effects are stored at any level; a talker's are right as they are
            samples = samples * np.float32(_PEAK / peak)
        here = (sample_rate, name.rpartition("/")[0])
        if parts and (here != place or seconds >= _SCENE_S):
            yield place[0], parts
            parts, seconds = [], 0.0
        place = here
        parts.append(samples[: round(_SCENE_S * sample_rate)])
        seconds += len(samples) / sample_rate
    if parts:
        yield place[0], parts


def _files(source: Source, share: Path, taken: set[str]) -> Iterator[tuple[str, bytes]]:
    """Yield names and contents of the files of a source that no source before it has taken."""
    if source.archive:
        with zipfile.ZipFile(share / source.archive) as archive:
            names = sorted(name for name in archive.namelist() if not name.endswith("/"))
            for name in _chosen(source, names, taken):
                yield name, archive.read(name)
        return
    names = sorted(path.relative_to(share).as_posix() for path in share.rglob("*") if path.is_file())
    for name in _chosen(source, names, taken):
        yield name, (share / name).read_bytes()


def _chosen(source: Source, names: list[str], taken: set[str]) -> list[str]:
    known = (".ogg", ".wav", ".flac", ".mp3", ".g722")
    chosen = [name for name in names if name.endswith(known) and fnmatch(name, source.pattern) and name not in taken]
    chosen = chosen[:: source.every]
    taken.update(chosen)
    return chosen


def _read(name: str, data: bytes) -> tuple[Audio, int]:
    """Decode a file to one channel; nothing comes of one that cannot be read, of which every game has a few."""
    if name.endswith(".g722"):
        command = ["ffmpeg", "-loglevel", "error", "-f", "g722", "-i", "-", "-f", "f32le", "-ac", "1", "-"]
        return np.frombuffer(_run(command, f"decode {name}", input=data), np.float32), _G722_RATE
    try:
        samples, sample_rate = sf.read(io.BytesIO(data), dtype="float32", always_2d=True)
    except sf.SoundFileError:
        return np.zeros(0, np.float32), 1
    return samples.mean(axis=1), sample_rate


def _run(command: list[str], what: str, **options: Any) -> bytes:
    """Run a program and return what it printed; RuntimeError says what could not be done, and why."""
    if shutil.which(command[0]) is None:
        raise RuntimeError(f"{command[0]} is not installed, and without it nothing can {what}; try apt-get install")
    done = subprocess.run(command, capture_output=True, check=False, **options)
    if done.returncode:
        raise RuntimeError(f"{command[0]} did not {what}: {done.stderr.decode(errors='replace').strip()[-300:]}")
    return done.stdout
