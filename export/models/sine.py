"""Networks that denoise a signal sample by sample: one recurrent layer and a linear head with tanh."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from streamproc.errors import ConfigError
from streamproc.spec import ModelSpec, StateSpec

from .base import OfflineModel, StreamableModel
from .fused import run_layers

N_IDENTITY = 6
"""Units that pass the input on in `SampleNet.start_near_identity`; the others start as they always do."""

_SLOPES = (0.3, 2.5)
_SHUT = 6.0
_LARGEST = 0.98


@dataclass(frozen=True)
class SampleDenoiserConfig:
    """Sizes of a `SampleDenoiser` or `BidirectionalSampleDenoiser`.

    Parameters
    ----------
    cell : {"rnn", "gru"}
    hidden : int
        Units of the layer, per direction.
    sample_rate : int
        Hz. A sine of 60 samples is a tone of 800 Hz at 48 kHz.
    hop : int
        Samples per step of the streaming model. It costs no latency beyond itself, and changes no result.
    full_scale : float
        Sample value that stands for 1 inside the network: with 0.5 a sine of amplitude 1 in noise of 0.35 has room in a
        sound file, whose samples end at 1.
    """

    cell: Literal["rnn", "gru"] = "gru"
    hidden: int = 30
    sample_rate: int = 48_000
    hop: int = 32
    full_scale: float = 0.5

    def __post_init__(self) -> None:
        if self.cell not in ("rnn", "gru"):
            raise ConfigError(f"cell must be 'rnn' or 'gru', found {self.cell!r}")
        if not 0.0 < self.full_scale <= 1.0:
            raise ConfigError(f"full_scale must lie above 0 and not above 1, found {self.full_scale!r}")


class SampleNet(nn.Module):
    """A recurrent layer from one input to a linear head with tanh, in one direction or both.

    Parameters
    ----------
    cell : {"rnn", "gru"}
    hidden : int
    bidirectional : bool
    """

    def __init__(self, cell: str, hidden: int, bidirectional: bool) -> None:
        super().__init__()
        layer = {"rnn": nn.RNN, "gru": nn.GRU}[cell]
        self.core = layer(1, hidden, batch_first=True, bidirectional=bidirectional)
        self.head = nn.Linear(hidden * (1 + bidirectional), 1)

    def forward(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Run over time.

        Parameters
        ----------
        x : float32 [items, steps]
        state : float32 [directions, items, hidden], optional
            Zeros unless given.

        Returns
        -------
        out : float32 [items, steps], within (-1, 1)
        state : as `state`
        """
        y, last = self.core(x.unsqueeze(-1), state)
        return torch.tanh(self.head(y)).squeeze(-1), last

    @torch.no_grad()
    def start_near_identity(self) -> None:
        """Make the untrained network pass its input on, as near as its head allows.

        `N_IDENTITY` units of the forward direction listen to the newest sample only, each through a tanh of another
        slope, and the head adds them up so that its own tanh is undone: their sum approximates the inverse of tanh, by
        least squares. The other units start as always and are not heard yet, but learn from the first steps on.

        No head with tanh can give more than 1, so of an input x at least ``max(|x| - 1, 0)`` is lost.
        """
        hidden, core = self.core.hidden_size, self.core
        slopes = torch.linspace(*_SLOPES, N_IDENTITY)
        for name in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"):
            parameter = getattr(core, name)
            for gate in parameter.split(hidden):
                gate[:N_IDENTITY] = 0.0
        core.weight_ih_l0[-hidden:][:N_IDENTITY, 0] = slopes  # the last gate of a GRU is the new one
        if isinstance(core, nn.GRU):
            core.bias_ih_l0[hidden : hidden + N_IDENTITY] = -_SHUT  # the update gate keeps nothing of the past
        x = torch.linspace(-1.35, 1.35, 541)
        heard = torch.tanh(slopes * x.unsqueeze(1))
        wanted = x.clamp(-_LARGEST, _LARGEST)
        # An error before the tanh comes out smaller by its slope there; a little ridge keeps the weights small.
        weight = (1.0 - wanted**2).unsqueeze(1)
        system = torch.cat([heard * weight, 0.03 * torch.eye(N_IDENTITY)])
        target = torch.cat([torch.atanh(wanted).unsqueeze(1) * weight, torch.zeros(N_IDENTITY, 1)])
        self.head.weight.zero_()
        self.head.bias.zero_()
        self.head.weight[0, :N_IDENTITY] = torch.linalg.lstsq(system, target).solution[:, 0]


