"""Classical processors, useful with no model at all. They need numpy and nothing else."""

from ..processor import Processor
from .biquad import Band, Biquads, HighPass, ParametricEq
from .delay import Delay, DelayLine
from .gain import Gain
from .gate import NoiseGate
from .limiter import Limiter

__all__ = [
    "PROCESSORS",
    "Band",
    "Biquads",
    "Delay",
    "DelayLine",
    "Gain",
    "HighPass",
    "Limiter",
    "NoiseGate",
    "ParametricEq",
]

PROCESSORS: dict[str, type[Processor]] = {
    "gain": Gain,
    "high_pass": HighPass,
    "eq": ParametricEq,
    "gate": NoiseGate,
    "limiter": Limiter,
}
"""The processors that a chain file can name; the constructor of each says what it takes."""
