"""Recordings are valid at any moment, in step with the stream, and never in the way of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from helpers import noise, varying_blocks

from streamproc.errors import AudioFileError
from streamproc.live import LiveConfig, LiveEngine, Recorder
from streamproc.live.recorder import WavWriter
from streamproc.processor import BaseProcessor
from streamproc.spec import Block
from streamproc.testing import FakeStream

RATE = 48_000


class Invert(BaseProcessor):
    def process(self, x: Block, out: Block) -> None:
        np.negative(x, out=out)


def read(path: Path) -> Block:
    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    assert rate == RATE
    return samples.T


def test_the_files_are_what_was_heard_bit_by_bit(tmp_path: Path) -> None:
    blocks = varying_blocks(RATE, seed=1, largest=512)
    x = noise(2, sum(blocks), level=0.5)
    recorder = Recorder(tmp_path / "new" / "folder", RATE, 2, max_block=512, flush_s=0.01)
    engine = LiveEngine(Invert(), LiveConfig(RATE, 2, max_block=512), recorder)
    engine.start(own_thread=False)
    with recorder:
        heard = FakeStream(engine.callback, RATE).run(x, blocks, between=lambda _: engine.work())
    given, answered = recorder.paths
    np.testing.assert_array_equal(read(given), x)
    np.testing.assert_array_equal(read(answered), heard)
    assert engine.snapshot().recorder_dropped_samples == 0
    assert recorder.failure is None


def test_the_header_is_valid_after_every_write(tmp_path: Path) -> None:
    writer = WavWriter(tmp_path / "a.wav", RATE, 2)
    x = noise(2, 10_000)
    start = 0
    assert read(writer.path).shape == (2, 0)
    for size in [1, 999, 0, 4000, 5000]:
        writer.write(x[:, start : start + size])
        start += size
        np.testing.assert_array_equal(read(writer.path), x[:, :start])
    writer.close()


def test_sound_behind_the_size_in_the_header_does_no_harm(tmp_path: Path) -> None:
    writer = WavWriter(tmp_path / "a.wav", RATE, 1)
    x = noise(1, 1000)
    writer.write(x)
    with writer.path.open("ab") as file:
        file.write(b"\x01\x02\x03" * 77)  # killed between sound and header
    np.testing.assert_array_equal(read(writer.path), x)
    writer.write(x[:, :0])
    writer.close()


def test_beyond_four_gigabytes(tmp_path: Path) -> None:
    writer = WavWriter(tmp_path / "large.wav", RATE, 2)
    writer.n_frames = 2**30
    try:
        os.truncate(writer.path, 2**33 + 92)
    except OSError:
        pytest.skip("no sparse files here")
    writer.write(noise(2, 100))
    info = soundfile.info(writer.path)
    assert info.format == "RF64"
    assert info.frames == 2**30 + 100
    last, _ = soundfile.read(writer.path, start=2**30, dtype="float32", always_2d=True)
    np.testing.assert_array_equal(last.T, noise(2, 100))
    writer.close()
    writer.path.unlink()


def test_what_the_disk_is_too_slow_for_is_silent_and_counted(tmp_path: Path) -> None:
    x = noise(1, 5000)
    recorder = Recorder(tmp_path, RATE, max_block=100, buffer_s=1000 / RATE, flush_s=60)
    recorder.start()
    for start in range(0, 5000, 100):
        recorder.write(x[:, start : start + 100], x[:, start : start + 100])
    recorder.stop()
    recorded = read(recorder.paths[0])
    dropped = recorder.dropped_samples
    assert dropped == 4000
    assert recorded.shape == x.shape
    np.testing.assert_array_equal(recorded[:, :dropped], 0.0)
    np.testing.assert_array_equal(recorded[:, dropped:], x[:, dropped:])


def test_older_recordings_stay(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        with Recorder(tmp_path, RATE) as recorder:
            recorder.write(noise(1, number), noise(1, number))
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["input-2.wav", "input-3.wav", "input.wav", "output-2.wav", "output-3.wav", "output.wav"]
    assert [read(tmp_path / name).shape[1] for name in names] == [2, 3, 1, 2, 3, 1]


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(AudioFileError, match="file"):
        Recorder(tmp_path / "file", RATE).start()


def test_a_full_disk_ends_the_recording_and_not_the_audio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: WavWriter, x: Block) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(WavWriter, "write", full)
    with Recorder(tmp_path, RATE, flush_s=0.001) as recorder:
        recorder.write(noise(1, 100), noise(1, 100))
    assert isinstance(recorder.failure, OSError)
    engine = LiveEngine(Invert(), LiveConfig(RATE, fixed_block=100), recorder)
    FakeStream(engine.callback, RATE).run(noise(1, 1000), 100)
    engine.start(own_thread=False)
    assert "No space left" in engine.snapshot().advice


_RECORD_FOR_EVER = """
import sys, time
import numpy as np
from streamproc.live import Recorder
recorder = Recorder(sys.argv[1], 48000, 2, flush_s=0.002)
recorder.start()
print("recording", flush=True)
number = 0
while True:
    x = np.arange(number, number + 480, dtype=np.float32)[None].repeat(2, axis=0) / 2**24
    recorder.write(x, -x)
    number += 480
    time.sleep(0.001)
"""


@pytest.mark.parametrize("after_s", [0.05, 0.1, 0.17])
def test_killed_in_mid_recording(tmp_path: Path, after_s: float) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _RECORD_FOR_EVER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "recording\n"
        # Until sound has reached the disk, and a moment that falls anywhere between two writes.
        deadline = time.monotonic() + 30
        while (tmp_path / "output.wav").stat().st_size < 10_000 and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(after_s)
        process.send_signal(signal.SIGKILL)
    for name, sign in (("input.wav", 1), ("output.wav", -1)):
        recorded = read(tmp_path / name)
        assert recorded.shape[1] > 0
        expected = sign * np.arange(recorded.shape[1], dtype=np.float32) / 2**24
        np.testing.assert_array_equal(recorded, expected[None].repeat(2, axis=0))
