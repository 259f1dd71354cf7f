"""A small causal recurrent denoiser: gains over the whole band, a short complex filter per bin where voices live."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from streamproc.errors import ConfigError
from streamproc.spec import ModelSpec, StateSpec

from .base import StreamableModel
from .cores import CoreKind, core_states, make_core, run_core
from .layers import Linear

_POWER_FLOOR = 1e-6
"""Added to bin powers before the logarithm: about -88 dBFS of noise, below every microphone."""


@dataclass(frozen=True)
class GruDenoiserConfig:
    """Name and sizes of a `GruDenoiser`.

    Parameters
    ----------
    name : str
        Of the model in its file.
    sample_rate, hop, window, analysis_window : int
        Framing, in Hz and samples; see `streamproc.spec.ModelSpec`.
    n_low : int
        Bins from 0 Hz up that are seen and filtered one by one (96 bins of 46.9 Hz: to 4.5 kHz).
    n_bands : int
        ERB-spaced bands above, up to `top_hz`; the last one reaches to half the sample rate.
    top_hz : float
    n_taps : int
        Taps of the complex filter: the newest frame and ``n_taps - 1`` before it.
    lookahead : int
        Frames that are heard before a frame is answered. The filter reaches into them, so it has more taps than this.
    hidden : int
        Width of the recurrent core.
    n_layers : int
        Recurrent layers, each with its own state.
    core : {"gru", "lstm", "sfm", "asfm"}
        What recurs: gated layers, or state-frequency memories of fixed and of adaptive (accumulated) frequencies.
    n_states, n_frequencies : int
        Size of a state-frequency memory. At a width of 192 one such layer of 54 x 4 has as many parameters as two
        GRU layers.
    """

    name: str = "denoise"
    sample_rate: int = 48_000
    hop: int = 256
    window: int = 512
    analysis_window: int = 1024
    n_low: int = 96
    n_bands: int = 24
    top_hz: float = 20_000.0
    n_taps: int = 3
    lookahead: int = 0
    hidden: int = 256
    n_layers: int = 3
    core: CoreKind = "gru"
    n_states: int = 54
    n_frequencies: int = 4

    def __post_init__(self) -> None:
        if not 0 <= self.lookahead < self.n_taps or self.n_taps < 2:
            raise ConfigError(
                f"the filter needs at least two taps, and more than frames of lookahead; "
                f"found {self.n_taps} taps and {self.lookahead} frames"
            )


DENOISERS = {
    config.name: config
    for config in (
        GruDenoiserConfig(),
        GruDenoiserConfig(name="denoise-hq", n_taps=5, lookahead=2, hidden=384),
    )
}
"""The shipped denoisers by name."""


class GruDenoiser(StreamableModel):
    """Recurrent mask and filter estimator, gated unless its configuration says otherwise.

    Log powers (absolute, so that they are right from the first frame: there is no running normaliser) and the
    phase advance of every low bin against the frame before go through a linear layer and residual recurrent layers.
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

    compilable = ("features", "shape")

    def __init__(self, config: GruDenoiserConfig | None = None) -> None:
        super().__init__()
        self.config = cfg = config or GruDenoiserConfig()
        pool, spread = band_matrices(cfg)
        self.n_high = len(pool)
        # Real and imaginary part of a bin belong to the same bands.
        self.register_buffer("pool", torch.as_tensor(pool.repeat(2, 0), dtype=torch.float32), persistent=False)
        self.register_buffer("spread", torch.as_tensor(spread.repeat(2, 1), dtype=torch.float32), persistent=False)
        # A frame and itself times j: which parts, and with which sign, make them.
        self.register_buffer("turn", torch.tensor([[0, 1], [1, 0]]), persistent=False)
        self.register_buffer("sign", torch.tensor([[1.0, 1.0], [-1.0, 1.0]])[..., None], persistent=False)
        n_features = cfg.n_low + cfg.n_bands + 2 * cfg.n_low
        self.register_buffer("feature_mean", torch.zeros(n_features))
        self.register_buffer("feature_scale", torch.ones(n_features))
        self.encode = Linear(n_features, cfg.hidden)
        self.core = nn.ModuleList(
            make_core(cfg.core, cfg.hidden, cfg.n_states, cfg.n_frequencies) for _ in range(cfg.n_layers)
        )
        self.gains = Linear(cfg.hidden, cfg.n_low + cfg.n_bands)
        self.taps = Linear(cfg.hidden, cfg.n_taps * 2 * cfg.n_low)
        nn.init.constant_(self.gains.bias, 1.0)
        nn.init.zeros_(self.taps.weight)
        nn.init.zeros_(self.taps.bias)
        with torch.no_grad():  # the real part of the tap on the frame that is answered: the filter is the identity
            self.taps.bias.unflatten(0, (cfg.n_taps, 2, -1))[-1 - cfg.lookahead, 0] = 1.0
        self.spec = ModelSpec(
            name=cfg.name,
            version="0",
            sample_rate=cfg.sample_rate,
            hop=cfg.hop,
            io="spectrum",
            window=cfg.window,
            analysis_window=cfg.analysis_window,
            window_kind="asymmetric_hann" if cfg.window == 2 * cfg.hop else "hann_dual",
            lookahead=cfg.lookahead,
            weights_licence="MIT",
            states=(
                StateSpec("past", (cfg.n_taps - 1, 2, cfg.n_low)),
                *core_states(cfg.core, self.core),
                *([StateSpec("waiting", (cfg.lookahead, 2 * self.n_high))] if cfg.lookahead else ()),
            ),
            description="Causal speech denoiser: recurrent gains and a short complex filter.",
        )

    def sequence(self, frames: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """See `StreamableModel.sequence`.

        States are ``past`` (low bins), ``gru1, gru2, ...`` or those of another core, and with a lookahead ``waiting``
        (high bins of the frames that are not answered yet).
        """
        lookahead = self.config.lookahead
        past, *carried = states
        waiting = carried.pop() if lookahead else None
        low, high = self._low_and_high(frames)
        low = torch.cat([past, low], dim=1)
        heard = self._heard(low)
        features = (self.features(heard, high) - self.feature_mean) * self.feature_scale
        x = torch.relu(self.encode(features))
        n_states = len(carried) // len(self.core)
        next_carried: list[Tensor] = []
        for index, layer in enumerate(self.core):
            y, *after = run_core(layer, x, carried[index * n_states : (index + 1) * n_states])
            next_carried += after
            x = x + y
        if waiting is not None:
            waiting = torch.cat([waiting, high], dim=1)
            high = waiting[:, :-lookahead]
            next_carried.append(waiting[:, -lookahead:])
        out = self.shape(heard, high, self.taps(x), self.gains(x))
        return out, low[:, -(self.config.n_taps - 1) :], *next_carried

    def _low_and_high(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Cut frames in low bins [channels, steps, 2, n_low] and high ones [channels, steps, 2 * n_high]."""
        n_low, steps = self.config.n_low, int(frames.shape[1])
        low, high = frames.reshape(-1, steps, 2 * frames.shape[2]).split([2 * n_low, 2 * self.n_high], dim=-1)
        return low.reshape(-1, steps, n_low, 2).transpose(-1, -2), high

    def _heard(self, low: Tensor) -> Tensor:
        """Return all frames that the filter reaches: [channels, steps, 2 * n_taps, 2, n_low], oldest first.

        Each is followed by itself times j. So with real numbers alone, a complex product is a sum over this pair: real
        part times the frame, imaginary part times the frame turned.

        Parameters
        ----------
        low : [channels, steps + n_taps - 1, 2, n_low]
            The low bins with their past.
        """
        pairs = low[:, :, self.turn] * self.sign
        n_taps = self.config.n_taps
        if pairs.shape[1] == n_taps:  # one step: nothing slides, and the exported step need not cut and join
            return pairs.reshape(-1, 1, 2 * n_taps, 2, self.config.n_low)
        steps = pairs.shape[1] - n_taps + 1
        return torch.cat([pairs[:, start : start + steps] for start in range(n_taps)], dim=2)

    def features(self, heard: Tensor, high: Tensor) -> Tensor:
        """Unscaled features [channels, steps, n_features].

        Parameters
        ----------
        heard : [channels, steps, 2 * n_taps, 2, n_low]
            See `_heard`.
        high : [channels, steps, 2 * n_high]
            The high bins of the newest frame.
        """
        steps = int(heard.shape[1])
        newest, other = heard[:, :, -2:-1], heard[:, :, -4:-1]  # the frame before, that times j, and the newest itself
        products = (newest * other).sum(3)
        cross, power = products[:, :, :2], products[:, :, 2]
        advance = cross / (torch.linalg.vector_norm(cross, dim=2, keepdim=True) + _POWER_FLOOR)
        powers = torch.cat([power, high.square() @ self.pool], dim=-1) + _POWER_FLOOR
        return torch.cat([torch.log(powers), advance.reshape(-1, steps, 2 * self.config.n_low)], -1)

    @torch.no_grad()
    def calibrate(self, frames: Tensor) -> None:
        """Set the fixed feature scaling from example spectra [channels, steps, bins, 2]."""
        low, high = self._low_and_high(frames)
        low = torch.cat([self.init_state(frames.shape[0])[0], low], dim=1)
        features = self.features(self._heard(low), high).flatten(0, 1)
        self.feature_mean.copy_(features.mean(0))
        self.feature_scale.copy_(1.0 / features.std(0).clamp_min(1e-3))

    def shape(self, heard: Tensor, high: Tensor, taps: Tensor, gains: Tensor) -> Tensor:
        """Filter the low bins along time and scale everything; returns [channels, steps, bins, 2].

        Parameters
        ----------
        heard
            See `_heard`.
        high : [channels, steps, 2 * n_high]
            The high bins of the frames that are answered.
        taps : [channels, steps, n_taps * 2 * n_low]
            Oldest tap first, real parts before imaginary ones.
        gains : [channels, steps, n_low + n_bands]
            Before the sigmoid.
        """
        cfg, steps = self.config, int(high.shape[1])
        gains = torch.sigmoid(gains)
        # Slices: torch 2.13 compiles `split` here to wrong gradients of five taps.
        low_gains, high_gains = gains[..., : cfg.n_low], gains[..., cfg.n_low :]
        weights = taps.reshape(-1, steps, 2 * cfg.n_taps, 1, cfg.n_low)
        low = (weights * heard).sum(2) * low_gains.unsqueeze(2)
        low = low.transpose(-1, -2).reshape(-1, steps, 2 * cfg.n_low)
        out = torch.cat([low, high * (high_gains @ self.spread)], dim=-1)
        return out.reshape(-1, steps, cfg.n_low + self.n_high, 2)


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
