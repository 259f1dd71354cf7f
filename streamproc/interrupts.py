"""Signals, and the processes that a command starts."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager


@contextmanager
def signals_ignored(*signals: int) -> Iterator[None]:
    """Ignore signals for a while; processes that start in the meantime ignore them from their first moment on.

    Ctrl-C reaches every process of a terminal; this leaves it to one of them what it means.

    Thread: main.
    """
    with ExitStack() as restore:
        for number in signals:
            restore.callback(signal.signal, number, signal.signal(number, signal.SIG_IGN))
        yield
