"""Audio servers of the tests' own: a JACK server without hardware and a PulseAudio server without hardware.

Each has a name, a socket and a folder of its own and is ended by its process id; a server that the machine's user runs
is neither used nor touched. Programs that shall use one get its `environment`.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import importlib.util
import itertools
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

SAMPLE_RATE = 48_000

_numbers = itertools.count()


def require(*programs: str, module: str | None = None) -> None:
    """Skip the test, or fail it where audio servers are required, if something that it needs is absent."""
    missing = [program for program in programs if shutil.which(program) is None]
    if ctypes.util.find_library("portaudio") is None:
        missing.append("libportaudio2")
    if module is not None and importlib.util.find_spec(module) is None:
        missing.append(f"the Python module {module}")
    if not missing:
        return
    reason = (
        f"{', '.join(missing)} not found; on Debian: "
        "sudo apt install libportaudio2 jackd2 pulseaudio pulseaudio-utils libasound2-plugins; pip install JACK-Client"
    )
    if os.environ.get("STREAMPROC_REQUIRE_DEVICES") == "1":
        pytest.fail(f"STREAMPROC_REQUIRE_DEVICES=1, but {reason}")
    pytest.skip(reason)


def wait_for(condition: Callable[[], Any], timeout_s: float, what: str) -> Any:
    """Return the first true result of `condition`, or fail."""
    deadline = time.monotonic() + timeout_s
    while not (result := condition()):
        assert time.monotonic() < deadline, f"{what}: not within {timeout_s:g} s"
        time.sleep(0.02)
    return result


def _end_with_parent() -> None:
    """Let the kernel end a server whose tests were killed: JACK allows eight servers on a machine."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)


class Server:
    """A server process with a folder for its files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name = f"streamproc-test-{os.getpid()}-{next(_numbers)}"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> dict[str, str]:
        """What a program needs to know to use this server, and no other."""
        raise NotImplementedError

    def command(self) -> list[str]:
        """Return the command line of the server."""
        raise NotImplementedError

    def ready(self) -> bool:
        """Whether the server answers."""
        raise NotImplementedError

    def start(self) -> None:
        """Start the server and wait until it answers."""
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **self.environment},
                preexec_fn=_end_with_parent,
            )
        wait_for(self._ready_or_dead, 10.0, f"{self.command()[0]} ({self.folder / 'server.log'})")

    def _ready_or_dead(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"the server ended: {(self.folder / 'server.log').read_text()[-2000:]}"
        return self.ready()

    def end(self, with_signal: int = signal.SIGTERM) -> None:
        """End the server by its process id."""
        if self.process is None:
            return
        self.process.send_signal(with_signal)
        try:
            self.process.wait(3.0)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(3.0)
        self.process = None


class JackServer(Server):
    """``jackd`` with the dummy driver.

    Parameters
    ----------
    folder : Path
    period : int
    patient : bool
        Wait for slow clients instead of going on without them: a busy machine then costs time, not samples.
    """

    def __init__(self, folder: Path, period: int = 128, patient: bool = False) -> None:
        super().__init__(folder)
        self.period = period
        self.patient = patient

    @property
    def environment(self) -> dict[str, str]:
        return {
            "JACK_DEFAULT_SERVER": self.name,
            "JACK_NO_START_SERVER": "1",
            "JACK_NO_AUDIO_RESERVATION": "1",
            # PortAudio asks ALSA too, and ALSA would ask for a sound server.
            "PULSE_SERVER": "unix:/nonexistent",
        }

    def command(self) -> list[str]:
        mode = ["-S", "-t", "5000"] if self.patient else []
        driver = ["-d", "dummy", "-r", str(SAMPLE_RATE), "-p", str(self.period)]
        return ["jackd", "-n", self.name, "--no-realtime", *mode, *driver]

    def ready(self) -> bool:
        import jack

        try:
            jack.Client("probe", servername=self.name, no_start_server=True).close()
        except jack.JackOpenError:
            return False
        return True

    def client(self, name: str) -> Any:
        """Return a new JACK client."""
        import jack

        return jack.Client(name, servername=self.name, no_start_server=True)


class JackProbe:
    """Two JACK clients that play a signal into others and record what they answer, sample by sample.

    They are two so that the graph has no loop: what is recorded in a cycle is the answer to what was played in it. Both
    count samples by the server's clock; `played` and `recorded` say for each whether it was.

    Attributes
    ----------
    source, sink : str
        Names of the clients: the devices "microphone" and "loudspeaker" of those who are tested.
    """

    source = "probe-microphone"
    sink = "probe-loudspeaker"

    def __init__(self, server: JackServer, signal_to_play: npt.NDArray[np.float32]) -> None:
        n = signal_to_play.size
        self.signal = signal_to_play
        self.answer = np.zeros(n, np.float32)
        self.played = np.zeros(n, np.bool_)
        self.recorded = np.zeros(n, np.bool_)
        self.xruns: list[int] = []
        """Positions in the signal at which the server reported one."""
        self._armed = False
        self._start: int | None = None
        self._reached = -1
        self._player = server.client(self.source)
        self._recorder = server.client(self.sink)
        self._out = self._player.outports.register("out_1")
        self._in = self._recorder.inports.register("in_1")
        self._player.set_process_callback(self._play)
        self._recorder.set_process_callback(self._record)
        self._recorder.set_xrun_callback(lambda _delay: self.xruns.append(self._reached))
        self._player.activate()
        self._recorder.activate()

    def begin(self) -> None:
        """Start the signal; until now there was silence."""
        self._armed = True

    @property
    def finished(self) -> bool:
        """Whether the signal is at its end."""
        return self._reached >= self.signal.size

    def _position(self, client: Any) -> int:
        """Return the place in the signal where a cycle begins; to be called from the client's callback."""
        assert self._start is not None
        # The server's clock has 32 bits.
        return int((client.last_frame_time - self._start + (1 << 31)) & 0xFFFFFFFF) - (1 << 31)

    def _part(self, client: Any, frames: int) -> tuple[slice, slice] | None:
        """Return which part of the signal a cycle is about, and which part of the cycle that is."""
        if self._start is None:
            return None
        position = self._position(client)
        first, last = max(position, 0), min(position + frames, self.signal.size)
        return (slice(first, last), slice(first - position, last - position)) if first < last else None

    def _play(self, frames: int) -> None:
        if self._armed and self._start is None:
            # A few cycles ahead, so that both clients know it before it comes.
            self._start = (self._player.last_frame_time + 2048) & 0xFFFFFFFF
        block = self._out.get_array()
        block.fill(0.0)
        part = self._part(self._player, frames)
        if part is not None:
            of_signal, of_block = part
            block[of_block] = self.signal[of_signal]
            self.played[of_signal] = True

    def _record(self, frames: int) -> None:
        if self._start is None:
            return
        part = self._part(self._recorder, frames)
        self._reached = self._position(self._recorder)
        if part is not None:
            of_signal, of_block = part
            self.answer[of_signal] = self._in.get_array()[of_block]
            self.recorded[of_signal] = True

    def close(self) -> None:
        for client in (self._player, self._recorder):
            client.deactivate(ignore_errors=True)
            client.close(ignore_errors=True)


