"""The transforms are numpy's, by whichever way they can be reached."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from streamproc import fourier
from streamproc.fourier import RealTransforms, real_transforms

SIZES = [2, 3, 15, 320, 511, 512, 960]


def there_and_back(transforms: RealTransforms, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    spectra = np.zeros((*frames.shape[:-1], frames.shape[-1] // 2 + 1), np.complex64)
    back = np.zeros_like(frames)
    transforms.forward(frames, transforms.unit, spectra)
    transforms.inverse(spectra, transforms.scale, back)
    return spectra, back


@pytest.mark.parametrize("n_channels", [1, 3])
@pytest.mark.parametrize("size", SIZES)
def test_agree_with_double_precision(size: int, n_channels: int) -> None:
    frames = np.random.default_rng(size).normal(0.0, 0.3, (n_channels, size)).astype(np.float32)
    spectra, back = there_and_back(real_transforms(size), frames)
    exact = np.fft.rfft(frames.astype(np.float64))
    assert np.abs(spectra - exact).max() <= 1e-6 * np.abs(exact).max()
    assert np.abs(back - frames).max() <= 1e-6 * np.abs(frames).max()


def test_the_loops_of_this_numpy_are_reached() -> None:
    """Where this fails nothing is wrong but the speed: see what became of the loops, and of the figures in the docs."""
    assert isinstance(real_transforms(512).forward, np.ufunc)
    assert isinstance(real_transforms(512).inverse, np.ufunc)


def absent(_name: str) -> object:
    raise ImportError("no such module")


def of_another_signature(_name: str) -> object:
    def loop(frames: np.ndarray) -> np.ndarray:
        return frames

    return SimpleNamespace(rfft_n_even=loop, rfft_n_odd=loop, irfft=loop)


def of_another_meaning(_name: str) -> object:
    """Loops that take the same arguments and do something else, here: without the scale."""

    def inverse(spectra: np.ndarray, _scale: np.ndarray, frames: np.ndarray) -> None:
        np.fft.irfft(spectra, frames.shape[-1], norm="forward", out=frames)

    return SimpleNamespace(rfft_n_even=fourier._forward, rfft_n_odd=fourier._forward, irfft=inverse)


@pytest.mark.parametrize("loops", [absent, of_another_signature, of_another_meaning])
def test_a_numpy_with_other_loops_is_used_by_its_public_functions(
    loops: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fourier, "import_module", loops)
    frames = np.random.default_rng(0).normal(0.0, 0.3, (2, 512)).astype(np.float32)
    spectra, back = there_and_back(real_transforms(512), frames)
    np.testing.assert_array_equal(spectra, np.fft.rfft(frames, out=np.zeros_like(spectra)))
    np.testing.assert_allclose(back, frames, atol=1e-6)
