from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamproc.errors import ConfigError
from streamproc.pcm import SampleFormat, bytes_per_sample, decode, encode, quantise


@given(data=st.binary(max_size=600), n_channels=st.integers(1, 3))
@pytest.mark.parametrize("sample_format", ["s16", "s24"])
def test_integers_come_back_as_they_were(sample_format: SampleFormat, data: bytes, n_channels: int) -> None:
    frame = n_channels * bytes_per_sample(sample_format)
    data = data[: len(data) - len(data) % frame]
    block = decode(data, sample_format, n_channels)
    assert block.dtype == np.float32
    assert block.shape == (n_channels, len(data) // frame)
    assert encode(block, sample_format) == data


def test_floats_come_back_as_they_were() -> None:
    data = np.random.default_rng(0).normal(size=60).astype("<f4").tobytes()
    assert encode(decode(data, "f32", 2), "f32") == data


def test_wide_integers_keep_what_a_float_holds() -> None:
    values = np.array([0, 1 << 7, -(1 << 31), (1 << 31) - 128, 12345 << 8], "<i4")
    assert encode(decode(values.tobytes(), "s32", 1), "s32") == values.tobytes()


def test_channels_are_interleaved() -> None:
    block = decode(np.array([1, -2, 3, -4], "<i2").tobytes(), "s16", 2)
    np.testing.assert_array_equal(block * 32768, [[1, 3], [-2, -4]])


@pytest.mark.parametrize("bits", [8, 16, 24, 32])
def test_full_scale_is_not_wrapped(bits: int) -> None:
    found = quantise(np.array([1.0, 2.0, -1.0, -2.0, 0.0], np.float32), bits)
    step = 1 << (32 - bits)
    np.testing.assert_array_equal(found, [(1 << 31) - step, (1 << 31) - step, -(1 << 31), -(1 << 31), 0])


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(ConfigError, match="s16, s24, s32, f32"):
        bytes_per_sample("u8")  # type: ignore[arg-type]
