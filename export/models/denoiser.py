"""A small causal recurrent denoiser: gains over the whole band, a short complex filter per bin where voices live."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from streamproc.spec import ModelSpec, StateSpec

from .base import StreamableModel

_POWER_FLOOR = 1e-6
"""Added to bin powers before the logarithm: about -88 dBFS of noise, below every microphone."""


@dataclass(frozen=True)
class GruDenoiserConfig:
    """Sizes of a `GruDenoiser`.

    Parameters
    ----------
    sample_rate, hop, window, analysis_window : int
        Framing, in Hz and samples; see `streamproc.spec.ModelSpec`.
    n_low : int
        Bins from 0 Hz up that are seen and filtered one by one (96 bins of 46.9 Hz: to 4.5 kHz).
    n_bands : int
        ERB-spaced bands above, up to `top_hz`; the last one reaches to half the sample rate.
    top_hz : float
    n_taps : int
        Taps of the complex filter: the current frame and ``n_taps - 1`` before it.
    hidden : int
        Width of the recurrent core.
    n_layers : int
        Recurrent layers, each with its own state.
    """

    sample_rate: int = 48_000
    hop: int = 256
    window: int = 512
    analysis_window: int = 1024
    n_low: int = 96
    n_bands: int = 24
    top_hz: float = 20_000.0
    n_taps: int = 3
    hidden: int = 192
    n_layers: int = 2


class GruDenoiser(StreamableModel):
    """Gated recurrent mask and filter estimator.

    Log powers (absolute, so that they are right from the first frame: there is no running normaliser) and the
    phase advance of every low bin against the frame before go through a linear layer and residual GRU layers.
    Out come a gain per low bin and per high band, and for the low bins a complex multi-frame filter [1]_ that
    starts as the identity [2]_. Everything multiplies the input, so digital silence stays digital silence.

    Parameters
    ----------
    config : GruDenoiserConfig

    References
    ----------
    .. [1] Y. A. Huang and J. Benesty, "A multi-frame approach to the frequency-domain single-channel noise
       reduction problem", IEEE TASLP 20(4), 2012.
    .. [2] H. Schroeter et al., "DeepFilterNet: a low complexity speech enhancement framework for full-band audio
       based on deep filtering", ICASSP 2022.
    """

    def __init__(self, config: GruDenoiserConfig | None = None) -> None:
        super().__init__()
        self.config = cfg = config or GruDenoiserConfig()
        self.spec = ModelSpec(
            name="denoise",
            version="0.1.0",
            sample_rate=cfg.sample_rate,
            hop=cfg.hop,
            io="spectrum",
            window=cfg.window,
            analysis_window=cfg.analysis_window,
            window_kind="asymmetric_hann",
            weights_licence="MIT",
            states=(
                StateSpec("past", (cfg.n_taps - 1, 2, cfg.n_low)),
                *(StateSpec(f"gru{layer + 1}", (cfg.hidden,)) for layer in range(cfg.n_layers)),
            ),
            description="Causal speech denoiser: recurrent gains and a short complex filter.",
        )
        pool, spread = band_matrices(cfg)
        self.register_buffer("pool", torch.as_tensor(pool, dtype=torch.float32), persistent=False)
        self.register_buffer("spread", torch.as_tensor(spread, dtype=torch.float32), persistent=False)
        n_features = cfg.n_low + cfg.n_bands + 2 * cfg.n_low
        self.register_buffer("feature_mean", torch.zeros(n_features))
        self.register_buffer("feature_scale", torch.ones(n_features))
        self.encode = nn.Linear(n_features, cfg.hidden)
        self.core = nn.ModuleList(nn.GRU(cfg.hidden, cfg.hidden, batch_first=True) for _ in range(cfg.n_layers))
        self.gains = nn.Linear(cfg.hidden, cfg.n_low + cfg.n_bands)
        self.taps = nn.Linear(cfg.hidden, cfg.n_taps * 2 * cfg.n_low)
        nn.init.constant_(self.gains.bias, 1.0)
        nn.init.zeros_(self.taps.weight)
        nn.init.zeros_(self.taps.bias)
        with torch.no_grad():
            self.taps.bias[: cfg.n_low] = 1.0  # the real part of the newest tap: the filter starts as the identity

    def sequence(self, frames: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """See `StreamableModel.sequence`; states are ``past, gru1, gru2, ...``."""
        cfg = self.config
        past, *hidden_states = states
        # Real and imaginary parts apart: everything below then runs along contiguous bins.
        re, im = frames[..., 0].contiguous(), frames[..., 1].contiguous()
        low = torch.cat([past, torch.stack([re[..., : cfg.n_low], im[..., : cfg.n_low]], dim=2)], dim=1)
        x = torch.relu(self.encode((self.features(re, im, low) - self.feature_mean) * self.feature_scale))
        next_hidden = []
        for gru, state in zip(self.core, hidden_states, strict=True):
            y, last = gru(x, state.unsqueeze(0))
            next_hidden.append(last.squeeze(0))
            x = x + y
        gains = torch.sigmoid(self.gains(x))
        low_gain, high_gain = gains[..., : cfg.n_low], gains[..., cfg.n_low :] @ self.spread
        low_re, low_im = self._filter(low, self.taps(x))
        out_re = torch.cat([low_re * low_gain, re[..., cfg.n_low :] * high_gain], dim=-1)
        out_im = torch.cat([low_im * low_gain, im[..., cfg.n_low :] * high_gain], dim=-1)
        return torch.stack([out_re, out_im], dim=-1), low[:, -(cfg.n_taps - 1) :], *next_hidden

    def features(self, re: Tensor, im: Tensor, low: Tensor) -> Tensor:
        """Unscaled features [channels, steps, n_features].

        Parameters
        ----------
        re, im : [channels, steps, bins]
        low : [channels, steps + n_taps - 1, 2, n_low]
            The low bins with their past.
        """
        cfg = self.config
        previous, current = low[:, cfg.n_taps - 2 : -1], low[:, cfg.n_taps - 1 :]
        previous_re, previous_im = previous[:, :, 0], previous[:, :, 1]
        current_re, current_im = current[:, :, 0], current[:, :, 1]
        low_power = current_re * current_re + current_im * current_im + _POWER_FLOOR
        previous_power = previous_re * previous_re + previous_im * previous_im + _POWER_FLOOR
        high_re, high_im = re[..., cfg.n_low :], im[..., cfg.n_low :]
        band_power = (high_re * high_re + high_im * high_im) @ self.pool + _POWER_FLOOR
        scale = torch.rsqrt(low_power * previous_power)
        advance_re = (current_re * previous_re + current_im * previous_im) * scale
        advance_im = (current_im * previous_re - current_re * previous_im) * scale
        return torch.cat([torch.log(torch.cat([low_power, band_power], -1)), advance_re, advance_im], -1)

    @torch.no_grad()
    def calibrate(self, frames: Tensor) -> None:
        """Set the fixed feature scaling from example spectra [channels, steps, bins, 2]."""
        re, im = frames[..., 0], frames[..., 1]
        low = torch.stack([re[..., : self.config.n_low], im[..., : self.config.n_low]], dim=2)
        low = torch.cat([self.init_state(frames.shape[0])[0], low], dim=1)
        features = self.features(re, im, low).flatten(0, 1)
        self.feature_mean.copy_(features.mean(0))
        self.feature_scale.copy_(1.0 / features.std(0).clamp_min(1e-3))

    def _filter(self, low: Tensor, taps: Tensor) -> tuple[Tensor, Tensor]:
        """Complex filter along time of the low bins; real and imaginary part, each [channels, steps, n_low].

        `taps` is [channels, steps, n_taps * 2 * n_low]: newest tap first, real parts before imaginary ones.
        """
        cfg = self.config
        steps = taps.shape[1]
        taps = taps.unflatten(-1, (cfg.n_taps, 2, cfg.n_low))
        re_parts, im_parts = [], []
        for tap in range(cfg.n_taps):
            start = cfg.n_taps - 1 - tap
            frame_re, frame_im = low[:, start : start + steps, 0], low[:, start : start + steps, 1]
            tap_re, tap_im = taps[:, :, tap, 0], taps[:, :, tap, 1]
            re_parts.append(tap_re * frame_re - tap_im * frame_im)
            im_parts.append(tap_re * frame_im + tap_im * frame_re)
        return sum(re_parts[1:], re_parts[0]), sum(im_parts[1:], im_parts[0])


def band_matrices(config: GruDenoiserConfig) -> tuple[np.ndarray, np.ndarray]:
    """Pooling [high bins, bands] (mean power) and its spreading back [bands, high bins] (rows of weights sum to 1).

    Triangles on the ERB-number scale of Glasberg and Moore (1990) between the first high bin and `top_hz`; every
    high bin is shared between its two neighbours, so gains of one give one.
    """
    bin_hz = config.sample_rate / config.analysis_window
    frequency = np.arange(config.n_low, config.analysis_window // 2 + 1) * bin_hz
    erb = 21.4 * np.log10(1.0 + 0.00437 * frequency)
    top = 21.4 * np.log10(1.0 + 0.00437 * min(config.top_hz, config.sample_rate / 2))
    centres = np.linspace(erb[0], top, config.n_bands)
    place = np.interp(erb, centres, np.arange(config.n_bands))
    spread = np.maximum(0.0, 1.0 - np.abs(place[None, :] - np.arange(config.n_bands)[:, None]))
    pool = (spread / spread.sum(axis=1, keepdims=True)).T
    return pool, spread
