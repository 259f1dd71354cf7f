"""Everything streamproc raises on purpose.

::

    StreamprocError
    ├── ConfigError          a rate, block, shape or parameter that cannot work
    ├── ModelFileError       a model file that cannot be read or breaks its contract
    │   └── GoldenMismatch   the file runs, but not as it did when it was made
    ├── BackendUnavailable   the package that runs this kind of model is missing
    ├── AudioFileError       a sound file that cannot be read or written
    ├── DeviceError          an audio device that cannot be found, opened or kept
    │   ├── DeviceNotFound   no device has that name
    │   └── DeviceLost       it was there and has gone, or does not answer: trying again may help
    └── EngineError          what a processor raised while audio was running

A message says what was found, what is allowed, and what to do next.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .live.statistics import LiveSnapshot


class StreamprocError(Exception):
    """Base of every error that streamproc raises on purpose."""


class ConfigError(StreamprocError, ValueError):
    """A rate, block size, shape or parameter value that cannot work."""


class ModelFileError(StreamprocError):
    """A model file that cannot be read or that breaks its own contract."""


class GoldenMismatch(ModelFileError):
    """A model file that loads, but does not reproduce its golden record."""


class BackendUnavailable(StreamprocError, ImportError):
    """The package that runs this kind of model file is not installed."""


class AudioFileError(StreamprocError):
    """A sound file that cannot be read or written."""


class DeviceError(StreamprocError):
    """An audio device that cannot be found, opened or kept."""


class DeviceNotFound(DeviceError):
    """No device is meant by that name, or there is none."""


class DeviceLost(DeviceError):
    """A device that was there and has gone, or does not answer. Trying again later may help."""


class EngineError(StreamprocError):
    """Raised on the control thread for what a processor raised in the audio path.

    Attributes
    ----------
    snapshot : LiveSnapshot or None
        Statistics of the live engine at that moment.
    """

    def __init__(self, message: str, snapshot: LiveSnapshot | None = None) -> None:
        super().__init__(message)
        self.snapshot = snapshot
