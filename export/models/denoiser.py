"""A small causal recurrent denoiser: gains over the whole band, a short complex filter per bin where voices live."""

from __future__ import annotations

from collections.abc import Mapping
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
    n_sharp : int
        Bins from 0 Hz up that are also heard through a longer window, made of all frames that the filter reaches: at
        two frequencies for each, so that the harmonics of a low voice can be told apart. 0 for none.
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
    n_sharp: int = 0
    lookahead: int = 0
    hidden: int = 320
    n_layers: int = 3
    core: CoreKind = "gru"
    n_states: int = 54
    n_frequencies: int = 4

    def __post_init__(self) -> None:
        if not 0 <= self.n_sharp <= self.n_low:
            raise ConfigError(f"n_sharp is {self.n_sharp}; it may be 0 to n_low, {self.n_low}")
        if not 0 <= self.lookahead < self.n_taps or self.n_taps < 2:
            raise ConfigError(
                f"the filter needs at least two taps, and more than frames of lookahead; "
                f"found {self.n_taps} taps and {self.lookahead} frames"
            )


DENOISERS = {
    config.name: config
    for config in (
        GruDenoiserConfig(n_layers=4, n_taps=5, n_sharp=48),
        GruDenoiserConfig(name="denoise-hq", n_taps=7, n_sharp=48, lookahead=2, hidden=448),
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
        self.register_buffer("pool", torch.as_tensor(pool, dtype=torch.float32), persistent=False)
        self.register_buffer("spread", torch.as_tensor(spread, dtype=torch.float32), persistent=False)
        if cfg.n_sharp:
            self.register_buffer("sharpen", torch.as_tensor(sharp_filters(cfg), dtype=torch.float32), persistent=False)
        n_features = 2 * cfg.n_sharp + cfg.n_low + cfg.n_bands + 2 * cfg.n_low
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
            self.taps.bias[2 * cfg.lookahead * cfg.n_low :][: cfg.n_low] = 1.0
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
                *([StateSpec("waiting", (cfg.lookahead, 2, self.spread.shape[1]))] if cfg.lookahead else ()),
            ),
            description="Causal speech denoiser: recurrent gains and a short complex filter.",
        )

    def sequence(self, frames: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """See `StreamableModel.sequence`.

        States are ``past`` (low bins), ``gru1, gru2, ...`` or those of another core, and with a lookahead ``waiting``
        (high bins of the frames that are not answered yet).
        """
        n_low, lookahead = self.config.n_low, self.config.lookahead
        past, *carried = states
        waiting = carried.pop() if lookahead else None
        spectra = frames.transpose(-1, -2)  # [channels, steps, 2, bins]: everything below runs along bins
        low = torch.cat([past, spectra[..., :n_low]], dim=1)
        turned = _times_j(low)
        heard = self._heard(low, turned)
        features = (self.features(spectra, low, turned, heard) - self.feature_mean) * self.feature_scale
        x = torch.relu(self.encode(features))
        n_states = len(carried) // len(self.core)
        next_carried: list[Tensor] = []
        for index, layer in enumerate(self.core):
            y, *after = run_core(layer, x, carried[index * n_states : (index + 1) * n_states])
            next_carried += after
            x = x + y
        high = spectra[..., n_low:]
        if waiting is not None:
            waiting = torch.cat([waiting, high], dim=1)
            high = waiting[:, :-lookahead]
            next_carried.append(waiting[:, -lookahead:])
        out = self.shape(heard, high, self.taps(x), self.gains(x))
        return out, low[:, -(self.config.n_taps - 1) :], *next_carried

    def _heard(self, low: Tensor, turned: Tensor) -> Tensor:
        """All frames that the filter reaches: [channels, steps, 2 * n_taps, 2, n_low], newest first.

        Each is followed by itself times j: so a complex product is the real part times the one plus the imaginary part
        times the other.
        """
        pair = torch.stack([low, turned], dim=2)
        first = self.config.n_taps - 1
        steps = low.shape[1] - first
        return torch.cat([pair[:, start : start + steps] for start in range(first, -1, -1)], dim=2)

    def features(self, spectra: Tensor, low: Tensor, turned: Tensor, heard: Tensor) -> Tensor:
        """Unscaled features [channels, steps, n_features].

        Parameters
        ----------
        spectra : [channels, steps, 2, bins]
        low : [channels, steps + n_taps - 1, 2, n_low]
            The low bins with their past.
        turned : as `low`
            The same times j.
        heard : [channels, steps, 2 * n_taps, 2, n_low]
            All frames that the filter reaches; see `_heard`.
        """
        n_low, newest = self.config.n_low, self.config.n_taps - 1
        power = spectra.square().sum(2)
        band_power = power[..., n_low:] @ self.pool
        current, previous = low[:, newest:], low[:, newest - 1 : -1]
        low_power = power[..., :n_low] + _POWER_FLOOR
        previous_power = previous.square().sum(2) + _POWER_FLOOR
        scale = torch.rsqrt(low_power * previous_power)
        advance_re = (current * previous).sum(2) * scale
        advance_im = (current * turned[:, newest - 1 : -1]).sum(2) * scale
        powers = [low_power, band_power + _POWER_FLOOR]
        if self.config.n_sharp:
            sharp = (heard[:, :, None, :, :, : self.config.n_sharp] * self.sharpen).sum(3)
            powers.insert(0, sharp.square().sum(3).flatten(2) + _POWER_FLOOR)
        return torch.cat([torch.log(torch.cat(powers, -1)), advance_re, advance_im], -1)

    @torch.no_grad()
    def calibrate(self, frames: Tensor) -> None:
        """Set the fixed feature scaling from example spectra [channels, steps, bins, 2]."""
        spectra = frames.transpose(-1, -2)
        low = torch.cat([self.init_state(frames.shape[0])[0], spectra[..., : self.config.n_low]], dim=1)
        turned = _times_j(low)
        features = self.features(spectra, low, turned, self._heard(low, turned)).flatten(0, 1)
        self.feature_mean.copy_(features.mean(0))
        self.feature_scale.copy_(1.0 / features.std(0).clamp_min(1e-3))

    @torch.no_grad()
    def grow(self, weights: Mapping[str, Tensor], config: GruDenoiserConfig) -> None:
        """Take over the weights of a smaller model with the same features, or fewer.

        Units that it lacks are heard by nothing that was there before [1]_, and layers that it lacks start silent -
        their candidate state is zero - so the larger model begins as the function that the smaller one was, and learns
        from there. Only where the lookahead is longer does it begin as something else: gains and filters that were
        meant for one frame meet one that is so many frames older. Features that it lacks are heard by nothing either, and
        keep the scaling that `calibrate` has given them.

        Parameters
        ----------
        weights : mapping
            State dict of the other model.
        config : GruDenoiserConfig
            Its configuration.

        Raises
        ------
        ConfigError
            If it has other features, more units, layers, taps or lookahead, or differs and does not consist of GRUs.

        References
        ----------
        .. [1] T. Chen, I. Goodfellow and J. Shlens, "Net2Net: accelerating learning via knowledge transfer",
           ICLR 2016.
        """
        own = self.config
        if own == config:
            self.load_state_dict(weights)
            return
        smaller = ("hidden", "n_layers", "lookahead", "n_sharp")
        same = ("sample_rate", "hop", "analysis_window", "n_low", "n_bands", "top_hz")
        differing = [name for name in same if getattr(own, name) != getattr(config, name)]
        differing += [name for name in smaller if getattr(own, name) < getattr(config, name)]
        if own.n_taps - own.lookahead < config.n_taps - config.lookahead:
            differing.append("n_taps")
        if config.n_sharp and (own.n_sharp, own.n_taps) != (config.n_sharp, config.n_taps):
            differing.append("n_sharp")
        if (own.core, config.core) != ("gru", "gru"):
            differing.append("core")
        if differing:
            found = ", ".join(f"{name} {getattr(config, name)} against {getattr(own, name)}" for name in differing)
            raise ConfigError(f"only a smaller GRU model with the same features can be grown; found {found}")
        later = own.lookahead - config.lookahead
        n_new = 2 * (own.n_sharp - config.n_sharp)  # features in front of those that the smaller one has
        grown = self.state_dict()
        for name, new in grown.items():
            old = weights.get(name)
            if old is not None and name.startswith("core."):
                _put_in(new.unflatten(0, (3, own.hidden)), old.unflatten(0, (3, config.hidden)))
            elif old is not None and name.startswith("taps."):
                new.zero_()
                _put_in(new.unflatten(0, (own.n_taps, -1))[later:], old.unflatten(0, (config.n_taps, -1)))
            elif old is not None and name.startswith("feature_"):
                new[n_new:] = old
            elif old is not None and name == "encode.weight":
                new[:, :n_new] = 0.0
                _put_in(new[:, n_new:], old)
            elif old is not None:
                _put_in(new, old)
            elif name.startswith("core."):
                new[2 * own.hidden :] = 0.0
        self.load_state_dict(grown)

    def shape(self, heard: Tensor, high: Tensor, taps: Tensor, gains: Tensor) -> Tensor:
        """Filter the low bins along time and scale everything; returns [channels, steps, bins, 2].

        Parameters
        ----------
        heard
            As in `features`.
        high : [channels, steps, 2, n_high]
            The high bins of the frames that are answered.
        taps : [channels, steps, n_taps * 2 * n_low]
            Newest tap first, real parts before imaginary ones.
        gains : [channels, steps, n_low + n_bands]
            Before the sigmoid.
        """
        n_low = self.config.n_low
        gains = torch.sigmoid(gains).unsqueeze(2)
        weights = taps.unflatten(-1, (2 * self.config.n_taps, 1, n_low))
        low_out = (weights * heard).sum(2) * gains[..., :n_low]
        high_out = high * (gains[..., n_low:] @ self.spread)
        return torch.cat([low_out, high_out], dim=-1).transpose(-1, -2)


def _put_in(new: Tensor, old: Tensor) -> None:
    """Copy `old` into the first corner of `new`; what was there hears nothing of the columns that are new."""
    rows = tuple(slice(size) for size in old.shape[:-1])
    if new.dim() > 1 and new.shape[-1] > old.shape[-1]:
        new[rows] = 0.0
    new[(*rows, slice(old.shape[-1]))] = old


def _times_j(values: Tensor) -> Tensor:
    """Multiply [channels, steps, 2, bins] (real, imaginary) by the imaginary unit."""
    return torch.cat([-values[:, :, 1:], values[:, :, :1]], dim=2)


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


def sharp_filters(config: GruDenoiserConfig) -> np.ndarray:
    """Fixed complex filters along time that make a longer window of all frames that `config`'s filter reaches.

    A tone of frequency f advances by ``2 pi f hop / sample_rate`` from frame to frame. Turned back by that, and weighted
    by a half sine, the frames add up to a spectrum at f whose window is longer by ``(n_taps - 1) * hop`` samples. It is
    taken a quarter of a bin below and above every bin.

    Returns
    -------
    [2, 2 * n_taps, 1, n_sharp]
        For `GruDenoiser._heard`: below and above; real and imaginary parts of every tap.
    """
    offset = np.array([-0.25, 0.25])[:, None, None]
    age = np.arange(config.n_taps)[None, :, None]
    cycles = (np.arange(config.n_sharp) + offset) * age * config.hop / config.analysis_window
    weight = np.sin(np.pi * (age + 1) / (config.n_taps + 1))
    turn = weight / weight.sum() * np.exp(2j * np.pi * cycles)
    return np.stack([turn.real, turn.imag], axis=2).reshape(2, 2 * config.n_taps, 1, config.n_sharp)
