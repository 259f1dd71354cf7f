"""The filters between two rates, the least delay around them, and what they cost in memory and time."""

from __future__ import annotations

from fractions import Fraction
from math import ceil, gcd

import numpy as np
import pytest
from helpers import align, band_noise, noise, prepared, run_blocks, varying_blocks
from memory import memory_growth

from streamproc import resample
from streamproc.errors import ConfigError
from streamproc.processor import BaseProcessor, Passthrough
from streamproc.reblock import Reblock, reblock_delay
from streamproc.resample import PolyphaseFir, Resample, design_lowpass, resample_delay
from streamproc.spec import LatencyBreakdown, StreamConfig

PAIRS = [
    (48000, 16000), (48000, 44100), (48000, 8000), (48000, 96000), (44100, 16000), (44100, 8000), (44100, 96000),
    (16000, 8000), (16000, 96000), (8000, 96000), (22050, 48000), (11025, 48000), (32000, 44100), (192000, 16000),
]  # fmt: skip
both_directions = pytest.mark.parametrize(
    ("input_rate", "output_rate"), [*PAIRS, *((low, high) for high, low in PAIRS)]
)


def grid_response(input_rate: int, output_rate: int) -> tuple[np.ndarray, int]:
    """Impulse response at the common grid, found by sending impulses through the converter as it runs.

    Output `j` of an impulse at input `i` is tap ``j * down - i * up``; `down` neighbouring impulses find every tap.
    """
    up, down = Fraction(output_rate, input_rate).as_integer_ratio()
    taps = design_lowpass(up, down)
    n_inputs = ceil(taps.size / up) + down
    found = np.zeros(taps.size)
    converter = PolyphaseFir(taps, up, down, 0, 1, n_inputs)
    for impulse in range(down):
        x = np.zeros((1, n_inputs), np.float32)
        x[0, impulse] = 1.0
        converter.reset()
        converter.push(x)
        y = np.zeros((1, converter.n_ready), np.float32)
        converter.pull(y)
        at = np.arange(y.size) * down - impulse * up
        inside = (at >= 0) & (at < taps.size)
        assert not y[0, ~inside].any()
        found[at[inside]] = y[0, inside]
    return found, up


def gain_db(response: np.ndarray, up: int) -> tuple[np.ndarray, np.ndarray]:
    """Magnitude in dB of a response at the grid, and the frequencies in units of the input rate."""
    size = 1 << (8 * response.size).bit_length()
    gain = np.abs(np.fft.rfft(response, size)) / up
    return 20.0 * np.log10(np.maximum(gain, 1e-9)), np.fft.rfftfreq(size, 1.0 / up)


# --- filters --------------------------------------------------------------------------------------------------------


@both_directions
def test_filter_is_linear_phase_and_keeps_its_specification(input_rate: int, output_rate: int) -> None:
    response, up = grid_response(input_rate, output_rate)
    np.testing.assert_allclose(response, response[::-1], atol=1e-6 * response.max())
    gain, frequency = gain_db(response, up)
    frequency *= input_rate / min(input_rate, output_rate)
    assert np.abs(gain[frequency <= 0.45]).max() <= 0.05
    assert gain[frequency >= 0.546875].max() <= -60.0


