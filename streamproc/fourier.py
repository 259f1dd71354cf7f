"""The real Fourier transform of short frames, without what numpy does around it at every call.

``np.fft.rfft`` and ``irfft`` are loops in C with a layer of Python on top that looks at axes, lengths and norms, and
the forward one works in double precision whatever it is given. On a frame of 512 samples that costs as much as the
transform itself, and more when the caches are cold. Here everything is known beforehand.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt

_ROUNDING = 1e-5
"""Largest difference to numpy's public transforms, as a share of the largest value; 100 times what is found."""

Transform = Callable[[npt.NDArray[Any], npt.NDArray[np.float32], npt.NDArray[Any]], object]
"""Called with what is transformed, a scale, and the array for the result; over the last axis."""


@dataclass(frozen=True)
class RealTransforms:
    """Forward and inverse transform of frames of one length.

    Call ``forward(frames, unit, spectra)`` and ``inverse(spectra, scale, frames)`` with frames float32 ``[..., size]``
    and spectra complex64 ``[..., bins]``. The forward transform is not normalised; the inverse undoes it.
    """

    forward: Transform
    inverse: Transform
    unit: npt.NDArray[np.float32]
    scale: npt.NDArray[np.float32]


def real_transforms(size: int) -> RealTransforms:
    """Return the transforms of frames of `size` samples, in single precision.

    Notes
    -----
    The loops are numpy's own but not part of its public interface, so they are used only if they can be found and have
    just given the results of the public functions, up to rounding; otherwise those are used.
    """
    unit, scale = np.array(1.0, np.float32), np.array(np.float32(1.0) / np.float32(size), np.float32)
    public = RealTransforms(_forward, _inverse, unit, scale)
    try:
        loops = import_module("numpy.fft._pocketfft_umath")
        bare = RealTransforms(loops.rfft_n_odd if size % 2 else loops.rfft_n_even, loops.irfft, unit, scale)
        return bare if _agree(bare, public, size) else public
    except Exception:  # whatever another numpy may have to say to a call that it never promised to take
        return public


def _forward(frames: npt.NDArray[Any], _unit: npt.NDArray[np.float32], spectra: npt.NDArray[Any]) -> None:
    np.fft.rfft(frames, out=spectra)


def _inverse(spectra: npt.NDArray[Any], _scale: npt.NDArray[np.float32], frames: npt.NDArray[Any]) -> None:
    np.fft.irfft(spectra, frames.shape[-1], out=frames)


def _agree(one: RealTransforms, other: RealTransforms, size: int) -> bool:
    frames = np.random.default_rng(0).normal(0.0, 1.0, (2, size)).astype(np.float32)
    results = []
    for transforms in (one, other):
        spectra, back = np.zeros((2, size // 2 + 1), np.complex64), np.zeros_like(frames)
        transforms.forward(frames, transforms.unit, spectra)
        transforms.inverse(spectra, transforms.scale, back)
        results.append((spectra, back))
    return all(
        np.abs(mine - theirs).max() <= _ROUNDING * np.abs(theirs).max() for mine, theirs in zip(*results, strict=True)
    )
