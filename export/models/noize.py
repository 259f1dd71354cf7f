"""An LSTM that predicts the next hop of music from raw audio: what it adds to the best linear prediction."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from streamproc.spec import ModelSpec, StateSpec

from .base import StreamableModel

_QUIET = 1e-5
"""-100 dBFS: below it there is nothing to predict."""

_FAST_HOPS = 4
_CHUNK = 64
"""Frames whose linear systems are in memory at a time."""

_AT_LEAST = 1e-20
_SCALE_GROUPS = 10


@dataclass(frozen=True)
class NoizeNetConfig:
    """Sizes of a `NoizeNet`.

    Parameters
    ----------
    sample_rate, hop : int
        In Hz and samples: 10 ms.
    windows : tuple of int
        Past samples from which each linear prediction learns, the longest first; multiples of 32.
    order : int
        Past samples that each is made of.
    spacing : int
        Distance between them in samples; ``order * spacing``, at most the shortest window, is their memory: 16 ms.
    hidden : int
        Width of the LSTM.
    dropout : float
        Share of hidden values left out in training.
    """

    sample_rate: int = 16_000
    hop: int = 160
    windows: tuple[int, ...] = (2048, 1024, 512)
    order: int = 64
    spacing: int = 4
    hidden: int = 192
    dropout: float = 0.2

    def __post_init__(self) -> None:
        reach = self.order * self.spacing
        object.__setattr__(self, "windows", tuple(self.windows))  # JSON knows lists only
        fit = not any(window % 32 for window in self.windows) and not self.hop % _SCALE_GROUPS
        if not fit or self.window != max(self.windows) or not 1 <= reach <= min(self.windows):
            raise ValueError(
                f"windows must be multiples of 32, the longest first, hop a multiple of {_SCALE_GROUPS}, and order * "
                f"spacing between 1 and the shortest window; found windows {self.windows}, hop {self.hop}, order * "
                f"spacing {reach}"
            )

    @property
    def window(self) -> int:
        """The longest window: the past that the model keeps."""
        return self.windows[0]


class NoizeNet(StreamableModel):
    """Predict the coming hop from all that came before it.

    Raw audio is periodic in ways that differ from one recording to the next, and no network of this size can keep a
    filter for each. So the filter is found anew at every hop: the linear prediction of least mean square error under
    the autocorrelation of the past (`LinearContinuation`, no trained weights), once for every window: a long one is
    right while a sound lasts, a short one soon after it changed. The LSTM [1]_ hears the newest hop, those predictions,
    and how far the last ones were off, all relative to the recent level; it weighs them sample by sample (of what
    cannot be foreseen, less is better), adds its own part, and says how far off it expects to be.

    Input and output have the length of a hop, and the output is *ahead*: what leaves with hop ``t`` predicts hop
    ``t + 1``. Run as a processor, the model plays music 10 ms early, as far as that can be known.

    Parameters
    ----------
    config : NoizeNetConfig

    Notes
    -----
    States: ``past`` [window] samples, ``expected`` [windows, hop] the last linear predictions, ``hidden`` and ``cell``
    [hidden].

    References
    ----------
    .. [1] S. Hochreiter and J. Schmidhuber, "Long short-term memory", Neural Computation 9(8), 1997.
    """

    def __init__(self, config: NoizeNetConfig | None = None) -> None:
        super().__init__()
        self.config = cfg = config or NoizeNetConfig()
        self.spec = ModelSpec(
            name="noize",
            version="0.1.0",
            sample_rate=cfg.sample_rate,
            hop=cfg.hop,
            io="waveform",
            window=cfg.hop,
            weights_licence="MIT",
            states=(
                StateSpec("past", (cfg.window,)),
                StateSpec("expected", (len(cfg.windows), cfg.hop)),
                StateSpec("hidden", (cfg.hidden,)),
                StateSpec("cell", (cfg.hidden,)),
            ),
            description="Predicts the next hop of music: an LSTM over an adaptive linear prediction.",
        )
        self.linear = LinearContinuation(cfg.windows, cfg.order, cfg.spacing, cfg.hop)
        n = len(cfg.windows)
        self.encode = nn.Linear((2 + n) * cfg.hop + n + 2, cfg.hidden)
        self.lstm = nn.LSTM(cfg.hidden, cfg.hidden, batch_first=True)
        self.dropout = nn.Dropout(cfg.dropout)
        self.weigh = nn.Linear(cfg.hidden, n * cfg.hop)
        self.add = nn.Linear(cfg.hidden, cfg.hop)
        self.doubt = nn.Linear(cfg.hidden, _SCALE_GROUPS)
        with torch.no_grad():  # begins as the linear prediction from the longest window
            self.weigh.weight.mul_(0.1)
            self.weigh.bias.zero_()
            self.weigh.bias[: cfg.hop] = 1.0
            self.add.weight.mul_(0.01)
            self.add.bias.zero_()
            self.doubt.weight.mul_(0.1)
            self.doubt.bias.fill_(-2.0)

    def sequence(self, frames: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """See `StreamableModel.sequence`."""
        past, expected, hidden, cell = states
        prediction, _, *after = self.foresee(frames, past, expected, hidden, cell)
        return (prediction, *after)

    def foresee(
        self, frames: Tensor, past: Tensor, expected: Tensor, hidden: Tensor, cell: Tensor, linear: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Predict, and say how far off the prediction probably is.

        Parameters
        ----------
        frames : float32 [channels, steps, hop]
        past, expected, hidden, cell : the states
        linear : float32 [channels, steps, windows, hop], optional
            The linear predictions, where they are known already: they have no weights, so training computes them once.

        Returns
        -------
        prediction : [channels, steps, hop]
        log_scale : [channels, steps, hop]
            Natural logarithm of the expected absolute error of each sample.
        past, expected, hidden, cell : the next states
        """
        cfg = self.config
        steps = frames.shape[1]
        sound = torch.cat([past, frames.flatten(1)], dim=1)
        windows = sound[:, cfg.hop :].unfold(1, cfg.window, cfg.hop)
        if linear is None:
            linear = torch.cat([self.linear(windows[:, at : at + _CHUNK]) for at in range(0, steps, _CHUNK)], dim=1)
        level, rise = self.level(windows)
        before = torch.cat([expected.unsqueeze(1), linear[:, :-1]], dim=1)
        off = ((frames.unsqueeze(2) - before) / level.unsqueeze(2)).clamp(-10.0, 10.0)
        features = torch.cat(
            [
                frames / level,
                linear.flatten(2) / level,
                off[:, :, 0],
                torch.log(off.square().mean(-1) + 0.01),
                0.3 * torch.log(level) + 1.0,
                rise,
            ],
            dim=-1,
        )
        x = self.dropout(torch.tanh(self.encode(features)))
        y, (hidden, cell) = self.lstm(x, (hidden.unsqueeze(0), cell.unsqueeze(0)))
        y = self.dropout(y)
        prediction = (self.weigh(y).unflatten(-1, (-1, cfg.hop)) * linear).sum(2) + level * self.add(y)
        doubt = self.doubt(y).repeat_interleave(cfg.hop // _SCALE_GROUPS, dim=-1)
        return (
            prediction,
            doubt + torch.log(level),
            sound[:, -cfg.window :],
            linear[:, -1],
            hidden.squeeze(0),
            cell.squeeze(0),
        )

    def level(self, windows: Tensor) -> tuple[Tensor, Tensor]:
        """Return the recent level of ``[..., window]``, and how it changes: ``[..., 1]`` each."""
        fast = windows[..., -_FAST_HOPS * self.config.hop :].square().mean(-1, keepdim=True) + _QUIET**2
        slow = windows.square().mean(-1, keepdim=True) + _QUIET**2
        return (fast + 0.05 * slow).sqrt(), 0.5 * torch.log(fast / slow)


class LinearContinuation(nn.Module):
    """Linear predictions of a whole hop from the past, of least mean square error, in operations that export.

    With ``r`` the autocorrelation of the past under an asymmetric window, of one length or several, and ``x`` its
    newest samples in steps of `spacing`, newest first, sample ``k`` ahead is ``sum_j r[k + 1 + spacing j] z[j]`` with
    ``R z = x``, ``R[i, j] = r[spacing |i - j|]`` and a noise floor of -40 dB on the diagonal (Wiener 1949; as in
    `streamproc.live.predictor`).

    Parameters
    ----------
    windows : sequence of int
        The longest first.
    order, spacing, n_ahead : int

    Notes
    -----
    Levinson's recursion [1]_, written out step by step, in float64. Conjugate gradients would be a smaller graph, and
    were tried: on tones, whose matrices are all but singular, a rounding error of 1e-15 changed the result by half
    before it converged, so that no two backends agreed.

    References
    ----------
    .. [1] N. Levinson, "The Wiener RMS error criterion in filter design and prediction", J. Math. Phys. 25, 1947.
    """

    FLOOR = 1e-4
    _PIECE = 32

    def __init__(self, windows: Sequence[int], order: int, spacing: int, n_ahead: int) -> None:
        super().__init__()
        self.window = window = max(windows)
        self.order, self.spacing, self.n_ahead = order, spacing, n_ahead
        tapers = torch.zeros(len(windows), window, dtype=torch.float64)
        for taper, n in zip(tapers, windows, strict=True):
            fall = n // 16
            phase = torch.cat([torch.arange(n - fall) / (n - fall), 1.0 - torch.arange(fall) / fall])
            taper[window - n :] = 0.5 - 0.5 * torch.cos(math.pi * phase.double())
        self._buffer("tapers", tapers)
        self._n_lags = lags = order * spacing + n_ahead
        piece = self._PIECE
        begin = torch.arange(0, window, piece)
        self._buffer("overlapping", begin[:, None] + torch.arange(piece + lags))
        # Row j of the product of pieces with overlapping pieces holds lag l in column j + l.
        within = torch.arange(piece)
        self._buffer("diagonals", within[:, None] * (piece + lags) + within[:, None] + torch.arange(lags))
        self._buffer("ahead", torch.arange(n_ahead)[:, None] + 1 + spacing * torch.arange(order))

    def _buffer(self, name: str, value: Tensor) -> None:
        self.register_buffer(name, value, persistent=False)

    def forward(self, past: Tensor) -> Tensor:
        """Continue ``[..., window]`` by ``[..., windows, n_ahead]``, in the type of `past`."""
        x = past.double().unsqueeze(-2)
        level = x.square().mean(-1, keepdim=True).sqrt() + _QUIET
        x = x / level
        r = self.autocorrelation(x * self.tapers)
        r = r / (r[..., :1] + _AT_LEAST)
        newest = x.flip(-1)[..., : self.order * self.spacing : self.spacing]
        weights = levinson(r[..., : self.order * self.spacing : self.spacing], newest, self.FLOOR)
        continued = (r[..., self.ahead] @ weights.unsqueeze(-1)).squeeze(-1)
        return (continued * level).to(past.dtype)

    def autocorrelation(self, x: Tensor) -> Tensor:
        """Return the lags that are needed of ``[..., window]``, as one matrix product per window."""
        pieces = x.unflatten(-1, (self.window // self._PIECE, self._PIECE))
        padded = functional.pad(x, (0, self._PIECE + self._n_lags))
        products = pieces.transpose(-1, -2) @ padded[..., self.overlapping]
        return products.flatten(-2)[..., self.diagonals].sum(-2)


def levinson(row: Tensor, right: Tensor, floor: float) -> Tensor:
    """Solve ``T z = right`` for the symmetric Toeplitz matrix of ``row`` ``[..., n]`` with `floor` on its diagonal.

    Parameters
    ----------
    row, right : [..., n]
        ``row`` is an autocorrelation, 1 at lag 0 (or 0 everywhere: silence).
    floor : float
        More than 0.
    """
    n = row.shape[-1]
    backwards = row.flip(-1)
    error = row[..., :1] + floor
    forward = torch.ones_like(error)  # the prediction error filter: 1, then minus the coefficients
    solution = right[..., :1] / error
    for m in range(1, n):
        lags = backwards[..., n - 1 - m : n - 1]  # m, m - 1, ..., 1
        reflection = (forward * lags).sum(-1, keepdim=True) / error
        zero = torch.zeros_like(error)
        forward = torch.cat([forward, zero], -1) - reflection * torch.cat([zero, forward.flip(-1)], -1)
        error = error * (1.0 - reflection * reflection)
        missing = (right[..., m : m + 1] - (solution * lags).sum(-1, keepdim=True)) / error
        solution = torch.cat([solution, zero], -1) + missing * forward.flip(-1)
    return solution
