"""The callback between a device and whoever answers it."""

from __future__ import annotations

import time
from types import SimpleNamespace

import numpy as np
import pytest

from streamproc.errors import DeviceLost
from streamproc.live import LiveConfig, LiveEngine
from streamproc.live.door import Door
from streamproc.live.session import LiveSession
from streamproc.processor import Passthrough


def ones(indata: np.ndarray, outdata: np.ndarray, frames: int, *_: object) -> None:
    outdata.fill(1.0)


def knock(door: Door, frames: int) -> np.ndarray:
    """Play one block through a duplex door and return the output."""
    outdata = np.full((frames, 2), np.nan, np.float32)
    door(np.zeros((frames, 1), np.float32), outdata, frames, None, None)
    return outdata


def test_there_is_silence_until_somebody_answers() -> None:
    door = Door(has_output=True)
    assert not knock(door, 64).any()
    door.open(ones)
    assert (knock(door, 32) == 1.0).all()
    assert (door.beats, door.largest, door.is_open) == (2, 64, True)


def test_blocks_that_break_a_promise_are_silent_and_noticed() -> None:
    door = Door(has_output=True)
    door.promised = 64
    door.open(ones)
    assert (knock(door, 64) == 1.0).all()
    assert not door.broken_promise
    assert not knock(door, 32).any()
    assert door.broken_promise == 32


@pytest.mark.parametrize("frames", [1, 7, 64, 1000])
def test_it_closes_with_a_fade(frames: int) -> None:
    door = Door(has_output=True)
    door.open(ones)
    knock(door, frames)
    door.close(100)
    sound = np.concatenate([knock(door, frames) for _ in range(200 // frames + 2)])[:, 0]
    np.testing.assert_allclose(sound[:100], 1.0 - np.arange(1, 101) / 100, atol=1e-6)
    assert not sound[100:].any()
    assert not door.is_open


def test_an_input_needs_no_output() -> None:
    seen = []
    door = Door(has_output=False)
    block = np.zeros((16, 1), np.float32)
    door(block, 16, None, None)
    door.open(lambda indata, frames, *_: seen.append(frames))
    door(block, 16, None, None)
    door.close(8)
    door(block, 16, None, None)
    assert seen == [16, 16]
    assert not door.is_open


def test_silence_of_the_device_is_timed() -> None:
    door = Door(has_output=True)
    time.sleep(0.02)
    assert door.silent_s() >= 0.02
    knock(door, 8)
    assert door.silent_s() == 0.0


def test_a_session_begins_anew_when_longer_blocks_than_it_knew_keep_coming_too_late() -> None:
    door, engine = Door(has_output=True), LiveEngine(Passthrough(), LiveConfig(8000, max_block=64, burst_ms=100.0))
    session = LiveSession(Passthrough())
    session.engine, session._doors, session._known_blocks = engine, [door], [64]
    session._streams = [SimpleNamespace(active=True)]  # type: ignore[list-item]
    engine.start(own_thread=False)
    door.open(engine.callback)
    knock(door, 128)
    session.check()  # one late block is no reason
    for _ in range(20):
        knock(door, 128)
    assert engine.snapshot().bypass == "overload"
    with pytest.raises(DeviceLost, match="grown from 64 to 128 frames"):
        session.check()
