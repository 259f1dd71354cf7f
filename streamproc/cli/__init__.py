"""The command ``streamproc``: one module per command, and what they share.

Modules here import typer and rich, and nothing else that takes time: help has to come at once, so a command imports
what it works with when it runs.
"""

from .app import main

__all__ = ["main"]
