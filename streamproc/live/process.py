"""A live session in a process of its own, begun anew whenever its devices go.

Why another process: a sound server that dies takes PortAudio with it - its calls then hang, and terminating it ends the
process - and a screen that is drawn in the process that makes the sound would disturb the sound. So the audio process
does nothing but audio, answers a few questions a second, and can be ended at any moment; whoever started it draws,
reads keys, and starts another when it is gone. If the starter dies, the audio process notices and ends properly.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from threading import Event
from typing import Any

from .. import errors
from ..errors import DeviceError, DeviceLost, EngineError, StreamprocError
from ..interrupts import signals_ignored
from ..processor import Processor
from . import pulse
from .choice import PULSE
from .devices import release
from .session import LiveSession, SessionSettings, SessionStatus

START_TIMEOUT_S = 60.0
REPLY_TIMEOUT_S = 5.0
STOP_TIMEOUT_S = 12.0
"""More than all time limits of a session that stops add up to."""

GRACE_S = 1.0
"""For a process that did not answer: most likely it is beyond help."""

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 10.0

_CHECK_S = 0.05

_LOOK_S = 2.0
"""Pause between two looks at where a sound server has put our streams."""


@dataclass(frozen=True)
class Outage:
    """There is no sound: a device has gone, and another attempt to open it is being made or waited for."""

    reason: str
    """How it began."""
    attempt: int
    """Attempts so far."""
    obstacle: str
    """Why the last attempt failed; empty before the first one has."""
    since: float
    """When it began, in seconds of `time.monotonic`."""
    next_attempt: float
    """When the next attempt begins, likewise; in the past while one is being made."""


@dataclass
class LiveTotals:
    """What has been counted over all sessions of a `LiveProcess`."""

    audio_s: float = 0.0
    misses: int = 0
    missed_samples: int = 0
    overloads: int = 0
    input_xruns: int = 0
    output_xruns: int = 0
    gap_samples: int = 0
    outages: int = 0
    outage_s: float = 0.0
    recordings: list[tuple[Path, Path]] = field(default_factory=list)

    def plus(self, status: SessionStatus | None) -> LiveTotals:
        """Return the totals with one more session in them."""
        totals = replace(self, recordings=list(self.recordings))
        if status is None:
            return totals
        for name in ("audio_s", "misses", "missed_samples", "overloads", "input_xruns", "output_xruns", "gap_samples"):
            setattr(totals, name, getattr(totals, name) + getattr(status.engine, name))
        if status.recording is not None:
            totals.recordings.append(status.recording)
        return totals


class LiveProcess:
    """Keep a live session running in another process.

    Parameters
    ----------
    build : callable
        Makes the processor, in the other process; it has to be something that can be pickled, like a function of a
        module.
    settings : SessionSettings
    before_start : callable, optional
        Called before every attempt to open the devices, in this process: to make what they need. A `DeviceError` from
        it counts as a failed attempt.
    on_orphaned : callable, optional
        Called in the other process when this one has died; can be pickled too.

    Examples
    --------
    >>> live = LiveProcess(streamproc.load, SessionSettings(input="usb"))
    >>> live.start()
    >>> while True:
    ...     print(live.poll())
    ...     time.sleep(0.1)
    """

    def __init__(
        self,
        build: Callable[[], Processor],
        settings: SessionSettings | None = None,
        before_start: Callable[[], object] | None = None,
        on_orphaned: Callable[[], object] | None = None,
    ) -> None:
        self._build = build
        self._settings = settings or SessionSettings()
        self._before_start = before_start
        self._on_orphaned = on_orphaned
        self._process: SpawnProcess | None = None
        self._connection: Connection | None = None
        self._status: SessionStatus | None = None
        self._outage: Outage | None = None
        self._begun = 0.0
        self._wishes: dict[str, Any] = {}
        self._past = LiveTotals()
        self._words: Path | None = None
        self._next_look = 0.0

    # --- for the owner ----------------------------------------------------------------------------------------------

    def start(self) -> SessionStatus:
        """Begin, and wait until there is sound. Thread: main (it holds signals back for a moment).

        Raises
        ------
        StreamprocError
            What the session raised. A first start is not tried again: a device that cannot be opened now was most
            likely not the one that was meant.
        """
        self._spawn()
        try:
            status = self._first_answer(START_TIMEOUT_S)
            assert status is not None, "it waits for an answer"
        except BaseException:
            self._end()
            raise
        return self._running(status)

    def poll(self) -> SessionStatus | Outage:
        """Return how things are; begin anew where that is due. Thread: main.

        Comes back at once, or within `REPLY_TIMEOUT_S` and a moment if the audio process hangs.

        Raises
        ------
        StreamprocError
            What the session raised, unless trying again may help.
        """
        if self._outage is None:
            try:
                self._status = self._ask("status", REPLY_TIMEOUT_S)
                self._look_for_moves(self._status)
                return self._status
            except _Unresponsive as error:
                self._lose(str(error), GRACE_S)
            except DeviceLost as error:
                self._lose(str(error))
        assert self._outage is not None
        try:
            if self._process is not None:
                status = self._first_answer(0.0)
                if status is not None:
                    return self._running(status)
            elif time.monotonic() >= self._outage.next_attempt:
                self._spawn()
        except DeviceError as error:
            self._try_later(str(error))
        return self._outage

    def set_bypass(self, wanted: bool) -> None:
        """Let dry sound through, or processed sound; kept when the session begins anew."""
        self._wish("bypass", wanted)

    def set_attenuation_limit(self, limit_db: float) -> None:
        """Change the most that may be removed; kept when the session begins anew."""
        self._wish("attenuation_limit", limit_db)

    @property
    def totals(self) -> LiveTotals:
        """Counts over all sessions so far."""
        totals = self._past.plus(self._status)
        if self._outage is not None:
            totals.outage_s += time.monotonic() - self._outage.since
        return totals

    @property
    def outage(self) -> Outage | None:
        """The present outage, if there is one."""
        return self._outage

    @property
    def process_id(self) -> int | None:
        """Of the audio process, while there is one."""
        return self._process.pid if self._process else None

    def stop(self) -> SessionStatus | None:
        """End the session and its process; return how it was at the end. Thread: main."""
        if self._process is not None and self._outage is None:
            with suppress(StreamprocError):
                self._status = self._ask("stop", STOP_TIMEOUT_S)
        self._end()
        self._past = self.totals
        status, self._status, self._outage = self._status, None, None
        return status

    # --- life and death of the other process ------------------------------------------------------------------------

    def _spawn(self) -> None:
        if self._before_start is not None:
            self._before_start()
        context = get_context("spawn")
        ours, theirs = context.Pipe()
        descriptor, name = tempfile.mkstemp(prefix="streamproc-live-", suffix=".log")
        os.close(descriptor)
        self._words = Path(name)
        self._process = context.Process(
            target=_live,
            args=(theirs, self._build, self._settings, self._wishes, self._on_orphaned, self._words),
            name="streamproc-live",
            # Should the owner forget to stop it, Python sends it SIGTERM at the end instead of waiting for it.
            daemon=True,
        )
        with signals_ignored(signal.SIGINT):
            self._process.start()
        theirs.close()
        self._connection = ours
        self._begun = time.monotonic()

    def _first_answer(self, timeout_s: float) -> SessionStatus | None:
        """Return the status of a session that has begun, or None if it has not said so yet."""
        assert self._connection is not None
        if not self._connection.poll(timeout_s):
            if time.monotonic() - self._begun < START_TIMEOUT_S:
                return None
            raise DeviceLost(f"the devices did not open within {START_TIMEOUT_S:g} s")
        return self._receive()

    def _ask(self, request: str, timeout_s: float) -> SessionStatus:
        assert self._connection is not None
        # If it has ended, it may have said why.
        with suppress(OSError):
            self._connection.send((request, None))
        if not self._connection.poll(timeout_s):
            raise _Unresponsive(f"the audio process did not answer within {timeout_s:g} s")
        return self._receive()

    def _receive(self) -> SessionStatus:
        assert self._connection is not None
        try:
            answer = self._connection.recv()
        except (EOFError, OSError):
            raise DeviceLost(self._epitaph()) from None
        if isinstance(answer, _Failure):
            raise answer.as_error()
        assert isinstance(answer, SessionStatus)
        return answer

    def _epitaph(self) -> str:
        """Say how the other process ended without a word of its own."""
        assert self._process is not None
        self._process.join(1.0)
        code = self._process.exitcode
        how = f"by signal {-code}" if code is not None and code < 0 else f"with exit code {code}"
        words = self._words.read_text(errors="replace").strip() if self._words and self._words.exists() else ""
        return f"the audio process ended unexpectedly {how}" + (f"; its last words:\n{words[-800:]}" if words else "")

    def _look_for_moves(self, status: SessionStatus) -> None:
        """Notice when the sound server has put our stream on another device because ours went.

        A user who moves it on purpose does so while the old device is still there.
        """
        if time.monotonic() < self._next_look or self.process_id is None:
            return
        self._next_look = time.monotonic() + _LOOK_S
        for device, taken in ((status.source, self._moved_to("source")), (status.sink, self._moved_to("sink"))):
            if taken is not None:
                raise DeviceLost(f"{device} has gone, and the sound server took {taken} in its place")

    def _moved_to(self, kind: pulse.Kind) -> str | None:
        """Return what took the place of our source or sink, if it went."""
        assert self._status is not None
        assert self.process_id is not None
        device = self._status.source if kind == "source" else self._status.sink
        if device.host_api != PULSE:
            return None
        try:
            name = pulse.endpoint_of(self.process_id, kind)
            if name is None or device.key in pulse.names(kind):
                return None
        except DeviceError:
            return None  # A server that does not answer is the audio process's to notice.
        return name

    def _running(self, status: SessionStatus) -> SessionStatus:
        if self._outage is not None:
            self._past.outage_s += time.monotonic() - self._outage.since
        self._outage = None
        self._status = status
        for name, value in self._wishes.items():  # what was asked for while the devices opened; the rest it has already
            self._send(name, value)
        # From now on by name, so that no other device takes their place.
        self._settings = replace(self._settings, input=status.source.label, output=status.sink.label)
        return status

    def _lose(self, reason: str, patience_s: float = STOP_TIMEOUT_S) -> None:
        self._past = self._past.plus(self._status)
        self._past.outages += 1
        self._status = None
        now = time.monotonic()
        self._outage = Outage(reason, 0, "", now, now)
        self._try_later("", patience_s)

    def _try_later(self, obstacle: str, patience_s: float = STOP_TIMEOUT_S) -> None:
        self._end(patience_s)
        assert self._outage is not None
        attempt = self._outage.attempt
        pause = min(FIRST_PAUSE_S * 2**attempt, LONGEST_PAUSE_S)
        self._outage = replace(
            self._outage, attempt=attempt + 1, obstacle=obstacle, next_attempt=time.monotonic() + pause
        )

    def _end(self, patience_s: float = STOP_TIMEOUT_S) -> None:
        """Make sure that the other process has ended."""
        if self._connection is not None:
            with suppress(OSError):
                self._connection.send(("stop", None))
            self._connection.close()
        if self._process is not None:
            # It finishes a recording first.
            self._process.join(patience_s)
            if self._process.is_alive():
                self._process.kill()
                self._process.join()
            self._process.close()
        if self._words is not None:
            self._words.unlink(missing_ok=True)
        self._connection = self._process = self._words = None

    def _wish(self, name: str, value: Any) -> None:
        self._wishes[name] = value
        if self._outage is None:
            self._send(name, value)

    def _send(self, name: str, value: Any) -> None:
        """Tell the other process. If it has ended, the next `poll` finds out, and the next session gets the wish."""
        if self._connection is not None:
            with suppress(OSError):
                self._connection.send((name, value))


class _Unresponsive(DeviceLost):
    """The audio process does not answer."""


@dataclass(frozen=True)
class _Failure:
    """An error on its way to another process."""

    kind: str
    message: str

    @classmethod
    def of(cls, error: Exception) -> _Failure:
        if isinstance(error, StreamprocError):
            return cls(type(error).__name__, str(error))
        return cls(EngineError.__name__, f"{type(error).__name__}: {error}\n{traceback.format_exc()}")

    def as_error(self) -> StreamprocError:
        kind = getattr(errors, self.kind, EngineError)
        error = kind(self.message)
        assert isinstance(error, StreamprocError)
        return error


# --- in the other process -------------------------------------------------------------------------------------------


def _live(
    connection: Connection,
    build: Callable[[], Processor],
    settings: SessionSettings,
    wishes: dict[str, Any],
    on_orphaned: Callable[[], object] | None,
    words: Path,
) -> None:
    """Run a session and answer questions about it; the body of the audio process. Does not return."""
    # What a terminal sends to all of its processes is for the one that started this one. Stopping here (Ctrl-Z) would
    # stop the sound of every client of a JACK server.
    for name in ("SIGINT", "SIGHUP", "SIGTSTP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    # A service manager sends this to every process at once.
    terminated = Event()
    signal.signal(signal.SIGTERM, lambda _signal, _frame: terminated.set())
    _write_to(words)
    orphaned = False
    session: LiveSession | None = None
    try:
        session = LiveSession(build(), settings, owns_process=True)
        session.start()
        for name, value in wishes.items():
            _grant(session, name, value)
        connection.send(session.status())
        orphaned = not _serve(session, connection, terminated)
    except Exception as error:
        failure = _Failure.of(error)
        if session is not None:
            session.stop()
        try:
            connection.send(failure)
        except OSError:
            orphaned = True
    if orphaned:
        words.unlink(missing_ok=True)
        if on_orphaned is not None:
            on_orphaned()
    # A JACK server that has to find out by itself that a client is gone may stop everybody's sound for a while.
    with suppress(DeviceError):
        release()
    # Not the usual end, which would wait for threads that hang.
    os._exit(0)


def _serve(session: LiveSession, connection: Connection, terminated: Event) -> bool:
    """Answer until the session is to end, then end it; return whether somebody wanted that."""
    wanted = False
    try:
        while not terminated.is_set():
            session.check()
            if connection.poll(_CHECK_S):
                request, value = connection.recv()
                if request == "stop":
                    wanted = True
                    break
                if request == "status":
                    connection.send(session.status())
                else:
                    _grant(session, request, value)
        status = session.status()
        session.stop()
        connection.send(status)
    except (EOFError, OSError):
        session.stop()
    return wanted or terminated.is_set()


def _grant(session: LiveSession, name: str, value: Any) -> None:
    if name == "bypass":
        session.engine.bypass = value
    elif name == "attenuation_limit":
        session.set_attenuation_limit(value)


def _write_to(words: Path) -> None:
    """Send what libraries print to a file: the terminal belongs to the view, and the last lines explain a crash."""
    sys.stdout.flush()
    sys.stderr.flush()
    with words.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    faulthandler.enable()
