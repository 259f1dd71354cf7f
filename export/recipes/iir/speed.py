"""What one block costs: scipy, numpy, and the exported files, side by side."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import scipy.signal

from streamproc.backends.loader import load_model
from streamproc.dsp import Biquads
from streamproc.model import FrameModel
from streamproc.spec import StreamConfig

from ...models.iir import IirFilter
from ...to_onnx import export_onnx
from ...to_torchscript import export_torchscript

BLOCKS = (32, 64, 128, 256, 512, 1024)
SAMPLE_RATE = 48_000
_PARITY_STEPS = 32

Call = Callable[[], object]


def measure_block(block: int, order: int, rounds: int = 40, calls: int = 50) -> dict[str, float]:
    """Return the microseconds of one call on one block of one channel, by what was called.

    All are called in turns, `calls` at a time, and the median of `rounds` counts: what disturbs the machine
    disturbs all. Time is that of the thread, so that a busy neighbour on the core is not counted.
    """
    sections = scipy.signal.butter(order, 0.2, output="sos")
    b, a = scipy.signal.butter(order, 0.2)
    x = np.random.default_rng(0).normal(0.0, 0.1, (1, block)).astype(np.float32)
    out = np.empty_like(x)
    zi, zi_direct = np.zeros((len(sections), 1, 2)), np.zeros((1, order))
    processor = Biquads(sections)
    processor.prepare(StreamConfig(SAMPLE_RATE, max_block=block))
    targets: dict[str, Call] = {
        "sosfilt": lambda: scipy.signal.sosfilt(sections, x, zi=zi),
        "lfilter": lambda: scipy.signal.lfilter(b, a, x, zi=zi_direct),
        "numpy": lambda: processor.process(x, out),
    }
    with tempfile.TemporaryDirectory() as folder:
        for dtype in ("float32", "float64"):
            module = IirFilter.from_sections(sections, SAMPLE_RATE, hop=block, state_dtype=dtype).eval()
            export_onnx(module, Path(folder) / "iir.onnx", _PARITY_STEPS)
            targets[f"ONNX {dtype}"] = _bound(load_model(Path(folder) / "iir.onnx"), x)
            if dtype == "float32":
                export_torchscript(module, Path(folder) / "iir.ts", _PARITY_STEPS)
                targets["TorchScript"] = _bound(load_model(Path(folder) / "iir.ts"), x)
    spent: dict[str, list[float]] = {name: [] for name in targets}
    for _ in range(rounds):
        for name, call in targets.items():
            began = time.thread_time_ns()
            for _ in range(calls):
                call()
            spent[name].append((time.thread_time_ns() - began) / calls / 1000)
    return {name: float(np.median(values)) for name, values in spent.items()}


def _bound(model: FrameModel, x: np.ndarray) -> Call:
    here, there = model.init_state(1), model.init_state(1)
    return model.bind(x.copy(), here, np.empty_like(x), there)
