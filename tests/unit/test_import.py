"""What `import streamproc` costs, and what it must not load."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("onnxruntime", "torch", "sounddevice", "soundfile", "matplotlib", "scipy", "pydantic", "typer", "rich")


def loaded_by(code: str) -> set[str]:
    listing = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"], capture_output=True, text=True, check=True
    )
    return set(listing.stdout.split())


def test_the_package_loads_nothing_heavy() -> None:
    assert loaded_by("import streamproc").isdisjoint(HEAVY)


def test_an_engine_without_a_model_loads_nothing_heavy() -> None:
    code = "import streamproc; streamproc.Engine(streamproc.Passthrough(), sample_rate=48000)"
    assert loaded_by(code).isdisjoint(HEAVY)


def test_every_public_name_resolves() -> None:
    import streamproc

    for name in streamproc.__all__:
        assert getattr(streamproc, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = streamproc.nonsense
