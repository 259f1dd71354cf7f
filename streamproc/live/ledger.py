"""The account of samples that were due and not there, and the decision when there are too many of them."""

from __future__ import annotations


class Ledger:
    """Who owes which samples.

    Every sample has a number, and the reader moves on by exactly one block per block whatever happens: that alone keeps
    the latency constant. What this class adds is the account::

        processed     ------------->| written
        heard         ---------->|  first        first + n |          all there
        heard                            |  first        first + n |  the part from `written` on is missed, and owed

    Owed samples that come later lie before `first` by then: nobody reads them, they are dropped one for one. Where
    processing begins anew they never come, and are lost.

    Attributes
    ----------
    misses : int
        Blocks with at least one missed sample.
    missed, late, lost, owed : int
        Samples; ``missed == late + lost + owed`` after every call.
    skipped : int
        Samples before the one from which on processing gives valid sound.
    unattended : int
        Samples not there while none were expected.
    """

    def __init__(self) -> None:
        self.owed = 0
        self.clear_statistics()

    def clear_statistics(self) -> None:
        """Start counting anew; what is owed stays owed."""
        self.misses = self.late = self.lost = self.skipped = self.unattended = 0
        self.missed = self.owed

    def forget(self, first: int, written: int) -> None:
        """Give up what is owed and has not come, because processing begins anew. Thread: audio."""
        self._collect(first, written)
        self.lost += self.owed
        self.owed = 0

    def settle(self, first: int, n: int, valid_from: int, written: int, expected: bool) -> tuple[int, int]:
        """Say which of the samples that are due are there, and account for the others. Thread: audio.

        Parameters
        ----------
        first, n : int
            Number of the first sample due now, and how many are.
        valid_from : int
            Number of the first sample that is worth hearing since processing began.
        written : int
            Number of the first sample not yet processed.
        expected : bool
            Whether processing is at work, so that what is not there is a miss.

        Returns
        -------
        start, stop : int
            The samples ``first + start`` to ``first + stop`` are there.
        """
        self._collect(first, written)
        start = min(max(valid_from - first, 0), n)
        stop = min(max(written - first, start), n)
        if expected:
            self.skipped += start
            missed = n - stop
            if missed:
                self.misses += 1
                self.missed += missed
                self.owed += missed
        else:
            self.unattended += n - (stop - start)
        return start, stop

    def _collect(self, first: int, written: int) -> None:
        """Take note of owed samples that came: all but those between `written` and `first`."""
        came = max(0, self.owed - max(0, first - written))
        self.owed -= came
        self.late += came


class Overload:
    """Turns processing off when too much is missed, and on again after a rest.

    A leaking bucket: missed samples fill it, and every sample that passes drains `tolerated_share`. It overflows at
    `burst` samples. So a single stall of about `burst` samples, or a share somewhat above the tolerated one for a long
    time, turns processing off; rare single misses never do.

    Parameters
    ----------
    tolerated_share : float
        In (0, 1).
    burst : int
        Samples.
    rest : int or None
        Samples of the first rest. Every further one is twice as long, up to sixteen times, until processing has gone
        well for as long as the last rest took. None: rest for ever.
    """

    _LONGEST = 16

    def __init__(self, tolerated_share: float, burst: int, rest: int | None) -> None:
        self._share = tolerated_share
        self._burst = burst
        self._rest = rest
        self._level = 0.0
        self._last = 0
        self._left = 0
        self._well = 0
        self.resting = False
        self.count = 0

    def note(self, n: int, missed: int) -> bool:
        """Take in that `missed` of `n` samples were missed. Thread: audio.

        Returns
        -------
        bool
            Whether processing must stop now.
        """
        self._level = max(0.0, self._level + missed - self._share * n)
        self._well += n
        if self._level <= self._burst:
            return False
        self.resting = True
        self.count += 1
        first = self._rest or 0
        self._last = first if self._well >= self._last else min(2 * self._last, self._LONGEST * first)
        self._left = self._last
        return True

    def rest(self, n: int) -> bool:
        """Let `n` samples of a rest pass. Thread: audio.

        Returns
        -------
        bool
            Whether it is over: processing may be tried again.
        """
        self._left -= n
        return self._rest is not None and self._left <= 0

    def resume(self) -> None:
        """Watch anew, because processing begins anew. Thread: audio."""
        self.resting = False
        self._level = 0.0
        self._well = 0
