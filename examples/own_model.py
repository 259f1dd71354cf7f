"""A denoiser of your own in thirty lines: a spectral gate, whose states are the level and the noise floor of every bin.

From the root of a checkout, export it, use it, and prove at any time that the file equals the class::

    python -m export onnx examples.own_model:build --out gate.onnx
    streamproc denoise noisy.wav clean.wav --model gate.onnx
    python -m export verify examples.own_model:build gate.onnx
"""

import torch
from torch import Tensor

from streamproc.spec import ModelSpec, StateSpec


class SpectralGate(torch.nn.Module):
    """Take the floor of the smoothed power of every bin for noise, and keep what stands above it."""

    def __init__(self, smooth: float = 0.85, rise: float = 1.004, noise_over_floor: float = 3.0) -> None:
        super().__init__()
        self.smooth, self.rise, self.noise_over_floor = smooth, rise, noise_over_floor
        self.spec = ModelSpec(
            name="spectral-gate",
            version="1.0",
            sample_rate=48_000,
            hop=256,
            io="spectrum",
            window=512,
            window_kind="sqrt_hann",
            weights_licence="MIT",
            states=(StateSpec("level", (257,), init=1.0), StateSpec("floor", (257,), init=1.0)),
        )

    def step(self, spectrum: Tensor, level: Tensor, floor: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One hop: spectrum [channels, 257, 2] and states [channels, 257] in, the same out."""
        power = spectrum.square().sum(-1) + 1e-8
        level = self.smooth * level + (1.0 - self.smooth) * power
        floor = torch.minimum(floor * self.rise, level)
        gain = torch.clamp(1.0 - self.noise_over_floor * floor / level, min=0.05)
        return spectrum * gain.unsqueeze(-1), level, floor


def build() -> SpectralGate:
    """Return the module to export; with ``--checkpoint FILE`` the exporter loads a state dict into it."""
    return SpectralGate()
