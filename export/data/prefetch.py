"""The next batches, made while the last one is learned from."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator

from .mixing import Batch, Mixer


def prefetch(mixer: Mixer, first: int, n_items: int, depth: int = 3) -> Generator[Batch, None, None]:
    """Yield batches `first`, `first + 1`, ... made by a thread that stays `depth` ahead.

    A thread is enough: the work is in FFTs and array arithmetic, which release the interpreter.
    """
    ready: queue.Queue[Batch | BaseException] = queue.Queue(maxsize=depth)
    stop = threading.Event()

    def produce() -> None:
        index = first
        while not stop.is_set():
            try:
                item: Batch | BaseException = mixer.batch(index, n_items)
            except BaseException as error:  # handed to the consumer, who raises it
                item = error
            while not stop.is_set():
                try:
                    ready.put(item, timeout=0.2)
                    break
                except queue.Full:
                    continue
            index += 1

    thread = threading.Thread(target=produce, name="mixer", daemon=True)
    thread.start()
    try:
        while True:
            item = ready.get()
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()
        thread.join()
