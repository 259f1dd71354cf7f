"""The noisy clip that ships with the project: speech from a synthesiser, noise from random numbers.

Nothing in it was recorded by anyone, so it can be given away freely.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile as sf
import soxr
from scipy.signal import fftconvolve

from streamproc.errors import StreamprocError
from streamproc.places import require_folder

from .data.cache import active_rms
from .data.synthetic import clicks, fan, hum

Signal = npt.NDArray[np.float64]

RATE = 48_000
SNR_DB = 3.0
SEED = 10

_LEVEL_DBFS = -23.0
_LEAD_S, _TAIL_S = 0.8, 0.5
_PEAK = 0.95


@dataclass(frozen=True)
class Sentence:
    """Something to say: a voice of espeak-ng, words per minute, pitch (0-99), level, and the pause before it."""

    text: str
    voice: str = "en-us+f3"
    speed: int = 150
    pitch: int = 48
    level_db: float = 0.0
    pause_s: float = 0.0


SPEECH = (
    Sentence("Good morning. Can you hear me over that fan?", speed=165, pitch=55),
    Sentence("I am at my desk, and somebody is typing.", speed=175, level_db=-4.0, pause_s=0.2),
    Sentence("Six fresh fish, and a cup of tea, please.", speed=165, level_db=-1.0, pause_s=0.3),
)
"""What is said. The last sentence is full of the sounds that denoisers like to eat."""

BYSTANDERS = (
    Sentence("Well, the train was late again, so we walked along the river and talked about the weather.", "en-gb+m1"),
    Sentence("Did you see the match? Nobody thought that they would win it in the last minute.", "en-gb-scotland+m4"),
    Sentence("First you peel the onions, then you warm the pan, and then you forget about both of them.", "en-us+f2"),
    Sentence("They moved the meeting to another room, and now nobody knows where anybody is.", "en-us+m7", 170),
)
"""What is talked about at the other end of the room, all at once."""

NOISE_DB = {"fan": 0.0, "hum": -8.0, "clicks": -7.0, "talk": -11.0}
"""Levels of the noises against each other."""


class SynthesiserMissing(StreamprocError):
    """espeak-ng is not installed."""


def speak(sentence: Sentence) -> Signal:
    """Return one sentence as float64 [frames] at 48 kHz, its active level at 0 dB plus the sentence's own.

    Raises
    ------
    SynthesiserMissing
        If there is no espeak-ng.
    """
    program = shutil.which("espeak-ng")
    if program is None:
        raise SynthesiserMissing("espeak-ng is not installed; on Debian: apt-get install espeak-ng")
    voice = ["-v", sentence.voice, "-s", str(sentence.speed), "-p", str(sentence.pitch)]
    with tempfile.TemporaryDirectory() as folder:
        wav = Path(folder, "sentence.wav")
        subprocess.run([program, *voice, "-w", str(wav), sentence.text], check=True)
        samples, stored_rate = sf.read(wav)
    samples = soxr.resample(samples, stored_rate, RATE, quality="VHQ")
    return samples * 10 ** (sentence.level_db / 20) / active_rms(samples, RATE)


def make_demo_clip(seed: int = SEED) -> tuple[Signal, Signal]:
    """Return the noisy clip and its clean speech, each float64 [frames] at 48 kHz."""
    rng = np.random.default_rng(seed)
    silence = np.zeros(round(_LEAD_S * RATE))
    parts = [silence]
    for sentence in SPEECH:
        parts += [np.zeros(round(sentence.pause_s * RATE)), speak(sentence)]
    dry = np.concatenate([*parts, np.zeros(round(_TAIL_S * RATE))])
    speech = in_room(dry, rng, direct=1.0, rt60_s=0.25)
    noise = make_noise(rng, len(speech))
    level = active_rms(speech, RATE)
    noise *= level / np.sqrt(np.mean(noise**2)) * 10 ** (-SNR_DB / 20)
    gain = min(10 ** (_LEVEL_DBFS / 20) / level, _PEAK / np.abs(speech + noise).max())
    return (speech + noise) * gain, speech * gain


def make_noise(rng: np.random.Generator, n: int) -> Signal:
    """Return a fan, mains hum, somebody typing, and people who talk far away: float64 [n]."""
    noises = {"fan": fan(rng, n, RATE), "hum": hum(rng, n, RATE), "clicks": clicks(rng, n, RATE)}
    talk = np.zeros(n)
    for sentence in BYSTANDERS:
        talk += np.roll(np.resize(speak(sentence), n), int(rng.integers(n)))
    noises["talk"] = in_room(talk, rng, direct=0.1, rt60_s=0.6)
    return sum(
        (10 ** (NOISE_DB[name] / 20) * part / np.sqrt(np.mean(part**2)) for name, part in noises.items()), np.zeros(n)
    )


def in_room(dry: Signal, rng: np.random.Generator, direct: float, rt60_s: float) -> Signal:
    """Add a decaying random tail of unit-free strength 0.3 to the direct sound."""
    n_tail = round(rt60_s * RATE)
    time_s = np.arange(n_tail) / RATE
    tail = rng.normal(size=n_tail) * 10 ** (-3 * time_s / rt60_s)
    tail[: round(0.003 * RATE)] = 0.0
    response = 0.3 * tail / np.sqrt(np.sum(tail**2))
    response[0] = direct
    return fftconvolve(dry, response)[: len(dry)]


def write_demo_clip(folder: Path, seed: int = SEED) -> list[Path]:
    """Write ``noisy.flac`` and ``clean.flac``, 16 bit, and return their paths."""
    require_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / "noisy.flac", folder / "clean.flac"]
    for path, samples in zip(paths, make_demo_clip(seed), strict=True):
        sf.write(path, samples, RATE, subtype="PCM_16")
    return paths
