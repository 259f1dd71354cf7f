"""The virtual microphone: other programs record what was processed, and nothing is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import soundfile
from servers import SAMPLE_RATE, PulseServer, wait_for
from test_pulse import assert_filtered, hum_and_tone

from streamproc.errors import DeviceError
from streamproc.live import pulse, virtual_mic

pytestmark = pytest.mark.device


def ours(server: PulseServer) -> list[str]:
    """Return what the sound server has of the virtual microphone."""
    return [line for line in server.pactl("list", "short", "modules").stdout.splitlines() if "streamproc" in line]


@contextmanager
def live(*options: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run ``streamproc live --virtual-mic``, in a group of processes of its own."""
    process = subprocess.Popen(
        [sys.executable, "-m", "streamproc", "live", "--model", "none", "--highpass", "120", "--virtual-mic", *options],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        process_group=0,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def plays(server: PulseServer) -> bool:
    """Whether somebody plays into the virtual microphone."""
    number = pulse.sink_number(virtual_mic.SINK)
    return number is not None and any(playback.sink_number == number for playback in pulse.playbacks())


def test_it_is_made_and_found_and_removed(pulse_server: PulseServer) -> None:
    assert not ours(pulse_server)
    assert virtual_mic.create() is False
    assert [e.name for e in pulse.endpoints() if e.name == "streamproc"] == ["streamproc"]
    assert virtual_mic.create() is True, "what is there is used"
    virtual_mic.remove()
    assert not ours(pulse_server)
    virtual_mic.remove()


def test_half_of_one_is_replaced(pulse_server: PulseServer) -> None:
    pulse_server.pactl("load-module", "module-null-sink", f"sink_name={virtual_mic.SINK}")
    assert virtual_mic.create() is False
    assert len(ours(pulse_server)) == 2


def test_one_of_other_channels_is_replaced(pulse_server: PulseServer) -> None:
    assert virtual_mic.create() is False
    assert virtual_mic.create(2) is False
    assert all("channels=2" in module for module in ours(pulse_server))
    assert virtual_mic.create(2) is True


def test_it_is_never_its_own_microphone(pulse_server: PulseServer) -> None:
    virtual_mic.create()
    pulse_server.pactl("set-default-source", virtual_mic.SOURCE)
    assert virtual_mic.real_microphone() == f"{pulse_server.MICROPHONE}, PulseAudio"
    pulse_server.pactl("load-module", "module-remap-source", "source_name=second", "master=room.monitor")
    with pytest.raises(DeviceError, match=r"choose a microphone by name with --input(.|\n)*second"):
        virtual_mic.real_microphone()


def test_programs_record_the_processed_sound_and_nothing_is_left(pulse_server: PulseServer, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "room.wav", hum_and_tone(40.0), SAMPLE_RATE)
    player = pulse_server.play(tmp_path / "room.wav")
    try:
        with live() as process:
            wait_for(lambda: plays(pulse_server), 20.0, "live to play")
            assert_filtered(pulse_server, virtual_mic.SOURCE)
            with pytest.raises(DeviceError, match="in use by"):
                virtual_mic.create()
            process.send_signal(signal.SIGINT)
            assert process.wait(15.0) == 0
    finally:
        player.kill()
        player.wait()
    assert not ours(pulse_server)


def test_what_a_crash_left_is_used_again_and_then_removed(pulse_server: PulseServer) -> None:
    with live() as process:
        wait_for(lambda: plays(pulse_server), 20.0, "live to play")
        os.killpg(process.pid, signal.SIGKILL)
    left = ours(pulse_server)
    assert len(left) == 2
    wait_for(lambda: not plays(pulse_server), 5.0, "the server to notice")
    with live("--duration", "0.3") as process:
        assert process.wait(30.0) == 0
    assert not ours(pulse_server)


def test_an_audio_process_whose_owner_was_killed_cleans_up(pulse_server: PulseServer) -> None:
    with live() as process:
        wait_for(lambda: plays(pulse_server), 20.0, "live to play")
        process.kill()
        process.wait()
        wait_for(lambda: not ours(pulse_server), 10.0, "the virtual microphone to go")
