from __future__ import annotations

import pytest

from streamproc.text import clock, counted


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0, "0 s"),
        (0.02, "20 ms"),
        (7.25, "7.25 s"),
        (59.9, "59.9 s"),
        (59.97, "1:00"),
        (187, "3:07"),
        (3599.6, "1:00:00"),
        (7325, "2:02:05"),
    ],
)
def test_clock(seconds: float, expected: str) -> None:
    assert clock(seconds) == expected


def test_counted() -> None:
    assert [counted(n, "file") for n in (0, 1, 2000)] == ["0 files", "1 file", "2,000 files"]
