"""Recurrences: every form is the same filter, in one sample or a block at a time, cut anywhere."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.signal
from helpers import block_splits, floats, noise, seeds
from hypothesis import given
from hypothesis import strategies as st

from streamproc.dsp.state_space import (
    BlockRecurrence,
    StateSpace,
    block_matrices,
    delay_chain,
    evaluate,
    normal_form,
    transposed_direct,
)
from streamproc.errors import ConfigError


@st.composite
def sections(draw):
    """Sections with complex, real, equal and almost equal poles, poles at zero, and any zeros."""
    rows = []
    for _ in range(draw(st.integers(1, 6))):
        middle = draw(floats(-0.97, 0.97))
        gap = draw(st.sampled_from([0.0, 1e-12, 1e-6, 1e-2, 0.3])) * draw(floats(-1, 1))
        poles = np.array([middle + np.emath.sqrt(gap), middle - np.emath.sqrt(gap)])
        poles *= min(1.0, 0.999 / max(np.abs(poles).max(), 1e-9))
        b = [draw(floats(-1.0, 1.0)) for _ in range(3)]
        rows.append([*b, 1.0, -poles.sum().real, poles.prod().real])
    return np.array(rows)


@pytest.mark.parametrize("form", [normal_form, transposed_direct], ids=["normal", "transposed"])
@given(sos=sections(), seed=seeds)
def test_every_form_is_the_filter(form, sos, seed):
    x = noise(1, 400, seed)[0].astype(np.float64)
    expected = scipy.signal.sosfilt(sos, x)
    np.testing.assert_allclose(form(sos).run(x), expected, rtol=0, atol=1e-10 * max(1.0, np.abs(expected).max()))


@given(sos=sections(), blocks=block_splits(3000, largest=2500), seed=seeds)
def test_blocks_are_the_sample_recurrence(sos, blocks, seed):
    space = normal_form(sos)
    x = noise(2, 3000, seed)
    expected = np.stack([space.run(channel) for channel in x])
    scale = max(1.0, np.abs(expected).max())
    for dtype, tolerance in (("float64", 1e-11), ("float32", 3e-4)):
        recurrence = BlockRecurrence(space.n_states, 2, dtype)
        recurrence.design(space)
        y, start = np.empty((2, 3000), dtype), 0
        for n in blocks:
            recurrence.run(x[:, start : start + n], y[:, start : start + n])
            start += n
        np.testing.assert_allclose(y, expected, rtol=0, atol=tolerance * scale)


def test_the_first_rows_and_columns_serve_any_shorter_block():
    space = normal_form(scipy.signal.ellip(5, 1, 60, 0.2, output="sos"))
    whole, n_states = block_matrices(space, 64), space.n_states
    for n in range(1, 65):
        part = block_matrices(space, n)
        np.testing.assert_allclose(whole.out[: n_states + n, :n], part.out, atol=1e-14)
        np.testing.assert_allclose(whole.into[64 - n :], part.into, atol=1e-14)
    response = scipy.signal.sosfilt(scipy.signal.ellip(5, 1, 60, 0.2, output="sos"), np.eye(1, 64)[0])
    np.testing.assert_allclose(whole.out[n_states], response, atol=1e-14)


def test_normal_form_has_no_direction_that_grows():
    """The largest gain of a step is the radius of the poles: nothing overflows on its way to decaying."""
    for sos in scipy.signal.butter(12, 0.04, output="sos"):
        a = normal_form(sos[None]).a
        assert np.linalg.norm(a, 2) == pytest.approx(np.sqrt(sos[5]), rel=1e-12)
        assert np.linalg.norm(transposed_direct(sos[None]).a, 2) > 1.5


def test_states_have_unit_power():
    space = normal_form(scipy.signal.cheby1(4, 1, 0.1, output="sos"))
    powers, state = np.zeros(4), space.b.copy()
    for _ in range(4000):
        powers, state = powers + state**2, space.a @ state
    np.testing.assert_allclose(powers.reshape(2, 2).mean(axis=1), 1.0, rtol=1e-6)


def test_delay_chain_is_the_document_s_network():
    """Its recurrent matrix is the shift followed by the coefficients, with one unit that only remembers."""
    shift, coefficients = np.eye(3, k=-1), np.eye(3)
    coefficients[0] = [0.0, 0.5, -0.3]
    first_row = coefficients[0, 1:] @ np.eye(2, 3)
    space = delay_chain([1.0], [1.0, -0.5, 0.3])
    np.testing.assert_array_equal(space.a, np.vstack([first_row, shift[1:]]))


@pytest.mark.parametrize("order", [1, 2, 5])
def test_delay_chain_has_one_unit_more_than_the_order(order):
    b, a = scipy.signal.butter(order, 0.3)
    space = delay_chain(b, 2.0 * a)
    assert space.n_states == order + 1
    x = noise(1, 500)[0]
    np.testing.assert_allclose(space.run(x), scipy.signal.lfilter(b, 2.0 * a, x.astype(np.float64)), atol=1e-10)


def test_rows_and_pieces_agree_with_scipy_over_many_blocks():
    sos = scipy.signal.cheby2(12, 60, [0.05, 0.2], "bandpass", output="sos")
    x = noise(3, 20_000).astype(np.float64)
    expected = scipy.signal.sosfilt(sos, x)
    for block in (1, 63, 64, 127, 128, 1000, 20_000):
        y = evaluate(normal_form(sos), x, block)
        assert np.abs(y - expected).max() <= 1e-12 * np.abs(expected).max(), block


def test_silence_ends_in_zero():
    space = normal_form(scipy.signal.butter(2, 0.01, output="sos"))
    for dtype in ("float32", "float64"):
        recurrence = BlockRecurrence(space.n_states, 1, dtype)
        recurrence.design(space)
        out = np.empty((1, 128), np.float32)
        recurrence.run(noise(1, 128), out)
        for _ in range(300):
            recurrence.run(np.zeros((1, 128), np.float32), out)
        assert not recurrence.state.any()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: normal_form([[1, 0, 0, 1, -2.0, 1.0]]), "not stable"),
        (lambda: normal_form(np.ones((2, 5))), "shape"),
        (lambda: delay_chain([1.0], [1.0, -1.1]), "1.1"),
        (lambda: delay_chain([1.0], [0.0, 1.0]), r"a\[0\]"),
        (lambda: StateSpace(np.eye(2), np.ones(3), np.ones(3), 0.0), "found"),
        (lambda: StateSpace(np.eye(2) * np.nan, np.ones(2), np.ones(2), 0.0), "finite"),
        (lambda: block_matrices(delay_chain([1.0], [1.0, -0.5]), 0), "at least 1"),
    ],
    ids=["unstable", "shape", "pole", "a0", "sizes", "nan", "length"],
)
def test_refusals(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
