"""What a model takes before it makes a sound. Measured in a process of its own, where nothing is loaded yet."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter

import numpy as np

from ..interrupts import signals_ignored

_STATM = Path("/proc/self/statm")


@dataclass(frozen=True)
class Resources:
    """Size, memory and times of one model, mono at its own rate."""

    model: str
    """As it was asked for."""
    name: str
    """As it calls itself."""
    backend: str
    sample_rate: int
    hop: int
    latency_samples: int
    """Algorithmic, at `sample_rate`."""
    file_bytes: int
    n_state_values: int
    macs_per_second: float | None
    """From the file's metrics; None where it does not say."""
    import_ms: float
    """Of the package that runs it."""
    load_ms: float
    """Of the file, that package being imported."""
    prepare_ms: float
    """Buffers, bindings and warm-up."""
    first_call_us: float
    """The first block of one hop, after all that."""
    package_mib: float | None
    """Memory that numpy and the package that runs the model take; None where the system does not tell."""
    model_mib: float | None
    """Memory that the model and its engine take on top of it."""


def measure_resources(model: str) -> Resources:
    """Load a model in a new process, and say what that took.

    Raises
    ------
    ModelFileError, BackendUnavailable
        If it cannot be loaded.
    """
    with signals_ignored(signal.SIGINT):
        executor = ProcessPoolExecutor(1, get_context("spawn"))
        future = executor.submit(_measure, model)
    with executor:
        return future.result()


def _measure(model: str) -> Resources:
    from ..backends.loader import load_model
    from ..engine import Engine
    from ..model_processor import ModelProcessor

    torchscript = Path(model).suffix.lower() in (".ts", ".pt")
    started = perf_counter()
    import_module(f"streamproc.backends.{'torchscript' if torchscript else 'onnx'}")
    import_ms = 1e3 * (perf_counter() - started)
    bare_mib = _memory_mib()

    started = perf_counter()
    loaded = load_model(model)
    load_ms = 1e3 * (perf_counter() - started)
    spec = loaded.spec
    started = perf_counter()
    engine = Engine(ModelProcessor(loaded), spec.sample_rate, fixed_block=spec.hop)
    prepare_ms = 1e3 * (perf_counter() - started)
    x = np.full((1, spec.hop), 0.1, np.float32)
    started = perf_counter()
    engine.process(x)
    first_call_us = 1e6 * (perf_counter() - started)
    full_mib = _memory_mib()
    macs = spec.metrics.get("macs_per_second")
    return Resources(
        model=model,
        name=f"{spec.name} {spec.version}",
        backend="TorchScript" if torchscript else "ONNX",
        sample_rate=spec.sample_rate,
        hop=spec.hop,
        latency_samples=spec.latency,
        file_bytes=Path(loaded.source).stat().st_size,
        n_state_values=spec.n_state_values,
        macs_per_second=float(macs) if isinstance(macs, int | float) else None,
        import_ms=import_ms,
        load_ms=load_ms,
        prepare_ms=prepare_ms,
        first_call_us=first_call_us,
        package_mib=bare_mib,
        model_mib=None if full_mib is None or bare_mib is None else full_mib - bare_mib,
    )


def _memory_mib() -> float | None:
    """Return the memory of this process that is really in use."""
    if not _STATM.is_file():
        return None
    return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
