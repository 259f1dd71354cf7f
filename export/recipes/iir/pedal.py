"""Learning a distortion pedal from a dry and a wet recording, both simulated here."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import scipy.signal
import torch

from streamproc.audio_files import AudioReader
from streamproc.dsp.cookbook import band_section
from streamproc.errors import ConfigError

from ...models.iir import PedalModel, PedalModelConfig
from ..metrics import error_to_signal_ratio

Signal = npt.NDArray[np.float32]

SAMPLE_RATE = 48_000
WARM_UP = 1024
"""Samples at the start of a segment that are not counted: its past is missing there."""


def plucked_strings(seconds: float, seed: int) -> Signal:
    """Return a dry electric guitar, roughly: notes and chords of decaying partials, float32 [frames].

    Every note is a string that was plucked somewhere and heard by a pickup elsewhere; high partials decay faster.
    """
    rng = np.random.default_rng(seed)
    n = int(seconds * SAMPLE_RATE)
    sound = np.zeros(n)
    start = 0
    while start < n:
        length = int(rng.uniform(0.15, 1.2) * SAMPLE_RATE)
        time = np.arange(min(int(2.0 * SAMPLE_RATE), n - start)) / SAMPLE_RATE
        root = 82.4 * 2 ** (rng.integers(0, 30) / 12)
        intervals = (0,) if rng.random() < 0.6 else (0, 7, 12, 16)[: rng.integers(2, 5)]
        level = 10 ** (rng.uniform(-24, 0) / 20)
        pluck, pickup = rng.uniform(0.08, 0.4), rng.uniform(0.1, 0.3)
        for interval in intervals:
            pitch = root * 2 ** (interval / 12)
            for k in range(1, min(40, int(8000 / pitch)) + 1):
                strength = math.sin(math.pi * k * pluck) * math.sin(math.pi * k * pickup) / k
                decay = np.exp(-time * (0.8 + 0.15 * k + (pitch * k / 4000) ** 2))
                wave = np.sin(2 * np.pi * pitch * k * math.sqrt(1 + 1e-4 * k * k) * time + rng.uniform(0, 0.3))
                sound[start : start + time.size] += level * strength * decay * wave
        start += length
    return (0.5 * sound / np.abs(sound).max()).astype(np.float32)


def pedal(dry: Signal) -> Signal:
    """Return what the simulated pedal makes of `dry` [frames]: filter, waveshaper, filter.

    The low end is cut and the middle raised before a tanh of 24 dB of gain with a bias, which clips one side earlier
    than the other; after it a tone control and a coupling capacitor.
    """
    before = np.concatenate(
        [
            band_section("high_pass", 120.0, 0.0, 0.7, SAMPLE_RATE),
            band_section("peak", 750.0, 9.0, 0.8, SAMPLE_RATE),
        ]
    )
    after = np.concatenate(
        [
            band_section("low_pass", 4500.0, 0.0, 0.8, SAMPLE_RATE),
            band_section("high_pass", 40.0, 0.0, 0.7, SAMPLE_RATE),
            band_section("peak", 400.0, -5.0, 0.9, SAMPLE_RATE),
        ]
    )
    driven = 16.0 * scipy.signal.sosfilt(before, dry.astype(np.float64))
    shaped = np.tanh(driven + 0.4) - np.tanh(0.4)
    return (0.5 * scipy.signal.sosfilt(after, shaped)).astype(np.float32)


@dataclass(frozen=True)
class PedalTraining:
    """How a `PedalModel` is trained.

    Parameters
    ----------
    train_s, test_s : float
        Seconds of recordings.
    frames, batch, steps : int
        Samples per segment beyond the warm-up, segments per step, steps of Adam.
    lr, final_lr : float
        Along a cosine.
    """

    train_s: float = 30.0
    test_s: float = 10.0
    frames: int = 3072
    batch: int = 8
    steps: int = 800
    lr: float = 3e-2
    final_lr: float = 1e-4


@dataclass(frozen=True, eq=False)
class Recordings:
    """The same performance dry and through a device, in two parts.

    Parameters
    ----------
    dry, wet : float32 [frames]
        To learn from.
    test_dry, test_wet : float32 [frames]
        That nothing is learned from.
    sample_rate : int
        Hz.
    """

    dry: Signal
    wet: Signal
    test_dry: Signal
    test_wet: Signal
    sample_rate: int = SAMPLE_RATE


def simulated_recordings(training: PedalTraining, seed: int = 0) -> Recordings:
    """Return plucked strings dry and through the simulated pedal; other strings to test on."""
    dry, test_dry = plucked_strings(training.train_s, 1000 + seed), plucked_strings(training.test_s, 1)
    return Recordings(dry, pedal(dry), test_dry, pedal(test_dry))


def read_recordings(folder: Path) -> Recordings:
    """Return ``dry.wav`` and ``wet.wav`` of a folder, the last sixth of them to test on; of several channels the first.

    Raises
    ------
    AudioFileError
        If one of them cannot be read.
    ConfigError
        If they differ in rate or length, or are too short to learn from.
    """
    signals, infos = [], []
    for name in ("dry.wav", "wet.wav"):
        with AudioReader(folder / name) as reader:
            signals.append(np.concatenate([block[0] for block in reader.blocks(1 << 16)]))
            infos.append((reader.info.sample_rate, signals[-1].size))
    if infos[0] != infos[1]:
        raise ConfigError(
            f"{folder}: dry.wav and wet.wav must have one rate and one length, sample by sample; found "
            + " and ".join(f"{n} frames at {rate} Hz" for rate, n in infos)
        )
    sample_rate, n = infos[0]
    if n < 10 * sample_rate:
        raise ConfigError(
            f"{folder}: {n / sample_rate:.1f} s are too short to learn from; 10 s are needed, 60 are better"
        )
    (dry, test_dry), (wet, test_wet) = (np.split(signal, [n * 5 // 6]) for signal in signals)
    return Recordings(dry, wet, test_dry, test_wet, sample_rate)


def train_pedal(
    config: PedalModelConfig,
    training: PedalTraining,
    recordings: Recordings,
    seed: int,
    track: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> tuple[PedalModel, list[float]]:
    """Train from a dry and a wet recording; return the model, settled, and the loss along the way.

    The loss is the error-to-signal ratio of segments of equal length, each counted after `WARM_UP` samples.
    """
    torch.manual_seed(seed)
    model = PedalModel(config)
    dry, wet = recordings.dry, recordings.wet
    model.calibrate(torch.from_numpy(dry), torch.from_numpy(wet))
    rng = np.random.default_rng(seed)
    optimiser = torch.optim.Adam(model.parameters(), lr=training.lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, training.steps, training.final_lr)
    length = WARM_UP + training.frames
    span = np.arange(length)
    floor = 1e-3 * float(np.mean(wet.astype(np.float64) ** 2))  # a batch of silence must not count without bounds
    losses = []
    for _ in track(range(training.steps)):
        rows = rng.integers(0, dry.size - length, training.batch)[:, None] + span
        x, target = torch.from_numpy(dry[rows]), torch.from_numpy(wet[rows])[:, WARM_UP:]
        y = model.train_sequence(x)[:, WARM_UP:]
        loss = (y - target).square().mean() / (target.square().mean() + floor)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        losses.append(float(loss.detach()))
    model.settle()
    return model.eval(), losses


def whole_hops(signal: Signal, hop: int) -> Signal:
    """Return a recording as float32 [1, frames], without what does not fill a hop at its end."""
    return np.ascontiguousarray(signal[: signal.size - signal.size % hop])[None]


def ratio(found: Signal, wet: Signal) -> float:
    """Return the error-to-signal ratio of a whole recording."""
    return float(error_to_signal_ratio(found.astype(np.float64), wet.astype(np.float64)))
