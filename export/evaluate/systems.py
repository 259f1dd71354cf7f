"""The systems under test. Each takes speech in noise at its own rate and gives it back aligned and equally long.

Every streaming model runs through `streamproc.Engine` at its own rate, aligned by the latency that it declares.
"""

from __future__ import annotations

import ctypes
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

import streamproc
from streamproc.backends.loader import load_model
from streamproc.bench.cases import Case
from streamproc.bench.peers import PACKAGES, model_case
from streamproc.errors import ConfigError, StreamprocError
from streamproc.offline import aligned
from streamproc.spec import ModelSpec

from .mixtures import SHARED, Signal

PEERS: dict[str, Path | None] = {
    "gtcrn": SHARED / "models" / "gtcrn_simple.onnx",
    "ulunas": SHARED / "models" / "ulunas_stream_simple.onnx",
    "rnnoise": None,
}
"""Other people's models by name; the file of those that streamproc runs through a sidecar."""


class SystemUnavailable(StreamprocError):
    """A system that cannot run here; the message says what is missing."""


@dataclass(frozen=True)
class SystemInfo:
    """What a system is.

    Parameters
    ----------
    name : str
    description : str
    sample_rate : int
        Hz of its input and output.
    hop : int
        Samples per step; 0 where nothing is processed.
    frame_latency_ms : float
        Hop and algorithmic latency: its own figure, without host blocks and devices.
    """

    name: str
    description: str
    sample_rate: int
    hop: int
    frame_latency_ms: float


class System(ABC):
    """Something that maps noisy speech to cleaner speech.

    Attributes
    ----------
    info : SystemInfo
    audio_s, busy_s : float
        Audio processed so far, and the processor time that it took.
    """

    info: SystemInfo

    def __init__(self) -> None:
        self.audio_s = self.busy_s = 0.0

    def run(self, noisy: Signal) -> Signal:
        """Process one clip from a cold start.

        Parameters
        ----------
        noisy : float32 [frames]
            At ``info.sample_rate``.

        Returns
        -------
        float32 [frames]
            Aligned with `noisy`.
        """
        started = time.process_time()
        out = self._run(noisy)
        self.busy_s += time.process_time() - started
        self.audio_s += len(noisy) / self.info.sample_rate
        return out

    @abstractmethod
    def _run(self, noisy: Signal) -> Signal: ...

    def case(self) -> Case | None:
        """Return one frame of it as a live stream would process it, to be timed; None where nothing is processed.

        Raises
        ------
        StreamprocError
            If it cannot run frame by frame.
        """
        return None


class Unprocessed(System):
    """The noisy input itself."""

    def __init__(self) -> None:
        super().__init__()
        self.info = SystemInfo("noisy", "the input, untouched", 16_000, 0, 0.0)

    def _run(self, noisy: Signal) -> Signal:
        return noisy


class EngineSystem(System):
    """A model in streamproc's engine, at its own rate.

    Parameters
    ----------
    processor : ModelProcessor
    name : str
    description : str, optional
        What its metadata says, unless given.
    """

    def __init__(self, processor: streamproc.ModelProcessor, name: str, description: str = "") -> None:
        super().__init__()
        spec = processor.model.spec
        self.info = _info_of(spec, name, description or f"{spec.name} {spec.version}: {spec.description}")
        self._model = processor.model
        self._engine = streamproc.Engine(processor, spec.sample_rate)

    def case(self) -> Case:
        """Return one hop through an engine of its own."""
        return model_case(self.info.name, self._model)

    def _run(self, noisy: Signal) -> Signal:
        self._engine.reset()
        return np.concatenate(list(aligned(self._engine, [noisy[np.newaxis]])), axis=1)[0]


class CheckpointSystem(System):
    """Weights from training, framed as the runtime frames them, on the whole clip at once.

    Parameters
    ----------
    path : path
        ``ema.pt`` or ``last.pt`` of a run.
    name : str
    """

    def __init__(self, path: Path, name: str) -> None:
        import torch

        from ..models import enhance, load_checkpoint

        super().__init__()
        torch.set_num_threads(1)
        self._model, self._enhance = load_checkpoint(path), enhance
        spec = self._model.spec
        progress = torch.load(path, map_location="cpu", weights_only=True).get("progress", {})
        trained = f" after {progress['audio_hours']:.1f} h of audio" if "audio_hours" in progress else ""
        self.info = _info_of(spec, name, f"{path}{trained}")

    def _run(self, noisy: Signal) -> Signal:
        import torch

        with torch.inference_mode():
            out = self._enhance(self._model, torch.from_numpy(noisy)[None])[0].numpy()
        return np.clip(out, -1.0, 1.0)  # as the engine does

    def case(self) -> Case:
        """Return one hop of the exported file through an engine: nobody would run a checkpoint live."""
        from ..to_onnx import export_onnx

        with TemporaryDirectory() as folder:
            file = Path(folder, "model.onnx")
            export_onnx(self._model, file)
            return model_case(self.info.name, load_model(file))