class NetStack:
    """Networks of one shape side by side, for training: every operation serves all of them.

    Small networks on small batches spend most of their time between operations, so that five seeds together take
    little longer than one. The networks do not touch each other: each gets the gradient that it would get alone.

    Parameters
    ----------
    nets : sequence of SampleNet
        Their parameters are copied; `write_back` returns them.

    Attributes
    ----------
    parameters : dict of str to Tensor
        Under the names of `SampleNet`, with a first axis for the networks.
    """

    def __init__(self, nets: Sequence[SampleNet]) -> None:
        self.nets = list(nets)
        names = [name for name, _ in self.nets[0].named_parameters()]
        self.parameters = {
            name: torch.stack([net.get_parameter(name).detach() for net in self.nets]).requires_grad_()
            for name in names
        }

    def __call__(self, x: Tensor) -> Tensor:
        """Return what `SampleNet.forward` gives from the zero state.

        Parameters
        ----------
        x : float32 [steps, networks, items]
            Every network has its own items.

        Returns
        -------
        float32 [steps, networks, items]
        """
        core = {name.removeprefix("core."): value for name, value in self.parameters.items()}
        frames = x.unsqueeze(2)
        states = run_layers(core, frames)
        if "weight_hh_l0_reverse" in core:
            states = torch.cat([states, run_layers(core, frames, reverse=True)], 2)
        weight, bias = core["head.weight"], core["head.bias"].unsqueeze(2)
        return torch.tanh(torch.matmul(weight, states) + bias).squeeze(2)

    @torch.no_grad()
    def write_back(self) -> None:
        """Copy the parameters into the networks."""
        for name, values in self.parameters.items():
            for net, value in zip(self.nets, values, strict=True):
                net.get_parameter(name).copy_(value)


class SampleDenoiser(StreamableModel):
    """Causal recurrent denoiser of samples; streams with no latency but its hop.

    The network of N. Batra's "Signal denoising using RNNs in PyTorch" (2018), in one direction.

    Parameters
    ----------
    config : SampleDenoiserConfig
    """

    def __init__(self, config: SampleDenoiserConfig | None = None) -> None:
        super().__init__()
        self.config = cfg = config or SampleDenoiserConfig()
        self.net = SampleNet(cfg.cell, cfg.hidden, bidirectional=False)
        self.spec = ModelSpec(
            name="sine",
            version="0.1.0",
            sample_rate=cfg.sample_rate,
            hop=cfg.hop,
            io="waveform",
            window=cfg.hop,
            weights_licence="MIT",
            states=(StateSpec("hidden", (cfg.hidden,)),),
            description=f"Removes noise from a tone of {cfg.sample_rate / 60:g} Hz, and knows nothing else.",
            training_data="Synthetic: sines of 60 samples in uniform noise.",
        )

    def sequence(self, frames: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """See `StreamableModel.sequence`; frames are [channels, steps, hop], the state is ``hidden``."""
        scale = self.config.full_scale
        out, last = self.net(frames.flatten(1) / scale, states[0].unsqueeze(0))
        return scale * out.reshape(frames.shape), last.squeeze(0)


class BidirectionalSampleDenoiser(OfflineModel):
    """The same network in both directions, for whole signals.

    Parameters
    ----------
    config : SampleDenoiserConfig
    """

    why_offline = (
        "it is bidirectional: half of it runs backwards from the last sample, so every output depends on samples "
        "up to the very end, and no step from one block to the next can exist"
    )
    use_instead = "`sine`, the causal model, for streams; this one runs on whole signals in Python"

    def __init__(self, config: SampleDenoiserConfig | None = None) -> None:
        super().__init__()
        self.config = cfg = config or SampleDenoiserConfig()
        self.name, self.sample_rate = "sine-bidirectional", cfg.sample_rate
        self.net = SampleNet(cfg.cell, cfg.hidden, bidirectional=True)

    def forward(self, samples: Tensor) -> Tensor:
        """Denoise whole signals, float32 [channels, frames]."""
        out, _ = self.net(samples / self.config.full_scale)
        return self.config.full_scale * out