class PulseServer(Server):
    """PulseAudio with two sinks that lead nowhere: ``speakers``, and ``room``, whose monitor is the microphone."""

    MICROPHONE = "room.monitor"
    SPEAKERS = "speakers"

    @property
    def socket(self) -> Path:
        return self.folder / "native"

    @property
    def environment(self) -> dict[str, str]:
        return {
            "XDG_RUNTIME_DIR": str(self.folder),
            "PULSE_RUNTIME_PATH": str(self.folder),
            "PULSE_SERVER": f"unix:{self.socket}",
            "PULSE_COOKIE": str(self.folder / "cookie"),
            "PULSE_CONFIG_PATH": str(self.folder),
            "JACK_NO_START_SERVER": "1",
            "JACK_DEFAULT_SERVER": f"{self.name}-none",
        }

    def command(self) -> list[str]:
        # A socket that a killed server left behind would be refused.
        self.socket.unlink(missing_ok=True)
        load = [
            f"module-native-protocol-unix socket={self.socket} auth-anonymous=1",
            *(f"module-null-sink sink_name={name} rate={SAMPLE_RATE}" for name in ("room", self.SPEAKERS)),
        ]
        options = ["-n", "--daemonize=no", "--exit-idle-time=-1", "--disallow-exit", "--use-pid-file=no"]
        return ["pulseaudio", *options, *(part for module in load for part in ("-L", module))]

    def ready(self) -> bool:
        return self.socket.exists() and self.pactl("info", check=False).returncode == 0

    def pactl(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run ``pactl`` on this server."""
        return subprocess.run(
            ["pactl", *arguments],
            capture_output=True, text=True, timeout=10.0, check=check, env={**os.environ, **self.environment},
        )  # fmt: skip

    def start(self) -> None:
        super().start()
        self.pactl("set-default-source", self.MICROPHONE)
        self.pactl("set-default-sink", self.SPEAKERS)

    def play(self, file: Path, sink: str = "room") -> subprocess.Popen[bytes]:
        """Play a sound file into a sink; by default into the room that the microphone hears."""
        return subprocess.Popen(["paplay", f"--device={sink}", str(file)], env={**os.environ, **self.environment})

    def record(self, source: str, seconds: float) -> npt.NDArray[np.float32]:
        """Return what a source gives, mono."""
        recorder = subprocess.Popen(
            ["parec", f"--device={source}", "--format=float32le", f"--rate={SAMPLE_RATE}", "--channels=1", "--latency-msec=50"],
            stdout=subprocess.PIPE, env={**os.environ, **self.environment},
        )  # fmt: skip
        assert recorder.stdout is not None
        try:
            data = recorder.stdout.read(round(seconds * SAMPLE_RATE) * 4)
        finally:
            recorder.kill()
            recorder.wait(3.0)
            recorder.stdout.close()
        return np.frombuffer(data, "<f4")


def apply_environment(monkeypatch: pytest.MonkeyPatch, environment: Mapping[str, str]) -> None:
    """Let this process, and those that it starts, use a server."""
    for variable in ("PULSE_SOURCE", "PULSE_SINK", "PULSE_PROP"):
        monkeypatch.delenv(variable, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def jack_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[JackServer]:
    """A running JACK server; ``parametrize`` it indirectly with keyword arguments of `JackServer`."""
    require("jackd", module="jack")
    import jack

    jack.set_error_function(lambda _message: None)
    jack.set_info_function(lambda _message: None)
    server = JackServer(tmp_path, **getattr(request, "param", {}))
    apply_environment(monkeypatch, server.environment)
    try:
        server.start()
        yield server
    finally:
        server.end()


@pytest.fixture
def pulse_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PulseServer]:
    """A running PulseAudio server."""
    require("pulseaudio", "pactl", "parec", "paplay")
    server = PulseServer(tmp_path)
    apply_environment(monkeypatch, server.environment)
    try:
        server.start()
        yield server
    finally:
        server.end()
