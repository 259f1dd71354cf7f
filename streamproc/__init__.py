"""Causal, block-based neural audio processing with explicit state and exact latency.

>>> import streamproc
>>> engine = streamproc.Engine(streamproc.load("denoise"), sample_rate=48000)
>>> clean = engine.process(noisy)  # float32 [channels, frames], any number of frames, state is carried on

Importing this package costs numpy and the standard library; everything heavier is imported when first used.
"""

from typing import TYPE_CHECKING, Any

from ._version import __version__

if TYPE_CHECKING:
    from .engine import Engine
    from .errors import StreamprocError
    from .loading import load
    from .mix import Mix
    from .model import FrameModel
    from .model_processor import ModelProcessor
    from .pool import StreamPool
    from .processor import BaseProcessor, Chain, Passthrough, Processor
    from .spec import LatencyBreakdown, ModelSpec, StateSpec, StreamConfig

_HOME = {
    "Engine": "engine",
    "StreamprocError": "errors",
    "load": "loading",
    "Mix": "mix",
    "FrameModel": "model",
    "ModelProcessor": "model_processor",
    "StreamPool": "pool",
    "BaseProcessor": "processor",
    "Chain": "processor",
    "Passthrough": "processor",
    "Processor": "processor",
    "LatencyBreakdown": "spec",
    "ModelSpec": "spec",
    "StateSpec": "spec",
    "StreamConfig": "spec",
}

__all__ = [
    "BaseProcessor",
    "Chain",
    "Engine",
    "FrameModel",
    "LatencyBreakdown",
    "Mix",
    "ModelProcessor",
    "ModelSpec",
    "Passthrough",
    "Processor",
    "StateSpec",
    "StreamConfig",
    "StreamPool",
    "StreamprocError",
    "__version__",
    "load",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
