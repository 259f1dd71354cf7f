"""The generalisation gap: how much better a model is on recordings that it has learned from than on others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ..data.cache import SoundCache, open_cache
from ..data.mix_config import MixConfig
from ..data.mixing import Mixer
from ..tables import Table
from .mixtures import PLAIN_LEVEL_DBFS, SEED, Mixture, MixtureRow
from .statistics import Results

HEARD, NEW = "heard", "new"
CELLS = tuple((talkers, noises) for talkers in (HEARD, NEW) for noises in (HEARD, NEW))
"""Whether the training has heard the talkers, and the noises."""

_SNR_DB = (-5.0, 5.0, 15.0)
_METRICS = (("si_sdr", "SI-SDR in dB", 2), ("pesq", "PESQ", 3))


@dataclass(frozen=True)
class DrawnMixtures(Sequence[Mixture]):
    """Mixtures drawn as in training, but plain: one recorded noise under an untouched talker.

    The noise ends where the speech was cut off when it was recorded.

    Parameters
    ----------
    n : int
    speech, noise : tuple of path
        Folders to draw from.
    cache_dir : path
    seconds : float
        Length of every mixture.
    speech_source, noise_source : str, optional
        Collection that alone is drawn from.
    seed : int

    Raises
    ------
    FileNotFoundError
        If a folder is missing or holds no sound.
    ValueError
        If a collection is not in the folders.
    """

    n: int
    speech: tuple[Path, ...]
    noise: tuple[Path, ...]
    cache_dir: Path
    seconds: float = 4.0
    speech_source: str | None = None
    noise_source: str | None = None
    seed: int = SEED

    def __post_init__(self) -> None:
        _ = self._caches()  # decoded once, here, and not by every process that draws

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> Mixture:  # type: ignore[override]  # a slice of mixtures is never wanted
        if not 0 <= index < self.n:
            raise IndexError(index)
        batch = self._mixer.batch(index, 1)
        noisy, clean, snr_db = batch.noisy[0], batch.clean[0], float(batch.snr_db[0])
        rate = self._mixer.config.sample_rate
        row = MixtureRow(index, self.seed, "", (), (), "", snr_db, PLAIN_LEVEL_DBFS, None, rate)
        return Mixture(row, PLAIN_LEVEL_DBFS, rate, noisy, clean, noisy - clean)

    @cached_property
    def _mixer(self) -> Mixer:
        """Opened by whoever draws first: memory maps are not sent to other processes."""
        levels = (PLAIN_LEVEL_DBFS, PLAIN_LEVEL_DBFS)
        config = MixConfig.plain(p_narrow=1.0, seconds=self.seconds, snr_db=_SNR_DB, level_db=levels)
        return Mixer(*self._caches(), config, self.seed)

    def _caches(self) -> tuple[SoundCache, SoundCache]:
        speech, noise = open_cache(self.speech, self.cache_dir), open_cache(self.noise, self.cache_dir)
        return (
            speech.from_source(self.speech_source) if self.speech_source else speech,
            noise.from_source(self.noise_source) if self.noise_source else noise,
        )


def tables(cells: Mapping[tuple[str, str], Results], ours: Sequence[str], peers: Sequence[str]) -> list[Table]:
    """Return a table for each of our systems: its lead over every peer, cell by cell, with 95 % intervals.

    A peer that has heard none of these recordings tells how hard they are; only the change of a lead from cell to
    cell says something about what was learned by heart.
    """
    header = ("", *(f"{label}, against {peer}" for peer in peers for _, label, _ in _METRICS))
    made = []
    for system in ours:
        rows = []
        for (talkers, noises), results in cells.items():
            row = [f"talkers {talkers}, noises {noises}"]
            for peer in peers:
                for key, _, digits in _METRICS:
                    ahead = results.mean(system, key, versus=peer)
                    row.append(f"{ahead.mean:+.{digits}f} ±{ahead.half_width:.{digits}f}")
            rows.append(tuple(row))
        made.append(Table(f"{system}: how far ahead", header, tuple(rows)))
    return made
