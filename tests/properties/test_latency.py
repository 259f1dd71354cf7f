"""Declared latency is measured latency, to the sample: every kind of block, rate, frame and channel arrangement."""

from __future__ import annotations

from itertools import cycle, product

import numpy as np
import pytest
from helpers import (
    Alignment,
    IdentitySpectrum,
    IdentityWaveform,
    MakeProcessor,
    measure_latency,
    noise,
    prepared,
    run_blocks,
    varying_blocks,
)

from streamproc.channels import Mono
from streamproc.model_processor import ModelProcessor
from streamproc.processor import Chain, Passthrough, latency_of
from streamproc.reblock import Reblock
from streamproc.resample import Resample
from streamproc.spec import StreamConfig

HOST_RATES = (8000, 16000, 44100, 48000, 96000)
MODEL_RATES = (16000, 48000)
BLOCKS = (1, 64, 65, 128, 441, 480, 511, 512, 8192, 8193, None)
IN_BAND = 0.4375
"""Top of the band that a round trip through another rate keeps at 50 dB, relative to the lower rate."""

MODELS = {
    "spectrum": lambda rate: IdentitySpectrum(rate, hop=128),
    "spectrum, looks ahead": lambda rate: IdentitySpectrum(rate, hop=100, lookahead=2, n_windows=4),
    "waveform": lambda rate: IdentityWaveform(rate, hop=160),
    "waveform, looks ahead": lambda rate: IdentityWaveform(rate, hop=64, lookahead=1),
}
ARRANGEMENTS = (
    ("spectrum", "independent", 1),
    ("waveform", "independent", 2),
    ("spectrum", "linked", 2),
    ("waveform, looks ahead", "independent", 1),
    ("spectrum, looks ahead", "mono", 1),
    ("spectrum, looks ahead", "independent", 2),
    ("spectrum, looks ahead", "linked", 2),
    ("waveform", "mono", 1),
    ("waveform, looks ahead", "independent", 2),
)
# Every block at every pair of rates. Nine arrangements take turns: as 9 shares no factor with the other counts, each of
# them meets every block and every rate.
CASES = [
    (block, host_rate, model_rate, *arrangement)
    for (block, host_rate, model_rate), arrangement in zip(
        product(BLOCKS, HOST_RATES, MODEL_RATES), cycle(ARRANGEMENTS), strict=False
    )
]


def assert_declared_is_measured(
    make: MakeProcessor, config: StreamConfig, block: int | None, lowest_rate: int, at_least_db: float = 50.0
) -> Alignment:
    measured = measure_latency(make, config, block, band_hz=(0.004 * lowest_rate, IN_BAND * lowest_rate), n_probe=4096)
    processor = prepared(
        make, StreamConfig(config.sample_rate, config.n_channels, max_block=max(block or 0, 1021), fixed_block=block)
    )
    assert measured.latency == processor.latency_samples == latency_of(processor).total
    assert measured.snr_db >= at_least_db
    assert measured.neighbour_snr_db <= measured.snr_db - 30.0
    return measured


@pytest.mark.parametrize(("block", "host_rate", "model_rate", "kind", "channel_mode", "n_channels"), CASES)
def test_models(
    block: int | None, host_rate: int, model_rate: int, kind: str, channel_mode: str, n_channels: int
) -> None:
    assert_declared_is_measured(
        lambda: ModelProcessor(MODELS[kind](model_rate), channel_mode),
        StreamConfig(host_rate, n_channels),
        block,
        min(host_rate, model_rate),
        at_least_db=100.0 if host_rate == model_rate else 50.0,
    )


@pytest.mark.parametrize("block", [1, 64, 441, 511, None])
@pytest.mark.parametrize("host_rate", [8000, 44100, 48000, 96000])
def test_chains(block: int | None, host_rate: int) -> None:
    """Latencies add: two rates, equal rate, nested conversion and one channel for all in a row."""

    def make() -> Chain:
        inner = Chain([Reblock(Passthrough(), 50), Passthrough()])
        return Chain(
            [
                Reblock(Passthrough(), 96),
                Resample(inner, 96, 24000),
                Mono(ModelProcessor(IdentityWaveform(32000, hop=64))),
                ModelProcessor(IdentitySpectrum(22050, hop=32)),
            ]
        )

    measured = assert_declared_is_measured(
        make, StreamConfig(host_rate), block, min(host_rate, 22050), at_least_db=48.0
    )
    assert measured.latency == sum(
        prepared(lambda p=p: p, StreamConfig(host_rate, fixed_block=block)).latency_samples for p in make().processors
    )


@pytest.mark.parametrize("block", [b for b in BLOCKS if b] + [None])
@pytest.mark.parametrize("hop", [1, 100, 128, 480])
def test_reblock_is_a_delay_to_the_bit(block: int | None, hop: int) -> None:
    """Reblock around the identity is a pure delay of ``hop - gcd(block, hop)``, bit for bit."""
    n = 3 * (block or 1000)
    x = noise(2, n)
    processor = prepared(lambda: Reblock(Passthrough(), hop), StreamConfig(48000, 2, max_block=8193, fixed_block=block))
    y = run_blocks(processor, x, [block] * 3 if block else varying_blocks(n))
    delay = processor.latency_samples
    assert delay == hop - np.gcd(block or 1, hop)
    np.testing.assert_array_equal(y, np.pad(x, ((0, 0), (delay, 0)))[:, :n])


@pytest.mark.parametrize("kind", MODELS)
def test_identity_at_its_own_rate_is_better_than_100_db(kind: str) -> None:
    def make() -> ModelProcessor:
        return ModelProcessor(MODELS[kind](48000))

    measured = measure_latency(make, StreamConfig(48000, 2), None, band_hz=(0.0, 24000.0))
    assert measured.snr_db >= 100.0


@pytest.mark.parametrize("model_rate", MODEL_RATES)
@pytest.mark.parametrize("host_rate", HOST_RATES)
def test_a_fixed_block_never_costs_more_than_a_varying_one(host_rate: int, model_rate: int) -> None:
    def latency(block: int | None) -> int:
        config = StreamConfig(host_rate, max_block=8193, fixed_block=block)
        return prepared(lambda: ModelProcessor(IdentityWaveform(model_rate, hop=160)), config).latency_samples

    varying = latency(None)
    assert all(latency(block) <= varying for block in BLOCKS)
    assert latency(1) == varying
