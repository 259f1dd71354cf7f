"""What every classical processor keeps: any split, moving parameters, reset, isolation, causality, latency, memory."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
import scipy.signal
from helpers import (
    assert_processor_properties,
    block_splits,
    measure_latency,
    noise,
    prepared,
    run_blocks,
    seeds,
)
from hypothesis import given
from hypothesis import strategies as st

from streamproc.dsp import Biquads, Delay, Gain, HighPass, Limiter, NoiseGate, ParametricEq
from streamproc.mix import Mix
from streamproc.processor import BaseProcessor, Chain, parameters_of
from streamproc.spec import Block, StreamConfig

N_FRAMES = 6000
CONFIG = StreamConfig(48000, 2, max_block=8193)

splits = block_splits(1000) | block_splits(10_000).filter(lambda blocks: len(blocks) < 1000)
"""Strategy: splits of short signals down to single samples, and of long ones with blocks of up to 8193 frames."""


@dataclass(frozen=True)
class Case:
    make: Callable[[], BaseProcessor]
    moves: Sequence[tuple[str, float]] = field(default=())
    tolerance: float = 1e-5


CASES = {
    "delay": Case(lambda: Delay(441), tolerance=0.0),
    "no delay": Case(lambda: Delay(0), tolerance=0.0),
    "gain": Case(lambda: Gain(-3.0), [("gain", 9.0), ("gain", -40.0)]),
    "biquads": Case(lambda: Biquads(scipy.signal.ellip(7, 0.5, 60.0, [0.01, 0.4], "bandpass", output="sos"))),
    "high_pass": Case(lambda: HighPass(80.0, 3), [("cutoff", 300.0), ("cutoff", 20.0), ("cutoff", 1000.0)]),
    "eq": Case(
        lambda: ParametricEq([("low_shelf", 150.0, -6.0, 0.7), ("peak", 2500.0, 9.0, 2.0), ("notch", 50.0, 0.0, 9.0)]),
        [("band1.gain", 12.0), ("band2.freq", 800.0), ("band2.q", 0.3), ("band3.freq", 60.0)],
    ),
    "gate": Case(
        lambda: NoiseGate(-6.0, hold_ms=5.0, release_ms=10.0),
        [("threshold", -2.0), ("range", 12.0), ("release", 3.0), ("hold", 0.0), ("attack", 0.5), ("hysteresis", 1.0)],
    ),
    "gate with look-ahead": Case(lambda: NoiseGate(-4.0, hold_ms=0.0, release_ms=5.0, lookahead_ms=3.0)),
    "limiter": Case(lambda: Limiter(-9.0, release_ms=10.0), [("ceiling", -20.0), ("release", 50.0), ("ceiling", -3.0)]),
    "limiter without look-ahead": Case(lambda: Limiter(-9.0, lookahead_ms=0.0), [("ceiling", -20.0)]),
    "limiter that lets go early": Case(lambda: Limiter(0.0, release_ms=1.0, lookahead_ms=20.0), [("ceiling", -3.0)]),
    "mix": Case(
        lambda: Mix(Chain([HighPass(), Delay(100), Gain(-6.0)]), 0.8),
        [("bypass", 1.0), ("gain", 3.0), ("mix", 0.3), ("bypass", 0.0), ("attenuation_limit", 6.0)],
    ),
}  # fmt: skip

every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


@every_case
@given(blocks=splits, seed=seeds)
def test_properties(case, blocks, seed):
    assert_processor_properties(case.make, CONFIG, noise(2, sum(blocks), seed, level=0.25), blocks, case.tolerance)


@pytest.mark.parametrize("case", [c for c in CASES.values() if c.moves], ids=[n for n, c in CASES.items() if c.moves])
@given(data=st.data(), seed=seeds)
def test_splits_do_not_matter_while_parameters_move(case, data, seed):
    """Each parameter is moved at the same sample of the stream, however the samples between are cut."""
    x = noise(2, N_FRAMES, seed)
    places = st.lists(st.integers(0, N_FRAMES), min_size=len(case.moves), max_size=len(case.moves))
    times = sorted(data.draw(places))
    whole, split = prepared(case.make, CONFIG), prepared(case.make, CONFIG)
    outputs: tuple[list[Block], list[Block]] = ([], [])
    for start, stop, move in zip([0, *times], [*times, N_FRAMES], [None, *case.moves], strict=True):
        for processor in (whole, split):
            if move:
                parameters_of(processor)[move[0]].set(move[1])
        segment = x[:, start:stop]
        outputs[0].append(run_blocks(whole, segment, [stop - start]))
        outputs[1].append(run_blocks(split, segment, data.draw(block_splits(stop - start)), in_place=True))
    np.testing.assert_allclose(np.concatenate(outputs[1], 1), np.concatenate(outputs[0], 1), rtol=0, atol=1e-5)


@every_case
def test_reset_takes_up_what_the_parameters_say(case):
    used, fresh = prepared(case.make, CONFIG), prepared(case.make, CONFIG)
    run_blocks(used, noise(2, 1000, 1), [1000])
    for processor in (used, fresh):
        for name, value in case.moves:
            parameters_of(processor)[name].set(value)
    used.reset()
    fresh.prepare(CONFIG)
    x = noise(2, N_FRAMES)
    np.testing.assert_array_equal(run_blocks(used, x, [N_FRAMES]), run_blocks(fresh, x, [N_FRAMES]))


@every_case
def test_a_huge_sample_passes(case):
    """A sample 180 dB over full scale must not stay in the state: two seconds later nothing of it is left."""
    x = noise(2, 110_000)
    broken = x.copy()
    broken[0, 500] = 1e9
    broken[1, 501] = -1e9
    config = StreamConfig(48000, 2, x.shape[1])
    expected, actual = (run_blocks(prepared(case.make, config), signal, [x.shape[1]]) for signal in (x, broken))
    np.testing.assert_allclose(actual[:, 100_000:], expected[:, 100_000:], rtol=0, atol=1e-5)


@every_case
@pytest.mark.parametrize("sample_rate", [8000, 44100, 96000])
def test_runs_at_any_rate_and_channel_count(case, sample_rate):
    for n_channels in (1, 7):
        x = noise(n_channels, 2000)
        y = run_blocks(prepared(case.make, StreamConfig(sample_rate, n_channels, 512)), x, [480, 512, 0, 1, 500, 507])
        assert y.shape == x.shape


IDENTITIES = {
    "delay": lambda: Delay(333),
    "mix": lambda: Mix(Delay(333), 0.5),
    "open gate": lambda: NoiseGate(-100.0, lookahead_ms=2.5),
    "limiter": lambda: Limiter(0.0, lookahead_ms=4.0),
    "limiter without look-ahead": lambda: Limiter(0.0, lookahead_ms=0.0),
    "chain": lambda: Chain([Gain(), Limiter(0.0), Mix(Delay(50), 0.3), NoiseGate(-100.0, lookahead_ms=1.0), Delay(7)]),
}


@pytest.mark.parametrize("make", IDENTITIES.values(), ids=IDENTITIES.keys())
@pytest.mark.parametrize("block", [None, 1, 128, 480])
@pytest.mark.parametrize(("sample_rate", "n_channels"), [(48000, 1), (44100, 2)])
def test_declared_latency_is_measured_latency(make, block, sample_rate, n_channels):
    config = StreamConfig(sample_rate, n_channels)
    declared = prepared(make, config).latency_samples
    measured = measure_latency(make, config, block, n_probe=3000, reach=1200)
    assert measured.latency == declared
    assert measured.snr_db > measured.neighbour_snr_db + 20.0


@pytest.mark.parametrize("name", ["gain", "biquads", "high_pass", "eq"])
def test_minimum_phase_declares_nothing(name):
    processor = prepared(CASES[name].make, CONFIG)
    assert processor.latency_samples == 0
    assert processor.latency.total == 0


def test_steady_state_keeps_no_memory():
    """All processors at work, parameters moving now and then: 2000 blocks leave less than 1 KiB behind."""
    chain = prepared(lambda: Chain([case.make() for case in CASES.values()]), StreamConfig(48000, 2, 128))
    ranges = {"gain": (-6.0, 3.0), "cutoff": (50.0, 200.0), "ceiling": (-12.0, -3.0)}
    knobs = [
        (value, *ranges[value.parameter.name]) for value in chain.parameters.values() if value.parameter.name in ranges
    ]
    x, out = noise(2, 128, level=0.5), np.empty((2, 128), np.float32)

    def run(n_blocks: int) -> None:
        for block in range(n_blocks):
            if block % 50 == 0:
                for value, low, high in knobs:
                    value.set(low if block % 100 else high)
            chain.process(x, out)

    run(400)
    tracemalloc.start()
    try:
        run(100)
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        run(2000)
        gc.collect()
        after = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert after - before < 1024
