"""A window on a stream in which every sample keeps its number."""

from __future__ import annotations

import numpy as np

from ..spec import Block


class Ring:
    """The newest samples of a stream, addressed by their number in it.

    One thread appends and any number of threads read, without locks: the writer never waits and never refuses, and a
    reader that was too slow is told so.

    Parameters
    ----------
    n_channels : int
    capacity : int
        The newest `capacity` samples can always be read.
    max_append : int
        Largest block that `append` is given.

    Attributes
    ----------
    written : int
        Number of the next sample to be appended; all before it count as silence until something was appended.

    Notes
    -----
    Samples lie at their number modulo the size, and `written` moves only after they lie there. While `append` is at
    work it overwrites at most the oldest `max_append` samples, which is what the ring has beyond its capacity. So a
    reader that finds its samples within the newest `capacity` *after* it has copied them has not met the writer.
    """

    def __init__(self, n_channels: int, capacity: int, max_append: int) -> None:
        self.capacity = capacity
        self.written = 0
        self._size = capacity + max_append
        self._samples: Block = np.zeros((n_channels, self._size), np.float32)
        self._silence: Block = np.zeros((n_channels, max_append), np.float32)

    def append(self, x: Block) -> None:
        """Add samples ``[channels, n]``. Thread: the writer."""
        n = x.shape[1]
        start = self.written % self._size
        stop = start + n
        if stop <= self._size:
            self._samples[:, start:stop] = x
        else:
            first = self._size - start
            self._samples[:, start:] = x[:, :first]
            self._samples[:, : stop - self._size] = x[:, first:]
        self.written += n

    def read(self, number: int, out: Block) -> bool:
        """Copy the samples from `number` on. Thread: any.

        Parameters
        ----------
        number : int
            Of the first sample; negative before the stream began.
        out : float32 [channels, n]
            ``number + n <= written`` and ``n <= capacity``.

        Returns
        -------
        bool
            False if the samples are no longer there, or were overwritten meanwhile.
        """
        start = number % self._size
        stop = start + out.shape[1]
        if stop <= self._size:
            out[:] = self._samples[:, start:stop]
        else:
            first = self._size - start
            out[:, :first] = self._samples[:, start:]
            out[:, first:] = self._samples[:, : stop - self._size]
        return self.written - number <= self.capacity

    def jump(self, number: int) -> None:
        """Let the next sample have this number; what lies between is undefined. Thread: the writer."""
        self.written = number

    def pad(self, number: int) -> None:
        """Append silence until the next sample has this number. Thread: the writer."""
        while self.written < number:
            self.append(self._silence[:, : number - self.written])
