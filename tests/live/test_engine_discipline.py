"""The callback's vows: no lock, no logging, no files, no memory that grows."""

from __future__ import annotations

import ast
import gc
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from helpers import RecurrentSpectrum

import streamproc
from streamproc.live import ClockBridge, LiveConfig, LiveEngine
from streamproc.live.recorder import Recorder
from streamproc.live.statistics import Mode
from streamproc.model_processor import ModelProcessor
from streamproc.processor import Passthrough
from streamproc.testing import FakeStatus, FakeTime, ManualClock

PACKAGE = Path(streamproc.__file__).parent
FILES = [
    *(
        PACKAGE / "live" / f"{name}.py"
        for name in ("engine", "ring", "ledger", "splice", "worker", "forecast", "drift", "recorder")
    ),
    *(PACKAGE / "live" / f"{name}.py" for name in ("statistics",)),
    *(PACKAGE / f"{name}.py" for name in ("engine", "guard", "stats")),
]
ROOTS = ("callback", "capture", "playback")
NOT_CALLED = {"drain", "start", "stop", "snapshot", "wait"}
"""Methods of other threads that share a name with something that the callback calls."""

FORBIDDEN = {
    *("print", "logging", "logger", "warn", "warnings", "open", "input", "exec", "eval"),
    *("Lock", "RLock", "Condition", "Semaphore", "Event", "Queue", "SimpleQueue", "acquire", "wait", "join", "sleep"),
    *("copy", "concatenate", "zeros", "empty", "ones", "array", "append_to", "collect", "run"),
}


def functions() -> dict[str, list[tuple[str, ast.FunctionDef]]]:
    found: dict[str, list[tuple[str, ast.FunctionDef]]] = {}
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                found.setdefault(node.name, []).append((path.name, node))
    return found


def names_in(function: ast.FunctionDef) -> set[str]:
    body = ast.Module([statement for statement in function.body if not isinstance(statement, ast.FunctionDef)], [])
    nodes = list(ast.walk(body))
    return {n.id for n in nodes if isinstance(n, ast.Name)} | {n.attr for n in nodes if isinstance(n, ast.Attribute)}


def audio_functions() -> list[tuple[str, ast.FunctionDef]]:
    """Everything that a callback may reach: followed by name, so rather too much than too little."""
    known = functions()
    reached: dict[str, list[tuple[str, ast.FunctionDef]]] = {}
    waiting = list(ROOTS)
    while waiting:
        name = waiting.pop()
        if name in known and name not in reached and name not in NOT_CALLED:
            reached[name] = known[name]
            for _, function in known[name]:
                waiting += names_in(function)
    return [entry for entries in reached.values() for entry in entries]


def test_what_the_callback_reaches_takes_no_lock_and_writes_no_log() -> None:
    reached = audio_functions()
    names = {function.name for _, function in reached}
    # The walk has not lost its way.
    assert {"_render", "settle", "play", "replace", "append", "read", "ring", "_process", "clean", "record"} <= names
    assert {"hold", "over", "drop"} <= names
    for file, function in reached:
        if function.name == "write" and file == "recorder.py":
            continue  # two methods of this name; the one of the audio thread is checked below
        wrong = names_in(function) & FORBIDDEN
        assert not wrong, f"{file}: {function.name} uses {', '.join(sorted(wrong))}"
        for node in ast.walk(function):
            assert not isinstance(node, ast.JoinedStr) or function.name in ("_check",), f"{file}: {function.name}"


def test_the_recorder_takes_a_block_with_two_appends() -> None:
    tree = ast.parse((PACKAGE / "live" / "recorder.py").read_text())
    recorder = next(n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == "Recorder")
    write = next(n for n in recorder.body if isinstance(n, ast.FunctionDef) and n.name == "write")
    assert names_in(write) == {"self", "_input", "_output", "append", "x", "out"}


def test_callbacks_do_all_their_work_inside_one_try() -> None:
    for name in ROOTS:
        for file, function in functions()[name]:
            statements = [
                s for s in function.body if not (isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant))
            ]
            guarded = [s for s in statements if isinstance(s, ast.Try)]
            assert len(guarded) == 1, (file, name)
            assert statements[-1] is guarded[0]
            assert all(isinstance(s, ast.Assign | ast.Try) for s in statements)


def grown_bytes(step: object, warm_up: int, blocks: int) -> int:
    assert callable(step)
    for _ in range(warm_up):
        step()
    gc.collect()
    tracemalloc.start()
    try:
        for _ in range(64):
            step()
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(blocks):
            step()
        return tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("mode", ["worker", "inline"])
def test_memory_does_not_grow(mode: Mode, tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, 48_000, 2, max_block=128)
    engine = LiveEngine(Passthrough(), LiveConfig(48_000, 2, fixed_block=128, mode=mode), recorder)
    engine.start(own_thread=False)
    indata = np.full((128, 2), 0.1, np.float32)
    outdata = np.zeros_like(indata)
    time_info, status = FakeTime(1.0), FakeStatus(True, False, True, False)
    count = 0

    def step() -> None:
        nonlocal count
        count = (count + 1) % 64
        time_info.inputBufferAdcTime += 0.003
        engine.bypass = count > 40
        engine.callback(indata, outdata, 128, time_info, status)
        if count % 16:  # and else a miss
            engine.work()

    assert grown_bytes(step, 500, 10_000) < 1024
    engine.raise_if_failed()
    assert (engine.snapshot().misses > 600) == (mode == "worker")


def test_memory_does_not_grow_with_forecasts() -> None:
    engine = LiveEngine(Passthrough(), LiveConfig(48_000, 2, fixed_block=128, on_miss="predict"))
    engine.start(own_thread=False)
    indata = np.full((128, 2), 0.1, np.float32)
    outdata = np.zeros_like(indata)
    count = 0

    def step() -> None:
        nonlocal count
        count += 1
        engine.callback(indata, outdata, 128)
        if count % 16:
            engine.work()

    # scipy's and numpy's own small caches are in it; one kept object per forecast would be 30,000 bytes and more.
    assert grown_bytes(step, 200, 1_000) < 8192
    assert engine.snapshot().predicted_samples == engine.snapshot().missed_samples > 0


@pytest.mark.parametrize("mode", ["worker", "inline"])
def test_memory_does_not_grow_with_a_model(mode: Mode) -> None:
    engine = LiveEngine(ModelProcessor(RecurrentSpectrum()), LiveConfig(48_000, fixed_block=128, mode=mode))
    engine.start(own_thread=False)
    indata = np.full((128, 1), 0.1, np.float32)
    outdata = np.zeros_like(indata)

    def step() -> None:
        engine.callback(indata, outdata, 128)
        engine.work()

    assert grown_bytes(step, 200, 1_000) < 1024


def test_memory_does_not_grow_between_two_clocks() -> None:
    clock = ManualClock()
    engine = LiveEngine(Passthrough(), LiveConfig(48_000, fixed_block=128, mode="inline"))
    engine.start()
    bridge = ClockBridge(engine.callback, 48_000, 48_000, 1, 128, 128, clock=clock)
    block = np.full((128, 1), 0.1, np.float32)
    outdata = np.zeros_like(block)

    def step() -> None:
        clock.advance(128 / 48_000)
        bridge.capture(block, 128)
        bridge.playback(outdata, 128)

    assert grown_bytes(step, 200, 1_000) < 1024
    assert bridge.failure is None
    np.testing.assert_allclose(outdata, 0.1, atol=1e-6)