@pytest.mark.parametrize(("input_rate", "output_rate"), [(48000, 16000), (16000, 48000)])
def test_filter_at_48_and_16_khz_is_as_short_as_promised(input_rate: int, output_rate: int) -> None:
    response, up = grid_response(input_rate, output_rate)
    assert 1.1 <= 1000.0 * (response.size // 2) / (up * input_rate) <= 1.5


def test_every_pair_scales_from_one_design() -> None:
    delays = {max(up, down): design_lowpass(up, down).size // 2 for up, down in [(1, 3), (160, 147), (3, 1), (6, 1)]}
    for size, delay in delays.items():
        assert 20.5 <= delay / size <= 20.9  # samples of the lower rate


@both_directions
def test_a_constant_passes_unchanged(input_rate: int, output_rate: int) -> None:
    up, down = Fraction(output_rate, input_rate).as_integer_ratio()
    taps = design_lowpass(up, down)
    n_inputs = 2 * ceil(taps.size / up) + 2 * down
    converter = PolyphaseFir(taps, up, down, 0, 1, n_inputs)
    converter.push(np.full((1, n_inputs), 0.7, np.float32))
    y = np.zeros((1, converter.n_ready), np.float32)
    converter.pull(y)
    settled = ceil(taps.size / down)
    np.testing.assert_allclose(y[0, settled:], 0.7, rtol=1e-6)


def test_converter_equals_the_formula() -> None:
    up, down, shift = 5, 7, 11
    taps, x = np.random.default_rng(0).normal(1.0, 1.0, 83), noise(2, 400)
    converter = PolyphaseFir(taps, up, down, shift, 2, 400)
    converter.push(x)
    y = np.zeros((2, converter.n_ready), np.float32)
    converter.pull(y)

    filtered = np.zeros((2, 400 * up + taps.size))
    phase_sums = np.array([taps[phase::up].sum() for phase in range(up)])
    scaled = taps / phase_sums[np.arange(taps.size) % up]
    for i in range(400):
        filtered[:, i * up : i * up + taps.size] += x[:, i : i + 1] * scaled
    at = np.arange(y.shape[1]) * down - shift
    expected = np.where(at >= 0, filtered[:, at], 0.0)
    np.testing.assert_allclose(y, expected, atol=2e-5)
    assert at[-1] // up <= 399 < (at[-1] + down) // up  # everything that could be computed was, and nothing else


# --- delay ----------------------------------------------------------------------------------------------------------

RATIOS = [(up, down) for up in range(1, 8) for down in range(1, 8) if gcd(up, down) == 1]


@pytest.mark.parametrize("fixed_block", [None, *range(1, 13)])
def test_closed_form_is_the_least_delay(fixed_block: int | None) -> None:
    """Count, host sample by host sample, which inner samples exist; nothing here knows the closed form."""
    for up, down in RATIOS:
        for hop in range(1, 9):
            worst, n_inner = None, 0
            for n in range(1, (fixed_block or 1) * hop * down * 2 + 1):
                while n_inner * down // up <= n - 1:  # the last host sample that inner sample `n_inner` needs
                    n_inner += 1
                if n % (fixed_block or 1) == 0:
                    processed = n_inner // hop * hop
                    lacking = (n - 1) * up - (processed * down - 1)
                    worst = lacking if worst is None else max(worst, lacking)
            assert resample_delay(hop, up, down, fixed_block) == worst, (up, down, hop)


@pytest.mark.parametrize("fixed_block", [None, 1, 64, 128, 441, 480])
@pytest.mark.parametrize("hop", [1, 64, 160, 256])
def test_equal_rates_are_the_delay_of_reblock(hop: int, fixed_block: int | None) -> None:
    expected = hop - gcd(fixed_block or 1, hop)
    assert resample_delay(hop, 1, 1, fixed_block) == reblock_delay(hop, fixed_block) == expected
    reblock = prepared(lambda: Reblock(Passthrough(), hop), StreamConfig(48000, fixed_block=fixed_block))
    assert reblock.latency_samples == expected


class Delayed(BaseProcessor):
    """Claims a latency; the audio does not matter here."""

    def __init__(self, latency: int) -> None:
        self._samples = latency

    @property
    def latency(self) -> LatencyBreakdown:
        return LatencyBreakdown(algorithmic=Fraction(self._samples))

    def process(self, x: np.ndarray, out: np.ndarray) -> None:
        np.copyto(out, x)


@pytest.mark.parametrize(("host_rate", "inner_rate"), PAIRS)
@pytest.mark.parametrize("fixed_block", [None, 1, 441, 480])
@pytest.mark.parametrize("inner_latency", [0, 37])
def test_total_is_rounded_up_once(host_rate: int, inner_rate: int, fixed_block: int | None, inner_latency: int) -> None:
    processor = prepared(
        lambda: Resample(Delayed(inner_latency), 100, inner_rate), StreamConfig(host_rate, fixed_block=fixed_block)
    )
    up, down = Fraction(inner_rate, host_rate).as_integer_ratio()
    filters = 2 * (design_lowpass(up, down).size // 2)
    exact = Fraction(filters + inner_latency * down + resample_delay(100, up, down, fixed_block), up)
    assert processor.latency_samples == ceil(exact)
    parts = processor.latency
    assert parts.resample == Fraction(filters, up)
    assert parts.algorithmic == Fraction(inner_latency * host_rate, inner_rate)
    assert 0 <= parts.reblock - Fraction(resample_delay(100, up, down, fixed_block), up) < 1


@pytest.mark.parametrize(("host_rate", "inner_rate"), PAIRS)
@pytest.mark.parametrize("hop", [1, 7, 160])
def test_a_block_can_always_be_answered(
    host_rate: int, inner_rate: int, hop: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pull = PolyphaseFir.pull

    def checked_pull(self: PolyphaseFir, out: np.ndarray) -> None:
        assert out.shape[1] <= self.n_ready
        pull(self, out)

    monkeypatch.setattr(resample.PolyphaseFir, "pull", checked_pull)
    for fixed_block in (None, 1, 64, 441, 480):
        blocks = [fixed_block] * (3000 // fixed_block) if fixed_block else varying_blocks(3000, largest=300)
        config = StreamConfig(host_rate, max_block=max(blocks), fixed_block=fixed_block)
        run_blocks(prepared(lambda: Resample(Passthrough(), hop, inner_rate), config), noise(1, 3000), blocks)


# --- round trip, time and memory --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("host_rate", "inner_rate"), PAIRS)
def test_identity_round_trip(host_rate: int, inner_rate: int) -> None:
    top_hz = 0.4375 * min(host_rate, inner_rate)  # 7 kHz at 16 kHz
    x = np.pad(band_noise(host_rate // 8, host_rate, (0.0, top_hz)), ((0, 0), (0, host_rate // 20)))
    processor = prepared(lambda: Resample(Passthrough(), 64, inner_rate), StreamConfig(host_rate))
    y = run_blocks(processor, x, varying_blocks(x.shape[1]))
    alignment = align(x[0], y[0], x.shape[1])
    assert alignment.latency == processor.latency_samples
    assert alignment.snr_db >= 50.0


@pytest.mark.parametrize(("host_rate", "inner_rate"), [(48000, 16000), (44100, 48000), (16000, 44100), (96000, 44100)])
def test_a_day_is_like_the_first_second(host_rate: int, inner_rate: int) -> None:
    """Once every counter has come back to where it was, time has no way in; and none of them grows meanwhile."""
    processor = Resample(Passthrough(), 60, inner_rate)
    processor.prepare(StreamConfig(host_rate, max_block=10_000))
    converters = (processor._to_inner, processor._to_host)

    def counters() -> tuple[int, ...]:
        return processor._fill, *(n for c in converters for n in (c._tile, c._lane, c._filled - c._cycle_start))

    start = counters()
    period = 60 * Fraction(host_rate, inner_rate).numerator  # a whole number of hops for any ratio
    for turn in range(1000):
        run_blocks(processor, np.zeros((1, period), np.float32), varying_blocks(period, seed=turn))
        assert all(0 <= c._filled <= c._history.shape[1] for c in converters)
        if counters() == start:
            return
    pytest.fail("the counters did not come round")


def test_long_stream_repeats_and_keeps_no_memory() -> None:
    processor = prepared(lambda: Resample(Passthrough(), 256, 48000), StreamConfig(44100, max_block=441))
    x = noise(1, 441)
    out = np.zeros_like(x)
    assert memory_growth(lambda: processor.process(x, out), 2000) < 1024
    # The same block came 2100 times: the output repeats with it, to the bit.
    expected = out.copy()
    processor.process(x, out)
    np.testing.assert_array_equal(out, expected)


# --- what is refused --------------------------------------------------------------------------------------------------


def test_equal_rates_are_refused() -> None:
    with pytest.raises(ConfigError, match="Reblock"):
        Resample(Passthrough(), 64, 48000).prepare(StreamConfig(48000))


def test_hop_must_be_positive() -> None:
    with pytest.raises(ConfigError, match="hop"):
        Resample(Passthrough(), 0, 48000)


def test_no_latency_is_claimed_before_prepare() -> None:
    assert Resample(Passthrough(), 64, 16000).latency_samples == 0
