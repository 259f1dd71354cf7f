"""A day in minutes: a million random blocks, and ten minutes of sound through the shipped model. ``make test-slow``."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import numpy as np
import pytest
from helpers import noise

import streamproc
from streamproc.dsp.delay import Delay
from streamproc.engine import Engine
from streamproc.live import LiveConfig, LiveEngine
from streamproc.parameters import Parameter, Smoothed
from streamproc.processor import BaseProcessor, Chain
from streamproc.spec import Block, StreamConfig
from streamproc.testing import FakeStatus, FakeStream

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3600)]

RATE = 48_000
MAX_BLOCK = 96
DELAY = 77


class Twist(BaseProcessor):
    """Invert, and carry a parameter that does nothing to the sound but is worked through."""

    def __init__(self) -> None:
        self.knob = Smoothed(Parameter("knob", "", 0.0, 1.0, 0.0))

    @property
    def parameters(self) -> dict[str, Smoothed]:
        return {"knob": self.knob}

    def prepare(self, config: StreamConfig) -> None:
        self.knob.prepare(config.sample_rate, config.max_block)

    def process(self, x: Block, out: Block) -> None:
        self.knob.advance(x.shape[1])
        np.negative(x, out=out)


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def assert_flat(memory: list[int]) -> None:
    """The allocator gives back and takes again; what may not be is a higher peak in the second half."""
    half = len(memory) // 2
    assert max(memory[half:]) - max(memory[:half]) < 2 * 2**20, memory


class Books:
    """The account in whole numbers: who has got how far, nothing else."""

    def __init__(self, queue: int) -> None:
        self.queue = queue
        self.position = self.worked = 0
        self.valid_from = -queue
        self.frames = self.missed = self.skipped = self.misses = 0

    def begin(self) -> None:
        self.worked = self.position
        self.valid_from = self.position + DELAY

    def play(self, n: int) -> None:
        due = np.arange(self.position - self.queue, self.position - self.queue + n)
        skipped = due < self.valid_from
        missed = ~skipped & (due >= self.worked)
        self.skipped += int(skipped.sum())
        self.missed += int(missed.sum())
        self.misses += bool(missed.any())
        self.position += n


def test_a_million_random_blocks() -> None:
    rng = np.random.default_rng(0)
    config = LiveConfig(RATE, 1, max_block=MAX_BLOCK, queue=2 * MAX_BLOCK, tolerated_share=0.99, burst_ms=1e9)
    engine = LiveEngine(Chain([Twist(), Delay(DELAY)]), config)
    engine.start(own_thread=False)
    latency = engine.latency_samples
    stream = FakeStream(engine.callback, RATE)
    books = Books(2 * MAX_BLOCK)
    chunk, n_chunks = 2_000, 500
    past = np.zeros((1, latency), np.float32)
    memory: list[int] = []
    objects: list[int] = []
    xruns = presses = inexact = 0

    for part in range(n_chunks):
        quiet = part % 10 == 9  # everything must fall into place again
        sizes = rng.integers(0, MAX_BLOCK + 1, chunk).tolist()
        works = (np.full(chunk, 100) if quiet else rng.choice([0, 1, 2, 100], chunk, p=[0.1, 0.05, 0.05, 0.8])).tolist()
        acts = (np.zeros(chunk, int) if quiet else rng.choice(100, chunk)).tolist()
        flagged = {int(i): FakeStatus(output_underflow=True) for i in rng.choice(chunk, 3)}
        x = noise(1, sum(sizes), part, level=0.1)  # never as loud as full scale, where it would be clamped
        if quiet:
            engine.bypass = False

        def between(index: int, works: list[int] = works, acts: list[int] = acts, sizes: list[int] = sizes) -> None:
            nonlocal presses
            if sizes[index]:
                books.play(sizes[index])
            for _ in range(min(works[index], engine.work(works[index]))):
                books.worked += min(books.position - books.worked, MAX_BLOCK)
            if acts[index] == 1:
                engine.bypass = not engine.bypass
                presses += 1
            elif acts[index] == 2:
                engine.parameters["knob"].set(float(rng.random()))
            elif acts[index] == 3 and index + 1 < chunk and sizes[index + 1]:
                engine.reset()
                books.begin()
                presses += 1

        heard = stream.run(x, sizes, status=flagged, between=between)
        xruns += len(flagged)
        books.frames += x.shape[1]
        aligned = np.concatenate([past, x], axis=1)
        past = aligned[:, -latency:]
        aligned = aligned[:, : x.shape[1]]
        if quiet:
            np.testing.assert_array_equal(heard[:, 2000:], -aligned[:, 2000:])
        else:
            inexact += np.count_nonzero(np.abs(heard) != np.abs(aligned))

        snapshot = engine.snapshot()
        assert engine.latency_samples == latency
        assert snapshot.frames == books.frames
        assert snapshot.callbacks == (part + 1) * chunk
        assert (snapshot.missed_samples, snapshot.misses) == (books.missed, books.misses)
        assert snapshot.skipped_samples == books.skipped
        assert snapshot.missed_samples == snapshot.late_samples + snapshot.lost_samples + snapshot.owed_samples
        assert snapshot.output_xruns == xruns
        if part % 50 == 10:
            gc.collect()
            memory.append(resident_bytes())
            objects.append(len(gc.get_objects()))

    engine.raise_if_failed()
    # Whatever is neither wet nor dry at the latency declared lies in a transition.
    fade = round(0.005 * RATE)
    assert inexact <= (2 * books.misses + 2 * presses) * fade
    assert_flat(memory)
    assert objects[-1] - objects[1] < 100


def test_ten_minutes_through_the_shipped_model() -> None:
    block, piece_s = 128, 10
    engine = LiveEngine(streamproc.load("denoise"), LiveConfig(RATE, fixed_block=block))
    engine.start(own_thread=False)
    stream = FakeStream(engine.callback, RATE)
    offline = Engine(streamproc.load("denoise"), RATE, fixed_block=block)
    assert engine.latency_samples == offline.latency_samples + block
    n = piece_s * RATE // block * block
    before = np.zeros((1, block), np.float32)
    memory: list[int] = []
    for piece in range(10 * 60 // piece_s):
        x = noise(1, n, piece, level=0.05) + 0.2 * np.sin(np.arange(n) * (0.01 + 0.001 * piece)).astype(np.float32)
        expected = np.concatenate([offline.process(x[:, k : k + block]) for k in range(0, n, block)], axis=1)
        heard = stream.run(x, block, between=lambda _: engine.work())
        np.testing.assert_array_equal(heard, np.concatenate([before, expected], axis=1)[:, :n])
        before = expected[:, -block:]
        memory.append(resident_bytes())
    snapshot = engine.snapshot()
    assert (snapshot.missed_samples, snapshot.skipped_samples, snapshot.recoveries) == (0, 0, 0)
    assert snapshot.audio_s == pytest.approx(600, abs=1)
    assert_flat(memory)
