"""Arithmetic joined into one loop of machine code where the machine can do that, and as it stands where it cannot."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch


class Compiled:
    """A function compiled by `torch.compile` at its first call, for every new shape.

    Where compiling fails - usually for want of a C++ compiler - one warning says so and the function runs as it is.

    Parameters
    ----------
    function : callable
        Pure arithmetic on tensors.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._plain = function
        self._run = torch.compile(function, dynamic=False)

    def __call__(self, *arguments: Any) -> Any:
        """Return what the function returns."""
        run = self._run  # another thread may give up meanwhile
        try:
            return run(*arguments)
        except RuntimeError as error:
            if run is self._plain:
                raise
            warnings.warn(f"running without compiled arithmetic, which is slower: {error}", stacklevel=2)
            self._run = self._plain
            return self._plain(*arguments)
