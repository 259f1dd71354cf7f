"""Which device is meant, and what happens when PortAudio is missing, refuses or does not answer."""

from __future__ import annotations

import os
import platform
import sys
import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest

from streamproc.errors import ConfigError, DeviceError, DeviceLost, DeviceNotFound
from streamproc.live import devices, pulse
from streamproc.live.choice import JACK, PULSE, Device, find_device, may_feed_back, share_a_clock
from streamproc.live.devices import DeviceStream, open_stream, within


def device(name: str, host_api: str = "ALSA", **properties: Any) -> Device:
    values: dict[str, Any] = {
        "key": name,
        "index": 0,
        "n_inputs": 2,
        "n_outputs": 2,
        "sample_rate": 48_000,
        **properties,
    }
    return Device(name=name, host_api=host_api, **values)


STUDIO = [
    device("Blue Yeti", PULSE, key="alsa_input.usb-Blue_Yeti", n_outputs=0),
    device("Monitor of Built-in Audio", PULSE, key="alsa_output.pci.monitor", n_outputs=0, is_monitor=True),
    device("Built-in Audio", PULSE, key="alsa_input.pci", n_outputs=0, is_default_input=True),
    device("Built-in Audio", PULSE, key="alsa_output.pci", n_inputs=0, is_default_output=True),
    device("HDA Intel PCH: ALC257 Analog (hw:0,0)"),
    device("Yeti Stereo Microphone: USB Audio (hw:1,0)"),
    device("default", is_default_input=True, is_default_output=True),
]

WINDOWS = [
    device("Microphone (Yeti Stereo Microphone)", "Windows WASAPI", n_outputs=0, is_default_input=True),
    device("Microphone (Yeti Stereo Microph", "MME", n_outputs=0, is_default_input=True),
    device("Microphone (Yeti Stereo Microphone)", "Windows DirectSound", n_outputs=0, is_default_input=True),
    device("Speakers (Realtek)", "Windows WASAPI", n_inputs=0),
]


# --- choosing -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "key"),
    [
        (None, "alsa_input.pci"),
        ("blue", "alsa_input.usb-Blue_Yeti"),
        ("YETI pulse", "alsa_input.usb-Blue_Yeti"),
        ("pulseaudio, yeti", "alsa_input.usb-Blue_Yeti"),
        ("yeti alsa usb audio", "Yeti Stereo Microphone: USB Audio (hw:1,0)"),
        ("built-in", "alsa_input.pci"),  # rather than the monitor of the loudspeaker
        ("monitor", "alsa_output.pci.monitor"),
        ("default", "default"),
    ],
)
def test_words_that_fit_one_device_choose_it(query: str | None, key: str) -> None:
    assert find_device(query, "input", STUDIO).key == key


@pytest.mark.parametrize("chosen", STUDIO, ids=lambda chosen: chosen.key)
def test_a_label_chooses_its_device_also_when_others_contain_it(chosen: Device) -> None:
    direction = "input" if chosen.n_inputs else "output"
    more = [device(f"{d.key} copy", d.host_api, n_inputs=2, n_outputs=2) for d in STUDIO]
    assert find_device(chosen.label, direction, [*more, *STUDIO]) == chosen


def test_a_device_that_windows_offers_in_several_ways_is_one_device() -> None:
    assert find_device("yeti", "input", WINDOWS).host_api == "Windows WASAPI"
    assert find_device("yeti mme", "input", WINDOWS).host_api == "MME"
    assert find_device(None, "input", WINDOWS).host_api == "Windows WASAPI"


def test_doubt_is_an_error_that_lists_the_candidates() -> None:
    with pytest.raises(DeviceError, match=r"'yeti' is not clear(.|\n)*usb-Blue_Yeti(.|\n)*hw:1,0") as caught:
        find_device("yeti", "input", STUDIO)
    assert "hw:0,0" not in str(caught.value)


def test_an_unknown_name_lists_what_there_is() -> None:
    with pytest.raises(DeviceNotFound, match=r"no output matches 'yeti usb'(.|\n)*default, ALSA"):
        find_device("yeti usb", "output", [d for d in STUDIO if "Yeti" not in d.name])
    with pytest.raises(DeviceNotFound, match="no audio input on this machine"):
        find_device(None, "input", [])


def test_numbers_are_refused_because_they_change() -> None:
    with pytest.raises(ConfigError, match="chosen by name, found '3'"):
        find_device("3", "input", STUDIO)


def test_a_machine_with_only_monitors_has_no_default_input() -> None:
    with pytest.raises(DeviceNotFound, match="no default input; choose one"):
        find_device(None, "input", STUDIO[1:2])


def test_twins_are_told_apart() -> None:
    twins = [device("USB mic"), device("USB mic", key="USB mic #2")]
    assert find_device("USB mic #2, ALSA", "input", twins) is twins[1]
    assert find_device(twins[0].label, "input", twins) is twins[0]


