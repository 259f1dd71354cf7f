"""Sessions through PulseAudio: two devices with two clocks, of which PortAudio sees one door."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import numpy as np
import processors
import pytest
import soundfile
from servers import SAMPLE_RATE, PulseServer, Signal, wait_for

from streamproc.live.process import LiveProcess, Outage
from streamproc.live.session import SessionSettings, SessionStatus

pytestmark = pytest.mark.device

HUM_HZ, TONE_HZ = 50.0, 1000.0


def hum_and_tone(seconds: float) -> Signal:
    """Return a hum that the high-pass filter of the tests removes, and a tone that it keeps."""
    t = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    return np.asarray(0.3 * np.sin(2 * np.pi * HUM_HZ * t) + 0.1 * np.sin(2 * np.pi * TONE_HZ * t), np.float32)


def level(x: Signal, frequency_hz: float) -> float:
    """Return the amplitude of what lies within 10 % of a frequency: clocks that are being aligned move it a little."""
    spectrum = np.abs(np.fft.rfft(x * np.hanning(x.size))) ** 2
    frequency = np.fft.rfftfreq(x.size, 1.0 / SAMPLE_RATE)
    band = np.abs(frequency - frequency_hz) < 0.1 * frequency_hz
    return float(np.sqrt(np.sum(spectrum[band])) * np.sqrt(16.0 / 3.0) / x.size)


def test_what_the_microphone_hears_comes_out_filtered(pulse_server: PulseServer, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "room.wav", hum_and_tone(40.0), SAMPLE_RATE)
    live = LiveProcess(processors.high_pass, SessionSettings())
    status = live.start()
    try:
        assert (status.source.key, status.sink.key) == (pulse_server.MICROPHONE, pulse_server.SPEAKERS)
        player = pulse_server.play(tmp_path / "room.wav")
        assert_filtered(pulse_server, f"{pulse_server.SPEAKERS}.monitor")
    finally:
        last = live.stop()
        player.kill()
        player.wait()
    assert last is not None
    assert last.engine.drift is not None
    print(  # noqa: T201
        f"latency {last.latency.ms(last.sample_rate)} ms, {last.engine.misses} misses, "
        f"{last.engine.output_xruns} xruns, clocks {last.engine.drift.ppm:.0f} ppm apart"
    )
    assert last.latency.device_in > 0
    assert last.latency.device_out > 0


def assert_filtered(server: PulseServer, source: str) -> None:
    """Assert that the tone is there and the hum, three times as loud at first, is not; sooner or later.

    A busy machine makes holes in the sound, and lets the input through where the output was not ready.
    """

    def filtered() -> bool:
        heard = server.record(source, 1.0)
        tone, hum = level(heard, TONE_HZ), level(heard, HUM_HZ)
        print(f"tone {tone:.3f} (of 0.1), hum {hum:.3f} (of 0.3)")  # noqa: T201
        return tone > 0.02 and hum < tone

    wait_for(filtered, 25.0, "filtered sound")


def test_a_server_that_is_restarted_is_waited_for(pulse_server: PulseServer) -> None:
    live = LiveProcess(processors.inverter, SessionSettings())
    live.start()
    try:
        pulse_server.end(signal.SIGTERM)
        wait_for(lambda: isinstance(live.poll(), Outage), 15.0, "the outage to be noticed")
        pulse_server.start()
        status = wait_for(lambda: _status(live), 30.0, "the session to begin anew")
        assert (status.source.key, status.sink.key) == (pulse_server.MICROPHONE, pulse_server.SPEAKERS)
    finally:
        live.stop()
    assert live.totals.outages == 1


def test_a_microphone_that_goes_is_waited_for_and_not_replaced(pulse_server: PulseServer) -> None:
    # As on every desktop: streams of a device that goes are put on another.
    pulse_server.pactl("load-module", "module-rescue-streams")
    make = ("load-module", "module-remap-source", "source_name=usb", "master=room.monitor", "rate=44100")
    number = pulse_server.pactl(*make).stdout.strip()
    live = LiveProcess(processors.inverter, SessionSettings(input="usb"))
    status = live.start()
    try:
        # The two devices run at different rates; the bridge between their clocks converts.
        assert (status.source.sample_rate, status.sink.sample_rate, status.sample_rate) == (44_100, 48_000, 48_000)
        pulse_server.pactl("unload-module", number)
        wait_for(lambda: isinstance(live.poll(), Outage), 15.0, "the outage to be noticed")
        assert live.outage is not None
        assert "has gone, and the sound server took microphone in its place" in live.outage.reason
        wait_for(lambda: (now := live.poll()) and isinstance(now, Outage) and now.obstacle, 20.0, "an attempt to fail")
        assert "no input matches 'usb, PulseAudio'" in live.outage.obstacle
        pulse_server.pactl(*make)
        assert wait_for(lambda: _status(live), 30.0, "the session to begin anew").source.key == "usb"
    finally:
        live.stop()


def _status(live: LiveProcess) -> SessionStatus | None:
    now = live.poll()
    time.sleep(0.05)
    return now if isinstance(now, SessionStatus) else None
