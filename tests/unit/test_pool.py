"""Pooled streams: each sounds as it would alone, whatever the others do."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from helpers import IdentitySpectrum, RecurrentSpectrum, RecurrentWaveform, noise
from hypothesis import given, settings
from hypothesis import strategies as st
from memory import memory_growth
from onnx_graphs import write_model

from streamproc.backends.loader import load_model
from streamproc.engine import Engine
from streamproc.errors import ConfigError
from streamproc.model import FrameModel
from streamproc.model_processor import ModelProcessor
from streamproc.pool import PooledStream, StreamPool

MODELS = {
    "spectrum": lambda: RecurrentSpectrum(16_000, hop=32),
    "waveform": lambda: RecurrentWaveform(16_000, hop=32),
    "lookahead": lambda: IdentitySpectrum(16_000, hop=16, lookahead=2, n_windows=4),
}


def alone(model: FrameModel, fixed_block: int | None = None) -> Engine:
    return Engine(ModelProcessor(model), model.spec.sample_rate, fixed_block=fixed_block)


@dataclass(eq=False)
class Talker:
    """A pooled stream, and all that went into it and came out of it."""

    stream: PooledStream
    seed: int
    said: list[np.ndarray] = field(default_factory=list)
    heard: list[np.ndarray] = field(default_factory=list)

    def say(self, n: int) -> np.ndarray:
        self.seed += 1
        self.said.append(noise(1, n, self.seed)[0])
        return self.said[-1]

    def check(self, model: FrameModel) -> None:
        if self.said:
            expected = alone(model).process(np.concatenate(self.said)[np.newaxis])[0]
            np.testing.assert_allclose(np.concatenate(self.heard), expected, atol=1e-5)


# Each event: who (or which seat), and what: a block of so many frames, or a change of seat.
sizes = st.sampled_from([0, 1, 7, 31, 32, 33, 64, 100])
events = st.lists(
    st.one_of(
        st.tuples(st.just("together"), st.lists(sizes, min_size=3, max_size=3)),
        st.tuples(st.just("join"), st.integers(0, 2)),
        st.tuples(st.just("leave"), st.integers(0, 2)),
        st.tuples(st.just("run ahead"), st.integers(0, 2)),
    ),
    min_size=3,
    max_size=25,
)


@pytest.mark.parametrize("kind", MODELS)
@settings(deadline=None, max_examples=40)
@given(events=events)
def test_every_stream_sounds_as_it_would_alone(kind: str, events: list) -> None:
    model = MODELS[kind]()
    pool = StreamPool(model, 3, max_block=512)
    seats: list[Talker | None] = [Talker(pool.open(), 0), None, None]
    for number, (what, detail) in enumerate(events):
        if what == "together":
            blocks = {t: t.say(n) for t, n in zip(seats, detail, strict=True) if t is not None}
            answers = pool.process({t.stream: x for t, x in blocks.items()})
            for talker, x in blocks.items():
                talker.heard.append(answers[talker.stream])
                assert answers[talker.stream].shape == x.shape
        elif what == "join" and seats[detail] is None:
            seats[detail] = Talker(pool.open(), 1000 * (number + 1))
        elif what == "leave" and seats[detail] is not None:
            seats[detail].check(model)
            seats[detail].stream.close()
            seats[detail] = None
        elif what == "run ahead" and seats[detail] is not None:
            talker = seats[detail]
            for n in (5, 40):
                talker.stream.push(talker.say(n))
            pool.step()
            talker.heard += [talker.stream.pull(45 - 3), talker.stream.pull(3)]
    for talker in seats:
        if talker is not None:
            talker.check(model)


@pytest.mark.parametrize("fixed_block", [8, 24, 32, 96])
def test_a_fixed_block_takes_less_latency(fixed_block: int) -> None:
    model = MODELS["spectrum"]()
    pool, engine = StreamPool(model, 2, fixed_block), alone(model, fixed_block)
    assert pool.latency == engine.latency
    assert pool.latency_samples < StreamPool(model, 2).latency_samples
    stream, x = pool.open(), noise(1, 20 * fixed_block)
    blocks = np.split(x, 20, axis=1)
    heard = np.concatenate([pool.process({stream: block})[stream] for block in blocks], axis=1)
    expected = np.concatenate([engine.process(block) for block in blocks], axis=1)
    np.testing.assert_allclose(heard, expected, atol=1e-5)


def test_an_onnx_model_batched(tmp_path: Path) -> None:
    model = load_model(write_model(tmp_path / "leaky.onnx"))
    pool = StreamPool(model, 5)
    streams = [pool.open() for _ in range(5)]
    x = noise(5, 400)
    heard = pool.process(dict(zip(streams, x, strict=True)))
    for stream, signal in zip(streams, x, strict=True):
        np.testing.assert_allclose(heard[stream], alone(model).process(signal[np.newaxis])[0], atol=1e-5)


def test_the_declared_latency_is_the_measured_one() -> None:
    pool = StreamPool(MODELS["lookahead"](), 1)
    x = noise(1, 1000)
    heard = pool.process({(stream := pool.open()): x})[stream]
    late = pool.latency_samples
    np.testing.assert_allclose(heard[:, late:], x[:, :-late], atol=1e-5)
    np.testing.assert_allclose(heard[:, :late], 0.0, atol=1e-7)


def test_bad_samples_of_one_stream_stay_there() -> None:
    model = MODELS["spectrum"]()
    pool = StreamPool(model, 2)
    good, bad = pool.open(), pool.open()
    x = noise(1, 640)[0]
    broken = x.copy()
    broken[100:200] = np.nan
    heard = pool.process({good: x, bad: broken})
    np.testing.assert_allclose(heard[good], alone(model).process(x[np.newaxis])[0], atol=1e-5)
    assert np.isfinite(heard[bad]).all()
    np.testing.assert_allclose(heard[bad], alone(model).process(broken[np.newaxis])[0], atol=1e-5)


def test_a_state_that_broke_is_made_anew_for_that_stream_alone() -> None:
    class Fragile(RecurrentSpectrum):
        def step(self, frame, state, out, next_state):  # type: ignore[no-untyped-def]
            super().step(frame, state, out, next_state)
            out[np.abs(frame).max(axis=(1, 2)) > 20.0] = np.nan

    pool = StreamPool(Fragile(16_000, hop=32), 2)
    good, bad = pool.open(), pool.open()
    x = noise(1, 640)[0]
    loud = x.copy()
    loud[256:288] = 30.0
    heard = pool.process({good: x, bad: loud})
    assert pool.recoveries > 0
    assert np.isfinite(heard[bad]).all()
    assert np.abs(heard[bad][-200:]).max() > 0.01
    np.testing.assert_allclose(heard[good], alone(MODELS["spectrum"]()).process(x[np.newaxis])[0], atol=1e-5)


def test_reset_begins_anew() -> None:
    pool = StreamPool(MODELS["waveform"](), 2)
    stream, x = pool.open(), noise(1, 333)[0]
    first = pool.process({stream: x})[stream]
    stream.reset()
    np.testing.assert_array_equal(pool.process({stream: x})[stream], first)


def test_streams_are_finite_in_number_and_can_be_closed() -> None:
    pool = StreamPool(MODELS["waveform"](), 2)
    with pool.open() as one:
        two = pool.open()
        with pytest.raises(ConfigError, match="room for 2 streams"):
            pool.open()
        assert pool.n_streams == 2
    assert pool.n_streams == 1
    one.close()  # a second time
    three = pool.open()
    with pytest.raises(ConfigError, match="closed"):
        one.push(np.zeros(1, np.float32))
    assert pool.process({two: np.zeros(40, np.float32), three: np.zeros(0, np.float32)})[three].shape == (0,)


def test_a_stream_that_the_pool_closed_is_closed_and_cannot_end_its_successor() -> None:
    pool = StreamPool(MODELS["waveform"](), 1)
    first = pool.open()
    pool.close(first)
    second = pool.open()
    with pytest.raises(ConfigError, match="closed"):
        first.push(np.zeros(1, np.float32))
    first.close()
    pool.close(first)
    assert pool.n_streams == 1
    assert pool.process({second: np.zeros(40, np.float32)})[second].shape == (40,)


def test_only_open_streams_of_a_pool_begin_anew() -> None:
    pool, x = StreamPool(MODELS["waveform"](), 1), noise(1, 333)[0]
    with pool.open() as first:
        pass
    second, third = pool.open(), StreamPool(MODELS["waveform"](), 1).open()
    heard = [pool.process({second: x})[second]]
    for stranger in (first, third):
        with pytest.raises(ConfigError, match="was closed, or belongs to another pool"):
            pool.rewind(stranger)
        with pytest.raises(ConfigError, match="was closed, or belongs to another pool"):
            pool.process({second: x, stranger: x})
    heard.append(pool.process({second: x})[second])
    expected = alone(pool.model).process(np.tile(x, 2)[np.newaxis])[0]
    np.testing.assert_allclose(np.concatenate(heard), expected, atol=1e-5)


def test_a_bad_sample_fits_wherever_a_good_one_does() -> None:
    pool = StreamPool(MODELS["waveform"](), 1, max_block=100)
    stream = pool.open()
    stream.pull(stream.n_ready)
    longest = np.zeros(100 + pool.model.spec.hop, np.float32)
    longest[-1] = np.nan
    stream.push(longest)
    assert stream.n_waiting == longest.size


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.zeros(10), "float64"),
        (np.zeros((2, 10), np.float32), r"\[2, 10\]"),
        (np.zeros(10_000, np.float32), "max_block"),
    ],
)
def test_blocks_that_cannot_be_taken(x: np.ndarray, message: str) -> None:
    pool = StreamPool(MODELS["waveform"](), 2)
    good, other = pool.open(), pool.open()
    with pytest.raises(ConfigError, match=message):
        pool.process({good: np.zeros(5, np.float32), other: x})
    assert good.n_waiting == 0


def test_more_cannot_be_pulled_than_is_there() -> None:
    stream = StreamPool(MODELS["waveform"](), 1).open()
    with pytest.raises(ConfigError, match="32 frames asked for and 31 ready"):
        stream.pull(32)


def test_the_largest_block_fits_at_any_moment() -> None:
    pool = StreamPool(MODELS["waveform"](), 1, max_block=100)
    stream = pool.open()
    for n in (100, 1, 100, 31, 100, 100):
        assert pool.process({stream: noise(1, n)[0]})[stream].size == n


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_streams": 0}, "max_streams must be a positive integer, found 0"),
        ({"max_streams": 2.0}, "max_streams must be a positive integer, found 2.0"),
        ({"max_streams": 1, "max_block": 0}, "max_block must be a positive integer, found 0"),
        ({"max_streams": 1, "fixed_block": 1.5}, "fixed_block must be a positive integer, found 1.5"),
        ({"max_streams": 1, "fixed_block": 9000}, "fixed_block must lie between 1 and max_block = 8192, found 9000"),
    ],
)
def test_pools_that_cannot_be(arguments: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        StreamPool(MODELS["waveform"](), **arguments)


def test_memory_does_not_grow(tmp_path: Path) -> None:
    pool = StreamPool(load_model(write_model(tmp_path / "leaky.onnx")), 8)
    streams = [pool.open() for _ in range(8)]
    blocks = dict(zip(streams, noise(8, 100), strict=True))
    assert memory_growth(lambda: pool.process(blocks), 200) < 20_000
