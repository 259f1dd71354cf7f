"""Sound folders decoded once into one memory-mapped int16 array at the training rate."""

from __future__ import annotations

import copy
import csv
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile as sf
import soxr

from .floor import lower_floor

FORMAT = 3
"""Raised when the layout of the cache, what its mark is made of or how floors are lowered changes: an old cache is
rebuilt, not misread."""

_PEAK = 0.95
_ENVELOPE_MS = 20
_ACTIVE_BELOW_LOUD_DB = 30.0


@dataclass(frozen=True)
class _Decoding:
    """How files become a cache; part of its mark."""

    sample_rate: int
    skip_broken: bool = False
    lower_floors: bool = False

    def __str__(self) -> str:
        return f"{self.sample_rate}{' skip' if self.skip_broken else ''}{' floors' if self.lower_floors else ''}"


@dataclass(frozen=True)
class Clip:
    """One recording inside a sound file: what `index.csv` says, or the whole file where there is no index."""

    path: Path
    start: int
    length: int | None
    sample_rate: int | None
    speaker: str
    category: str
    source: str


class SoundCache:
    """Clips of one or several folders as memory maps.

    Parameters
    ----------
    *folders : path
        Of decoded sound, as `open_cache` makes them; all at one rate.

    Attributes
    ----------
    samples : tuple of int16 [total]
        For each folder its clips end to end, each scaled to a peak of 0.95: level is drawn again when mixing, and
        small clips keep their resolution.
    part : int64 [clips]
        Which of the folders each clip is in.
    start, length : int64 [clips]
        Where it lies there, in samples at `sample_rate`.
    bandwidth_hz : float32 [clips]
        Half the rate that the file was stored at (never more than half of `sample_rate`): there is nothing above.
    active_rms : float32 [clips]
        RMS over the 20 ms pieces within 30 dB of the loud ones, for a clip scaled as stored (full scale = 1): the
        level of the sound without its pauses.
    speaker, category, source : list of str, one per clip
    broken : list of str
        Files that could not be decoded and were left out, where that was allowed.
    """

    def __init__(self, *folders: Path) -> None:
        parts = [json.loads((folder / "index.json").read_text()) for folder in folders]
        rates = {part["sample_rate"] for part in parts}
        if len(rates) != 1:
            raise ValueError(f"sound at several rates cannot be drawn from together; found {sorted(rates)} Hz")

        def column(name: str) -> list[Any]:
            return [value for part in parts for value in part[name]]

        self.sample_rate: int = rates.pop()
        self.part = np.repeat(np.arange(len(parts)), [len(part["start"]) for part in parts])
        self.start = np.asarray(column("start"), dtype=np.int64)
        self.length = np.asarray(column("length"), dtype=np.int64)
        self.bandwidth_hz = np.asarray(column("bandwidth_hz"), dtype=np.float32)
        self.active_rms = np.asarray(column("active_rms"), dtype=np.float32)
        self.speaker: list[str] = column("speaker")
        self.category: list[str] = column("category")
        self.source: list[str] = column("source")
        self.broken: list[str] = [name for part in parts for name in part.get("broken", [])]
        self.samples: tuple[npt.NDArray[np.int16], ...] = tuple(
            np.memmap(folder / "samples.i16", dtype=np.int16, mode="r") for folder in folders
        )

    def __len__(self) -> int:
        return len(self.start)

    def from_source(self, source: str) -> SoundCache:
        """Return a view of the clips of one collection alone.

        Raises
        ------
        ValueError
            If there is none of it here.
        """
        chosen = np.array([name == source for name in self.source])
        if not chosen.any():
            raise ValueError(f"no clip is from {source!r}; there are {', '.join(sorted(set(self.source)))}")
        view = copy.copy(self)
        for name in ("part", "start", "length", "bandwidth_hz", "active_rms"):
            setattr(view, name, getattr(self, name)[chosen])
        for name in ("speaker", "category", "source"):
            setattr(view, name, list(compress(getattr(self, name), chosen)))
        return view

    @property
    def hours(self) -> float:
        """Audio in the cache, in hours."""
        return float(self.length.sum() / self.sample_rate / 3600)

    def read(self, clip: int, offset: int = 0, frames: int | None = None) -> npt.NDArray[np.float32]:
        """Return `frames` samples of one clip from `offset` (fewer at its end) as float32 in [-1, 1]."""
        begin = int(self.start[clip]) + offset
        end = int(self.start[clip] + self.length[clip])
        if frames is not None:
            end = min(end, begin + frames)
        return self.samples[self.part[clip]][begin:end].astype(np.float32) * np.float32(1 / 32767)


