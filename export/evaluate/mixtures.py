"""Validation mixtures: a table says which speech meets which noise, and row and seed say everything about a mixture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import gcd
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile as sf
from scipy import signal

from ..data.cache import Clip, active_rms, list_clips
from ..data.rooms import open_rooms

Signal = npt.NDArray[np.float32]
"""One channel of audio, float32 ``[frames]``."""

CHECKOUT = Path(__file__).resolve().parents[2]
SHARED = CHECKOUT.parent / "shared"
VAL_DIR = SHARED / "data" / "val"
CACHE_DIR = CHECKOUT / "cache"

SEED = 2026
SECONDS = 5.0
SNRS_DB = (-5.0, 0.0, 5.0, 10.0, 15.0)
PLAIN_LEVEL_DBFS = -26.0
VARIED_LEVELS_DBFS = (-40.0, -26.0, -14.0)
N_ROOMS = 12
BABBLE = "babble"

_ROOM_EVERY = 4
_ROOM_SEED = 20_261  # training draws its rooms from other seeds
_N_TALKERS = 5
_PAUSE_S = 0.3
_PEAK = 0.99


@dataclass(frozen=True)
class MixtureRow:
    """Everything that makes a mixture.

    Parameters
    ----------
    index : int
        Place in the plan; with `seed` the source of the mixture's random numbers.
    seed : int
    speaker : str
    speech : tuple of str
        Files below the validation folder, one after another with pauses between.
    noise : tuple of str
        One recording of noise, or the files of several other speakers who talk at once.
    kind : str
        Category of the noise.
    snr_db : float
        Active level of the speech, room included, over the RMS of the noise: as in training.
    level_dbfs : float
        Active level of the speech (`export.data.cache.active_rms`) that is asked for.
    room : int or None
        Number of the simulated room.
    sample_rate : int
        Hz. The lowest rate among the files, so that noise does not go on above the end of the speech.
    """

    index: int
    seed: int
    speaker: str
    speech: tuple[str, ...]
    noise: tuple[str, ...]
    kind: str
    snr_db: float
    level_dbfs: float
    room: int | None
    sample_rate: int


@dataclass(frozen=True)
class Mixture:
    """A mixture and its parts, each float32 ``[frames]``.

    Attributes
    ----------
    row : MixtureRow
    level_dbfs : float
        Active level of the speech; lower than asked for where the mixture would have clipped.
    sample_rate : int
        Hz; that of the row, unless the mixture was resampled.
    noisy : Signal
        Speech in its room plus `noise`.
    clean : Signal
        The reference: direct sound and early reflections.
    noise : Signal
    """

    row: MixtureRow
    level_dbfs: float
    sample_rate: int
    noisy: Signal
    clean: Signal
    noise: Signal

    def at(self, sample_rate: int) -> Mixture:
        """Return the same mixture at another rate."""
        parts = (resample(part, self.sample_rate, sample_rate) for part in (self.noisy, self.clean, self.noise))
        return Mixture(self.row, self.level_dbfs, sample_rate, *parts)


class MixtureSet(Sequence[Mixture]):
    """A planned set of mixtures; each is made when it is asked for, and always the same.

    Parameters
    ----------
    n : int
        Mixtures.
    varied : bool
        Three levels, and every fourth mixture in a simulated room. Otherwise one level and no rooms.
    val_dir : path
        Folder with ``speech`` and ``noise``, one recording per file; `export.data.cache.list_clips` says who speaks and
        what kind a noise is.
    cache_dir : path
        Where simulated rooms are kept.
    seed : int
    seconds : float
        Length of every mixture.

    Raises
    ------
    FileNotFoundError
        If `val_dir` has no recordings.

    Notes
    -----
    SNR, kind of noise, level and room go round in cycles of 5, 7, 3 and 4 (for the seven kinds of ``data/val``), which
    share no divisor: every value of one meets every value of the others equally often. Speakers, and the recordings of
    a kind, take turns. A longer plan begins with the shorter one.
    """

    def __init__(
        self,
        n: int = 60,
        varied: bool = False,
        val_dir: Path = VAL_DIR,
        cache_dir: Path = CACHE_DIR,
        seed: int = SEED,
        seconds: float = SECONDS,
    ) -> None:
        self.varied, self.val_dir, self.seed, self.seconds = varied, val_dir, seed, seconds
        self.rows = _plan(n, varied, val_dir, seed, seconds)
        rates = {row.sample_rate for row in self.rows if row.room is not None}
        # The same rooms at every rate. Opened here once: worker processes must not all make them at the same time.
        self._rooms = {rate: open_rooms(cache_dir, rate, N_ROOMS, seed=_ROOM_SEED) for rate in rates}

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Mixture:  # type: ignore[override]  # a slice of mixtures is never wanted
        row = self.rows[index]
        n_frames = round(self.seconds * row.sample_rate)
        rng = np.random.default_rng([self.seed, row.index, 1])
        dry = _one_after_another([self._read(name, row) for name in row.speech], n_frames, row.sample_rate, rng)
        speech, clean = self._in_room(dry, row)
        noise = np.zeros(n_frames, np.float32)
        for name in row.noise:
            excerpt = _excerpt(self._read(name, row), n_frames, rng)
            noise += excerpt / np.float32(rms(excerpt))
        speech_level = active_rms(speech, row.sample_rate)
        noise *= np.float32(speech_level / rms(noise) * 10 ** (-row.snr_db / 20))
        noisy = speech + noise
        gain = min(10 ** (row.level_dbfs / 20) / speech_level, _PEAK / float(np.abs(noisy).max()))
        level_dbfs = 20 * float(np.log10(gain * speech_level))
        parts = (part * np.float32(gain) for part in (noisy, clean, noise))
        return Mixture(row, level_dbfs, row.sample_rate, *parts)

    def _read(self, name: str, row: MixtureRow) -> Signal:
        samples, stored_rate = sf.read(self.val_dir / name, dtype="float32", always_2d=True)
        return resample(samples.mean(axis=1), stored_rate, row.sample_rate)

    def _in_room(self, dry: Signal, row: MixtureRow) -> tuple[Signal, Signal]:
        """Return the speech as a microphone hears it, and the part of it that is the reference."""
        if row.room is None:
            return dry, dry
        rooms = self._rooms[row.sample_rate]
        full, early = (signal.fftconvolve(dry, pool[row.room])[: len(dry)] for pool in (rooms.full, rooms.early))
        return full.astype(np.float32), early.astype(np.float32)


def rms(samples: npt.NDArray[np.floating]) -> float:
    """Root mean square over all samples."""
    return float(np.sqrt(np.mean(np.square(samples, dtype=np.float64))))


def resample(samples: Signal, rate_in: int, rate_out: int) -> Signal:
    """Change the rate of one channel, aligned and ``rate_out / rate_in`` as long; all that both rates hold is kept.

    By zeros in, or a cut of, the spectrum of the whole, so that up and down again is the identity. A filter with a
    transition band would take the top of the band from systems at another rate than the mixture's, and from no other;
    and from noises that were recorded at a higher rate than the speech, which would leave clean speech up there.
    """
    if rate_in == rate_out:
        return samples
    shared = gcd(rate_in, rate_out)
    step_in, step_out = rate_in // shared, rate_out // shared
    n_steps = -(-len(samples) // step_in)  # whole ones, or time would be stretched
    padded = np.pad(samples, (0, n_steps * step_in - len(samples)))
    out: Signal = signal.resample(padded, n_steps * step_out).astype(np.float32)
    return out[: round(len(samples) * rate_out / rate_in)]


def _plan(n: int, varied: bool, val_dir: Path, seed: int, seconds: float) -> list[MixtureRow]:
    speakers = _grouped(val_dir / "speech", key=lambda clip: clip.speaker)
    noises = _grouped(val_dir / "noise", key=lambda clip: clip.category)
    kinds = sorted(noises)
    order = np.random.default_rng([seed, 0])
    turns = {kind: list(order.permutation(len(noises[kind]))) for kind in kinds}
    levels = VARIED_LEVELS_DBFS if varied else (PLAIN_LEVEL_DBFS,)
    rows = []
    round_of_speakers: list[str] = []
    for index in range(n):
        # A fresh order each round: in one fixed order a speaker would meet the same SNR every time.
        round_of_speakers = round_of_speakers or [str(name) for name in order.permutation(sorted(speakers))]
        speaker = round_of_speakers.pop()
        kind, turn = kinds[index % len(kinds)], index // len(kinds)
        rng = np.random.default_rng([seed, index, 0])
        speech = _enough(rng, speakers[speaker], seconds)
        others = [name for name in sorted(speakers) if name != speaker]
        if kind == BABBLE and turn % 2 and others:
            others = list(rng.choice(others, min(_N_TALKERS, len(others)), replace=False))
            noise = [speakers[name][rng.integers(len(speakers[name]))] for name in others]
        else:
            noise = [noises[kind][turns[kind][turn % len(turns[kind])]]]
        rows.append(
            MixtureRow(
                index=index,
                seed=seed,
                speaker=speaker,
                speech=tuple(clip.path.relative_to(val_dir).as_posix() for clip in speech),
                noise=tuple(clip.path.relative_to(val_dir).as_posix() for clip in noise),
                kind=kind,
                snr_db=SNRS_DB[index % len(SNRS_DB)],
                level_dbfs=levels[index % len(levels)],
                room=index // _ROOM_EVERY % N_ROOMS if varied and index % _ROOM_EVERY == 0 else None,
                sample_rate=min(_info(clip).samplerate for clip in (*speech, *noise)),
            )
        )
    return rows


def _enough(rng: np.random.Generator, clips: Sequence[Clip], seconds: float) -> list[Clip]:
    """Draw clips of one speaker, none twice, until they last long enough or there are no more."""
    drawn: list[Clip] = []
    for number in rng.permutation(len(clips)):
        drawn.append(clips[number])
        if sum(_info(clip).duration + _PAUSE_S for clip in drawn) >= seconds + _PAUSE_S:
            break
    return drawn


def _one_after_another(clips: Sequence[Signal], n_frames: int, sample_rate: int, rng: np.random.Generator) -> Signal:
    """Join clips with pauses, round and round if they are too short; what is too long is cut at a drawn place."""
    pause = np.zeros(round(_PAUSE_S * sample_rate), np.float32)
    joined = np.concatenate([part for clip in clips for part in (clip, pause)])
    joined = np.resize(joined, max(len(joined) - len(pause), n_frames))
    offset = int(rng.integers(len(joined) - n_frames + 1))
    return joined[offset : offset + n_frames]


def _excerpt(samples: Signal, n_frames: int, rng: np.random.Generator) -> Signal:
    """Cut an excerpt from a drawn place; recordings that are too short go round."""
    if len(samples) < n_frames:
        return np.resize(samples, n_frames)
    offset = int(rng.integers(len(samples) - n_frames + 1))
    return samples[offset : offset + n_frames]


def _grouped(folder: Path, key: Callable[[Clip], str]) -> dict[str, list[Clip]]:
    groups: dict[str, list[Clip]] = {}
    for clip in list_clips(folder):
        groups.setdefault(key(clip), []).append(clip)
    return groups


def _info(clip: Clip) -> sf._SoundFileInfo:
    return sf.info(clip.path)
