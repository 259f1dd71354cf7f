"""Fixtures of the tests of live audio."""

from servers import jack_server, pulse_server  # noqa: F401
