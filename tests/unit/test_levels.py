from __future__ import annotations

import numpy as np
import pytest
from helpers import noise, varying_blocks

from streamproc.levels import SILENCE_DB, LevelMeter
from streamproc.spec import Block


def measure(block: Block, blocks: list[int], sample_rate: int = 48_000) -> LevelMeter:
    meter = LevelMeter(sample_rate)
    start = 0
    for size in blocks:
        meter.update(block[:, start : start + size])
        start += size
    return meter


def test_levels_do_not_depend_on_the_blocks() -> None:
    x = noise(2, 100_000, level=0.1)
    one, many = measure(x, [100_000]), measure(x, varying_blocks(100_000))
    assert one.mean_db == pytest.approx(-20.0, abs=0.1)
    assert many.mean_db == pytest.approx(one.mean_db)
    assert many.floor_db == one.floor_db


def test_the_floor_is_the_level_of_the_pauses() -> None:
    x = noise(1, 480_000, level=0.001)  # -60 dB
    x[:, 96_000:] += noise(1, 384_000, seed=1, level=0.1)
    assert measure(x, [480_000]).floor_db == pytest.approx(-60.0, abs=0.5)


@pytest.mark.parametrize("scale", [0.0, 1e-12, 1e6])
def test_extreme_levels_stay_numbers(scale: float) -> None:
    meter = measure(np.float32(scale) * noise(1, 48_000), [48_000])
    assert SILENCE_DB <= meter.floor_db <= 110.0


def test_a_stream_shorter_than_a_frame_has_a_level() -> None:
    meter = measure(np.full((1, 10), 0.1, np.float32), [10])
    assert meter.floor_db == meter.mean_db == pytest.approx(-20.0)
    assert LevelMeter(48_000).floor_db == SILENCE_DB
