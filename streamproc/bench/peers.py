"""What others offer, timed in the same run: one frame of each at its own rate.

A peer is a model file, or the name of a package that need not be installed. Of packages only their own work is timed:
frames are in the format that they want, and stay where they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import numpy as np

from ..backends.loader import load_model
from ..errors import BackendUnavailable
from ..model import FrameModel
from ..model_processor import ModelProcessor
from .bare import noise
from .cases import Case, Suite, callback_case


def model_case(label: str, model: FrameModel) -> Case:
    """Return one hop of a model through an engine, mono at its own rate."""
    spec = model.spec
    case = callback_case(label, ModelProcessor(model), spec.sample_rate, spec.hop)
    frame_ms = 1e3 * (spec.hop + spec.latency) / spec.sample_rate
    return Case(label, case.call, case.audio_s, _facts(spec.sample_rate, spec.hop, frame_ms))


def _facts(sample_rate: int, hop: int, frame_latency_ms: float) -> dict[str, Any]:
    return {"sample_rate": sample_rate, "hop": hop, "frame_latency_ms": frame_latency_ms}


def _rnnoise() -> Case:
    library = _package("pyrnnoise.rnnoise", "pyrnnoise", "rnnoise")
    state = library.create()
    # It expects the range of 16-bit samples, and works in place.
    frame = np.ascontiguousarray(32768.0 * noise(1, library.FRAME_SIZE)[0])
    pointer = frame.ctypes.data_as(library.lib.rnnoise_process_frame.argtypes[1])
    out = np.zeros_like(frame)
    out_pointer = out.ctypes.data_as(library.lib.rnnoise_process_frame.argtypes[1])
    process = library.lib.rnnoise_process_frame

    def call(_: object = (frame, out)) -> None:
        process(state, out_pointer, pointer)

    hop, rate = int(library.FRAME_SIZE), int(library.SAMPLE_RATE)
    # Analysis over two frames, and a frame of lookahead for the pitch.
    return Case("RNNoise", call, hop / rate, _facts(rate, hop, 3e3 * hop / rate))


def _webrtc() -> Case:
    package = _package("webrtc_noise_gain", "webrtc-noise-gain", "webrtc")
    processor = package.AudioProcessor(0, 2)
    rate, hop = 16_000, 160
    frame = (32768.0 * noise(1, hop)[0]).astype("<i2").tobytes()

    def call() -> None:
        processor.Process10ms(frame)

    return Case("WebRTC level 2", call, hop / rate, _facts(rate, hop, 16.0))


PACKAGES: dict[str, Callable[[], Case]] = {"rnnoise": _rnnoise, "webrtc": _webrtc}
"""Peers that are packages, by the name that ``--against`` knows them by."""


def peer_case(peer: str) -> Case:
    """Return the case of a peer.

    Parameters
    ----------
    peer : str
        One of `PACKAGES`, or a model as `load_model` takes it.

    Raises
    ------
    BackendUnavailable
        If its package is not installed.
    ModelFileError
        If it is no model either.
    """
    if peer in PACKAGES:
        return PACKAGES[peer]()
    model = load_model(peer)
    return model_case(model.spec.name, model)


def peers_suite(models: Sequence[tuple[str, FrameModel]], peers: Sequence[Case]) -> Suite:
    """Return our models and their peers, a frame of each per call."""
    return Suite("side by side", lambda: [*(model_case(label, model) for label, model in models), *peers])


def _package(module: str, package: str, peer: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise BackendUnavailable(f"{peer} is left out: {package} is not installed; pip install {package}") from error
