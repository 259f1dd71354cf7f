"""A small validation folder, and mixtures of it."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile as sf

from export.evaluate.mixtures import BABBLE, MixtureSet


@pytest.fixture(scope="module")
def val_dir(tmp_path_factory):
    """A validation folder made of synthetic sound: four speakers, three kinds of noise, both rates."""
    folder = tmp_path_factory.mktemp("val")
    rng = np.random.default_rng(0)
    for number, (speaker, rate) in enumerate([("ann", 16000), ("ben", 48000), ("cat", 16000), ("dan", 48000)]):
        for take in range(2):
            time_s = np.arange(int(1.7 * rate)) / rate
            pitch = 90 + 30 * number + 10 * np.sin(2 * np.pi * (0.8 + 0.1 * take) * time_s)
            voice = sum(np.sin(2 * np.pi * k * np.cumsum(pitch) / rate) / k for k in range(1, 25))
            voice *= np.clip(np.sin(2 * np.pi * 2.5 * time_s), 0, None) * 0.1
            _write(folder / "speech" / speaker / f"{take}.flac", voice, rate)
    for kind, rate in (("hiss", 48000), (BABBLE, 16000), ("rumble", 48000)):
        _write(folder / "noise" / kind / "0.flac", 0.1 * rng.normal(size=int(2.2 * rate)), rate)
    return folder


def _write(path, samples, rate):
    path.parent.mkdir(parents=True, exist_ok=True)
    sf.write(path, samples, rate)


@pytest.fixture
def small_set(val_dir, tmp_path):
    return MixtureSet(8, varied=True, val_dir=val_dir, cache_dir=tmp_path, seconds=3.0)