class Rnnoise(System):
    """RNNoise 0.2 [1]_ from the package ``pyrnnoise``, in floating point and without its resampler.

    Notes
    -----
    Its output is late by `DELAY`: half a window of overlap (480 samples) and one frame of look-ahead (480). Measured
    as the peak of the cross-correlation of clean speech with what becomes of it; a test measures it again. A frame of
    10 ms has to be gathered first, so its frame latency is 30 ms.

    References
    ----------
    .. [1] J.-M. Valin, "A hybrid DSP/deep learning approach to real-time full-band speech enhancement", MMSP 2018.
    """

    DELAY = 960
    _FULL_SCALE = np.float32(32768.0)

    def __init__(self) -> None:
        super().__init__()
        try:
            from pyrnnoise import rnnoise
        except ImportError as error:
            raise SystemUnavailable(f"pyrnnoise cannot be imported ({error}); pip install pyrnnoise==0.4.5") from error
        self._library: Any = rnnoise
        self._hop = int(rnnoise.FRAME_SIZE)
        self.info = SystemInfo(
            "rnnoise", f"RNNoise, pyrnnoise {version('pyrnnoise')}", 48_000, self._hop,
            1000 * (self._hop + self.DELAY) / 48_000,
        )  # fmt: skip

    def _run(self, noisy: Signal) -> Signal:
        n = len(noisy)
        audio = np.pad(noisy * self._FULL_SCALE, (0, self.DELAY + -(n + self.DELAY) % self._hop))
        state = self._library.create()
        try:
            for frame in audio.reshape(-1, self._hop):
                pointer = frame.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
                self._library.lib.rnnoise_process_frame(state, pointer, pointer)
        finally:
            self._library.destroy(state)
        return np.clip(audio[self.DELAY : self.DELAY + n] / self._FULL_SCALE, -1.0, 1.0)

    def case(self) -> Case:
        """Return its own call on one frame."""
        return replace(PACKAGES["rnnoise"](), name=self.info.name)


@dataclass(frozen=True)
class Request:
    """A system that is wanted; small enough to send to another process, which opens it there.

    Parameters
    ----------
    name : str
        How it is called in tables.
    kind : {"noisy", "model", "checkpoint", "rnnoise"}
    source : str
        Name or path of the model, or path of the checkpoint.
    """

    name: str
    kind: str
    source: str = ""

    def open(self) -> System:
        """Load the system.

        Raises
        ------
        SystemUnavailable
            If a file or a package that it needs is missing or cannot be used.
        """
        try:
            if self.kind == "noisy":
                return Unprocessed()
            if self.kind == "checkpoint":
                return CheckpointSystem(Path(self.source), self.name)
            if self.kind == "rnnoise":
                return Rnnoise()
            return EngineSystem(streamproc.load(self.source), self.name)
        except (StreamprocError, OSError) as error:
            raise SystemUnavailable(str(error)) from error


NOISY = Request("noisy", "noisy")


def peers(names: Iterable[str]) -> list[Request]:
    """Return the requests for some of `PEERS`.

    Raises
    ------
    ConfigError
        For a name that is not one of them.
    """
    requests = []
    for name in names:
        if name not in PEERS:
            raise ConfigError(f"peer {name!r} is unknown; known are {', '.join(PEERS)}")
        file = PEERS[name]
        requests.append(Request(name, "model", str(file)) if file else Request(name, name))
    return requests


def candidates(models: Iterable[str], checkpoints: Iterable[Path]) -> list[Request]:
    """Return the requests for models and training checkpoints, each under a name of its own."""
    wanted = [("model", Path(model).stem, model) for model in models]
    wanted += [("checkpoint", path.absolute().parent.name, str(path)) for path in checkpoints]
    requests: list[Request] = []
    taken = {NOISY.name, *PEERS}
    for kind, name, source in wanted:
        free, number = name, 1
        while free in taken:
            number += 1
            free = f"{name}-{number}"
        taken.add(free)
        requests.append(Request(free, kind, source))
    return requests


def _info_of(spec: ModelSpec, name: str, description: str) -> SystemInfo:
    frame_latency_ms = 1000 * (spec.hop + spec.latency) / spec.sample_rate
    return SystemInfo(name, description, spec.sample_rate, spec.hop, frame_latency_ms)
