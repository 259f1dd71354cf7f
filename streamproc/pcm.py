"""Integers and floats: the one place that decides what full scale means.

An integer of `b` bits counts in steps of ``2**(1 - b)`` of full scale, when it is read and when it is written. Reading
is therefore exact up to 24 bits, and what was read and not changed is written as the same integer. (Many libraries
write with ``2**(b - 1) - 1`` instead, and so change every loud sample by one step on the way through.)

No dither is added: a sample that is not processed stays as it is. At 16 bits the rounding lies 98 dB under full scale.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from .errors import ConfigError
from .spec import Block

SampleFormat = Literal["s16", "s24", "s32", "f32"]
"""Raw samples, little-endian, channels interleaved: signed integers (24 bits in three bytes) or 32-bit floats."""


def quantise(x: npt.NDArray[np.float32], bits: int) -> npt.NDArray[np.int32]:
    """Round samples to integers of `bits` bits, held in the upper bits of 32.

    Parameters
    ----------
    x : float32, any shape
        Nominal range [-1, 1]; what lies outside becomes the nearest integer, and the most positive one is
        ``1 - 2**(1 - bits)``.
    bits : int
        8 to 32.
    """
    full_scale = 1 << (bits - 1)
    # float64: the product of a float32 and a power of two is exact, and so is the largest 32-bit integer.
    steps = np.rint(x * np.float64(full_scale))
    return np.clip(steps, -full_scale, full_scale - 1).astype(np.int32) << (32 - bits)


def bytes_per_sample(sample_format: SampleFormat) -> int:
    """Return the size of one raw sample.

    Raises
    ------
    ConfigError
        If the format is not one of `SampleFormat`.
    """
    if sample_format not in get_args(SampleFormat):
        raise ConfigError(
            f"sample format {sample_format!r} is unknown; it may be {', '.join(get_args(SampleFormat))} "
            "(little-endian, channels interleaved)"
        )
    return int(sample_format[1:]) // 8


def decode(data: bytes | bytearray | memoryview, sample_format: SampleFormat, n_channels: int) -> Block:
    """Turn interleaved raw samples into a block.

    Parameters
    ----------
    data : bytes
        Whole frames.
    sample_format : SampleFormat
    n_channels : int

    Returns
    -------
    float32 [channels, frames]
    """
    if sample_format == "f32":
        samples = np.frombuffer(data, "<f4")
    elif sample_format == "s24":
        padded = np.zeros((len(data) // 3, 4), np.uint8)
        padded[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
        samples = padded.view("<i4")[:, 0] * np.float32(2.0**-31)
    else:
        bits = int(sample_format[1:])
        samples = np.frombuffer(data, f"<i{bits // 8}") * np.float32(2.0 ** (1 - bits))
    return np.ascontiguousarray(samples.reshape(-1, n_channels).T, dtype=np.float32)


def encode(block: Block, sample_format: SampleFormat) -> bytes:
    """Turn a block into interleaved raw samples; the inverse of `decode`."""
    frames = np.ascontiguousarray(block.T)
    if sample_format == "f32":
        return frames.astype("<f4").tobytes()
    bits = int(sample_format[1:])
    top_aligned = quantise(frames, bits).astype("<i4")
    return top_aligned.view(np.uint8).reshape(-1, 4)[:, 4 - bits // 8 :].tobytes()
