"""Second-order sections: designs against closed-form facts, running against `scipy.signal` in float64."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.signal
from helpers import floats, noise, prepared, run_blocks, seeds, varying_blocks
from hypothesis import given
from hypothesis import strategies as st

from streamproc.dsp import Band, Biquads, HighPass, ParametricEq
from streamproc.dsp.cookbook import band_section, butterworth_high_pass
from streamproc.errors import ConfigError
from streamproc.spec import StreamConfig

RATE = 48000


def response_db(sections, freq_hz, sample_rate=RATE):
    w = 2 * np.pi * np.atleast_1d(freq_hz) / sample_rate
    return 20 * np.log10(np.abs(scipy.signal.sosfreqz(sections, w)[1]) + 1e-15)


@st.composite
def stable_sections(draw):
    """Sections from poles anywhere within radius 0.9995 and any zeros."""
    rows = []
    for _ in range(draw(st.integers(1, 20))):
        radius, angle = draw(floats(0.0, 0.9995)), draw(floats(0.0, np.pi))
        b = [draw(floats(-1.0, 1.0)) for _ in range(3)]
        scale = draw(floats(0.5, 2.0))
        rows.append(scale * np.array([*b, 1.0, -2 * radius * np.cos(angle), radius**2]))
    return np.array(rows)


@given(sections=stable_sections(), seed=seeds)
def test_running_equals_scipy(sections, seed):
    x = noise(2, 3000, seed)
    expected = scipy.signal.sosfilt(sections / sections[:, 3:4], x.astype(np.float64))
    y = run_blocks(prepared(lambda: Biquads(sections), StreamConfig(RATE, 2)), x, varying_blocks(3000, seed))
    assert np.abs(y - expected).max() <= 1e-6 * max(1.0, np.abs(expected).max())


@pytest.mark.parametrize(
    "sections",
    [
        scipy.signal.butter(8, 20.0, "highpass", fs=RATE, output="sos"),
        scipy.signal.butter(2, 1.0, "highpass", fs=192_000, output="sos"),
        scipy.signal.cheby1(5, 1.0, 1000.0, fs=RATE, output="sos"),
        scipy.signal.iirpeak(1000.0, 200.0, fs=RATE)[0:2],
    ],
    ids=["butter", "very low", "cheby", "narrow"],
)
def test_difficult_filters_equal_scipy(sections):
    if isinstance(sections, tuple):
        sections = np.concatenate(sections)[np.newaxis]
    x = noise(1, 60_000)
    y = run_blocks(prepared(lambda: Biquads(sections), StreamConfig(RATE)), x, varying_blocks(60_000))
    assert np.abs(y - scipy.signal.sosfilt(sections, x.astype(np.float64))).max() <= 1e-6


@pytest.mark.parametrize("order", range(1, 9))
@pytest.mark.parametrize("cutoff_hz", [5.0, 80.0, 3000.0, 20000.0])
def test_high_pass_is_butterworth(order, cutoff_hz):
    freq_hz = np.geomspace(cutoff_hz / 4, 0.49 * RATE, 200)
    reference = scipy.signal.butter(order, cutoff_hz, "highpass", fs=RATE, output="sos")
    ours = butterworth_high_pass(cutoff_hz, order, RATE)
    np.testing.assert_allclose(response_db(ours, freq_hz), response_db(reference, freq_hz), atol=1e-6)
    assert response_db(ours, cutoff_hz) == pytest.approx(-3.0103, abs=1e-3)


@pytest.mark.parametrize("gain_db", [-18.0, -3.0, 0.0, 6.0, 24.0])
@pytest.mark.parametrize("freq_hz", [60.0, 1000.0, 15000.0])
def test_bands_have_their_gain_where_they_should(freq_hz, gain_db):
    top = RATE / 2
    peak = band_section("peak", freq_hz, gain_db, 1.4, RATE)
    np.testing.assert_allclose(response_db(peak, [0.0, freq_hz, top]), [0.0, gain_db, 0.0], atol=1e-6)
    low = band_section("low_shelf", freq_hz, gain_db, np.sqrt(0.5), RATE)
    np.testing.assert_allclose(response_db(low, [0.0, freq_hz, top]), [gain_db, gain_db / 2, 0.0], atol=1e-6)
    high = band_section("high_shelf", freq_hz, gain_db, np.sqrt(0.5), RATE)
    np.testing.assert_allclose(response_db(high, [0.0, freq_hz, top]), [0.0, gain_db / 2, gain_db], atol=1e-6)


@pytest.mark.parametrize("q", [0.3, np.sqrt(0.5), 4.0])
def test_bands_without_gain(q):
    corner_db = 20 * np.log10(q)
    for kind, expected in (("low_pass", [0.0, corner_db, -300.0]), ("high_pass", [-300.0, corner_db, 0.0])):
        levels = response_db(band_section(kind, 2000.0, 9.0, q, RATE), [0.0, 2000.0, RATE / 2])
        np.testing.assert_allclose(np.maximum(levels, -300.0), np.maximum(expected, -300.0), atol=1e-6, rtol=0.3)
    notch = response_db(band_section("notch", 2000.0, 9.0, q, RATE), [0.0, 2000.0, RATE / 2])
    assert notch[1] < -200.0
    np.testing.assert_allclose(notch[[0, 2]], 0.0, atol=1e-6)


def test_the_peak_is_as_wide_as_its_quality_says():
    """At half the gain in dB the bandwidth is centre / Q, before warping."""
    section = band_section("peak", 500.0, 12.0, 2.0, 192_000)
    freq_hz = np.linspace(300.0, 800.0, 5001)
    above = freq_hz[response_db(section, freq_hz, 192_000) >= 6.0]
    assert above[-1] - above[0] == pytest.approx(250.0, rel=0.01)


def test_equaliser_is_the_cascade_of_its_bands():
    bands = [Band("peak", 1000.0, 6.0, 2.0), ("high_shelf", 8000.0, -4.0, 0.7), Band("high_pass", 40.0)]
    x = noise(2, 4000)
    y = run_blocks(prepared(lambda: ParametricEq(bands), StreamConfig(RATE, 2)), x, varying_blocks(4000))
    expected = x.astype(np.float64)
    for band in ((*("peak", 1000.0, 6.0, 2.0),), bands[1], ("high_pass", 40.0, 0.0, np.sqrt(0.5))):
        expected = scipy.signal.sosfilt(band_section(*band, RATE), expected)
    np.testing.assert_allclose(y, expected, atol=1e-6)


def test_a_new_design_fades_in_and_is_exact_afterwards():
    n = RATE
    x = (0.5 * np.sin(2 * np.pi * 440 * np.arange(n) / RATE)).astype(np.float32)[np.newaxis]
    eq = prepared(lambda: ParametricEq([("peak", 440.0, 0.0, 1.0)]), StreamConfig(RATE, max_block=n))
    assert np.abs(run_blocks(eq, x, [n // 2]) - x[:, : n // 2]).max() < 1e-6
    eq.parameters["band1.gain"].set(12.0)
    y = run_blocks(eq, x[:, n // 2 :], [n // 2])[0]
    largest_slope = 0.5 * 10 ** (12 / 20) * 2 * np.pi * 440 / RATE
    assert np.abs(np.diff(y)).max() < 1.05 * largest_slope
    assert np.abs(y[-2000:]).max() == pytest.approx(0.5 * 10 ** (12 / 20), rel=1e-3)


def test_a_held_back_constant_stays_back_when_the_cutoff_moves():
    x = np.full((1, RATE), 0.5, np.float32)
    high_pass = prepared(lambda: HighPass(20.0), StreamConfig(RATE, max_block=RATE))
    run_blocks(high_pass, x, [RATE])
    high_pass.parameters["cutoff"].set(30.0)
    assert np.abs(run_blocks(high_pass, x, [RATE])).max() < 0.005


def test_a_parameter_in_restless_hands_does_not_click():
    x = (0.5 * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)).astype(np.float32)[np.newaxis]
    eq = prepared(lambda: ParametricEq([("peak", 440.0, 0.0, 0.5)]), StreamConfig(RATE))
    parts = []
    for turn, start in enumerate(range(0, RATE, 100)):
        eq.parameters["band1.gain"].set((0.0, 24.0, 12.0)[turn % 3])
        parts.append(run_blocks(eq, x[:, start : start + 100], [100]))
    y = np.concatenate(parts, axis=1)
    largest = 0.5 * 10 ** (24 / 20)
    assert np.abs(np.diff(y)).max() < 1.1 * largest * (2 * np.pi * 440 / RATE + 1 / 960)


def test_what_is_asked_for_during_a_fade_comes_after_it():
    x = noise(1, 4 * RATE)
    config = StreamConfig(RATE, max_block=x.shape[1])
    moved, direct = prepared(lambda: HighPass(80.0), config), prepared(lambda: HighPass(700.0), config)
    parts = []
    for cutoff_hz in (100.0, 5000.0, 300.0, 700.0):
        moved.parameters["cutoff"].set(cutoff_hz)
        parts.append(run_blocks(moved, x[:, 100 * len(parts) :], [100]))
    y = run_blocks(moved, x[:, 400:], [x.shape[1] - 400])
    np.testing.assert_allclose(y[:, -RATE:], run_blocks(direct, x, [x.shape[1]])[:, -RATE:], atol=1e-6)


def test_silence_leaves_no_denormals_in_the_state():
    high_pass = prepared(lambda: HighPass(80.0, 4), StreamConfig(RATE))
    run_blocks(high_pass, noise(1, 1000), [1000])
    run_blocks(high_pass, np.zeros((1, 2 * RATE), np.float32), [480] * 200)
    assert not high_pass._current.state.any()


@pytest.mark.parametrize("make", [lambda: HighPass(30.0, 4), lambda: ParametricEq([("peak", 100.0, 12.0, 8.0)])])
def test_tail_is_when_the_impulse_response_is_over(make):
    processor = prepared(make, StreamConfig(RATE))
    n = processor.tail_samples
    assert 100 < n < RATE
    impulse = np.zeros((1, 2 * n), np.float32)
    impulse[0, 0] = 1.0
    y = np.abs(run_blocks(processor, impulse, varying_blocks(2 * n)))[0]
    assert y[n:].max() < 1e-4


def test_moving_average_has_a_tail_of_its_length():
    assert prepared(lambda: Biquads([[0.5, 0.0, 0.5, 1, 0, 0]]), StreamConfig(RATE)).tail_samples == 2


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ([[1.0, 0, 0, 1, 0]], r"found the shape \[1, 5\]"),
        (np.zeros((0, 6)), r"found the shape \[0, 6\]"),
        (np.zeros((1, 1, 6)), r"found the shape \[1, 1, 6\]"),
        ([[1.0, 0, 0, 0, 0, 0]], "no a0 may be zero"),
        ([[np.nan, 0, 0, 1, 0, 0]], "must be finite"),
        ([[1.0, 0, 0, 1, 0, 0], [1.0, 0, 0, 1, -2.0, 1.0]], "section 1 is not stable"),
        ([[1.0, 0, 0, 1, -2.1, 1.0]], "section 0 is not stable"),
    ],
)
def test_sections_that_are_no_filter(sections, message):
    with pytest.raises(ConfigError, match=message):
        Biquads(sections)


def test_frequencies_must_fit_the_rate():
    high_pass = HighPass(9000.0)
    with pytest.raises(
        ConfigError, match=r"cutoff must lie between 1 and 7984 Hz, found 9000.0; the sample rate is 16000 Hz"
    ):
        high_pass.prepare(StreamConfig(16000))
    high_pass.prepare(StreamConfig(48000))
    with pytest.raises(ConfigError, match="between 1 and 23952 Hz"):
        high_pass.parameters["cutoff"].set(24000.0)
    with pytest.raises(ConfigError, match=r"band2.freq must lie between 1 and 3992 Hz"):
        ParametricEq([Band("peak", 100.0), Band("notch", 4000.0)]).prepare(StreamConfig(8000))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: HighPass(80.0, 9), "order must lie between 1 and 8"),
        (lambda: HighPass(80.0, 1.5), "order must be a whole number, found 1.5"),
        (lambda: HighPass(0.0), "cutoff must lie between 1"),
        (lambda: ParametricEq([]), "at least one band"),
        (lambda: ParametricEq([Band("shelf", 100.0)]), "band 1: kind must be one of peak, low_shelf, .*found 'shelf'"),
        (lambda: ParametricEq([Band("peak", 100.0), Band("peak", 100.0, 50.0)]), "band2.gain must lie between -40"),
        (lambda: ParametricEq([Band("peak", 100.0, q=0.0)]), "band1.q must lie between 0.05 and 50"),
    ],
)
def test_settings_out_of_range(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
