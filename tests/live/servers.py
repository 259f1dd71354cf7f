"""Audio servers of the tests' own: a JACK server without hardware and a PulseAudio server without hardware.

Each has a name, a socket and a folder of its own and is ended by its process id; a server that the machine's user runs
is neither used nor touched. Programs that shall use one get its `environment`.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import fcntl
import importlib.util
import itertools
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import numpy.typing as npt
import pytest

Signal = npt.NDArray[np.float32]

SAMPLE_RATE = 48_000


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
        self.name, self._claim = _claim_name()
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

    def close(self) -> None:
        """End the server and give its name back."""
        self.end()
        self._claim.close()


def _claim_name() -> tuple[str, TextIO]:
    """Return a server name that nobody uses, and what holds it.

    Few names, used again and again: JACK has room for eight servers on a machine, and a name that was killed keeps its
    place until it is used once more.
    """
    for number in itertools.count():
        name = f"streamproc-test-{number}"
        claim = (Path(tempfile.gettempdir()) / f"{name}.lock").open("w")
        try:
            fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            claim.close()
        else:
            return name, claim
    raise AssertionError("counting does not end")


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
        mode = ["-S", "-t", "2000"] if self.patient else []
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
    count samples by the server's clock; `played` and `recorded` say for each whether it was. They live in a process of
    their own, because a JACK client whose server is in trouble may never come back.

    Attributes
    ----------
    source, sink : str
        Names of the clients: the devices "microphone" and "loudspeaker" of those who are tested.
    """

    source = "probe-microphone"
    sink = "probe-loudspeaker"

    def __init__(self, server: JackServer, signal_to_play: Signal) -> None:
        context = get_context("spawn")
        n = signal_to_play.size
        self._shared = ProbeMemory(
            signal=context.RawArray("f", n),
            answer=context.RawArray("f", n),
            played=context.RawArray("b", n),
            recorded=context.RawArray("b", n),
            armed=context.RawValue("b", False),
            reached=context.RawValue("q", -1),
            ready=context.RawValue("b", False),
            ended=context.RawValue("b", False),
        )
        self.signal[:] = signal_to_play
        self._process = context.Process(target=_probe, args=(server.name, self._shared), daemon=True)
        self._process.start()
        wait_for(lambda: self._shared.ready.value, 20.0, "the probe to join the server")

    @property
    def signal(self) -> Signal:
        return np.frombuffer(self._shared.signal, np.float32)

    @property
    def answer(self) -> Signal:
        return np.frombuffer(self._shared.answer, np.float32)

    @property
    def played(self) -> npt.NDArray[np.bool_]:
        return np.frombuffer(self._shared.played, np.bool_)

    @property
    def recorded(self) -> npt.NDArray[np.bool_]:
        return np.frombuffer(self._shared.recorded, np.bool_)

    def begin(self) -> None:
        """Start the signal; until now there was silence."""
        self._shared.armed.value = True

    @property
    def finished(self) -> bool:
        """Whether the signal is at its end."""
        return bool(self._shared.reached.value >= self.signal.size)

    def close(self) -> None:
        self._shared.ended.value = True
        self._process.join(3.0)
        self._process.kill()
        self._process.join()


@dataclass
class ProbeMemory:
    """What a probe and its process share."""

    signal: Any
    answer: Any
    played: Any
    recorded: Any
    armed: Any
    reached: Any
    ready: Any
    ended: Any


def _probe(server_name: str, shared: ProbeMemory) -> None:
    """Run the clients of a probe; the body of its process."""
    import jack

    silence_jack()
    signal_to_play, answer = np.frombuffer(shared.signal, np.float32), np.frombuffer(shared.answer, np.float32)
    player = jack.Client(JackProbe.source, servername=server_name, no_start_server=True)
    recorder = jack.Client(JackProbe.sink, servername=server_name, no_start_server=True)
    outport, inport = player.outports.register("out_1"), recorder.inports.register("in_1")
    start: list[int] = []

    def position(client: Any) -> int:
        """Return the place in the signal where this cycle begins."""
        # The server's clock has 32 bits.
        return int((client.last_frame_time - start[0] + (1 << 31)) & 0xFFFFFFFF) - (1 << 31)

    def part(first: int, frames: int) -> tuple[slice, slice]:
        """Return which part of the signal a cycle is about, and which part of the cycle that is."""
        begin, end = max(first, 0), max(0, min(first + frames, signal_to_play.size))
        return slice(begin, end), slice(begin - first, max(begin, end) - first)

    def play(frames: int) -> None:
        if shared.armed.value and not start:
            # A few cycles ahead, so that both clients know it before it comes.
            start.append((player.last_frame_time + 2048) & 0xFFFFFFFF)
        block = outport.get_array()
        block.fill(0.0)
        if start:
            of_signal, of_block = part(position(player), frames)
            block[of_block] = signal_to_play[of_signal]
            shared.played[of_signal] = [True] * len(range(signal_to_play.size)[of_signal])

    def record(frames: int) -> None:
        if start:
            first = position(recorder)
            of_signal, of_block = part(first, frames)
            answer[of_signal] = inport.get_array()[of_block]
            shared.recorded[of_signal] = [True] * len(range(signal_to_play.size)[of_signal])
            shared.reached.value = first

    player.set_process_callback(play)
    recorder.set_process_callback(record)
    player.activate()
    recorder.activate()
    shared.ready.value = True
    while not shared.ended.value:
        time.sleep(0.05)
    for client in (player, recorder):
        client.deactivate(ignore_errors=True)
        client.close(ignore_errors=True)


def silence_jack() -> None:
    """Keep the JACK library from printing."""
    import jack

    jack.set_error_function(lambda _message: None)
    jack.set_info_function(lambda _message: None)


class PulseServer(Server):
    """PulseAudio with two sinks that lead nowhere: ``speakers``, and ``room``, in which ``microphone`` stands."""

    MICROPHONE = "microphone"
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
            f"module-remap-source source_name={self.MICROPHONE} master=room.monitor",
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

    def record(self, source: str, seconds: float) -> Signal:
        """Return what a source gives, mono."""
        recorder = subprocess.Popen(
            ["parec", f"--device={source}", "--format=float32le", f"--rate={SAMPLE_RATE}", "--channels=1",
             "--latency-msec=50"],
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
    for variable in ("PULSE_SOURCE", "PULSE_SINK", "PULSE_PROP_OVERRIDE"):
        monkeypatch.delenv(variable, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def jack_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[JackServer]:
    """A running JACK server; ``parametrize`` it indirectly with keyword arguments of `JackServer`."""
    require("jackd", module="jack")
    silence_jack()
    server = JackServer(tmp_path, **getattr(request, "param", {}))
    apply_environment(monkeypatch, server.environment)
    try:
        server.start()
        yield server
    finally:
        server.close()


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
        server.close()
