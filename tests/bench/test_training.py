"""What one recurrent layer costs a training step on one core: torch's own, and `export.models.recurrence`.

Reports, never asserts: ``make bench``, or for this table alone ::

    OMP_NUM_THREADS=1 python -m pytest -m bench -s tests/bench/test_training.py

Forward and back over 24 items of three seconds (562 steps), as in the shipped recipe. The ways take turns.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter

import numpy as np
import pytest
import torch
from rich.console import Console
from rich.table import Table

from export.models.layers import Gru, reduce_precision
from export.models.recurrence import GruSequence, native

pytestmark = [pytest.mark.bench, pytest.mark.timeout(3600)]

ITEMS, STEPS, REPEATS = 24, 562, 5
WIDTHS = (192, 320, 448)


def test_recurrent_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    library = native()
    ways = {"torch, float32": (False, False)}
    if library is not None:
        ways["bfloat16 by vectors"] = (True, False)
    if library is not None and library.gru_has_tiles():
        ways["bfloat16 by tiles"] = (True, True)
    table = Table(
        "width", "way", "ms", "x", title=f"{STEPS} steps of {ITEMS} items, forward and back, median of {REPEATS}"
    )
    for width in WIDTHS:
        layer = Gru(width, width)
        x, initial = torch.randn(ITEMS, STEPS, width, requires_grad=True), torch.zeros(1, ITEMS, width)
        times_ms: dict[str, list[float]] = {name: [] for name in ways}
        for repeat in range(REPEATS + 1):
            for name, (narrow, tiles) in ways.items():
                reduce_precision(layer, narrow)
                monkeypatch.setattr(GruSequence, "tiles", tiles)
                elapsed_ms = _timed_ms(lambda layer=layer, x=x, initial=initial: layer(x, initial)[0].sum().backward())
                if repeat:  # the first one warms up
                    times_ms[name].append(elapsed_ms)
        medians = {name: float(np.median(values)) for name, values in times_ms.items()}
        for name, median in medians.items():
            table.add_row(str(width), name, f"{median:.0f}", f"{medians['torch, float32'] / median:.1f}")
    Console().print(table)


def _timed_ms(call: Callable[[], object]) -> float:
    began = perf_counter()
    call()
    return 1e3 * (perf_counter() - began)
