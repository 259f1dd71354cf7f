"""What the systems of an evaluation cost: a frame of each, timed in turns in one run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from streamproc.bench.cases import Suite
from streamproc.bench.environment import Environment
from streamproc.bench.runner import OnStep, run_suites
from streamproc.bench.timing import Effort
from streamproc.errors import StreamprocError

from .systems import System


def measure_cost(
    systems: Sequence[System], effort: Effort, on_step: OnStep = lambda _what, _share: None
) -> tuple[dict[str, Any], list[str]]:
    """Time a frame of every system that processes anything, mono at its own rate, hot and paced.

    Models go through `streamproc.Engine`, packages are called on frames in their own format; see `System.case`.

    Returns
    -------
    record : dict
        Ready for `json.dumps`: where and how it was measured, and under ``systems``, by name, ``frame_us`` (the length
        of a frame), ``hot_p50_us``, ``paced_p50_us`` and ``paced_p99_us`` (the time it takes), and ``share_of_core``
        (``hot_p50_us`` over ``frame_us``).
    notes : list of str
        What was left out, and why.
    """
    environment = Environment.now()
    cases, notes = [], []
    for system in systems:
        try:
            case = system.case()
        except StreamprocError as error:
            notes.append(f"{system.info.name} has no cost: {error}")
            continue
        if case is not None:
            cases.append(case)
    rows, core = run_suites([Suite("side by side", lambda: cases)] if cases else [], effort, on_step)
    record = {
        "environment": asdict(environment),
        "effort": asdict(effort),
        "pinned_to": core,
        "systems": {
            row.name: {
                "frame_us": row.audio_us,
                "hot_p50_us": row.hot.p50_us,
                "paced_p50_us": row.paced.p50_us,
                "paced_p99_us": row.paced.p99_us,
                "share_of_core": row.load(row.hot.p50_us),
            }
            for row in rows
        },
    }
    return record, notes
