"""What is timed: cases, gathered in suites whose members take turns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

import numpy as np

from ..backends.onnx import OnnxModel
from ..engine import Engine
from ..model import FrameModel
from ..model_processor import ModelProcessor
from ..pool import StreamPool
from ..processor import Processor
from ..spec import ModelSpec
from ..stft import StreamingStft
from .bare import BareStep, FreeModel, bare_stft, bare_waveform, noise
from .timing import Call

USUAL_BLOCK = 128
"""Frames of a block wherever something else than the block is varied."""

NUMPY_STFT = "numpy STFT by hand"
AROUND_MODEL = "around a free model"
CALLBACK_ONLY = "callback without a step"
BARE_RUN = "onnxruntime by hand"
STEP = "model step"
BY_HAND = "whole hop by hand"
ENGINE = "whole hop"
ANALYSIS = "analysis"
SYNTHESIS = "synthesis"


@dataclass(frozen=True)
class Case:
    """Something that can be called again and again.

    Parameters
    ----------
    name : str
    call : callable
    audio_s : float
        Length of the sound that one call is about, in seconds.
    facts : dict
        What it is, for the report.
    reference : str, optional
        Name of the case of the same suite that it is to be compared with.
    """

    name: str
    call: Call
    audio_s: float
    facts: Mapping[str, Any] = field(default_factory=dict)
    reference: str | None = None


@dataclass(frozen=True)
class Suite:
    """Cases that take turns.

    Parameters
    ----------
    name : str
        Unique within a bench.
    cases : callable
        Makes them; called when their turn has come, so that memory holds one suite at a time.
    """

    name: str
    cases: Callable[[], Sequence[Case]]


# --- callbacks ------------------------------------------------------------------------------------------------------


def callback_case(name: str, processor: Processor, sample_rate: int, block: int, n_channels: int = 1) -> Case:
    """Return one callback of a live stream through an `Engine`: a block of fixed size."""
    engine = Engine(processor, sample_rate, n_channels, fixed_block=block)
    x, out = noise(n_channels, block), np.zeros((n_channels, block), np.float32)

    def callback() -> None:
        engine.process(x, out)

    latency_ms = {part: value for part, value in engine.latency.ms(sample_rate).items() if value}
    facts = {
        "sample_rate": sample_rate,
        "block": block,
        "n_channels": n_channels,
        "latency_samples": engine.latency_samples,
        "latency_ms": latency_ms,
    }
    return Case(name, callback, block / sample_rate, facts)


def callbacks_suite(
    label: str, model: FrameModel, blocks: Sequence[int], sample_rates: Sequence[int], channels: Sequence[int]
) -> Suite:
    """Return callbacks of all block sizes at the first rate, and of the usual block at the other rates and channels."""
    grid = [(rate, USUAL_BLOCK, n) for n in channels for rate in sample_rates]
    grid = [(sample_rates[0], block, channels[0]) for block in blocks] + [
        (rate, block, n) for rate, block, n in grid if (rate, n) != (sample_rates[0], channels[0])
    ]

    def cases() -> list[Case]:
        return [
            callback_case(f"{rate / 1000:g} kHz, {block}, {_channels(n)}", ModelProcessor(model), rate, block, n)
            for rate, block, n in grid
        ]

    return Suite(f"callbacks · {label}", cases)


def _channels(n: int) -> str:
    return {1: "mono", 2: "stereo"}.get(n, f"{n} channels")


# --- where the time of a hop goes -----------------------------------------------------------------------------------


def hop_suite(label: str, model: FrameModel) -> Suite:
    """Return everything that a hop consists of, beside what it would cost by hand; mono, at the model's rate."""
    return Suite(f"hop · {label}", lambda: _hop_cases(model))


def _hop_cases(model: FrameModel) -> list[Case]:
    spec = model.spec
    hop_s = spec.hop / spec.sample_rate
    by_hand: list[Case] = []
    if spec.io == "spectrum":
        by_hand.append(Case(NUMPY_STFT, bare_stft(spec), hop_s))
    reference = NUMPY_STFT if by_hand else None
    cases = [
        *by_hand,
        Case(AROUND_MODEL, _callbacks_of_a_hop(FreeModel(spec), 2), hop_s, {"blocks_per_hop": 2}, reference),
        _callback_only(spec),
    ]
    if spec.io == "spectrum":
        cases += _transforms(spec)
    step_reference = None
    if isinstance(model, OnnxModel):
        cases.append(Case(BARE_RUN, BareStep(model).run, hop_s))
        step_reference = BARE_RUN
    cases.append(Case(STEP, _model_step(model), hop_s, reference=step_reference))
    engine_reference = None
    if isinstance(model, OnnxModel):
        whole = bare_stft if spec.io == "spectrum" else bare_waveform
        cases.append(Case(BY_HAND, whole(spec, BareStep(model)), hop_s))
        engine_reference = BY_HAND
    facts = {"block": spec.hop}
    cases.append(Case(ENGINE, _callbacks_of_a_hop(model, 1), hop_s, facts, engine_reference))
    return cases


