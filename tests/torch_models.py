"""Small torch modules that keep to the step contract, for the tests of the exporters."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from streamproc.spec import ControlSpec, ModelSpec, StateSpec

BINS, WIDTH = 65, 24


class GruMask(nn.Module):
    """Two recurrent layers in one state, a float64 counter and a control: all that a graph can lose or swap."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.encode = nn.Linear(BINS, WIDTH)
        self.core = nn.GRU(WIDTH, WIDTH, 2, batch_first=True)
        self.decode = nn.Linear(WIDTH, BINS)
        self.spec = ModelSpec(
            name="gru-mask",
            version="0.1",
            sample_rate=16_000,
            hop=64,
            io="spectrum",
            window=128,
            window_kind="sqrt_hann",
            weights_licence="MIT",
            states=(StateSpec("hidden", (2, WIDTH), init=0.1), StateSpec("time", (1,), dtype="float64")),
            controls=(ControlSpec("amount", 0.8, 0.0, 1.0),),
        )

    def sequence(self, frames: Tensor, hidden: Tensor, time: Tensor, amount: Tensor) -> tuple[Tensor, ...]:
        power = torch.log(frames.square().sum(-1) + 1e-4)
        y, hidden = self.core(torch.relu(self.encode(power)), hidden.transpose(0, 1).contiguous())
        mask = 1.0 - amount * torch.sigmoid(self.decode(y))
        return frames * mask.unsqueeze(-1), hidden.transpose(0, 1), time + frames.shape[1]

    def step(self, frame: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
        out, *states = self.sequence(frame.unsqueeze(1), *inputs)
        return (out.squeeze(1), *states)


class Leaky(nn.Module):
    """A waveform model without weights: ``audio_out = audio + memory``."""

    def __init__(self) -> None:
        super().__init__()
        self.spec = ModelSpec(
            name="leaky",
            version="0.1",
            sample_rate=16_000,
            hop=32,
            io="waveform",
            window=32,
            weights_licence="MIT",
            states=(StateSpec("memory", (32,)),),
        )

    def step(self, audio: Tensor, memory: Tensor) -> tuple[Tensor, ...]:
        return audio + memory, 0.5 * memory + audio
