"""Recurrent networks that are filters: built from a design, and as parts of networks that learn."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from streamproc.dsp.state_space import StateSpace, block_matrices, delay_chain, evaluate, normal_form, powers_of_two
from streamproc.errors import ConfigError
from streamproc.spec import ModelSpec, StateDtype, StateSpec

from .base import StreamableModel

_LONGEST_PRODUCT = 128
"""Hops up to this length are one matrix product; longer ones are cut into rows."""

_ROW_LENGTHS = range(128, 31, -1)
_FAVOURITE_ROW = 64

_PROBE_FRAMES = 2**15
_PROBE_BLOCK = 64
PROBE_LIMIT = 1e-6
"""Largest error, against the peak of the output, at which a state counts as held by float32: a tenth of the 1e-5 that
is promised, because a stream is longer than the probe, and a hop may be too."""


def choose_state_dtype(space: StateSpace) -> StateDtype:
    """Return ``float32`` where that holds the state of a recurrence, ``float64`` where it does not.

    Found by trying: a second of noise on a constant goes through both. A filter whose slowest pole forgets too slowly
    for that probe to show how rounding adds up gets ``float64``.
    """
    if 1.0 - space.radius < 8.0 / _PROBE_FRAMES:
        return "float64"
    noise = np.random.default_rng(0).normal(0.25, 0.2, (1, _PROBE_FRAMES)).astype(np.float32)
    exact = evaluate(space, noise, _PROBE_BLOCK)
    error = np.abs(evaluate(space, noise, _PROBE_BLOCK, "float32") - exact).max()
    return "float32" if error <= PROBE_LIMIT * np.abs(exact).max() else "float64"


class BlockFilter(nn.Module):
    """One hop of a linear recurrence as matrix products, for a graph: see `streamproc.dsp.state_space.BlockMatrices`.

    Parameters
    ----------
    n_states, hop : int
    dtype : {"float32", "float64"}
        Of the state and of everything that is computed; sound stays float32.

    Notes
    -----
    A short hop is one product, ``[state, x] @ step = [y, next state]``. A long one would need ``hop^2``
    multiplications, so it is cut into rows, and the states between the rows are one product of what each leaves behind.
    """

    step: Tensor
    into: Tensor
    scan: Tensor
    out: Tensor

    def __init__(self, n_states: int, hop: int, dtype: StateDtype = "float32") -> None:
        super().__init__()
        self.n_states, self.hop = n_states, hop
        self.dtype: torch.dtype = getattr(torch, dtype)
        self.row = row_length(hop)
        self.n_rows = n_rows = hop // self.row
        shapes = {"step": (n_states + hop, hop + n_states)}
        if n_rows > 1:
            shapes = {
                "into": (self.row, n_states),
                "scan": ((1 + n_rows) * n_states, (n_rows + 1) * n_states),
                "out": (n_states + self.row, self.row),
            }
        for name, shape in shapes.items():
            self.register_buffer(name, torch.zeros(shape, dtype=self.dtype))

    def design(self, space: StateSpace) -> None:
        """Take over a recurrence with as many states."""
        matrices = block_matrices(space, self.row)
        through = _power(space, self.row)
        if self.n_rows == 1:
            matrix = np.block([[matrices.out, np.vstack([through, matrices.into])]])
            self.step.copy_(torch.from_numpy(matrix))
            return
        n = self.n_states
        powers = [np.eye(n)]
        for _ in range(self.n_rows):
            powers.append(powers[-1] @ through)
        scan = np.zeros(self.scan.shape)
        for column in range(self.n_rows + 1):
            # The state before row j: what was there at first, and what the rows before j have left.
            for source in range(column + 1):
                later = column if source == 0 else column - source
                scan[source * n : (source + 1) * n, column * n : (column + 1) * n] = powers[later]
        for mine, theirs in ((self.into, matrices.into), (self.scan, scan), (self.out, matrices.out)):
            mine.copy_(torch.from_numpy(theirs))

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Filter one hop: float32 [channels, hop] and the state [channels, n_states] in, the same out."""
        samples = x.to(self.dtype)
        if self.n_rows == 1:
            result = torch.cat([state, samples], 1) @ self.step
            y, next_state = result[:, : self.hop], result[:, self.hop :]
            return y.to(x.dtype), next_state
        rows = samples.reshape(-1, self.n_rows, self.row)
        left = (rows @ self.into).reshape(-1, self.n_rows * self.n_states)
        states = (torch.cat([state, left], 1) @ self.scan).reshape(-1, self.n_rows + 1, self.n_states)
        y = torch.cat([states[:, :-1], rows], 2) @ self.out
        return y.reshape(-1, self.hop).to(x.dtype), states[:, -1]


