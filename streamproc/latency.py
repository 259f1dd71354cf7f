"""The latency budget of a live stream, and the proof that it is kept.

`budget` adds up what every part of the path declares; `measure` sends a probe through the same path and looks for it
in the output. The path is the one that a device drives: its callback, the worker's queue, engine, adapters and model.
Nothing sleeps and nothing is played, so that a measurement gives the same samples on any machine at any load.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from .engine import Engine
from .live.config import LiveConfig
from .live.engine import LiveEngine
from .live.statistics import Mode
from .model import Frame, FrameModel, State
from .model_processor import ModelProcessor
from .processor import Processor
from .spec import Block, LatencyBreakdown, ModelSpec, StateSpec
from .testing import FakeStream

CERTAIN = 0.5
"""Least correlation between probe and output at which a measured latency means something."""

PROBE_S = 0.5

_ANY_BLOCK = 1021
"""A prime, so that blocks end anywhere within a hop."""

_QUIET = 1e-30


@dataclass(frozen=True)
class HostPath:
    """How blocks reach a processor.

    Parameters
    ----------
    sample_rate : int
        In Hz.
    block : int or None
        Frames of every block that a device sends; None: no device, but blocks of any size, as files and pipes have.
    n_channels : int
    mode : {"worker", "inline"}
        See `streamproc.live.LiveConfig`. Without a device there is no worker.
    """

    sample_rate: int
    block: int | None = None
    n_channels: int = 1
    mode: Mode = LiveConfig.mode

    def engine(self, processor: Processor) -> Engine | LiveEngine:
        """Return what drives a processor on this path; prepares the processor."""
        if self.block is None:
            return Engine(processor, self.sample_rate, self.n_channels)
        return LiveEngine(processor, LiveConfig(self.sample_rate, self.n_channels, self.block, mode=self.mode))


@dataclass(frozen=True)
class LatencyMeasurement:
    """A probe that was found again.

    Parameters
    ----------
    samples : int
        Measured latency: the lag at which output and probe agree best.
    declared : int
        What the budget says for the same path.
    correlation : float
        Between output and probe at that lag, in [0, 1]. 1: the output is the probe, delayed.
    """

    samples: int
    declared: int
    correlation: float

    @property
    def certain(self) -> bool:
        """Whether the output resembles the probe enough for a lag to mean something."""
        return self.correlation >= CERTAIN

    @property
    def agrees(self) -> bool:
        """Whether measured and declared latency are the same sample."""
        return self.certain and self.samples == self.declared


# --- the budget -----------------------------------------------------------------------------------------------------


def budget(processor: Processor, path: HostPath, device: LatencyBreakdown | None = None) -> LatencyBreakdown:
    """Return where the latency between microphone and loudspeaker comes from.

    Parameters
    ----------
    processor : Processor
        Prepared for the path by this call.
    path : HostPath
    device : LatencyBreakdown, optional
        What the devices add, at the rate of the path: ``device_in`` and ``device_out``. See `least_device`.

    Returns
    -------
    LatencyBreakdown
        Samples at ``path.sample_rate``.
    """
    return path.engine(processor).latency + (device or LatencyBreakdown())


def least_device(path: HostPath) -> LatencyBreakdown:
    """Return what any device adds at least: a block is handed over when its last sample has been heard.

    Notes
    -----
    The first sample of a block has then waited for a whole block, and its answer is played at once. Real devices keep a
    block or more in stock on top of that: `streamproc latency --loopback` measures it.
    """
    return LatencyBreakdown(device_in=Fraction(path.block or 0))


# --- the proof ------------------------------------------------------------------------------------------------------


def measure(processor: Processor, path: HostPath, probe: Block | None = None) -> LatencyMeasurement:
    """Send a probe through a processor as a device would, and measure when it comes out.

    Parameters
    ----------
    processor : Processor
        Prepared for the path by this call.
    path : HostPath
    probe : float32 [n], optional
        `sweep` of the whole band unless given; it has to pass the processor.

    Returns
    -------
    LatencyMeasurement
        Without what a device adds.

    Notes
    -----
    The lag is where the cross-correlation of output and probe has its largest value. All channels carry the same probe,
    and their mean is looked at.
    """
    engine = path.engine(processor)
    declared = engine.latency_samples
    if probe is None:
        probe = sweep(round(PROBE_S * path.sample_rate), path.sample_rate)
    # Silence before the probe, so that a stream that fades in is over with it.
    lead = path.sample_rate // 10
    block = path.block or _ANY_BLOCK
    n = -(-(lead + probe.size + 2 * declared + lead) // block) * block
    x = np.zeros((path.n_channels, n), np.float32)
    x[:, lead : lead + probe.size] = probe
    y = _heard(engine, x, block)
    return find(probe, y[:, lead:].mean(axis=0), declared)


def measure_path(processor: ModelProcessor, path: HostPath) -> LatencyMeasurement:
    """Measure everything around a model: the same path, with an `IdentityModel` in the model's place.

    The probe is a sweep of the band that passes at the lower of the two rates.
    """
    model = processor.model.spec
    rate = path.sample_rate
    probe = sweep(round(PROBE_S * rate), rate, (50.0, 0.43 * min(rate, model.sample_rate)))
    return measure(ModelProcessor(IdentityModel(model), processor.channel_mode), path, probe)


def measure_model(processor: ModelProcessor, path: HostPath) -> LatencyMeasurement:
    """Measure with the model in its place.

    The probe is a voice, which a denoiser keeps. All the same a model alters sound: where it weakens the probe, look at
    `LatencyMeasurement.certain`; and where it echoes or smears it, the best lag may be another than the declared one.
    """
    return measure(processor, path, voice(path.sample_rate, path.sample_rate))


def _heard(engine: Engine | LiveEngine, x: Block, block: int) -> Block:
    """Return what comes out for `x`."""
    if isinstance(engine, Engine):
        return np.concatenate([engine.process(x[:, i : i + block]) for i in range(0, x.shape[1], block)], axis=1)
    live = engine
    # The worker works between two callbacks: neither too late nor at a moment that depends on this machine.
    live.start(own_thread=False)
    try:
        return FakeStream(live.callback, live.config.sample_rate).run(x, block, between=lambda _: live.work())
    finally:
        live.stop()


def find(probe: Block, heard: npt.NDArray[np.float32], declared: int) -> LatencyMeasurement:
    """Find a probe in a recording.

    Parameters
    ----------
    probe : float32 [n]
    heard : float32 [m]
        Begins with the first sample of the probe.
    declared : int
        The latency that is expected; only noted, not used.
    """
    x, y = probe.astype(np.float64), heard.astype(np.float64)
    size = 1 << (x.size + y.size).bit_length()
    spectrum = np.fft.rfft(y, size) * np.fft.rfft(x, size).conj()
    products = np.fft.irfft(spectrum, size)[: y.size]
    lag = int(products.argmax())

    part = y[lag : lag + x.size]
    correlation = float(products[lag] / np.sqrt(np.sum(x * x) * np.sum(part * part) + _QUIET))
    return LatencyMeasurement(lag, declared, correlation)


def sweep(n: int, sample_rate: int, band_hz: tuple[float, float] | None = None) -> Block:
    """Return a linear sweep, faded at both ends.

    Parameters
    ----------
    n : int
        Samples.
    sample_rate : int
        In Hz.
    band_hz : pair of float, optional
        From and to; 50 Hz to 0.43 of the rate unless given.

    Returns
    -------
    float32 [n]
        Peak 0.5. Its autocorrelation has one narrow peak, since every frequency occurs once.
    """
    low, high = band_hz or (50.0, 0.43 * sample_rate)
    time_s = np.arange(n) / sample_rate
    phase = 2.0 * np.pi * (low * time_s + 0.5 * (high - low) / (n / sample_rate) * time_s**2)
    x = 0.5 * np.sin(phase)
    fade = min(n // 4, sample_rate // 100)
    ramp = np.sin(0.5 * np.pi * np.arange(fade) / fade) ** 2
    x[:fade] *= ramp
    x[n - fade :] *= ramp[::-1]
    sound: Block = x.astype(np.float32)
    return sound


def voice(n: int, sample_rate: int, seed: int = 0) -> Block:
    """Return something like a voice: harmonics of a gliding pitch in syllables, for models that keep nothing else.

    Returns
    -------
    float32 [n]
        Peak 0.5.
    """
    rng = np.random.default_rng(seed)
    time_s = np.arange(n) / sample_rate
    pitch_hz = 140.0 * (1.0 + 0.25 * np.sin(2.0 * np.pi * 1.7 * time_s) + 0.1 * np.sin(2.0 * np.pi * 4.3 * time_s))
    phase = 2.0 * np.pi * np.cumsum(pitch_hz) / sample_rate
    x = np.zeros(n)
    below = int(min(4000.0, 0.4 * sample_rate) / pitch_hz.max())
    for harmonic in range(1, max(2, below)):  # at rates that hold no voice the fundamental alone, folded or not
        x += np.cos(harmonic * phase + rng.uniform(0.0, 2.0 * np.pi)) / harmonic**0.8
    x *= 0.15 + np.sin(2.0 * np.pi * 2.1 * time_s) ** 2
    sound: Block = (0.5 * x / np.abs(x).max()).astype(np.float32)
    return sound


# --- a path that alters nothing -------------------------------------------------------------------------------------


class IdentityModel(FrameModel):
    """A model of the same frames, windows and latency as another, which passes sound as it is.

    A denoiser alters what goes through it; with this in its place, everything around it can be measured exactly.

    Parameters
    ----------
    spec : ModelSpec
        Of the other model.

    Notes
    -----
    A spectrum frame is held back by `lookahead` hops; analysis and synthesis add the rest. A waveform model has its
    windows inside, and its latency as a plain delay.
    """

    def __init__(self, spec: ModelSpec) -> None:
        if spec.io == "spectrum":
            states = tuple(StateSpec(f"past{index}", spec.frame_shape) for index in range(spec.lookahead))
        else:
            states = (StateSpec("past", (spec.latency,)),) if spec.latency else ()
        super().__init__(replace(spec, name=f"identity like {spec.name}", states=states, controls=(), channels=None))

    def step(self, frame: Frame, state: State, out: Frame, next_state: State) -> None:
        """Pass the frame on, late."""
        if self.spec.io == "spectrum" or not state:
            for newer, target in zip((frame, *state), (*next_state, out), strict=True):
                np.copyto(target, newer)
            return
        line = np.concatenate([state[0], frame], axis=1)
        np.copyto(out, line[:, : self.spec.hop])
        np.copyto(next_state[0], line[:, self.spec.hop :])
