"""A model as a processor: the only place where the model's frames and the host's blocks meet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import get_args

from .channels import Mono
from .errors import ConfigError
from .model import ChannelMode, FrameModel, SpectrumFrames, State, WaveformFrames
from .parameters import Parameter, Smoothed
from .processor import BaseProcessor, Processor, Unprepared, latency_of
from .reblock import Reblock
from .resample import Resample
from .spec import Block, ControlSpec, LatencyBreakdown, StreamConfig

CHANNEL_MODES = (*get_args(ChannelMode), "mono")


class ModelProcessor(BaseProcessor):
    """Run a model on streams of any rate, block size and number of channels.

    Parameters
    ----------
    model : FrameModel
    channel_mode : {"independent", "linked", "mono"}
        ``independent``: every channel has its own state, all run in one batch.
        ``linked``: the same, but with one gain per bin for all channels: the stereo image stays. Spectrum models only.
        ``mono``: the model hears the mean of the channels once, and every channel gets the result.

    Attributes
    ----------
    model : FrameModel
    parameters : dict of str to Smoothed
        One for each control of the model, in the unit and range of its specification.

    Raises
    ------
    ConfigError
        For an unknown mode, or one that the model cannot serve.

    Notes
    -----
    At the model's own rate blocks are cut into hops by `Reblock`, otherwise by `Resample`; either adds the least delay
    there is. Before the first `prepare` the latency is that of a host at the model's rate with varying blocks.

    A control is one number per step, so inside a model nothing can move from sample to sample. Before each step a
    control takes the value that its parameter reaches by the end of that hop; a change therefore travels in steps of
    one hop, at the same places for any block size.

    State lives here, not in the model, so processors may share one `FrameModel`. They then share its control arrays
    too, which each writes before each of its steps: right as long as they take turns, not from two threads at once.
    """

    def __init__(self, model: FrameModel, channel_mode: str = "independent") -> None:
        if channel_mode not in CHANNEL_MODES:
            raise ConfigError(f"channel_mode must be one of {', '.join(CHANNEL_MODES)}; found {channel_mode!r}")
        self.model = model
        self.channel_mode = channel_mode
        self._frames: SpectrumFrames | WaveformFrames
        if model.spec.io == "spectrum":
            self._frames = SpectrumFrames(model, "linked" if channel_mode == "linked" else "independent")
        elif channel_mode == "linked":
            raise ConfigError(
                f"channel_mode 'linked' applies one gain per bin to all channels, and waveform model "
                f"{model.spec.name!r} has no bins; use 'independent', or 'mono' for one result in all channels"
            )
        else:
            self._frames = WaveformFrames(model)
        self._controlled = _ControlledFrames(self._frames) if model.controls else None
        self._adapter: Processor = Unprepared(self._adapt(model.spec.sample_rate))

    def _adapt(self, sample_rate: int) -> Processor:
        """Return the path from host blocks at `sample_rate` to frames and back."""
        spec = self.model.spec
        frames = self._controlled or self._frames
        adapter: Processor
        if sample_rate == spec.sample_rate:
            adapter = Reblock(frames, spec.hop)
        else:
            adapter = Resample(frames, spec.hop, spec.sample_rate)
        return Mono(adapter) if self.channel_mode == "mono" else adapter

    def prepare(self, config: StreamConfig) -> None:
        """Build the path for this stream, allocate, and warm the model up."""
        self._adapter = self._adapt(config.sample_rate)
        self._adapter.prepare(config)

    @property
    def latency(self) -> LatencyBreakdown:
        """The model's latency and all that rates and blocks add to it, at the host rate."""
        return latency_of(self._adapter)

    @property
    def tail_samples(self) -> int:
        """Samples, after the latency, for which output may go on; at the host rate."""
        return self._adapter.tail_samples

    @property
    def parameters(self) -> Mapping[str, Smoothed]:
        """The model's controls."""
        return self._controlled.parameters if self._controlled else {}

    @property
    def state(self) -> State:
        """The state that the model's next step will read; every array ``[channels, ...]``, not a copy."""
        return self._frames.state

    def process(self, x: Block, out: Block) -> None:
        """Process one block of any size."""
        self._adapter.process(x, out)

    def reset(self) -> None:
        """Return to silence and the initial state; controls jump to the values asked for."""
        self._adapter.reset()


class _ControlledFrames(BaseProcessor):
    """Frames of a model, with its controls written before each step."""

    def __init__(self, frames: SpectrumFrames | WaveformFrames) -> None:
        self.frames = frames
        controls = frames.model.spec.controls
        self._parameters = {control.name: Smoothed(_parameter(control)) for control in controls}
        self._links = tuple((self._parameters[name], array) for name, array in frames.model.controls.items())

    def prepare(self, config: StreamConfig) -> None:
        """Prepare the parameters at the model's rate, and the frames."""
        super().prepare(config)
        self.frames.prepare(config)

    @property
    def latency(self) -> LatencyBreakdown:
        """The model's latency."""
        return self.frames.latency

    @property
    def tail_samples(self) -> int:
        """The model's tail."""
        return self.frames.tail_samples

    @property
    def parameters(self) -> Mapping[str, Smoothed]:
        """One per control."""
        return self._parameters

    def process(self, x: Block, out: Block) -> None:
        """Move the controls by one hop, then run one step."""
        for parameter, array in self._links:
            value = parameter.advance(x.shape[1])
            array[0] = value if isinstance(value, float) else value[-1]
        self.frames.process(x, out)

    def reset(self) -> None:
        """Reset the parameters and the frames."""
        super().reset()
        self.frames.reset()


def _parameter(control: ControlSpec) -> Parameter:
    return Parameter(control.name, control.unit, control.minimum, control.maximum, control.default, control.description)
