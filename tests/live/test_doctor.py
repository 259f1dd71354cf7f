"""What the doctor finds, and that every finding comes with something to type."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from servers import JackServer, PulseServer
from test_devices import STUDIO, device

from streamproc import doctor
from streamproc.doctor import Finding, Level
from streamproc.errors import DeviceError
from streamproc.live import devices
from streamproc.live.choice import PULSE, Device


@pytest.fixture(autouse=True)
def on_linux(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "system", lambda: "Linux")


def only(findings: list[Finding]) -> Finding:
    [finding] = findings
    return finding


def test_a_missing_portaudio_is_bad_and_has_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> list[Device]:
        raise DeviceError("PortAudio is missing (not found); run: sudo apt install libportaudio2")

    monkeypatch.setattr(devices, "list_devices", fail)
    findings, found = doctor.check_devices()
    assert found == []
    assert only(findings).level is Level.BAD
    assert only(findings).mend == "sudo apt install libportaudio2"


def test_devices_that_are_there_are_good(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "list_devices", lambda: STUDIO)
    monkeypatch.setattr(devices, "portaudio_version", lambda: "PortAudio V19")
    findings, found = doctor.check_devices()
    assert [finding.level for finding in findings] == [Level.GOOD] * 3
    assert found is STUDIO


def test_no_input_is_bad(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "list_devices", lambda: [device("speakers", n_inputs=0)])
    monkeypatch.setattr(devices, "portaudio_version", lambda: "PortAudio V19")
    findings, _ = doctor.check_devices()
    [bad] = [finding for finding in findings if finding.level is Level.BAD]
    assert bad.topic == "input"
    assert bad.mend


@pytest.mark.parametrize(
    ("rates", "level"), [((48_000, 48_000), Level.GOOD), ((44_100, 48_000), Level.NOTE)], ids=["same", "different"]
)
def test_rates_are_compared(rates: tuple[int, int], level: Level) -> None:
    found = [
        device("mic", n_outputs=0, sample_rate=rates[0], is_default_input=True),
        device("speakers", n_inputs=0, sample_rate=rates[1], is_default_output=True),
    ]
    finding = only(doctor.check_rates(found))
    assert finding.level is level
    assert (finding.mend is None) == (level is Level.GOOD)
    assert doctor.check_rates([]) == []


def test_a_headset_in_telephone_quality_is_noticed() -> None:
    key = "bluez_input.AC_12_2F.headset-head-unit"
    headset = device("Buds", PULSE, key=key, n_outputs=0, sample_rate=16_000, is_bluetooth=True)
    finding = only(doctor.check_bluetooth([*STUDIO, headset]))
    assert "16000 Hz" in finding.text
    assert finding.mend is not None
    assert finding.mend.startswith("pactl set-card-profile bluez_card.AC_12_2F a2dp-sink")
    airpods = device("Anna's AirPods", "Core Audio", n_outputs=0, sample_rate=24_000)
    assert only(doctor.check_bluetooth([airpods])).mend
    wideband = device("Anna's AirPods", "Core Audio", n_outputs=2, n_inputs=0, sample_rate=24_000)
    assert doctor.check_bluetooth([wideband]) == []


def test_a_sound_server_behind_a_closed_door_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.pulse, "server_runs", lambda: True)
    monkeypatch.setattr(platform, "freedesktop_os_release", lambda: {"ID": "debian"})
    finding = only(doctor.check_sound_server([device("card (hw:0,0)")]))
    assert finding.mend == "sudo apt install libasound2-plugins"
    assert only(doctor.check_sound_server(STUDIO)).level is Level.GOOD


@pytest.mark.parametrize(
    ("system", "found", "level", "words"),
    [
        ("Darwin", [], Level.NOTE, "brew install blackhole-2ch"),
        ("Darwin", [device("BlackHole 2ch", "Core Audio")], Level.GOOD, '--output "BlackHole 2ch"'),
        ("Windows", [], Level.NOTE, "vb-audio.com"),
        ("Windows", [device("CABLE Input (VB-Audio)", "Windows WASAPI")], Level.GOOD, '--output "CABLE Input'),
    ],
)
def test_a_virtual_cable_is_looked_for(
    monkeypatch: pytest.MonkeyPatch, system: str, found: list[Device], level: Level, words: str
) -> None:
    monkeypatch.setattr(platform, "system", lambda: system)
    finding = only(doctor.check_virtual_microphone(found))
    assert finding.level is level
    assert words in f"{finding.text} {finding.mend}"


@pytest.mark.parametrize(
    ("check", "good", "noted"),
    [
        (doctor.check_priority, lambda: 95, lambda: 0),
        (doctor.check_load, 0.5, 7.0),
        (doctor.check_wake_up, [0.1] * 100, [0.1] * 90 + [4.0] * 10),
    ],
)
def test_the_machine_is_judged(check: Callable[[Any], list[Finding]], good: Any, noted: Any) -> None:
    assert only(check(good)).level is Level.GOOD
    finding = only(check(noted))
    assert finding.level is Level.NOTE
    assert finding.mend


def test_the_governor_is_read(tmp_path: Path) -> None:
    assert doctor.check_governor(tmp_path) == []
    for number, governor in enumerate(("performance", "powersave")):
        folder = tmp_path / f"cpu{number}" / "cpufreq"
        folder.mkdir(parents=True)
        (folder / "scaling_governor").write_text(f"{governor}\n")
    assert only(doctor.check_governor(tmp_path)).mend == "sudo cpupower frequency-set --governor performance"
    (tmp_path / "cpu1" / "cpufreq" / "scaling_governor").write_text("schedutil\n")
    assert only(doctor.check_governor(tmp_path)).level is Level.GOOD


def run_doctor(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "streamproc", "doctor", *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.device
def test_the_doctor_on_a_machine_with_jack(jack_server: JackServer) -> None:
    done = run_doctor("--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["works"] is True
    found = {finding["topic"]: finding for finding in document["findings"]}
    assert found["input"]["text"] == "system (JACK Audio Connection Kit), 2 channels, 48000 Hz"
    assert found["virtual mic"]["level"] == "note"
    jack_server.end()
    done = run_doctor()
    assert done.returncode == 1
    assert "✗ input" in done.stdout


@pytest.mark.device
def test_the_doctor_on_a_machine_with_pulseaudio(pulse_server: PulseServer) -> None:
    done = run_doctor("--json")
    assert done.returncode == 0, done.stderr
    found = {finding["topic"]: finding for finding in json.loads(done.stdout)["findings"]}
    assert found["sound server"]["level"] == found["virtual mic"]["level"] == found["rates"]["level"] == "good"
