"""What is heard of missed blocks: every way to fill them, through the live engine itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from streamproc.live import LiveConfig, LiveEngine, Predictor, WienerPredictor
from streamproc.live.config import OnMiss
from streamproc.model import FrameModel
from streamproc.processor import BaseProcessor, Processor
from streamproc.spec import Block, StreamConfig
from streamproc.testing import FakeStream

Sound = npt.NDArray[np.float32]


class Repetition:
    """Repeat the last `period_ms`, at full level or fading.

    Parameters
    ----------
    period_ms : float
    fade_ms : float, optional
        Time in which the level falls to nothing on a straight line.
    """

    def __init__(self, period_ms: float = 10.0, fade_ms: float | None = None) -> None:
        self._period_ms, self._fade_ms = period_ms, fade_ms

    def prepare(self, sample_rate: int, n_channels: int, max_block: int) -> None:
        """See `Predictor.prepare`."""
        self._sample_rate = sample_rate
        self._past: Block = np.zeros((n_channels, round(self._period_ms * sample_rate / 1000)), np.float32)

    def hear(self, y: Block) -> None:
        """See `Predictor.hear`."""
        self._past = np.concatenate([self._past, y], axis=1)[:, -self._past.shape[1] :]

    def predict(self, out: Block) -> None:
        """See `Predictor.predict`."""
        n = out.shape[1]
        out[:] = np.tile(self._past, -(-n // self._past.shape[1]))[:, :n]
        if self._fade_ms is not None:
            out *= np.maximum(0.0, 1.0 - np.arange(1, n + 1) * 1000 / (self._fade_ms * self._sample_rate))

    def reset(self) -> None:
        """See `Predictor.reset`."""
        self._past.fill(0.0)


class ModelPredictor:
    """Let a model that predicts hops, such as `NoizeNet`, go on by itself.

    Parameters
    ----------
    model : FrameModel
        Its output with hop ``t`` is its prediction of hop ``t + 1``. The stream must have its sample rate.
    """

    def __init__(self, model: FrameModel) -> None:
        self._model = model

    def prepare(self, sample_rate: int, n_channels: int, max_block: int) -> None:
        """See `Predictor.prepare`."""
        assert sample_rate == self._model.spec.sample_rate, "a model predicts at its own rate only"
        self._n_channels = n_channels
        self.reset()

    def reset(self) -> None:
        """See `Predictor.reset`."""
        n, hop = self._n_channels, self._model.spec.hop
        self._states = [self._model.init_state(n) for _ in range(3)]
        self._waiting: Block = np.zeros((n, 0), np.float32)
        self._prediction: Block = np.zeros((n, hop), np.float32)

    def hear(self, y: Block) -> None:
        """See `Predictor.hear`."""
        hop = self._model.spec.hop
        waiting = np.concatenate([self._waiting, y], axis=1)
        while waiting.shape[1] >= hop:
            frame, waiting = np.ascontiguousarray(waiting[:, :hop]), waiting[:, hop:]
            before, after, *_ = self._states
            self._model.step(frame, before, self._prediction, after)
            self._states[:2] = [after, before]
        self._waiting = waiting

    def predict(self, out: Block) -> None:
        """See `Predictor.predict`: hop after hop, each from the predictions before it."""
        prediction, state = self._prediction.copy(), self._states[0]
        hops = [prediction]
        skip = self._waiting.shape[1]  # of the first hop so much was heard already
        spare = [self._states[1], self._states[2]]
        while len(hops) * prediction.shape[1] < skip + out.shape[1]:
            following = np.empty_like(prediction)
            self._model.step(hops[-1], state, following, spare[0])
            state, spare = spare[0], [spare[1], spare[0]]
            hops.append(following)
        out[:] = np.concatenate(hops, axis=1)[:, skip : skip + out.shape[1]]


class WhenNeeded:
    """Ask a predictor only where a miss will follow: a test knows that, and saves the time. The result is the same."""

    def __init__(self, inner: Predictor) -> None:
        self._inner = inner
        self.prepare, self.hear, self.reset = inner.prepare, inner.hear, inner.reset
        self.needed = True

    def predict(self, out: Block) -> None:
        """See `Predictor.predict`."""
        if self.needed:
            self._inner.predict(out)


class Playback(BaseProcessor):
    """A processor whose output is a sound that is given, whatever comes in."""

    def __init__(self, sound: Sound) -> None:
        self._sound = sound

    def prepare(self, config: StreamConfig) -> None:
        """Begin at the beginning."""
        super().prepare(config)
        self._position = 0

    def process(self, x: Block, out: Block) -> None:
        """Play the next samples."""
        out[:] = self._sound[self._position : self._position + out.shape[1]]
        self._position += out.shape[1]


@dataclass(frozen=True)
class Method:
    """One way to fill missed blocks.

    Parameters
    ----------
    name : str
    on_miss : str
        See `LiveConfig`.
    predictor : callable, optional
        Makes what predicts, for ``predict``.
    """

    name: str
    on_miss: OnMiss
    predictor: Callable[[], Predictor] | None = None


def classical_methods() -> tuple[Method, ...]:
    """Return silence, repetition, repetition that fades, and what the engine itself has."""
    return (
        Method("silence", "silence"),
        Method("repetition", "predict", Repetition),
        Method("repetition, fading", "predict", lambda: Repetition(fade_ms=20.0)),
        Method("linear prediction", "predict", WienerPredictor),
    )


def heard_with_misses(
    method: Method, processor: Processor, x: Sound, sample_rate: int, block: int, missed: npt.NDArray[np.bool_]
) -> Sound:
    """Return what the live engine plays when the worker comes too late for some blocks.

    After each of the blocks `missed` the worker does nothing, and with the next one it catches up. So what is missed is
    late, not lost: the predictor has heard everything before the gap, and after it continues from the true sound.

    Parameters
    ----------
    method : Method
    processor : Processor
    x : float32 [frames]
        Input; as many whole blocks as there are of `missed` are played.
    sample_rate, block : int
    missed : bool [blocks]

    Returns
    -------
    float32 [frames]
        Aligned with the processor's own output: the engine's queue of one block is taken out.
    """
    predictor = WhenNeeded(method.predictor()) if method.predictor else None
    config = LiveConfig(
        sample_rate, fixed_block=block, on_miss=method.on_miss, tolerated_share=0.99, burst_ms=1e6, queue=block
    )
    engine = LiveEngine(processor, config, predictor=predictor)
    engine.start(own_thread=False)

    def between(index: int) -> None:
        if not missed[index]:
            if predictor is not None:
                predictor.needed = index + 1 < len(missed) and bool(missed[index + 1])
            engine.work()

    played = np.concatenate([x[: len(missed) * block], np.zeros(block, np.float32)])[None]
    missed = np.append(missed, False)
    heard = FakeStream(engine.callback, sample_rate).run(played, block, between=between)[0, block:]
    assert engine.snapshot().missed_samples == int(missed.sum()) * block, "every miss is counted"
    return heard


def draw_misses(n_blocks: int, share: float, seed: int) -> npt.NDArray[np.bool_]:
    """Draw blocks to miss, each by itself; the first 20 are never missed, nor is the last one."""
    missed = np.random.default_rng(seed).random(n_blocks) < share
    missed[:20] = missed[-1:] = False
    return missed


def log_spectral_distance_db(reference: Sound, other: Sound, sample_rate: int) -> float:
    """Return the mean distance of the log power spectra of 32 ms frames in dB; silent frames are not counted.

    Each frame counts with the root of the mean square difference over its bins; powers below -90 dB of a sine at full
    scale are taken as that, and frames more than 60 dB below the loudest are left out.
    """
    size = round(0.032 * sample_rate)
    window = np.hanning(size)
    frames = [
        np.lib.stride_tricks.sliding_window_view(sound.astype(np.float64), size)[:: size // 4] * window
        for sound in (reference, other)
    ]
    floor = (np.sum(window) / 2) ** 2 * 1e-9
    power = [np.abs(np.fft.rfft(each, axis=1)) ** 2 for each in frames]
    loud = power[0].sum(axis=1)
    before, after = (10 * np.log10(np.maximum(each, floor)) for each in power)
    distance = np.sqrt(np.mean((before - after) ** 2, axis=1))
    return float(distance[loud > 1e-6 * loud.max()].mean())
