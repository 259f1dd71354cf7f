"""PortAudio, engine and recorder on a real JACK server, against a client that knows every sample."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import processors
import pytest
import soundfile
from helpers import noise
from servers import SAMPLE_RATE, JackProbe, JackServer, Signal, wait_for

from streamproc.engine import Engine
from streamproc.errors import DeviceError, EngineError
from streamproc.live import process
from streamproc.live.process import LiveProcess, Outage
from streamproc.live.session import LiveSession, SessionSettings, SessionStatus
from streamproc.processor import Processor

pytestmark = pytest.mark.device

PATIENT = [{"period": 128, "patient": True}, {"period": 64, "patient": True}]

MODES = ("worker", "inline")

ROUNDING = 1e-7
"""What blocks of another length may change: a filter adds up in another order, and on some processors that shows in
the last bit. A sample out of place differs by thousands of times as much."""


def speech(seconds: float) -> Signal:
    """Return the beginning of the clip that ships with the project."""
    x, rate = soundfile.read(Path(__file__).parents[2] / "examples/demo/noisy.flac", dtype="float32")
    assert rate == SAMPLE_RATE
    return np.asarray(x[: round(seconds * rate)], np.float32)


@contextmanager
def running(build: Callable[[], Processor], settings: SessionSettings) -> Iterator[LiveProcess]:
    live = LiveProcess(build, settings)
    live.start()
    try:
        yield live
    finally:
        live.stop()


def through(
    server: JackServer, build: Callable[[], Processor], x: Signal, mode: str, record: Path | None = None
) -> tuple[JackProbe, SessionStatus]:
    """Send a signal through a live process; return what the probe heard, and the status at the end."""
    probe = JackProbe(server, x)
    try:
        settings = SessionSettings(input=probe.source, output=probe.sink, mode=mode, record=record)  # type: ignore[arg-type]
        live = LiveProcess(build, settings)
        live.start()
        try:
            probe.begin()
            wait_for(lambda: live.poll() and probe.finished, 30.0, "the signal to go through")
        finally:
            status = live.stop()
    finally:
        probe.close()
    assert status is not None
    return probe, status


def report(what: str, server: JackServer, status: SessionStatus, probe: JackProbe) -> None:
    """Print what was measured; nothing of it is asserted, because the machine may be busy."""
    engine = status.engine
    print(  # noqa: T201
        f"{what}, period {server.period}: latency {status.latency.total} samples, {engine.misses} misses, "
        f"{engine.input_xruns} xruns, load p50 {engine.load_p50:.1%} p99 {engine.load_p99:.1%}, "
        f"heard {np.mean(probe.played & probe.recorded):.1%} of the cycles"
    )


# --- the sound, to the sample ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("jack_server", "mode"), [(PATIENT[0], "worker"), (PATIENT[1], "inline")], indirect=["jack_server"]
)
def test_a_filter_gives_the_offline_result_at_the_declared_latency(jack_server: JackServer, mode: str) -> None:
    x = speech(1.0)
    probe, status = through(jack_server, processors.high_pass, x, mode)
    report(f"high-pass, {mode}", jack_server, status, probe)
    expected = Engine(processors.high_pass(), SAMPLE_RATE, fixed_block=None).process(x[np.newaxis])[0]
    assert_shifted(probe, expected, status)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("jack_server", PATIENT, indirect=True, ids=["128", "64"])
def test_a_denoiser_gives_the_offline_result_at_the_declared_latency(
    jack_server: JackServer, mode: str, tmp_path: Path, denoiser: str
) -> None:
    x = speech(1.5)
    build = partial(processors.gtcrn, denoiser)
    probe, status = through(jack_server, build, x, mode, record=tmp_path / "take")
    report(f"denoiser, {mode}", jack_server, status, probe)
    # Where the hops of the model fall depends on when the stream began: the recording knows.
    recorded = read(tmp_path / "take" / "input.wav")
    begin = int(np.flatnonzero(recorded)[0]) - int(np.flatnonzero(x)[0])
    np.testing.assert_array_equal(recorded[begin : begin + x.size], x)
    period = jack_server.period
    engine = Engine(build(), SAMPLE_RATE, fixed_block=period)
    blocks = np.split(recorded[: recorded.size // period * period], recorded.size // period)
    offline = np.concatenate([engine.process(block[np.newaxis])[0] for block in blocks])[engine.latency_samples :]
    assert_shifted(probe, offline[begin : begin + x.size], status)
    assert status.latency.total == engine.latency_samples + status.latency.queue


def assert_shifted(probe: JackProbe, expected: Signal, status: SessionStatus) -> None:
    """Assert that the answer is the (aligned) offline result, late by exactly the declared latency.

    Where the ledger lists misses or the server lost cycles, as much may differ as they explain.
    """
    latency = status.latency.total
    n = min(probe.signal.size - latency, expected.size)
    answer = probe.answer[latency : latency + n]
    heard = probe.recorded[latency : latency + n] & probe.played[:n]
    assert heard.mean() > 0.9, "the probe lost a tenth of the cycles"
    wrong = np.flatnonzero((np.abs(answer - expected[:n]) > ROUNDING) & heard)
    if status.engine.misses or not heard.all():
        # A miss replaces its samples and fades on both sides; a lost cycle changes the state of the processor.
        lost = np.count_nonzero(~heard) + status.engine.missed_samples
        allowed = 20 * (lost + SAMPLE_RATE // 50 * (1 + status.engine.misses))
        assert wrong.size <= allowed
        close = np.abs(answer - expected[:n])[heard] < 0.05
        assert close.mean() > 0.5
    else:
        assert not wrong.size, f"{wrong.size} samples differ, the first at {wrong[0]}"


def read(path: Path) -> Signal:
    x, rate = soundfile.read(path, dtype="float32")
    assert rate == SAMPLE_RATE
    return np.asarray(x, np.float32)


@pytest.fixture
def denoiser(shared_dir: Path) -> str:
    """The model that is tested live."""
    shipped = Path(processors.__file__).parents[2] / "streamproc/models/denoise.onnx"
    return str(shipped if shipped.is_file() else shared_dir / "models/gtcrn_simple.onnx")


@pytest.mark.parametrize("jack_server", PATIENT[:1], indirect=True, ids=["128"])
def test_a_processor_that_sleeps_costs_sound_and_not_latency(jack_server: JackServer) -> None:
    x = noise(1, 4 * SAMPLE_RATE, level=0.1)[0]
    probe, status = through(jack_server, processors.sleeper, x, "worker")
    report("sleeper", jack_server, status, probe)
    latency = status.latency.total
    fed, answer = x[:-latency], probe.answer[latency:]
    heard = probe.played[:-latency] & probe.recorded[latency:]
    # At this latency, and at no other, every sample is -x, or x where it was missed, but for 5 ms of fade at each end.
    processed, dry = answer == -fed, answer == fed
    fades = SAMPLE_RATE // 200 * 2 * status.engine.misses
    assert status.engine.misses > 0
    assert np.count_nonzero(~(processed | dry) & heard) <= fades
    assert np.count_nonzero(dry & ~processed) <= status.engine.missed_samples
    for part in (slice(0, SAMPLE_RATE), slice(-SAMPLE_RATE, None)):
        assert np.mean(processed[part]) > 0.3


# --- what the device layer declares ---------------------------------------------------------------------------------


def _echo(connection: Connection, block: int) -> None:
    """Play the input back with PortAudio alone, at the block size that is asked for; the body of a process."""
    from streamproc.live.choice import find_device
    from streamproc.live.devices import list_devices, open_stream

    def copy(indata: Signal, outdata: Signal, *_: object) -> None:
        outdata[:] = indata

    devices = list_devices()
    source, sink = find_device(JackProbe.source, "input", devices), find_device(JackProbe.sink, "output", devices)
    stream = open_stream(copy, source=source, sink=sink, sample_rate=SAMPLE_RATE, block=block)
    stream.start()
    connection.send(stream.latency_in + stream.latency_out)
    connection.recv()
    stream.close()


@pytest.mark.parametrize("jack_server", PATIENT[:1], indirect=True, ids=["128"])
@pytest.mark.parametrize("block", [0, 128, 200])
def test_declared_device_latency_is_measured_device_latency(jack_server: JackServer, block: int) -> None:
    probe = JackProbe(jack_server, noise(1, SAMPLE_RATE // 2)[0])
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    echo = context.Process(target=_echo, args=(theirs, block), daemon=True)
    echo.start()
    try:
        assert ours.poll(20.0)
        latency = ours.recv()
        probe.begin()
        wait_for(lambda: probe.finished, 20.0, "the signal to go through")
        ours.send("end")
        echo.join(10.0)
    finally:
        probe.close()
        echo.kill()
    np.testing.assert_array_equal(probe.answer[latency:], probe.signal[: probe.signal.size - latency])


def _session(connection: Connection) -> None:
    """Run a session in this very process, and leave like any program; the body of a process."""
    with LiveSession(processors.inverter(), SessionSettings()) as session:
        time.sleep(0.3)
        session.check()
        connection.send(session.status().engine.callbacks)


def test_a_session_needs_no_process_of_its_own(jack_server: JackServer) -> None:
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    program = context.Process(target=_session, args=(theirs,), daemon=True)
    program.start()
    try:
        assert ours.poll(20.0)
        assert ours.recv() > 0
        program.join(10.0)
        assert program.exitcode == 0
    finally:
        program.kill()


# --- trouble --------------------------------------------------------------------------------------------------------


def test_a_server_that_is_killed_is_waited_for_and_the_recording_is_kept(
    jack_server: JackServer, tmp_path: Path
) -> None:
    with running(processors.inverter, SessionSettings(record=tmp_path / "take")) as live:
        status = live.poll()
        assert isinstance(status, SessionStatus)
        # Of the physical ports: the dummy driver declares one period for capture and two for playback.
        assert (status.latency.device_in, status.latency.device_out) == (jack_server.period, 2 * jack_server.period)
        assert status.block == jack_server.period
        time.sleep(1.0)
        live.set_bypass(True)
        first = live.process_id
        jack_server.end(signal.SIGKILL)
        outage = wait_for(lambda: outage_of(live), 10.0, "the outage to be noticed")
        assert "has gone" in outage.reason
        wait_for(lambda: (outage_of(live) or outage).attempt > 1, 20.0, "an attempt to fail")
        jack_server.start()
        status = wait_for(lambda: status_of(live), 20.0, "the session to begin anew")
        assert live.process_id != first
        assert status.bypass, "what the user wished for is kept"
        time.sleep(0.5)
        live.poll()
    totals = live.totals
    print(f"out for {totals.outage_s:.1f} s")  # noqa: T201
    assert totals.outages == 1
    assert len(totals.recordings) == 2
    for before, after in totals.recordings:
        assert soundfile.info(before).frames == soundfile.info(after).frames > 0
    assert sum(soundfile.info(before).frames for before, _ in totals.recordings) >= 0.5 * SAMPLE_RATE


def outage_of(live: LiveProcess) -> Outage | None:
    now = live.poll()
    return now if isinstance(now, Outage) else None


def status_of(live: LiveProcess) -> SessionStatus | None:
    now = live.poll()
    return now if isinstance(now, SessionStatus) else None


def test_no_other_device_takes_the_place_of_one_that_went(jack_server: JackServer) -> None:
    probe = JackProbe(jack_server, np.zeros(1, np.float32))
    with running(processors.inverter, SessionSettings(input="probe", output="system")) as live:
        assert live.process_id is not None
        os.kill(live.process_id, signal.SIGKILL)
        probe.close()
        outage = wait_for(lambda: outage_of(live), 10.0, "the outage to be noticed")
        assert "ended unexpectedly by signal 9" in outage.reason
        obstacle = wait_for(lambda: (outage_of(live) or outage).obstacle, 20.0, "an attempt to fail")
        assert "no input matches 'probe-microphone, JACK Audio Connection Kit'" in obstacle


def test_a_changed_period_begins_a_new_session(jack_server: JackServer) -> None:
    with running(processors.inverter, SessionSettings()) as live:
        changer = jack_server.client("changer")
        changer.blocksize = 256
        outage = wait_for(lambda: outage_of(live), 10.0, "the change to be noticed")
        assert outage.reason == "the server changed its block to 256 frames"
        status = wait_for(lambda: status_of(live), 20.0, "the session to begin anew")
        assert status.block == 256
        changer.close()


def test_what_is_asked_for_while_a_session_begins_anew_is_not_lost(jack_server: JackServer) -> None:
    with running(processors.inverter, SessionSettings()) as live:
        assert live.process_id is not None
        os.kill(live.process_id, signal.SIGKILL)
        wait_for(lambda: outage_of(live), 10.0, "the outage to be noticed")
        wait_for(lambda: live.process_id is not None or (live.poll() and False), 10.0, "an attempt to begin anew")
        assert live.outage is not None, "the new process has not answered yet"
        live.set_bypass(True)
        wait_for(lambda: status_of(live), 20.0, "the session to begin anew")
        wait_for(lambda: (now := status_of(live)) and now.bypass, 5.0, "dry sound")


def test_an_audio_process_that_hangs_is_replaced(jack_server: JackServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "REPLY_TIMEOUT_S", 0.5)
    with running(processors.inverter, SessionSettings()) as live:
        hung = live.process_id
        assert hung is not None
        os.kill(hung, signal.SIGSTOP)
        outage = wait_for(lambda: outage_of(live), 10.0, "the outage to be noticed")
        assert "did not answer within 0.5 s" in outage.reason
        wait_for(lambda: status_of(live), 20.0, "the session to begin anew")
        assert live.process_id != hung
        assert not Path(f"/proc/{hung}").exists()


def test_a_processor_that_breaks_ends_the_session_with_its_error(jack_server: JackServer) -> None:
    live = LiveProcess(processors.breaker, SessionSettings())
    live.start()
    try:
        with pytest.raises(EngineError, match="breaks on purpose"):
            wait_for(lambda: live.poll() and False, 20.0, "the error")
    finally:
        live.stop()


def test_a_rate_that_the_server_does_not_run_at_is_refused(jack_server: JackServer) -> None:
    live = LiveProcess(processors.inverter, SessionSettings(sample_rate=44_100))
    with pytest.raises(DeviceError, match="does not run at 44100 Hz: leave --rate out"):
        live.start()
    assert live.process_id is None