@pytest.mark.parametrize(
    ("source", "sink", "one_clock"),
    [
        (device("system", JACK), device("synth", JACK), True),
        (device("Blue Yeti", PULSE), device("Blue Yeti", PULSE), False),
        (device("card (hw:0,0)"), device("card (hw:0,0)"), True),
        (device("default"), device("default"), False),
        (device("Aggregate", "Core Audio"), device("Aggregate", "Core Audio"), True),
        (device("Microphone", "Core Audio"), device("Speakers", "Core Audio"), False),
        (device("card (hw:0,0)"), device("system", JACK), False),
    ],
)
def test_one_clock_only_where_it_is_certain(source: Device, sink: Device, one_clock: bool) -> None:
    assert share_a_clock(source, sink) is one_clock


@pytest.mark.parametrize(
    ("sink", "warned"),
    [
        (device("MacBook Pro Speakers"), True),
        (device("Built-in Audio Analog Stereo"), True),
        (device("Built-in Headphones"), False),
        (device("CABLE Input (VB-Audio Virtual Cable)"), False),
        (device("BlackHole 2ch"), False),
        (device("streamproc-output", PULSE, key="streamproc_output"), False),
    ],
)
def test_loudspeakers_next_to_a_microphone_are_warned_of(sink: Device, warned: bool) -> None:
    assert may_feed_back(device("Microphone"), sink) is warned


# --- the sound server -----------------------------------------------------------------------------------------------


def test_modules_are_read_from_pulseaudio_and_from_pipewire(monkeypatch: pytest.MonkeyPatch) -> None:
    listing = (
        "1\tmodule-null-sink\tsink_name=a\t\n2\tlibpipewire-module-rt\t{\n  nice.level = -11\n}\t\n3\tmodule-x\t\t\n"
    )
    monkeypatch.setattr(pulse, "pactl", lambda *_: listing)
    assert [(m.number, m.name) for m in pulse.modules()] == [
        (1, "module-null-sink"),
        (2, "libpipewire-module-rt"),
        (3, "module-x"),
    ]
    assert pulse.modules()[0].arguments == "sink_name=a"


def test_an_absent_pactl_comes_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(DeviceError, match="pactl is not installed; sudo apt install pulseaudio-utils"):
        pulse.pactl("info")
    assert not pulse.server_runs()


# --- PortAudio that is missing, refuses, hangs ----------------------------------------------------------------------


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A fresh wrapper of PortAudio, so that tests do not ruin each other's."""
    fresh = devices._Library()
    monkeypatch.setattr(devices, "_library", fresh)
    return fresh


@pytest.mark.parametrize(
    ("system", "release", "command"),
    [
        ("Linux", {"ID": "debian"}, "sudo apt install libportaudio2"),
        ("Linux", {"ID": "ubuntu", "ID_LIKE": "debian"}, "sudo apt install libportaudio2"),
        ("Linux", {"ID": "fedora"}, "sudo dnf install portaudio"),
        ("Linux", {"ID": "endeavouros", "ID_LIKE": "arch"}, "sudo pacman -S portaudio"),
        ("Linux", {"ID": "alpine"}, "sudo apk add portaudio"),
        ("Linux", {"ID": "opensuse-leap", "ID_LIKE": "suse opensuse"}, "sudo zypper install portaudio"),
        ("Darwin", {}, "brew install portaudio"),
        ("Windows", {}, "pip install --force-reinstall sounddevice"),
    ],
)
def test_a_missing_portaudio_comes_with_the_command_that_installs_it(
    library: Any, monkeypatch: pytest.MonkeyPatch, system: str, release: dict[str, str], command: str
) -> None:
    def fail() -> None:
        raise OSError("PortAudio library not found")

    monkeypatch.setattr(devices, "_import_sounddevice", fail)
    monkeypatch.setattr(platform, "system", lambda: system)
    monkeypatch.setattr(platform, "freedesktop_os_release", lambda: release)
    with pytest.raises(DeviceError, match=f"PortAudio is missing.*; run: {command}$"):
        library.get()


