"""How a denoiser begins where another one of other sizes ended."""

from __future__ import annotations

import torch
from torch import Tensor

from streamproc.errors import ConfigError

from .base import StreamableModel
from .denoiser import GruDenoiser, GruDenoiserConfig


@torch.no_grad()
def inherit(model: GruDenoiser, other: StreamableModel) -> None:
    """Take over the weights of another denoiser with the same features, as far as sizes allow.

    Units that the other lacks are heard by nothing that was there before [1]_, and layers that it lacks start silent -
    their candidate state is zero - so a larger model begins as the function that the smaller one was, and learns from
    there. Units and layers that the other has too many are left out, the last first: those that growing added, where it
    has grown. Where the lookahead is longer, gains and filters that were meant for one frame meet one that is so
    many frames older. In these two cases the model begins as something else.

    Parameters
    ----------
    model : GruDenoiser
        Changed in place.
    other : StreamableModel
        A `GruDenoiser`: others are refused.

    Raises
    ------
    ConfigError
        If the other is no `GruDenoiser`, has other features, more taps or lookahead, or differs and does not consist of
        GRUs.

    References
    ----------
    .. [1] T. Chen, I. Goodfellow and J. Shlens, "Net2Net: accelerating learning via knowledge transfer",
       ICLR 2016.
    """
    if not isinstance(other, GruDenoiser):
        raise ConfigError(
            f"a denoiser begins from a denoiser, such as those in export/checkpoints; found {other.spec.name!r}"
        )
    own, config, weights = model.config, other.config, other.state_dict()
    if own == config:
        model.load_state_dict(weights)
        return
    _require_fit(own, config)
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
    same = ("sample_rate", "hop", "analysis_window", "n_low", "n_bands", "top_hz")
    differing = [name for name in same if getattr(own, name) != getattr(config, name)]
    if own.lookahead < config.lookahead:
        differing.append("lookahead")
    if own.n_taps - own.lookahead < config.n_taps - config.lookahead:
        differing.append("n_taps")
    if (own.core, config.core) != ("gru", "gru"):
        differing.append("core")
    if differing:
        found = ", ".join(f"{name} {getattr(config, name)} against {getattr(own, name)}" for name in differing)
        raise ConfigError(
            f"a denoiser begins from a GRU model with the same features, and no more taps or lookahead than its own; "
            f"found {found}"
        )


def _put_in(new: Tensor, old: Tensor) -> None:
    """Copy the corner that both have; what was there hears nothing of the columns that are new."""
    corner = tuple(slice(min(sizes)) for sizes in zip(new.shape, old.shape, strict=True))
    if new.dim() > 1 and new.shape[-1] > old.shape[-1]:
        new[corner[:-1]] = 0.0
    new[corner] = old[corner]
