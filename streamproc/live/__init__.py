"""Live audio: a processor between a device's input and output, in real time.

>>> from streamproc.live import LiveConfig, LiveEngine
>>> engine = LiveEngine(streamproc.load("denoise"), LiveConfig(48000, fixed_block=128))
>>> engine.start()
>>> with sounddevice.Stream(48000, 128, channels=1, dtype="float32", callback=engine.callback):
...     while True:
...         time.sleep(0.2)
...         engine.raise_if_failed()

How it works, and why it is built this way: ``docs/live-engine.md``.
"""

from .drift import ClockBridge, DriftSnapshot
from .engine import LiveConfig, LiveEngine
from .realtime import RealtimeReport, realtime
from .recorder import Recorder
from .statistics import LiveSnapshot

__all__ = [
    "ClockBridge",
    "DriftSnapshot",
    "LiveConfig",
    "LiveEngine",
    "LiveSnapshot",
    "RealtimeReport",
    "Recorder",
    "realtime",
]
