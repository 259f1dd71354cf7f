"""How a denoiser begins where another one ended, with other sizes or finer bins."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from streamproc.errors import ConfigError

from .base import stft
from .denoiser import GruDenoiser, GruDenoiserConfig

_RIDGE = 1e-3
"""Against features that say the same, as a share of their mean power."""


@torch.no_grad()
def inherit(model: GruDenoiser, other: GruDenoiser, noisy: Iterable[Tensor]) -> None:
    """Take over the weights of another denoiser, as far as sizes allow.

    Units that the other lacks are heard by nothing that was there before [1]_, and layers that it lacks start silent -
    their candidate state is zero - so a larger model begins as the function that the smaller one was. Units and
    layers that it has too many are left out, the last first: those that growing added, where it has grown.

    Where bins are finer, gains and filters are interpolated along frequency, and the encoder is fitted, by least
    squares on mixtures, to give what the other's gave. Where the lookahead is longer, gains and filters that were
    meant for one frame meet one that is so many frames older. In both cases the model begins as something a little
    worse.

    Parameters
    ----------
    model : GruDenoiser
        Changed in place.
    other : GruDenoiser
    noisy : iterable of float32 [channels, samples]
        Mixtures, consumed only if bins are finer: some ten minutes of them.

    Raises
    ------
    ConfigError
        If the other has other bands, finer bins, more taps or lookahead, or differs and does not consist of GRUs.

    References
    ----------
    .. [1] T. Chen, I. Goodfellow and J. Shlens, "Net2Net: accelerating learning via knowledge transfer",
       ICLR 2016.
    """
    own, config, weights = model.config, other.config, other.state_dict()
    if own == config:
        model.load_state_dict(weights)
        return
    _require_fit(own, config)
    if own.analysis_window > config.analysis_window:
        weights |= _with_finer_bins(model, other, noisy)
    inherited = model.state_dict()
    for name, new in inherited.items():
        old = weights.get(name)
        if old is not None and name.startswith("core."):
            _put_in(new.unflatten(0, (3, own.hidden)), old.unflatten(0, (3, config.hidden)))
        elif old is not None and name.startswith("taps."):
            new.zero_()
            older = own.n_taps - own.lookahead - (config.n_taps - config.lookahead)
            _put_in(new.unflatten(0, (own.n_taps, -1))[older:], old.unflatten(0, (config.n_taps, -1)))
        elif old is not None:
            _put_in(new, old)
        elif name.startswith("core."):
            new[2 * own.hidden :] = 0.0
    model.load_state_dict(inherited)


def _require_fit(own: GruDenoiserConfig, config: GruDenoiserConfig) -> None:
    differing = [
        name for name in ("sample_rate", "hop", "n_bands", "top_hz") if getattr(own, name) != getattr(config, name)
    ]
    if own.analysis_window < config.analysis_window:
        differing.append("analysis_window")
    if own.n_low * config.analysis_window != config.n_low * own.analysis_window:  # where bins end and bands begin
        differing.append("n_low")
    if own.lookahead < config.lookahead:
        differing.append("lookahead")
    if own.n_taps - own.lookahead < config.n_taps - config.lookahead:
        differing.append("n_taps")
    if (own.core, config.core) != ("gru", "gru"):
        differing.append("core")
    if differing:
        found = ", ".join(f"{name} {getattr(config, name)} against {getattr(own, name)}" for name in differing)
        raise ConfigError(
            f"a denoiser begins from a GRU model with the same bands, and with bins, taps and lookahead that are not "
            f"finer, more or longer than its own; found {found}"
        )


def _put_in(new: Tensor, old: Tensor) -> None:
    """Copy what `old` and `new` share, the first corner; what was there hears nothing of the columns that are new."""
    corner = tuple(slice(min(sizes)) for sizes in zip(new.shape, old.shape, strict=True))
    if new.dim() > 1 and new.shape[-1] > old.shape[-1]:
        new[corner[:-1]] = 0.0
    new[corner] = old[corner]


def _with_finer_bins(model: GruDenoiser, other: GruDenoiser, noisy: Iterable[Tensor]) -> dict[str, Tensor]:
    """Return the weights of `other` that touch features, gains and filters, for the bins of `model`."""
    own, config = model.config, other.config
    between = _interpolation(own.n_low, config.n_low)
    weights = other.state_dict()
    made = _fitted_encoder(model, other, noisy)
    # A filter's weight turns with the frequency of its bin, by the hops between its frame and the one that is answered:
    # unturned, weights of neighbours are alike.
    hops = torch.arange(config.n_taps) - (config.n_taps - 1 - config.lookahead)
    turns = [
        torch.exp(2j * math.pi * hops[:, None] * torch.arange(n_low) * (config.hop / window))
        for n_low, window in ((config.n_low, config.analysis_window), (own.n_low, own.analysis_window))
    ]
    for kind in ("weight", "bias"):
        gains = weights[f"gains.{kind}"]
        made[f"gains.{kind}"] = torch.cat([between @ gains[: config.n_low], gains[config.n_low :]])
        parts = weights[f"taps.{kind}"].reshape(config.n_taps, 2, config.n_low, -1)
        unturned = torch.complex(parts[:, 0], parts[:, 1]) * turns[0][..., None]
        turned = between.to(unturned.dtype) @ unturned * turns[1].conj()[..., None]
        taps = torch.stack([turned.real, turned.imag], 1).reshape(config.n_taps * 2 * own.n_low, -1)
        made[f"taps.{kind}"] = taps if kind == "weight" else taps[:, 0]
    return made


def _interpolation(n_new: int, n_old: int) -> Tensor:
    """Weights [n_new, n_old] of the two old bins around every new one, both from 0 Hz to the same frequency."""
    place = np.minimum(np.arange(n_new) * (n_old / n_new), n_old - 1.0)
    distance = np.abs(place[:, None] - np.arange(n_old))
    return torch.as_tensor(np.maximum(0.0, 1.0 - distance), dtype=torch.float32)


def _fitted_encoder(model: GruDenoiser, other: GruDenoiser, noisy: Iterable[Tensor]) -> dict[str, Tensor]:
    """Scale the features of `model`, and fit an encoder on them to what that of `other` gives."""
    made: dict[str, Tensor] = {}
    powers = products = torch.zeros(1, dtype=torch.float64)
    for samples in noisy:
        frames = stft(samples, model.spec)
        if not made:
            model.calibrate(frames)
            made = {name: getattr(model, name).clone() for name in ("feature_mean", "feature_scale")}
        wanted = other.encode(other.scaled_features(stft(samples, other.spec))).flatten(0, 1).double()
        features = model.scaled_features(frames).flatten(0, 1).double()
        features = torch.cat([features, torch.ones_like(features[:, :1])], 1)
        powers = powers + features.T @ features
        products = products + features.T @ wanted
    ridge = _RIDGE * powers.diagonal().mean() * torch.eye(len(powers), dtype=torch.float64)
    fitted = torch.linalg.solve(powers + ridge, products).float().T
    return made | {"encode.weight": fitted[:, :-1].contiguous(), "encode.bias": fitted[:, -1].contiguous()}
