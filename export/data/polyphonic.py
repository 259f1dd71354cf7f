"""Piano rolls of the four sets that polyphonic music models are compared on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from streamproc.errors import ConfigError

N_NOTES = 88
SETS = {"MuseData": "MuseData", "JSB": "JSB_Chorales", "Piano-midi": "Piano_midi", "Nottingham": "Nottingham"}
"""Name in tables to name of the file."""

Song = npt.NDArray[np.float32]
"""One piece of music, [steps, 88]: 1 where a note sounds."""


@dataclass(frozen=True)
class PianoRolls:
    """One set with its usual split; every song is float32 [steps, 88] of zeros and ones."""

    train: tuple[Song, ...]
    valid: tuple[Song, ...]
    test: tuple[Song, ...]


def load_set(folder: Path, name: str) -> PianoRolls:
    """Read one set.

    Parameters
    ----------
    folder : Path
        Holds ``MuseData.mat``, ``JSB_Chorales.mat``, ``Piano_midi.mat`` and ``Nottingham.mat``.
    name : str
        A key of `SETS`.

    Raises
    ------
    ConfigError
        If the file is missing or does not hold ``traindata``, ``validdata`` and ``testdata`` of [steps, 88] rolls.
    """
    from scipy.io import loadmat

    path = folder / f"{SETS[name]}.mat"
    try:
        content = loadmat(path)
        splits = [tuple(_song(roll) for roll in content[key].ravel()) for key in ("traindata", "validdata", "testdata")]
    except (OSError, KeyError, ValueError, NotImplementedError) as error:
        raise ConfigError(
            f"{path}: not a MATLAB file with traindata, validdata and testdata, cells of [steps, {N_NOTES}] piano "
            f"rolls of 0 and 1 ({error})"
        ) from error
    return PianoRolls(*splits)


def _song(roll: Any) -> Song:
    song = np.asarray(roll, np.float32)
    if song.ndim != 2 or song.shape[1] != N_NOTES or not np.isin(song, (0.0, 1.0)).all():
        raise ValueError(f"found a roll of shape {list(song.shape)}")
    return song


@dataclass(frozen=True)
class Chunk:
    """Some steps of several songs side by side.

    Parameters
    ----------
    before, now : float32 [songs, steps, 88]
        What sounded one step before (zeros before the first step), and what sounds.
    present : bool [songs, steps]
        False where a song is over already.
    fresh : bool
        True at the first chunk of its songs: their states begin anew. Otherwise they go on from the chunk before, of
        which the first ``len(now)`` songs are left.
    """

    before: npt.NDArray[np.float32]
    now: npt.NDArray[np.float32]
    present: npt.NDArray[np.bool_]
    fresh: bool


def cut_songs(songs: Sequence[Song], longest: int, rng: np.random.Generator) -> list[tuple[int, int, int]]:
    """Cut songs into pieces of at most `longest` steps, at places that are random each time: (song, start, stop)."""
    pieces = []
    for index, song in enumerate(songs):
        first = int(rng.integers(1, longest + 1)) if len(song) > longest else len(song)
        edges = [0, *range(first, len(song), longest), len(song)]
        pieces += [(index, a, b) for a, b in pairwise(edges) if b > a]
    return pieces


def chunks(
    songs: Sequence[Song], batch: int, steps: int, longest: int | None = None, rng: np.random.Generator | None = None
) -> Iterator[Chunk]:
    """Run once through songs, `batch` at a time and `steps` at a time.

    Parameters
    ----------
    songs : sequence of Song
    batch, steps : int
    longest : int, optional
        Cut songs into pieces of at most so many steps first. Needs `rng`.
    rng : numpy.random.Generator, optional
        Shuffles; without it songs are taken whole, in the order of their length.

    Notes
    -----
    Songs of about the same length are put together, the longest first in each batch, so that a song that is over can
    leave the batch without moving the others and hardly any step is computed in vain.
    """
    pieces = [(i, 0, len(song)) for i, song in enumerate(songs)]
    if longest is not None:
        assert rng is not None
        pieces = cut_songs(songs, longest, rng)
    lengths = np.array([stop - start for _, start, stop in pieces], float)
    # The noise mixes neighbours in length, so that the same songs do not always meet.
    order = np.argsort(-lengths * (1.0 if rng is None else rng.uniform(0.8, 1.0, lengths.size)), kind="stable")
    groups = [order[i : i + batch] for i in range(0, len(order), batch)]
    if rng is not None:
        rng.shuffle(groups)
    for group in groups:
        chosen = sorted((pieces[i] for i in group), key=lambda piece: piece[1] - piece[2])
        for begin in range(0, chosen[0][2] - chosen[0][1], steps):
            left = [(i, start + begin, stop) for i, start, stop in chosen if start + begin < stop]
            width = min(steps, left[0][2] - left[0][1])
            before = np.zeros((len(left), width, N_NOTES), np.float32)
            now, present = np.zeros_like(before), np.zeros(before.shape[:2], bool)
            for row, (i, start, stop) in enumerate(left):
                part = songs[i][start : min(stop, start + width)]
                now[row, : len(part)] = part
                present[row, : len(part)] = True
                past = songs[i][max(0, start - 1) : start + len(part) - 1]
                before[row, len(part) - len(past) : len(part)] = past
            yield Chunk(before, now, present, begin == 0)
