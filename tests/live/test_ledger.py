"""Any pattern of misses, late results, failures, resets and bypass: the latency stays, and the books balance."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np
import pytest
from helpers import noise
from hypothesis import given
from hypothesis import strategies as st

from streamproc.dsp.delay import Delay
from streamproc.live import LiveConfig, LiveEngine
from streamproc.live.ledger import Ledger, Overload
from streamproc.processor import BaseProcessor, Chain
from streamproc.spec import Block
from streamproc.testing import FailingProcessor, FakeStream

RATE = 8000
FADE = 40
LATENCY = 23
BLOCK = 16
MAX_BLOCK = 48


class Invert(BaseProcessor):
    """Wet sound that no one can take for dry sound."""

    def process(self, x: Block, out: Block) -> None:
        np.negative(x, out=out)


@dataclass
class Step:
    """One block of a schedule."""

    n: int
    work: int
    """Blocks that the worker manages afterwards."""
    press: str = ""


def steps(fixed: bool) -> st.SearchStrategy[list[Step]]:
    size = st.just(BLOCK) if fixed else st.sampled_from([0, 1, 7, 16, 31, 48, 100])
    work = st.sampled_from([0, 0, 1, 2, 3, 100, 100, 100])
    press = st.sampled_from([*[""] * 12, "bypass", "wet", "reset", "fail"])
    return st.lists(st.builds(Step, size, work, press), min_size=1, max_size=40)


@dataclass
class Reference:
    """The same rules as a queue with a debt, sample by sample: an output is a number, or None for a gap."""

    queue: int
    position: int = 0
    fifo: deque[int | None] = field(default_factory=deque)
    missed: int = 0
    late: int = 0
    lost: int = 0
    owed: int = 0
    skipped: int = 0
    unattended: int = 0
    _drop: int = 0

    def begin(self) -> None:
        self.lost += self.owed
        self.owed = 0
        if self.position == 0:
            self.fifo.extend(range(-self.queue, 0))
        else:
            self.fifo = deque([None] * (self.queue + LATENCY))
            self._drop = LATENCY

    def pop(self, n: int, expected: bool) -> list[int | None]:
        heard = []
        for _ in range(n):
            number = self.fifo.popleft() if self.fifo else "missing"
            if number is None or number == "missing":
                if not expected:
                    self.unattended += 1
                elif number is None:
                    self.skipped += 1
                else:
                    self.missed += 1
                    self.owed += 1
                number = None
            heard.append(number)
        self.position += n
        return heard

    def push(self, numbers: range) -> None:
        for number in numbers:
            if self._drop:
                self._drop -= 1
            elif self.owed:
                self.owed -= 1
                self.late += 1
            else:
                self.fifo.append(number)

    @property
    def books(self) -> tuple[int, ...]:
        return self.missed, self.late, self.lost, self.owed, self.skipped, self.unattended


class Player:
    """An engine and the reference on the same schedule."""

    def __init__(self, fixed: bool) -> None:
        config = LiveConfig(
            RATE, 2, fixed_block=BLOCK if fixed else None, max_block=MAX_BLOCK, tolerated_share=0.99, burst_ms=1e6
        )
        processor = FailingProcessor(Chain([Delay(LATENCY), Invert()]), [])
        self.engine = LiveEngine(processor, config)
        self.engine.start(own_thread=False)
        self.stream = FakeStream(self.engine.callback, RATE)
        self.fixed = fixed
        self.fail_at: set[int] = set()
        self.reference = Reference(config.queue)
        self.restart = True
        self.failed = self.worker_failed = False
        self.calls = self.worked = 0
        self.heard: list[int | None] = []
        self.bypassed: list[bool] = []

    def play(self, x: Block, step: Step) -> Block:
        if step.press in ("bypass", "wet"):
            self.engine.bypass = step.press == "bypass"
        if step.press in ("reset", "mend"):
            self.engine.reset()
            self.restart = True
        if step.press in ("fail", "mend"):
            self.fail_at = {self.calls} if step.press == "fail" else set()
            self.engine._engine.processor._fail_at = frozenset(self.fail_at)  # type: ignore[attr-defined]
        out = self.stream.run(x[:, self.reference.position : self.reference.position + step.n], [step.n])
        # A larger block is worked off in pieces, and what was asked for happens at the first of them.
        for start in range(0, step.n, MAX_BLOCK):
            self._expect(min(MAX_BLOCK, step.n - start))
        self._work(step.work)
        return out

    def _expect(self, n: int) -> None:
        self.failed |= self.worker_failed
        if self.restart:
            self.reference.begin()
            self.worked = self.reference.position
            self.restart = self.failed = self.worker_failed = False
        self.heard += self.reference.pop(n, expected=not self.failed)
        self.bypassed += [self.engine.bypass] * n

    def _work(self, blocks: int) -> None:
        done = self.engine.work(blocks)
        assert done <= blocks
        for _ in range(blocks):
            waiting = self.reference.position - self.worked
            n = (BLOCK if waiting >= BLOCK else 0) if self.fixed else min(waiting, MAX_BLOCK)
            if n == 0 or self.worker_failed:
                break
            self.calls += 1
            if self.calls - 1 in self.fail_at:
                self.worker_failed = True
                break
            self.reference.push(range(self.worked, self.worked + n))
            self.worked += n


@pytest.mark.parametrize("fixed", [True, False])
@given(data=st.data(), seed=st.integers(0, 1000))
def test_latency_and_books_after_any_schedule(fixed: bool, data: st.DataObject, seed: int) -> None:
    schedule = data.draw(steps(fixed))
    # A quiet end in which everything falls into place again.
    total = LATENCY + (BLOCK if fixed else MAX_BLOCK)
    schedule += [Step(BLOCK, 1000, "mend")] + [Step(BLOCK, 1000, "wet")] * ((total + FADE) // BLOCK + 6)
    player = Player(fixed)
    assert player.engine.latency_samples == total
    x = noise(2, sum(step.n for step in schedule), seed)
    parts = []
    for step in schedule:
        # A block of no samples is no block: what was asked for before it waits for the next one.
        parts.append(player.play(x, step))
        if step.n:
            counted = player.engine._ledger
            books = counted.missed, counted.late, counted.lost, counted.owed, counted.skipped, counted.unattended
            # What came after this block shows at the next one.
            assert sum(books[1:4]) == counted.missed
            assert books[0] == player.reference.missed
            assert books[4:] == player.reference.books[4:]
    out = np.concatenate(parts, axis=1)
    counted = player.engine._ledger
    assert counted.owed == 0
    assert (counted.missed, counted.late, counted.lost) == player.reference.books[:3]
    assert player.engine.latency_samples == total

    aligned = np.concatenate([np.zeros((2, total), np.float32), x], axis=1)[:, : out.shape[1]]
    mode = ["wet" if number is not None else "gap" for number in player.heard]
    mode = [("dry " if bypassed else "") + m for m, bypassed in zip(mode, player.bypassed, strict=True)]
    since_change = 0
    for p, now in enumerate(mode):
        since_change = since_change + 1 if p and mode[p - 1] == now else (FADE if p == 0 and now == "wet" else 0)
        if since_change >= FADE:
            expected = -aligned[:, p] if now == "wet" else aligned[:, p]
            assert np.array_equal(out[:, p], expected), (p, now)
        number = player.heard[p]
        assert number is None or number == p - player.engine.config.queue
    # The end is wet again, sample by sample at the latency declared.
    np.testing.assert_array_equal(out[:, -BLOCK:], -aligned[:, -BLOCK:])


@given(
    written=st.lists(st.integers(0, 30), min_size=1, max_size=60),
    n=st.integers(1, 20),
)
def test_what_is_missed_is_late_or_owed(written: list[int], n: int) -> None:
    ledger = Ledger()
    done = 0
    for block, progress in enumerate(written):
        done = min(done + progress, (block + 1) * n)
        start, stop = ledger.settle(block * n, n, 0, done, expected=True)
        assert start == 0
        assert stop == max(0, min(n, done - block * n))
        assert ledger.missed == ledger.late + ledger.lost + ledger.owed
        assert ledger.owed == max(0, (block + 1) * n - done)


def test_what_is_owed_is_lost_when_processing_begins_anew() -> None:
    ledger = Ledger()
    ledger.settle(0, 10, 0, 4, expected=True)
    ledger.forget(10, 4)
    assert (ledger.missed, ledger.lost, ledger.owed) == (6, 6, 0)
    assert ledger.settle(10, 10, 13, 30, expected=True) == (3, 10)
    assert ledger.skipped == 3


def test_one_long_stall_or_many_short_ones_are_an_overload() -> None:
    stall = Overload(0.05, burst=1000, rest=5000)
    blocks = next(k for k in range(1, 100) if stall.note(100, 100))
    assert blocks * 100 == pytest.approx(1000 / 0.95, abs=100)

    often = Overload(0.05, burst=1000, rest=5000)
    blocks = next(k for k in range(1, 1000) if often.note(100, 10))
    assert blocks * 100 == pytest.approx(1000 / 0.05, abs=200)

    rarely = Overload(0.05, burst=1000, rest=5000)
    assert not any(rarely.note(100, 100 if k % 25 == 0 else 0) for k in range(10_000))


def test_rests_grow_and_shrink_again() -> None:
    overload = Overload(0.05, burst=100, rest=1000)

    def rest_length() -> int:
        while not overload.note(50, 50):
            pass
        passed = 50
        while not overload.rest(50):
            passed += 50
        overload.resume()
        return passed

    assert [rest_length() for _ in range(7)] == [1000, 2000, 4000, 8000, 16000, 16000, 16000]
    for last in (16_000, 2000):
        while overload._well < last:
            assert not overload.note(50, 0)
        assert [rest_length() for _ in range(2)] == [1000, 2000], "it has gone well for as long as the last rest took"


def test_without_a_rest_processing_stays_off() -> None:
    overload = Overload(0.05, burst=100, rest=None)
    while not overload.note(50, 50):
        pass
    assert not any(overload.rest(1_000_000) for _ in range(100))
