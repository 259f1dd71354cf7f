"""How exactly an exported filter keeps to `scipy.signal.sosfilt`, over minutes and over levels."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.signal
import torch

from streamproc.backends.loader import load_model
from streamproc.dsp.state_space import normal_form
from streamproc.model import FrameModel
from streamproc.spec import StateDtype
from streamproc.verify import run_steps

from ...models.iir import IirFilter, TanhFilter, choose_state_dtype
from ...to_onnx import export_onnx
from .training import IMPULSE, document_filter, document_response

SAMPLE_RATE = 48_000
HOP = 1024
_SECONDS_AT_ONCE = 10
_PARITY_STEPS = 32
"""Enough of a proof for a file whose every sample is compared anyway."""


@dataclass(frozen=True)
class Design:
    """A filter by `scipy.signal`.

    Parameters
    ----------
    family : {"butter", "cheby1", "cheby2", "ellip"}
    kind : {"lowpass", "highpass", "bandpass", "bandstop"}
    order : int
        Of the filter; a band takes half of it on each side.
    cutoff : float
        Part of the sample rate; a band reaches from here to half as far again.
    """

    family: str
    kind: str
    order: int
    cutoff: float

    def sections(self) -> npt.NDArray[np.float64]:
        """Return the second-order sections: 1 dB of ripple, 60 dB of attenuation where the family has them."""
        band = self.kind.startswith("band")
        order = self.order // 2 if band else self.order
        edges = [2 * self.cutoff, min(3 * self.cutoff, 0.98)] if band else 2 * self.cutoff
        ripples = {"butter": (), "cheby1": (1,), "cheby2": (60,), "ellip": (1, 60)}[self.family]
        return getattr(scipy.signal, self.family)(order, *ripples, edges, self.kind, output="sos")

    def __str__(self) -> str:
        return f"{self.family} {self.kind} {self.order} at {self.cutoff:g}"


def designs(quick: bool) -> list[Design]:
    """Return the designs that the promise is made for: orders to 12, cut-offs from 0.02 of the sample rate up."""
    families = ("butter", "cheby1", "cheby2", "ellip")
    if quick:
        return [Design("ellip", "lowpass", 12, 0.02)]
    orders = {"lowpass": (1, 5, 12), "highpass": (12,), "bandpass": (2, 12), "bandstop": (2,)}
    return [
        Design(family, kind, order, cutoff)
        for kind, some in orders.items()
        for order in some
        for cutoff in (0.02, 0.1, 0.3 if kind.startswith("band") else 0.4)
        for family in families
    ]


def hard_designs(quick: bool) -> list[Design]:
    """Return low cut-offs, where nothing is promised."""
    if quick:
        return [Design("butter", "lowpass", 4, 0.001)]
    return [
        Design(family, "lowpass", order, cutoff)
        for order in (2, 12)
        for cutoff in (0.01, 0.001, 0.0001)
        for family in ("butter", "ellip")
    ]


@lru_cache(maxsize=1)
def probe_pieces(seconds: int) -> tuple[npt.NDArray[np.float32], ...]:
    """Return pieces [1, frames] of noise, noise on a constant, a sweep and silence: what shows rounding and drift."""
    n = _SECONDS_AT_ONCE * SAMPLE_RATE - _SECONDS_AT_ONCE * SAMPLE_RATE % HOP
    time = np.arange(n) / n
    sweep = 0.8 * np.sin(np.pi * n * 0.5 * time**2)
    pieces = []
    for piece in range(max(1, round(seconds / _SECONDS_AT_ONCE))):
        noise = np.random.default_rng(piece).standard_normal(n, np.float32)
        kinds = (0.25 * noise, 0.5 + 0.1 * noise, sweep, 0.2 * noise * (time < 0.5))
        pieces.append(np.clip(kinds[piece % len(kinds)], -1.0, 1.0).astype(np.float32)[None])
    return tuple(pieces)


def exported(model: IirFilter | TanhFilter, folder: Path) -> FrameModel:
    """Return a module as the runtime runs its ONNX file, proven."""
    path = folder / f"{model.spec.name}.onnx"
    export_onnx(model.eval(), path, _PARITY_STEPS)
    return load_model(path)


def run_model(model: FrameModel, pieces: Iterable[npt.NDArray[np.float32]]) -> Iterator[npt.NDArray[np.float32]]:
    """Yield what a waveform model makes of pieces of sound [1, frames] of whole hops, its state carried on."""
    state = model.init_state(1)
    for piece in pieces:
        hops = piece.reshape(-1, 1, model.spec.hop)
        y = np.empty_like(hops)
        last = state
        for out, (found, last) in zip(y, run_steps(model, hops, state), strict=True):  # noqa: B007
            out[:] = found
        state = tuple(array.copy() for array in last)
        yield y.reshape(1, -1)


def error_over_time(model: IirFilter, sections: npt.NDArray[np.float64], seconds: int) -> float:
    """Return the largest error of the exported filter against float64 `sosfilt`, relative to the output's peak."""
    with tempfile.TemporaryDirectory() as folder:
        runtime = exported(model, Path(folder))
    zi = np.zeros((len(sections), 1, 2))
    error = peak = 0.0
    for x, y in zip(probe_pieces(seconds), run_model(runtime, probe_pieces(seconds)), strict=True):
        expected, zi = scipy.signal.sosfilt(sections, x.astype(np.float64), zi=zi)
        peak = max(peak, float(np.abs(expected).max()))
        error = max(error, float(np.abs(y - expected).max()))
    return error / peak


def measure(design: Design, seconds: int, both: bool = False) -> dict[str, Any]:
    """Return the error of a design with the state that the library chooses for it, or with both that there are."""
    sections = design.sections()
    chosen = choose_state_dtype(normal_form(sections))
    found: dict[str, Any] = {"design": str(design), "state": chosen}
    dtypes: tuple[StateDtype, ...] = ("float32", "float64") if both else (chosen,)
    for dtype in dtypes:
        model = IirFilter.from_sections(sections, SAMPLE_RATE, hop=HOP, state_dtype=dtype)
        found[dtype] = error_over_time(model, sections, seconds)
    return {**found, "chosen": found[chosen]}


def deviation_by_level(quality: float, levels_db: npt.NDArray[np.float64]) -> dict[str, list[float]]:
    """Return the largest error of the document's network, with tanh and without, relative to the peak.

    Parameters
    ----------
    quality : float
        See `document_filter`.
    levels_db : float64 [levels]
        Of the impulse, in dB of 1.
    """
    a = document_filter(quality)
    tanh = TanhFilter.from_coefficients([1.0], a).eval()
    linear = IirFilter.from_coefficients([1.0], a, 8000, state_dtype="float32")
    target = document_response(quality) / IMPULSE
    unit = torch.zeros(len(target))
    unit[0] = 1.0
    found: dict[str, list[float]] = {"tanh": [], "linear": []}
    for level_db in levels_db:
        level = float(10 ** (level_db / 20))
        for name, model in (("tanh", tanh), ("linear", linear)):
            with torch.no_grad():
                y = model((level * unit).reshape(1, -1, model.spec.hop))[0].flatten().double().numpy()
            found[name].append(float(np.abs(y - level * target).max() / np.abs(level * target).max()))
    return found