def row_length(hop: int) -> int:
    """Return the length of the rows that a hop is cut into; the hop itself where it is short, or nothing divides it."""
    if hop <= _LONGEST_PRODUCT:
        return hop
    return min((n for n in _ROW_LENGTHS if hop % n == 0), key=lambda n: abs(n - _FAVOURITE_ROW), default=hop)


def _power(space: StateSpace, exponent: int) -> npt.NDArray[np.float64]:
    """Return ``(A^exponent).T``."""
    result = np.eye(space.n_states)
    for level, power in enumerate(powers_of_two(space, exponent.bit_length())):
        if exponent >> level & 1:
            result = result @ power
    return result


class IirFilter(StreamableModel):
    """A linear recurrent network that is a filter, exactly: no weight is learned.

    Parameters
    ----------
    space : StateSpace
        The filter; `from_sections` and `from_coefficients` make it.
    sample_rate : int
        Hz.
    hop : int
        Samples per step, which a stream gathers before it goes on: its only latency.
    state_dtype : {"float32", "float64"}, optional
        `choose_state_dtype` decides unless given.
    name, description : str

    Raises
    ------
    ConfigError
        If the recurrence is not stable.

    Notes
    -----
    State ``state`` [n_states]. Parameters: none; ``(hop + n_states)^2`` constants for hops up to 128.
    """

    def __init__(
        self,
        space: StateSpace,
        sample_rate: int,
        hop: int = 64,
        state_dtype: StateDtype | None = None,
        name: str = "iir",
        description: str = "",
    ) -> None:
        super().__init__()
        if space.radius >= 1.0:
            raise ConfigError(
                f"the filter is not stable: a pole has the magnitude {space.radius:g}, allowed is below 1"
            )
        dtype = state_dtype or choose_state_dtype(space)
        self.spec = ModelSpec(
            name=name,
            version="1.0",
            sample_rate=sample_rate,
            hop=hop,
            io="waveform",
            window=hop,
            weights_licence="CC0-1.0",
            states=(StateSpec("state", (space.n_states,), dtype),),
            description=description or "A recursive filter as a linear recurrent network.",
        )
        self.block = BlockFilter(space.n_states, hop, dtype)
        self.block.design(space)

    @classmethod
    def from_sections(cls, sections: npt.ArrayLike, sample_rate: int, **options: object) -> IirFilter:
        """Make a cascade of 2 x 2 normal-form sections from any second-order sections of `scipy.signal`."""
        return cls(normal_form(sections), sample_rate, **options)  # type: ignore[arg-type]

    @classmethod
    def from_coefficients(cls, b: npt.ArrayLike, a: npt.ArrayLike, sample_rate: int, **options: object) -> IirFilter:
        """Make the delay chain of ``order + 1`` hidden units, with `b` in its output layer; for low orders."""
        return cls(delay_chain(b, a), sample_rate, **options)  # type: ignore[arg-type]

    def sequence(self, frames: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """See `StreamingModule.sequence`: frames [channels, steps, hop]."""
        (state,) = states
        results = []
        for frame in frames.unbind(1):
            y, state = self.block(frame, state)
            results.append(y)
        return torch.stack(results, 1), state


class TanhFilter(StreamableModel):
    """The document's network: ``torch.nn.RNN`` with tanh and no biases, and a linear output layer.

    Parameters
    ----------
    n_hidden : int
    sample_rate, hop : int
    name : str

    Notes
    -----
    ``h(t) = tanh(W_ih x(t) + W_hh h(t-1))``, ``y(t) = W_o h(t)``. State ``hidden`` [n_hidden];
    ``n_hidden^2 + 2 n_hidden`` parameters. With the weights of a filter it is that filter for small signals only.
    """

    def __init__(self, n_hidden: int = 3, sample_rate: int = 8000, hop: int = 64, name: str = "tanh-filter") -> None:
        super().__init__()
        self.spec = ModelSpec(
            name=name,
            version="1.0",
            sample_rate=sample_rate,
            hop=hop,
            io="waveform",
            window=hop,
            weights_licence="CC0-1.0",
            states=(StateSpec("hidden", (n_hidden,)),),
            description="A recursive filter as a recurrent network with tanh.",
        )
        self.rnn = nn.RNN(1, n_hidden, bias=False, batch_first=True)
        self.output = nn.Linear(n_hidden, 1, bias=False)

    @classmethod
    def from_coefficients(cls, b: npt.ArrayLike, a: npt.ArrayLike, **options: object) -> TanhFilter:
        """Set the weights to the delay chain of ``b / a``, see `streamproc.dsp.state_space.delay_chain`."""
        space = delay_chain(b, a)
        model = cls(space.n_states, **options)  # type: ignore[arg-type]
        numerator = np.atleast_1d(np.asarray(b, np.float64)) / np.atleast_1d(a)[0]
        with torch.no_grad():
            model.rnn.weight_hh_l0.copy_(torch.from_numpy(space.a))
            model.rnn.weight_ih_l0.copy_(torch.from_numpy(space.b)[:, None])
            model.output.weight.zero_()
            model.output.weight[0, : numerator.size] = torch.from_numpy(numerator)
        return model

    def sequence(self, frames: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """See `StreamingModule.sequence`: frames [channels, steps, hop]."""
        (hidden,) = states
        h, last = self.rnn(frames.flatten(1).unsqueeze(-1), hidden.unsqueeze(0))
        return self.output(h).reshape(frames.shape), last.squeeze(0)


_INSIDE = 1.0 - 1e-6
"""Keeps poles inside the unit circle where tanh is 1 in float32."""


class LearnedSections(nn.Module):
    """A gain and second-order sections that stay stable, and of minimum phase, whatever their parameters are.

    Parameters
    ----------
    n_sections : int

    Notes
    -----
    ``a2 = tanh(p)`` and ``a1 = (1 + a2) tanh(q)`` reach every point of the stability triangle, and no other; the zeros
    likewise. So a step of the optimiser moves a pole near the unit circle by a part of its distance from it. Sections
    start as the identity, with zeros on their poles, spread over the logarithm of frequency.
    """

    def __init__(self, n_sections: int) -> None:
        super().__init__()
        angle = torch.pi * torch.logspace(-2.3, -0.3, n_sections) if n_sections else torch.zeros(0)
        radius = torch.exp(-0.7 * angle)
        start = torch.stack([torch.atanh(radius**2), torch.atanh(-2 * radius * torch.cos(angle) / (1 + radius**2))])
        self.poles, self.zeros = nn.Parameter(start), nn.Parameter(start.clone())
        self.log_gain = nn.Parameter(torch.zeros(()))

    def coefficients(self) -> tuple[Tensor, Tensor]:
        """Return numerators and denominators, ``[n_sections, 3]`` each, without the gain."""
        second, first = _INSIDE * torch.tanh(torch.stack([self.zeros, self.poles], 1))
        first = (1 + second) * first
        both = torch.stack([torch.ones_like(second), first, second], 2)
        return both[0], both[1]

    def sections(self) -> npt.NDArray[np.float64]:
        """Return the sections as `scipy.signal` has them, ``[n_sections, 6]``, the gain in the first."""
        sections = torch.cat(self.coefficients(), 1).detach().double().numpy()
        sections[0, :3] *= float(self.log_gain.detach().exp())
        return sections

    def forward(self, x: Tensor) -> Tensor:
        """Filter whole signals [channels, frames] at once, differentiably: a product of spectra.

        What rings on for longer than the signal is wrapped around, behind padding of as many zeros.
        """
        if not self.poles.numel():
            return x * self.log_gain.exp()
        n = 2 * x.shape[-1]
        numerators, denominators = self.coefficients()
        # The response on the grid of the transform, from the transforms of three coefficients each.
        response = (torch.fft.rfft(numerators, n) / torch.fft.rfft(denominators, n)).prod(0) * self.log_gain.exp()
        return torch.fft.irfft(torch.fft.rfft(x, n) * response, n)[..., : x.shape[-1]]


@dataclass(frozen=True)
class PedalModelConfig:
    """Sizes of a `PedalModel`.

    Parameters
    ----------
    sample_rate, hop : int
        Hz, samples.
    n_before, n_after : int
        Second-order sections before and after the non-linear part.
    hidden : int
        Width of the GRU; 0 leaves it out, so that only the filters are there.
    """

    sample_rate: int = 48_000
    hop: int = 64
    n_before: int = 3
    n_after: int = 3
    hidden: int = 8


class PedalModel(StreamableModel):
    """Filter, GRU, filter: an amplifier, a distortion pedal or a loudspeaker, learned from a dry and a wet recording.

    The linear parts are cascades of learned second-order sections. The GRU, which sees one sample at a time, has what
    is not linear to do [1]_, beside a straight path with a gain of its own. Nothing has a bias: silence stays silence.

    Parameters
    ----------
    config : PedalModelConfig

    Notes
    -----
    States ``before`` [2 n_before], ``gru`` [hidden], ``after`` [2 n_after]; a part of size 0 has none. Training runs
    `train_sequence`, which filters by spectra; `settle` then turns the sections into the matrices that `sequence` and
    `step` use, and must be called after the last change of a parameter.

    References
    ----------
    .. [1] A. Wright, E.-P. Damskägg, L. Juvela and V. Välimäki, "Real-time guitar amplifier emulation with deep
       learning", Applied Sciences 10(3), 2020.
    """

    def __init__(self, config: PedalModelConfig | None = None) -> None:
        super().__init__()
        self.config = cfg = config or PedalModelConfig()
        if cfg.n_before < 0 or cfg.n_after < 0 or cfg.hidden < 0 or not cfg.n_before + cfg.n_after + cfg.hidden:
            raise ConfigError(f"a pedal model needs a filter or a GRU, sizes are at least 0; found {asdict(cfg)}")
        sizes = {"before": (2 * cfg.n_before, "float64"), "gru": (cfg.hidden, "float32")}
        sizes["after"] = (2 * cfg.n_after, "float64")
        self.spec = ModelSpec(
            name="pedal",
            version="1.0",
            sample_rate=cfg.sample_rate,
            hop=cfg.hop,
            io="waveform",
            window=cfg.hop,
            weights_licence="CC0-1.0",
            states=tuple(StateSpec(name, (n,), dtype) for name, (n, dtype) in sizes.items() if n),  # type: ignore[arg-type]
            description="A simulated distortion pedal, learned from a dry and a wet recording.",
        )
        self.before, self.after = LearnedSections(cfg.n_before), LearnedSections(cfg.n_after)
        if cfg.hidden:
            self.gru = nn.GRU(1, cfg.hidden, bias=False, batch_first=True)
            self.head = nn.Linear(cfg.hidden, 1, bias=False)
            self.straight = nn.Parameter(torch.ones(()))
        self.blocks = nn.ModuleDict(
            {
                name: BlockFilter(2 * n, cfg.hop, "float64")
                for name, n in (("before", cfg.n_before), ("after", cfg.n_after))
                if n
            }
        )
        self.settle()

    @torch.no_grad()
    def settle(self) -> None:
        """Turn the learned sections into the matrices of the step."""
        for name, block in self.blocks.items():
            block.design(normal_form(getattr(self, name).sections()))

    @torch.no_grad()
    def calibrate(self, frames: Tensor, wet: Tensor | None = None) -> None:
        """Set the gains: the GRU sees a power of one, what comes out has that of `wet` (of the input unless given)."""
        power, target = frames.square().mean(), (frames if wet is None else wet).square().mean()
        if not (power > 0 and target > 0):
            raise ConfigError("the recordings to learn from are silent")
        self.before.log_gain.fill_(-0.5 * float(power.log()))
        self.after.log_gain.fill_(0.5 * float(target.log()))
        self.settle()

    def train_sequence(self, x: Tensor, chunk: int = 64, warm_up: int = 32) -> Tensor:
        """Return the output for whole signals [channels, frames] from silence, differentiable in every parameter.

        The GRU runs on overlapping chunks of the signal at once, each from the zero state and not counted for its first
        `warm_up` samples: a loop over ``chunk + warm_up`` samples instead of all. What it learns to remember is
        therefore short, and the filters are there for the rest.
        """
        y = self.before(x)
        if self.config.hidden:
            padded = functional.pad(y, (warm_up, -y.shape[-1] % chunk))
            chunks = padded.unfold(-1, warm_up + chunk, chunk)
            h, _ = self.gru(chunks.flatten(0, 1).unsqueeze(-1))
            bent = self.head(h[:, warm_up:]).reshape(y.shape[0], -1)[:, : y.shape[-1]]
            y = self.straight * y + bent
        return self.after(y)

    def sequence(self, frames: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """See `StreamingModule.sequence`: frames [channels, steps, hop]."""
        carried = {state.name: value for state, value in zip(self.spec.states, states, strict=True)}
        y, carried = self._filter("before", frames, carried)
        if self.config.hidden:
            h, last = self.gru(y.flatten(1).unsqueeze(-1), carried["gru"].unsqueeze(0))
            y = self.straight * y + self.head(h).reshape(y.shape)
            carried["gru"] = last.squeeze(0)
        y, carried = self._filter("after", y, carried)
        return y, *carried.values()

    def _filter(self, name: str, frames: Tensor, carried: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        if name not in self.blocks:
            return frames * getattr(self, name).log_gain.exp(), carried
        state, results = carried[name], []
        for frame in frames.unbind(1):
            y, state = self.blocks[name](frame, state)
            results.append(y)
        return torch.stack(results, 1), {**carried, name: state}
