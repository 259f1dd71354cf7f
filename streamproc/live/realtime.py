"""Make this process fit for audio for a while, and put everything back afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class RealtimeReport:
    """What was asked for and what the system allowed."""

    switch_interval_ms: float
    priorities: tuple[str, ...]
    """One line per thread: what it got, or why not."""
    collections: int
    """Garbage collections run between blocks so far."""
    pause_max_ms: float
    """The longest of them."""


@contextmanager
def realtime(
    audio_threads: Callable[[], Iterable[int]] = tuple,
    switch_interval_ms: float = 0.5,
    collect_every_s: float = 0.5,
    priority: bool = True,
) -> Iterator[Callable[[], RealtimeReport]]:
    """Shorten the interpreter's switch interval, keep garbage collection out of the audio path, raise priorities.

    Parameters
    ----------
    audio_threads : callable
        Native ids of the threads to raise, asked for again and again because a callback's thread is known only once it
        has run: `LiveEngine.audio_threads`.
    switch_interval_ms : float
    collect_every_s : float
    priority : bool

    Yields
    ------
    callable
        Returns a `RealtimeReport`. Thread: any but audio.

    Examples
    --------
    >>> with realtime(lambda: engine.audio_threads) as report:
    ...     run_the_stream()
    ...     print(report())
    """
    raise NotImplementedError
    yield