def list_clips(folder: Path) -> list[Clip]:
    """Find the clips of a folder: the rows of its ``index.csv``, or every sound file below it.

    Without an index, a file's sub-folder names its speaker (and category), or each file is its own speaker.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder; give a folder of sound files")
    index = folder / "index.csv"
    if index.is_file():
        with index.open(newline="") as rows:
            clips = [_clip_of_row(folder, row) for row in csv.DictReader(rows)]
    else:
        known = {f".{name.lower()}" for name in sf.available_formats()} | {".opus", ".aif"}
        files = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix.lower() in known)
        clips = [_clip_of_file(folder, path) for path in files]
    if not clips:
        raise FileNotFoundError(f"{folder} holds no sound that soundfile can read; wav, flac, ogg, opus, mp3 work")
    return clips


def open_cache(
    folders: Path | str | Sequence[Path | str],
    cache_dir: Path | str,
    sample_rate: int = 48_000,
    lower_floors: bool = False,
) -> SoundCache:
    """Return the cache of a folder or several, decoding first what is missing or has changed.

    Parameters
    ----------
    folders : path or sequence of path
        Sound files, with or without an ``index.csv`` as in `list_clips`.
    cache_dir : path
        Where caches live; each folder gets a sub-folder named by its content.
    sample_rate : int
        Rate in Hz of the cache; other rates are converted by soxr (VHQ).
    lower_floors : bool
        Of speech: let the noise that was recorded with it fall towards 50 dB below it (`export.data.floor`).
    """
    several = [Path(folders)] if isinstance(folders, str | Path) else [Path(folder) for folder in folders]
    how = _Decoding(sample_rate, lower_floors=lower_floors)
    decoded = [
        _decode_once(list_clips(folder), f"{folder.parent.name}-{folder.name}", cache_dir, how) for folder in several
    ]
    return SoundCache(*decoded)


def open_clips(
    clips: Sequence[Clip], name: str, cache_dir: Path | str, sample_rate: int = 48_000, skip_broken: bool = False
) -> SoundCache:
    """Return the cache of these clips, decoding them first where it is missing or the files have changed.

    Parameters
    ----------
    clips : sequence of Clip
    name : str
        First part of the name of the cache's folder; a mark of its content follows.
    cache_dir, sample_rate
        See `open_cache`.
    skip_broken : bool
        Leave files out that cannot be decoded; `SoundCache.broken` names them. False: they are an error.
    """
    return SoundCache(_decode_once(clips, name, cache_dir, _Decoding(sample_rate, skip_broken=skip_broken)))


def active_rms(samples: npt.NDArray[np.float32], sample_rate: int) -> float:
    """RMS of a clip over its active 20 ms pieces (0 for silence). `samples` is float32 [frames]."""
    piece = max(1, sample_rate * _ENVELOPE_MS // 1000)
    whole = samples[: max(1, len(samples) // piece) * piece]
    if not whole.size:
        return 0.0
    power = np.square(whole, dtype=np.float64).reshape(-1, min(piece, whole.size)).mean(axis=1)
    loud = float(np.quantile(power, 0.95))
    return float(np.sqrt(power[power >= loud * 10 ** (-_ACTIVE_BELOW_LOUD_DB / 10)].mean()))


def _clip_of_row(folder: Path, row: dict[str, str]) -> Clip:
    return Clip(
        path=folder / row["file"],
        start=int(row.get("start") or 0),
        length=int(row["length"]) if row.get("length") else None,
        sample_rate=int(row["sample_rate"]) if row.get("sample_rate") else None,
        speaker=row.get("speaker") or row.get("source") or row["file"],
        category=row.get("category") or "",
        source=row.get("source") or "",
    )


def _clip_of_file(folder: Path, path: Path) -> Clip:
    parts = path.relative_to(folder).parts
    group = parts[0] if len(parts) > 1 else path.stem
    return Clip(path, 0, None, None, speaker=group, category=group if len(parts) > 1 else "", source=folder.name)


def _fingerprint(clips: Sequence[Clip], how: _Decoding) -> str:
    """Mark everything that a cache is made of: the files, and what is said of every clip, labels too."""
    digest = hashlib.sha256(f"{FORMAT} {how}".encode())
    stats = {path: os.stat(path) for path in {clip.path for clip in clips}}
    for clip in clips:
        stat = stats[clip.path]
        said = (clip.start, clip.length, clip.sample_rate, clip.speaker, clip.category, clip.source)
        digest.update(f"{(clip.path.name, stat.st_size, stat.st_mtime_ns, *said)}\n".encode())
    return digest.hexdigest()[:12]


def _decode_once(clips: Sequence[Clip], name: str, cache_dir: Path | str, how: _Decoding) -> Path:
    target = Path(cache_dir) / f"{name}-{_fingerprint(clips, how)}"
    if not (target / "index.json").is_file():
        _decode(clips, target, how)
    return target


def _decode(clips: Sequence[Clip], target: Path, how: _Decoding) -> None:
    """Decode, convert and write all clips into a folder that is named `target` last: half a cache is no cache.

    Two trainings that start together both decode; whoever ends first is heard by both.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as unfinished:
        _write(clips, Path(unfinished), target.name, how)
        try:
            Path(unfinished).rename(target)
        except OSError:
            if not (target / "index.json").is_file():
                raise