def test_a_missing_package_comes_with_its_command(library: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(DeviceError, match="pip install sounddevice"):
        library.get()


def test_a_call_that_does_not_come_back_is_given_up_with_the_library(library: Any) -> None:
    forever = threading.Event()
    begun = time.monotonic()
    with pytest.raises(DeviceLost, match=r"did not answer within 0\.05 s while closing the door"):
        within(0.05, "closing the door", forever.wait)
    assert time.monotonic() - begun < 5.0
    with pytest.raises(DeviceLost, match=r"closing the door.*start a new one"):
        library.get()
    forever.set()


def test_results_and_errors_pass_through_the_time_limit(library: Any) -> None:
    assert within(5.0, "counting", lambda: 3) == 3
    with pytest.raises(ZeroDivisionError):
        within(5.0, "dividing", lambda: 1 // 0)


class FakePortAudioError(Exception):
    """As sounddevice raises it."""


class FakeStream:
    """As sounddevice makes it."""

    samplerate = 48_000.0
    latency = (0.003, 0.007)
    active = True

    def __init__(self, **options: Any) -> None:
        self.options = options
        self.calls: list[str] = []
        refusal = FakeLibrary.refusal
        if refusal:
            raise FakePortAudioError(refusal)

    def __getattr__(self, name: str) -> Any:
        return lambda: self.calls.append(name)


class FakeLibrary(SimpleNamespace):
    """As much of sounddevice as opening a stream takes."""

    refusal = ""
    PortAudioError = FakePortAudioError
    Stream = InputStream = OutputStream = FakeStream

    @staticmethod
    def _exit_handler() -> None:
        raise AssertionError("the exit handler must not run")


@pytest.fixture
def fake(library: Any, monkeypatch: pytest.MonkeyPatch) -> type[FakeLibrary]:
    """A PortAudio that does as it is told."""
    library._module = FakeLibrary()
    monkeypatch.setattr(FakeLibrary, "refusal", "")
    return FakeLibrary


def opened(source: Device | None = None, sink: Device | None = None, **options: Any) -> DeviceStream:
    return open_stream(lambda *_: None, source=source, sink=sink, sample_rate=48_000, **options)


@pytest.mark.parametrize(
    ("refusal", "advice"),
    [
        ("Invalid sample rate [PaErrorCode -9997]", "does not run at 48000 Hz: leave --rate out"),
        ("Device unavailable [PaErrorCode -9985]", "another program may hold it"),
        ("Invalid number of channels [PaErrorCode -9998]", "another number of --channels"),
        ("Unanticipated host error [PaErrorCode -9999]", "streamproc doctor"),
    ],
)
def test_refusals_say_what_to_do(
    fake: type[FakeLibrary], monkeypatch: pytest.MonkeyPatch, refusal: str, advice: str
) -> None:
    monkeypatch.setattr(fake, "refusal", refusal)
    with pytest.raises(DeviceError, match=r"opening mic \(ALSA\) failed") as caught:
        opened(device("mic"))
    assert refusal in str(caught.value)
    assert advice in str(caught.value)


def test_more_channels_than_there_are_are_refused(fake: type[FakeLibrary]) -> None:
    with pytest.raises(DeviceError, match=r"mic \(ALSA\) has 2 input channels, 3 were asked for; use --channels 2"):
        opened(device("mic"), n_inputs=3)


def test_latency_is_that_of_the_stream_or_on_jack_of_the_ports(fake: type[FakeLibrary]) -> None:
    stream = opened(device("card"), device("card"))
    assert (stream.latency_in, stream.latency_out) == (144, 336)
    ports = device("system", JACK, input_latency_s=128 / 48_000, output_latency_s=256 / 48_000)
    stream = opened(ports, ports)
    assert (stream.latency_in, stream.latency_out) == (128, 256)


def test_a_latency_can_be_asked_for(fake: type[FakeLibrary]) -> None:
    assert opened(device("mic"))._stream.options["latency"] == "low"
    assert opened(device("mic"), latency_ms=20.0)._stream.options["latency"] == 0.02
    assert opened(device("mic", PULSE))._stream.options["latency"] == devices.PULSE_INPUT_MS / 1000.0
    assert opened(sink=device("speakers", PULSE))._stream.options["latency"] == devices.PULSE_OUTPUT_MS / 1000.0


def test_the_sound_server_is_told_which_endpoint_is_meant(
    fake: type[FakeLibrary], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PULSE_SOURCE", "PULSE_SINK", "PULSE_PROP_OVERRIDE"):
        monkeypatch.setenv(name, "")
    opened(device("Blue Yeti", PULSE, key="alsa_input.usb"))
    opened(sink=device("Speakers", PULSE, key="alsa_output.pci"))
    assert (os.environ["PULSE_SOURCE"], os.environ["PULSE_SINK"]) == ("alsa_input.usb", "alsa_output.pci")


def test_a_stream_of_a_dead_jack_server_is_never_touched(fake: type[FakeLibrary], library: Any) -> None:
    stream = opened(device("system", JACK), device("system", JACK))
    stream.start()
    stream._stream.active = False
    assert stream.close() is False
    assert stream._stream.calls == ["start"]
    with pytest.raises(DeviceLost, match="the JACK server has gone"):
        library.get()


def test_a_stream_is_stopped_and_closed(fake: type[FakeLibrary]) -> None:
    stream = opened(device("card"), device("card"))
    stream.start()
    assert stream.active
    assert stream.close() is True
    assert stream._stream.calls == ["start", "stop", "close"]
    assert not stream.active
