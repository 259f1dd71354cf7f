"""A pool of room responses: simulated small rooms, and measured ones where a folder of them is given."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile as sf
import soxr

from streamproc.atomic import replacing
from streamproc.errors import ConfigError

FORMAT = 2
RESPONSE_MS = 400
"""Length of every response. Tails are damped to -60 dB at this point: nobody takes a call in a cathedral."""

EARLY_MS = 20
"""What arrives within this time of the direct sound belongs to the target: it helps speech rather than hurting it."""

_FADE_MS = 10
_SUFFIXES = (".wav", ".flac", ".ogg")


class RoomPool:
    """Pairs of a whole response and its early part.

    Attributes
    ----------
    full, early : float32 [rooms, taps]
        The direct sound is at tap 0 with gain 1 in both, so the target is never delayed against the mixture.
    """

    def __init__(self, full: npt.NDArray[np.float32], early: npt.NDArray[np.float32]) -> None:
        self.full = full
        self.early = early

    def __len__(self) -> int:
        return len(self.full)


def open_rooms(
    cache_dir: Path | str, sample_rate: int, n_simulated: int = 160, measured: Path | None = None, seed: int = 0
) -> RoomPool:
    """Return the pool, making it the first time.

    Parameters
    ----------
    cache_dir : path
        Where the pool is kept as one ``.npz``.
    sample_rate : int
        Hz.
    n_simulated : int
        Shoebox rooms from pyroomacoustics: 2-8 m wide, 0.12-0.7 s RT60, talker 0.2-3 m from the microphone.
    measured : path, optional
        Folder of measured responses; every channel of every sound file counts as one, three dampings each.
    seed : int

    Raises
    ------
    ConfigError
        If there is no sound file in `measured`.
    """
    if measured and not any(path.suffix.lower() in _SUFFIXES for path in measured.glob("*")):
        raise ConfigError(f"{measured} holds no measured responses; it should hold {', '.join(_SUFFIXES)} files")
    measured_names = sorted(path.name for path in measured.iterdir()) if measured else []
    key = json.dumps([FORMAT, sample_rate, n_simulated, measured_names, seed])
    path = Path(cache_dir) / f"rooms-{sample_rate}-{n_simulated}-{len(measured_names)}-{seed}.npz"
    if path.is_file():
        stored = np.load(path)
        if str(stored["key"]) == key:
            return RoomPool(stored["full"], stored["early"])
    rng = np.random.default_rng(seed)
    responses = [_simulate(rng, sample_rate) for _ in range(n_simulated)]
    if measured:
        responses += _load_measured(measured, sample_rate, rng)
    pairs = [_full_and_early(response, sample_rate) for response in responses]
    full = np.stack([pair[0] for pair in pairs]) if pairs else np.zeros((0, 1), np.float32)
    early = np.stack([pair[1] for pair in pairs]) if pairs else np.zeros((0, 1), np.float32)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as unfinished, unfinished.open("wb") as file:
        np.savez(file, full=full, early=early, key=key)
    return RoomPool(full, early)


def _simulate(rng: np.random.Generator, sample_rate: int) -> npt.NDArray[np.float64]:
    """One shoebox room, imaged to 15th order at most: later arrivals are few after the damping below."""
    import pyroomacoustics as pra

    while True:
        size = rng.uniform([2.0, 2.0, 2.2], [8.0, 7.0, 3.5])
        rt60 = rng.uniform(0.12, 0.7)
        try:
            absorption, order = pra.inverse_sabine(rt60, size)
        except ValueError:  # too large a room for so short a decay
            continue
        break
    room = pra.ShoeBox(size, fs=sample_rate, materials=pra.Material(absorption), max_order=min(order, 15))
    microphone = rng.uniform(0.3, size - 0.3)
    direction = rng.normal(size=3)
    distance = np.exp(rng.uniform(np.log(0.2), np.log(3.0)))
    source = np.clip(microphone + distance * direction / np.linalg.norm(direction), 0.2, size - 0.2)
    room.add_source(source)
    room.add_microphone(microphone)
    room.compute_rir()
    return np.asarray(room.rir[0][0], dtype=np.float64)


def _load_measured(folder: Path, sample_rate: int, rng: np.random.Generator) -> list[npt.NDArray[np.float64]]:
    responses = []
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in _SUFFIXES:
            continue
        samples, stored_rate = sf.read(path, always_2d=True)
        for channel in samples.T:
            if not np.any(channel):
                continue
            response = soxr.resample(channel, stored_rate, sample_rate)
            # A hall heard closer and drier: an extra decay, drawn as a new RT60 between 0.2 and 0.8 s.
            for rt60 in rng.uniform(0.2, 0.8, size=3):
                onset = int(np.argmax(np.abs(response)))
                time_s = np.maximum(np.arange(len(response)) - onset, 0) / sample_rate
                responses.append(response * 10 ** (-3.0 * time_s / rt60))
    return responses


def _full_and_early(
    response: npt.NDArray[np.float64], sample_rate: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Cut at the direct sound, damp the tail, split the early part off with a 10 ms fade."""
    taps = sample_rate * RESPONSE_MS // 1000
    onset = int(np.argmax(np.abs(response)))
    full = np.zeros(taps)
    cut = response[onset : onset + taps]
    full[: len(cut)] = cut / response[onset]
    fade = np.clip((np.arange(taps) / taps - 0.75) / 0.25, 0.0, 1.0)
    full *= 10 ** (-3.0 * fade)
    early_taps, fade_taps = sample_rate * EARLY_MS // 1000, sample_rate * _FADE_MS // 1000
    keep = np.clip(1.0 - (np.arange(taps) - early_taps) / fade_taps, 0.0, 1.0)
    return full.astype(np.float32), (full * keep).astype(np.float32)
