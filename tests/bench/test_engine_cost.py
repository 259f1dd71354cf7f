"""What the engine costs around a model, per hop of 256 samples at 48 kHz with host blocks of 128.

Reports, never asserts: run it with ``make bench`` on an idle machine. Rows of one table come from one run, interleaved,
so that ratios hold where absolute times do not.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from time import perf_counter_ns, sleep

import numpy as np
import pytest
from rich.console import Console
from rich.table import Table

import streamproc
from streamproc.backends.loader import load_model
from streamproc.engine import Engine
from streamproc.model import Frame, FrameModel, SpectrumFrames, State
from streamproc.model_processor import ModelProcessor
from streamproc.spec import ModelSpec, StreamConfig
from streamproc.windows import window_pair

pytestmark = pytest.mark.bench

RATE, HOP, BLOCK, WINDOW, ANALYSIS = 48_000, 256, 128, 512, 1024
HOPS, PACED_HOPS = 4_000, 400


class Free(FrameModel):
    """A model step that costs nothing: whatever remains is ours."""

    def __init__(self) -> None:
        kind, licence = "asymmetric_hann", "MIT"
        super().__init__(
            ModelSpec("free", "1", RATE, HOP, "spectrum", WINDOW, licence, analysis_window=ANALYSIS, window_kind=kind)
        )

    def step(self, frame: Frame, state: State, out: Frame, next_state: State) -> None:
        """Leave `out` as it is."""


def bare_stft_hop() -> Callable[[], None]:
    """The least that numpy can do: shift, window, transform, back, window, overlap-add."""
    analysis, synthesis = (w.astype(np.float32) for w in window_pair("asymmetric_hann", ANALYSIS, WINDOW, HOP))
    history, windowed, time = (np.zeros(ANALYSIS, np.float32) for _ in range(3))
    segment, overlap = np.zeros(WINDOW, np.float32), np.zeros(WINDOW, np.float32)
    spectrum = np.zeros(ANALYSIS // 2 + 1, np.complex64)
    x, out = np.zeros(HOP, np.float32), np.zeros(HOP, np.float32)

    def hop() -> None:
        history[:-HOP] = history[HOP:]
        history[-HOP:] = x
        np.multiply(history, analysis, out=windowed)
        np.fft.rfft(windowed, out=spectrum)
        np.fft.irfft(spectrum, out=time)
        np.multiply(time[-WINDOW:], synthesis, out=segment)
        overlap[:] = np.add(overlap, segment)
        out[:] = overlap[:HOP]
        overlap[:-HOP] = overlap[HOP:]
        overlap[-HOP:] = 0.0

    return hop


def time_hops(calls: list[Callable[[], None]], hops: int, pause_s: float = 0.0) -> np.ndarray:
    """Microseconds [calls, hops]; the calls take turns, each preceded by a pause where one is asked for."""
    times = np.zeros((len(calls), hops))
    for hop in range(hops):
        for index, call in enumerate(calls):
            if pause_s:
                sleep(pause_s)
            started = perf_counter_ns()
            call()
            times[index, hop] = (perf_counter_ns() - started) / 1e3
    return times[:, hops // 10 :]


def show(title: str, names: list[str], hot: np.ndarray, paced: np.ndarray) -> None:
    """Print medians and 99th percentiles, and ratios to the first row."""
    table = Table("", "hot p50 us", "hot p99 us", "paced p50 us", "paced p99 us", "hot p50 / first", title=title)
    first = np.median(hot[0])
    for name, h, p in zip(names, hot, paced, strict=True):
        cells = [np.median(h), np.percentile(h, 99), np.median(p), np.percentile(p, 99), np.median(h) / first]
        table.add_row(name, *(f"{cell:.1f}" for cell in cells[:4]), f"{cells[4]:.2f}")
    Console(width=120).print(table)


def hop_of_callbacks(engine: Engine) -> Callable[[], None]:
    """Two callbacks of 128 frames: one that only stores, one that steps."""
    x = np.random.default_rng(0).standard_normal((1, BLOCK)).astype(np.float32) * 0.1
    out = np.zeros((1, BLOCK), np.float32)

    def hop() -> None:
        engine.process(x, out)
        engine.process(x, out)

    return hop


def test_cost_around_the_model() -> None:
    free = Engine(ModelProcessor(Free()), RATE, fixed_block=BLOCK)
    calls = [bare_stft_hop(), hop_of_callbacks(free)]
    show(
        "48 kHz mono, hop 256, block 128, per hop",
        ["bare numpy STFT + ISTFT", "engine around a free model"],
        time_hops(calls, HOPS),
        time_hops(calls, PACED_HOPS, 0.003),
    )


def test_cost_of_a_callback_without_a_step() -> None:
    engine = Engine(ModelProcessor(Free()), RATE, fixed_block=BLOCK)
    x, out = np.full((1, BLOCK), 0.1, np.float32), np.zeros((1, BLOCK), np.float32)
    times = np.zeros(2 * HOPS)
    for index in range(times.size):
        started = perf_counter_ns()
        engine.process(x, out)
        times[index] = (perf_counter_ns() - started) / 1e3
    Console().print(
        f"callback without a step: p50 {np.median(times[::2]):.1f} us, p99 {np.percentile(times[::2], 99):.1f} us; "
        f"with one: p50 {np.median(times[1::2]):.1f} us"
    )


def test_cost_of_the_onnx_backend() -> None:
    """The backend's bound step beside the barest run on the same bindings."""
    import onnxruntime as ort

    from streamproc.backends.onnx import open_session

    path = Path(streamproc.__file__).parent / "models" / "denoise.onnx"
    model = load_model("denoise")
    frames = SpectrumFrames(model)
    frames.prepare(StreamConfig(RATE, 1, HOP, HOP))

    session = open_session(str(path))
    binding = session.io_binding()
    arrays = {"spectrum": np.zeros((1, *model.spec.frame_shape), np.float32)}
    arrays |= {state.name: state.allocate(1) for state in model.spec.states}
    outputs = {f"{name}_out": np.zeros_like(array) for name, array in arrays.items()}
    for name, array in arrays.items():
        binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array))
    for name, array in outputs.items():
        binding.bind_ortvalue_output(name, ort.OrtValue.ortvalue_from_numpy(array))
    calls = [lambda: session.run_with_iobinding(binding), frames._step]
    show(
        "onnxruntime, the shipped denoiser, one step",
        ["bare IO-bound run", "backend step, states swapped"],
        time_hops(calls, HOPS),
        time_hops(calls, PACED_HOPS, 0.003),
    )


def test_cost_of_the_shipped_denoiser() -> None:
    engine = Engine(streamproc.load("denoise"), RATE, fixed_block=BLOCK)
    calls = [bare_stft_hop(), hop_of_callbacks(engine)]
    show(
        "the shipped denoiser, whole engine, per hop (5333 us of audio)",
        ["bare numpy STFT + ISTFT", "denoise"],
        time_hops(calls, HOPS),
        time_hops(calls, PACED_HOPS, 0.003),
    )
