"""Folders of music: the Free Music Archive's layout with its genres and splits, an indexed folder, or any other."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import soundfile as sf

from .cache import Clip, SoundCache, list_clips, open_clips

Split = Literal["training", "validation", "test"]

_HELD_OUT: dict[int, Split] = {3: "validation", 4: "test"}
"""Of every five recordings of a source, those at these places are not trained on."""


def list_music(folder: Path) -> list[Clip]:
    """Find the recordings of a folder.

    Parameters
    ----------
    folder : Path
        The Free Music Archive's data [1]_ (``fma_small/000/000002.mp3``; ``tracks.csv`` in the folder itself, beside
        it, or in ``fma_metadata`` beside it): `Clip.category` is the genre, `Clip.source` the split that was published.
        Or a folder with an ``index.csv`` as in `list_clips`: the rows whose category is ``music``, if there are any.
        Or sound files of any kind, each a recording.

    Raises
    ------
    FileNotFoundError
        If there is no folder, or no sound in it.

    References
    ----------
    .. [1] M. Defferrard, K. Benzi, P. Vandergheynst and X. Bresson, "FMA: a dataset for music analysis", ISMIR 2017.
    """
    clips = list_clips(folder)
    tracks = _find_tracks(folder)
    if tracks is None:
        return [clip for clip in clips if clip.category == "music"] or clips
    known = read_tracks(tracks)
    found = []
    for clip in clips:
        number = int(clip.path.stem) if clip.path.stem.isdigit() else -1
        genre, split = known.get(number, ("", ""))
        found.append(replace(clip, speaker=clip.path.stem, category=genre, source=split or "unlisted"))
    return found


def read_tracks(path: Path) -> dict[int, tuple[str, str]]:
    """Return genre and split of every track of the archive's ``tracks.csv``.

    Its columns have two lines of names, of which ``track, genre_top`` and ``set, split`` are read; a third line names
    the first column.

    Raises
    ------
    ValueError
        If the file has other columns.
    """
    with path.open(newline="", encoding="utf-8") as lines:
        rows = csv.reader(lines)
        names = list(zip(next(rows, []), next(rows, []), strict=False))
        try:
            genre, split = names.index(("track", "genre_top")), names.index(("set", "split"))
        except ValueError:
            raise ValueError(
                f"{path}: not the archive's tracks.csv; expected the columns (track, genre_top) and (set, split)"
            ) from None
        return {int(row[0]): (row[genre], row[split]) for row in rows if row and row[0].isdigit()}


def open_music(
    folder: Path | str, cache_dir: Path | str, sample_rate: int, minutes: float | None = None, seed: int = 0
) -> SoundCache:
    """Return the music of a folder, decoded once; files that cannot be decoded are left out and named in `broken`.

    Parameters
    ----------
    folder, cache_dir : path
    sample_rate : int
        Of the cache, in Hz.
    minutes : float, optional
        Of a folder with more music than that, take whole recordings by chance until it is enough.
    seed : int
        Of that chance.
    """
    folder = Path(folder)
    name = f"{folder.resolve().parent.name}-{folder.name}-music"
    clips = list_music(folder)
    if minutes is not None:
        clips = choose(clips, minutes, seed)
    return open_clips(clips, name, cache_dir, sample_rate, skip_broken=True)


def choose(clips: Sequence[Clip], minutes: float, seed: int = 0) -> list[Clip]:
    """Draw recordings until there are so many minutes of them; all, if there are fewer. In the order they came in."""
    chosen: list[int] = []
    left_s = 60.0 * minutes
    for place in np.random.default_rng(seed).permutation(len(clips)):
        if left_s <= 0.0:
            break
        chosen.append(int(place))
        left_s -= _seconds(clips[place])
    return [clips[place] for place in sorted(chosen)]


def _seconds(clip: Clip) -> float:
    if clip.length is not None and clip.sample_rate:
        return clip.length / clip.sample_rate
    try:
        return float(sf.info(clip.path).duration)
    except sf.SoundFileError:  # broken: to be counted where it is decoded
        return 0.0


def split_music(music: SoundCache, seed: int = 0) -> dict[Split, list[int]]:
    """Divide recordings, whole ones, into those to train on, to stop by, and to measure with.

    The split that the Free Music Archive published is kept. Otherwise each source is shuffled, and of every five
    recordings three are trained on.

    Raises
    ------
    ValueError
        If one part would be empty.
    """
    parts: dict[Split, list[int]] = {name: [] for name in get_args(Split)}
    sources: defaultdict[str, list[int]] = defaultdict(list)
    for clip, source in enumerate(music.source):
        if source in parts:
            parts[source].append(clip)  # type: ignore[index]
        else:
            sources[source].append(clip)
    for _, clips in sorted(sources.items()):
        for place, clip in enumerate(np.random.default_rng(seed).permutation(clips)):
            parts[_HELD_OUT.get(place % 5, "training")].append(int(clip))
    if empty := [name for name, clips in parts.items() if not clips]:
        raise ValueError(
            f"{len(music)} recordings leave none for {' and '.join(empty)}; give at least five of a source"
        )
    return {name: sorted(clips) for name, clips in parts.items()}


def _find_tracks(folder: Path) -> Path | None:
    places = (folder, folder.parent, folder.parent / "fma_metadata", folder / "fma_metadata")
    return next((place / "tracks.csv" for place in places if (place / "tracks.csv").is_file()), None)
