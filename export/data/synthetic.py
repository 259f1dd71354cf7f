"""Noises that field recordings lack, made from random numbers: fans, hum, clicks, typing, wind, beeps.

The pool is made once per seed and kept beside the decoded recordings: synthesis costs far more than reading back.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import signal

from streamproc.atomic import replacing

FORMAT = 1
Signal = npt.NDArray[np.float64]


def shaped_noise(rng: np.random.Generator, n: int, sample_rate: int) -> Signal:
    """Stationary Gaussian noise with a random smooth spectrum: -12..+3 dB per octave and a few broad bumps.

    Returns
    -------
    float64 [n]
    """
    frequency = np.fft.rfftfreq(n, 1 / sample_rate)
    octaves = np.log2(np.maximum(frequency, 20.0) / 1000.0)
    level_db = rng.uniform(-12.0, 3.0) * octaves
    for _ in range(rng.integers(0, 5)):
        centre, width = rng.uniform(-4.0, 4.0), rng.uniform(0.1, 1.0)
        level_db += rng.uniform(-12.0, 15.0) * np.exp(-0.5 * ((octaves - centre) / width) ** 2)
    if rng.random() < 0.4:  # low-passed, as through a wall or a case
        level_db -= 24.0 * np.maximum(octaves - rng.uniform(-2.0, 3.5), 0.0)
    spectrum = rng.normal(size=frequency.size) + 1j * rng.normal(size=frequency.size)
    spectrum *= 10 ** (np.maximum(level_db - level_db.max(), -90.0) / 20) * (frequency > 15.0)
    return _unit(np.fft.irfft(spectrum, n))


def slow_modulation(rng: np.random.Generator, n: int, sample_rate: int, rate_hz: float, depth_db: float) -> Signal:
    """Return a positive gain [n] that wanders by about `depth_db` with a bandwidth of about `rate_hz`."""
    n_knots = max(4, int(n / sample_rate * rate_hz * 2) + 3)
    knots = rng.normal(size=n_knots) * depth_db / 2
    return 10 ** (np.interp(np.linspace(0, n_knots - 1, n), np.arange(n_knots), knots) / 20)


def fan(rng: np.random.Generator, n: int, sample_rate: int) -> Signal:
    """Fan, air conditioning, vacuum cleaner: shaped noise, blade-rate modulation, and a few weak blade tones."""
    noise = shaped_noise(rng, n, sample_rate)
    time_s = np.arange(n) / sample_rate
    blade_hz = rng.uniform(20.0, 400.0)
    drift = np.cumsum(slow_modulation(rng, n, sample_rate, 0.5, 0.3)) / sample_rate
    noise *= 1.0 + rng.uniform(0.0, 0.5) * np.sin(2 * np.pi * blade_hz * drift)
    tones = np.zeros(n)
    for harmonic in range(1, int(rng.integers(1, 12))):
        if harmonic * blade_hz < 0.45 * sample_rate:
            phase = rng.uniform(0, 2 * np.pi)
            tones += rng.uniform(0, 1) / harmonic * np.sin(2 * np.pi * harmonic * blade_hz * drift + phase)
    swing = 1.0 + rng.uniform(0, 0.3) * np.sin(2 * np.pi * rng.uniform(0.05, 0.5) * time_s)
    return _unit(noise * swing + rng.uniform(0.0, 0.7) * tones)


def hum(rng: np.random.Generator, n: int, sample_rate: int) -> Signal:
    """Mains hum at 50 or 60 Hz with many harmonics, over a little hiss."""
    base_hz = rng.choice([50.0, 60.0]) * (1 + rng.normal() * 1e-3)
    time_s = np.arange(n) / sample_rate
    tilt = rng.uniform(0.3, 1.5)
    total = np.zeros(n)
    for harmonic in range(1, int(rng.integers(4, 50))):
        strength = rng.exponential() / harmonic**tilt * (1.5 if harmonic % 2 == 0 else 1.0)
        total += strength * np.sin(2 * np.pi * base_hz * harmonic * time_s + rng.uniform(0, 2 * np.pi))
    return _unit(_unit(total) + rng.uniform(0.02, 0.5) * shaped_noise(rng, n, sample_rate))


def gusts(rng: np.random.Generator, n: int, sample_rate: int) -> Signal:
    """Wind on a microphone: low noise with deep slow swings and some rumble of higher cut-off in the gusts."""
    corner_hz = rng.uniform(60.0, 500.0)
    sections = signal.butter(1, corner_hz, fs=sample_rate, output="sos")
    low = signal.sosfilt(sections, rng.normal(size=n))
    low = signal.sosfilt(signal.butter(1, corner_hz * 2, fs=sample_rate, output="sos"), low)
    gust = slow_modulation(rng, n, sample_rate, rng.uniform(0.5, 4.0), rng.uniform(6.0, 24.0))
    hiss = shaped_noise(rng, n, sample_rate) * gust**1.5
    return _unit(_unit(low * gust) + rng.uniform(0.0, 0.15) * _unit(hiss))


def clicks(rng: np.random.Generator, n: int, sample_rate: int) -> Signal:
    """Typing, mouse, cutlery, relays: bursts of short decaying resonances at uneven times."""
    total = rng.normal(size=n) * 10 ** (rng.uniform(-70, -45) / 20)
    kinds = [_impact(rng, sample_rate) for _ in range(6)]
    position = rng.exponential(0.2)
    while position < n / sample_rate:
        kind = kinds[rng.integers(len(kinds))]
        begin = int(position * sample_rate)
        end = min(n, begin + len(kind))
        total[begin:end] += rng.lognormal(0.0, 0.5) * kind[: end - begin]
        pause = rng.exponential(1.5) if rng.random() < 0.1 else rng.uniform(0.04, 0.3)
        position += max(pause, 0.02)
    return _unit(total)


def beeps(rng: np.random.Generator, n: int, sample_rate: int) -> Signal:
    """Alarms, ring tones, sirens, reversing lorries: gated or swept tones with harmonics."""
    time_s = np.arange(n) / sample_rate
    base_hz = np.exp(rng.uniform(np.log(250.0), np.log(4000.0)))
    period_s, duty = rng.uniform(0.15, 2.0), rng.uniform(0.2, 0.9)
    phase = (time_s / period_s) % 1.0
    sweep = 1.0 + rng.uniform(0.0, 0.8) * np.sin(2 * np.pi * phase) * (rng.random() < 0.4)
    angle = 2 * np.pi * np.cumsum(base_hz * sweep) / sample_rate
    total = np.zeros(n)
    for harmonic in range(1, int(rng.integers(2, 6))):
        if base_hz * harmonic * 1.8 < 0.45 * sample_rate:
            total += rng.uniform(0, 1) / harmonic * np.sin(harmonic * angle)
    gate = signal.lfilter([0.01], [1, -0.99], (phase < duty).astype(float))
    return _unit(total * gate + 0.02 * shaped_noise(rng, n, sample_rate))


def modulated(rng: np.random.Generator, n: int, sample_rate: int) -> Signal:
    """Shaped noise that swells and dies at speech-like rates: crowds far off, traffic, brushing, frying."""
    noise = shaped_noise(rng, n, sample_rate) * slow_modulation(
        rng, n, sample_rate, np.exp(rng.uniform(np.log(0.2), np.log(15.0))), rng.uniform(3.0, 20.0)
    )
    return _unit(noise)


KINDS: dict[str, tuple[Callable[[np.random.Generator, int, int], Signal], float]] = {
    "stationary": (shaped_noise, 0.22),
    "fan": (fan, 0.24),
    "hum": (hum, 0.10),
    "wind": (gusts, 0.12),
    "clicks": (clicks, 0.12),
    "beeps": (beeps, 0.06),
    "modulated": (modulated, 0.14),
}
"""Every kind: its maker and its share of the pool."""


def open_synthetic(
    cache_dir: Path | str, sample_rate: int, n_clips: int = 400, seconds: float = 8.0, seed: int = 0
) -> npt.NDArray[np.int16]:
    """Return the pool as int16 ``[clips, frames]`` (memory-mapped, peak 0.95), making it the first time."""
    key = json.dumps([FORMAT, sample_rate, n_clips, seconds, seed])
    path = Path(cache_dir) / f"synthetic-{FORMAT}-{sample_rate}-{n_clips}-{seconds:g}-{seed}.npy"
    if not path.is_file():
        rng = np.random.default_rng([seed, len(key)])
        makers, shares = zip(*KINDS.values(), strict=True)
        n = round(seconds * sample_rate)
        pool = np.empty((n_clips, n), dtype=np.int16)
        for row in pool:
            maker = makers[rng.choice(len(makers), p=shares)]
            samples = maker(rng, n, sample_rate)
            row[:] = np.round(samples * (0.95 * 32767 / np.abs(samples).max()))
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as unfinished, unfinished.open("wb") as file:
            np.save(file, pool)
    return np.load(path, mmap_mode="r")


def _impact(rng: np.random.Generator, sample_rate: int) -> Signal:
    """One knock: 3-60 ms of noise through one to three decaying resonances."""
    decay_s = np.exp(rng.uniform(np.log(0.003), np.log(0.06)))
    n = int(decay_s * 6 * sample_rate)
    time_s = np.arange(n) / sample_rate
    total = rng.normal(size=n) * np.exp(-time_s / (decay_s * 0.4)) * rng.uniform(0.1, 1.0)
    for _ in range(rng.integers(1, 4)):
        tone_hz = np.exp(rng.uniform(np.log(150.0), np.log(8000.0)))
        total += rng.uniform(0, 1) * np.sin(2 * np.pi * tone_hz * time_s) * np.exp(-time_s / decay_s)
    return total / np.abs(total).max()


def _unit(samples: Signal) -> Signal:
    return samples / max(float(np.sqrt(np.mean(samples**2))), 1e-12)
