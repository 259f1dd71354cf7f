"""How numbers are written for people."""

from __future__ import annotations


def clock(seconds: float) -> str:
    """Write a time the way players do: ``20 ms``, ``7.25 s``, ``3:07``, ``1:00:00``."""
    if 0 < seconds < 0.1:
        return f"{1000 * seconds:.3g} ms"
    if seconds < 59.95:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def counted(n: int, noun: str) -> str:
    """Write a number of things: ``1 file``, ``2,000 files``."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"