def _callbacks_of_a_hop(model: FrameModel, n: int) -> Call:
    """Return a hop in `n` blocks, the last of which steps."""
    spec = model.spec
    block = spec.hop // n if spec.hop % n == 0 else spec.hop
    callback = callback_case("", ModelProcessor(model), spec.sample_rate, block).call
    if block == spec.hop:
        return callback

    def callbacks() -> None:
        for _ in range(n):
            callback()

    return callbacks


def _callback_only(spec: ModelSpec) -> Case:
    """Return callbacks that store and do not step: of a model with a hop that hardly ever fills up."""
    patient = replace(
        spec,
        io="waveform",
        hop=512 * USUAL_BLOCK,
        window=512 * USUAL_BLOCK,
        window_kind=None,
        analysis_window=None,
        lookahead=0,
        states=(),
        controls=(),
    )
    case = callback_case(CALLBACK_ONLY, ModelProcessor(FreeModel(patient)), spec.sample_rate, USUAL_BLOCK)
    return replace(case, facts={"block": USUAL_BLOCK})


def _transforms(spec: ModelSpec) -> list[Case]:
    assert spec.window_kind is not None
    stft = StreamingStft(spec.window_kind, spec.fft_size, spec.window, spec.hop, 1)
    x, out = noise(1, spec.hop), np.zeros((1, spec.hop), np.float32)
    spectrum = np.zeros((1, spec.n_bins), np.complex64)
    hop_s = spec.hop / spec.sample_rate
    return [
        Case(ANALYSIS, lambda: stft.analyse(x, spectrum), hop_s),
        Case(SYNTHESIS, lambda: stft.synthesise(spectrum, out), hop_s),
    ]


def _model_step(model: FrameModel) -> Call:
    """Return the step as the runtime makes it: bound once, on two copies of the state that are swapped."""
    here, there = model.init_state(1), model.init_state(1)
    frame = noise(1, prod(model.spec.frame_shape)).reshape(1, *model.spec.frame_shape)
    result = np.zeros_like(frame)
    steps = (model.bind(frame, here, result, there), model.bind(frame, there, result, here))
    turn = 0

    def step() -> None:
        nonlocal turn
        steps[turn]()
        turn ^= 1

    return step


# --- one model in several forms -------------------------------------------------------------------------------------


def forms_suite(label: str, forms: Mapping[str, FrameModel]) -> Suite:
    """Return the same weights in several forms: the step alone, and a hop through the engine; mono.

    Parameters
    ----------
    label : str
    forms : dict of str to FrameModel
        By what each is called; the others are compared with the first.
    """
    first = next(iter(forms))

    def cases() -> list[Case]:
        found = []
        for form, model in forms.items():
            hop_s = model.spec.hop / model.spec.sample_rate
            for name, call in (("step", _model_step(model)), ("hop", _callbacks_of_a_hop(model, 1))):
                reference = None if form == first else f"{first} {name}"
                found.append(Case(f"{form} {name}", call, hop_s, {"form": form}, reference))
        return found

    return Suite(f"forms · {label}", cases)


# --- many streams ---------------------------------------------------------------------------------------------------


def pool_suite(label: str, model: FrameModel, sizes: Sequence[int]) -> Suite:
    """Return pools of several sizes, each beside as many engines of their own; one hop of every stream per call."""
    spec = model.spec

    def pooled(n: int) -> Call:
        pool = StreamPool(model, n, fixed_block=spec.hop)
        blocks = {pool.open(): x for x in noise(n, spec.hop)}
        return lambda: pool.process(blocks)

    def separate(n: int) -> Call:
        callbacks = [callback_case("", ModelProcessor(model), spec.sample_rate, spec.hop).call for _ in range(n)]

        def call() -> None:
            for callback in callbacks:
                callback()

        return call

    def cases() -> list[Case]:
        found = []
        for n in sizes:
            facts, hop_s = {"n_streams": n}, spec.hop / spec.sample_rate
            engines = f"{n} separate engine{'s' if n > 1 else ''}"
            found += [
                Case(engines, separate(n), hop_s, {**facts, "pooled": False}),
                Case(f"pool of {n}", pooled(n), hop_s, {**facts, "pooled": True}, engines),
            ]
        return found

    return Suite(f"streams · {label}", cases)
