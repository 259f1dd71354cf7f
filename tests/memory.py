"""What the package holds in memory, for tests that it does not grow."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path

import streamproc


def memory_growth(call: Callable[[], object], times: int) -> int:
    """Bytes that the package holds more after so many calls.

    Memory of other code is not counted: the test runner has a thread of its own, which allocates when it likes. A
    hundred calls come before: they replace what was allocated before it could be traced, such as every counter.
    """
    own = tracemalloc.Filter(True, str(Path(streamproc.__file__).parent / "*"), all_frames=True)

    def held() -> int:
        return sum(trace.size for trace in tracemalloc.take_snapshot().filter_traces([own]).traces)

    tracemalloc.start(4)  # frames: numpy allocates a few below the line that asked for it
    try:
        for _ in range(100):
            call()
        before = held()
        for _ in range(times):
            call()
        return held() - before
    finally:
        tracemalloc.stop()
