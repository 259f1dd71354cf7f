"""The ring: every sample keeps its number, and a reader that was too slow is told so."""

from __future__ import annotations

import sys
import time
from threading import Thread

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from streamproc.live.ring import Ring
from streamproc.spec import Block


def numbered(start: int, n: int) -> Block:
    return np.arange(start, start + n, dtype=np.float32)[None]


@given(
    capacity=st.integers(1, 40),
    sizes=st.lists(st.integers(0, 7), max_size=40),
    back=st.integers(0, 80),
    n=st.integers(0, 20),
)
def test_reading_gives_the_samples_asked_for_or_says_that_they_are_gone(
    capacity: int, sizes: list[int], back: int, n: int
) -> None:
    ring = Ring(1, capacity, 7)
    for size in sizes:
        ring.append(numbered(ring.written, size))
    number = ring.written - back
    n = min(n, back, capacity)
    out = np.full((1, n), np.nan, np.float32)
    there = ring.read(number, out)
    assert there == (back <= capacity)
    if there:
        np.testing.assert_array_equal(out, np.maximum(numbered(number, n), 0.0))


def test_silence_can_be_appended_and_numbers_skipped() -> None:
    ring = Ring(1, 100, 8)
    ring.append(numbered(1, 8))
    ring.pad(30)
    out = np.ones((1, 30), np.float32)
    assert ring.read(0, out)
    np.testing.assert_array_equal(out[:, 8:], 0.0)
    ring.jump(1000)
    ring.append(numbered(1000, 5))
    assert ring.read(1000, out[:, :5])
    np.testing.assert_array_equal(out[:, :5], numbered(1000, 5))


def test_no_reader_believes_a_torn_block() -> None:
    """One thread writes as fast as it can, another reads where it is about to be overtaken."""
    ring = Ring(1, 512, 64)
    ending = False

    def write() -> None:
        while not ending:
            ring.append(numbered(ring.written % 2**20, 64))

    writer = Thread(target=write)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    writer.start()
    out = np.zeros((1, 128), np.float32)
    believed = gone = attempt = 0
    deadline = time.monotonic() + 20
    try:
        while (believed < 2000 or not gone) and time.monotonic() < deadline:
            attempt += 1
            number = ring.written - 512 + attempt % 72 - 8
            if number < 0 or number % 2**20 + 128 > 2**20:
                continue
            if ring.read(number, out):
                believed += 1
                np.testing.assert_array_equal(out, numbered(number % 2**20, 128))
            else:
                gone += 1
    finally:
        ending = True
        writer.join()
        sys.setswitchinterval(interval)
    assert believed
    assert gone