def _write(clips: Sequence[Clip], folder: Path, name: str, how: _Decoding) -> None:
    sample_rate = how.sample_rate
    columns: dict[str, list[Any]] = {
        column: [] for column in ("start", "length", "bandwidth_hz", "active_rms", "speaker", "category", "source")
    }
    position = 0
    broken: list[str] | None = [] if how.skip_broken else None
    with (folder / "samples.i16").open("wb") as out:
        for clip, samples, stored_rate in _decoded(clips, broken):
            if stored_rate != sample_rate:
                samples = soxr.resample(samples, stored_rate, sample_rate, quality="VHQ").astype(np.float32)
            if how.lower_floors:
                samples = lower_floor(samples, sample_rate, active_rms(samples, sample_rate))
            peak = float(np.abs(samples).max(initial=0.0))
            if not np.isfinite(peak) or peak == 0.0:
                continue
            samples = samples * np.float32(_PEAK / peak)
            out.write(np.round(samples * 32767).astype("<i2").tobytes())
            row = (position, len(samples), min(stored_rate, sample_rate) / 2, active_rms(samples, sample_rate))
            for column, value in zip(columns, (*row, clip.speaker, clip.category, clip.source), strict=True):
                columns[column].append(value)
            position += len(samples)
    if not position:
        unread = f", and {len(broken)} files cannot be decoded" if broken else ""
        raise ValueError(f"every clip for {name} is silent or empty{unread}; nothing to train on")
    index = {"sample_rate": sample_rate, **columns, "broken": broken or []}
    (folder / "index.json").write_text(json.dumps(index))


def _decoded(
    clips: Sequence[Clip], broken: list[str] | None = None
) -> Iterator[tuple[Clip, npt.NDArray[np.float32], int]]:
    """Yield every clip with its mono samples, decoding each file once; those that fail go into `broken` if given."""
    by_file: dict[Path, list[Clip]] = {}
    for clip in clips:
        by_file.setdefault(clip.path, []).append(clip)
    for path, members in by_file.items():
        try:
            whole, stored_rate = sf.read(path, dtype="float32", always_2d=True)
        except sf.SoundFileError:
            if broken is None:
                raise
            broken.append(str(path))
            continue
        mono = whole.mean(axis=1)
        for clip in members:
            # libsndfile decodes Opus at 48 kHz whatever the file was made from; the index knows the origin.
            scale = stored_rate / clip.sample_rate if clip.sample_rate else 1.0
            begin = round(clip.start * scale)
            end = len(mono) if clip.length is None else begin + round(clip.length * scale)
            samples = mono[begin:end]
            if len(samples):
                yield clip, samples, stored_rate
