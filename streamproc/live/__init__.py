"""Live audio: a processor between a device's input and output, in real time.

>>> from streamproc.live import LiveSession, SessionSettings
>>> with LiveSession(streamproc.load("denoise"), SessionSettings(input="usb mic", output="headphones")) as session:
...     while True:
...         time.sleep(0.2)
...         session.check()

`LiveProcess` keeps such a session running in a process of its own, and begins it anew when a device went and came back.
`LiveEngine` is the part without devices: its `callback` fits any stream that calls like PortAudio.

How they are used: ``docs/live.md``. How the engine works, and why it is built this way: ``docs/live-engine.md``.
"""

from .choice import Device, find_device
from .config import LiveConfig
from .devices import list_devices
from .drift import ClockBridge, DriftSnapshot
from .engine import LiveEngine
from .predictor import Predictor, WienerPredictor
from .process import LiveProcess, LiveTotals, Outage
from .realtime import RealtimeReport, realtime
from .recorder import Recorder
from .session import LiveSession, SessionSettings, SessionStatus
from .statistics import LiveSnapshot

__all__ = [
    "ClockBridge",
    "Device",
    "DriftSnapshot",
    "LiveConfig",
    "LiveEngine",
    "LiveProcess",
    "LiveSession",
    "LiveSnapshot",
    "LiveTotals",
    "Outage",
    "Predictor",
    "RealtimeReport",
    "Recorder",
    "SessionSettings",
    "SessionStatus",
    "WienerPredictor",
    "find_device",
    "list_devices",
    "realtime",
]
