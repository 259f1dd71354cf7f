"""Shared fixtures and the hypothesis profiles."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import hypothesis
import pytest

# A shell that starts something in the background has it ignore Ctrl-C, and all that it starts in turn.
signal.signal(signal.SIGINT, signal.default_int_handler)

SHARED = Path(__file__).resolve().parents[2] / "shared"

# No deadline: the machines that run this are shared, and a slow neighbour is not a bug.
hypothesis.settings.register_profile("dev", deadline=None, max_examples=20)
hypothesis.settings.register_profile("ci", deadline=None, max_examples=30, derandomize=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "dev")


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Recordings and peer models that lie beside the checkout and are never committed."""
    if not SHARED.is_dir():
        pytest.skip(f"{SHARED} is absent: it holds recordings and peer models that are not part of the repository")
    return SHARED
