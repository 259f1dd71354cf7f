"""Files through a processor: aligned, as long as they were, the same as live, and in constant memory."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile
from helpers import IdentitySpectrum, IdentityWaveform, RecurrentSpectrum, noise, run_blocks, varying_blocks
from hypothesis import given
from hypothesis import strategies as st

from streamproc.dsp import Delay, Gain
from streamproc.engine import Engine
from streamproc.errors import AudioFileError, EngineError
from streamproc.model_processor import ModelProcessor
from streamproc.offline import BLOCK, FileReport, aligned, process_file
from streamproc.processor import BaseProcessor, Passthrough, Processor
from streamproc.spec import Block, StreamConfig


class Failing(BaseProcessor):
    """Fails after a while."""

    def prepare(self, config: StreamConfig) -> None:
        self._left = 3

    def process(self, x: Block, out: Block) -> None:
        self._left -= 1
        if not self._left:
            raise RuntimeError("the hamster is tired")
        np.copyto(out, x)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in.wav"
    soundfile.write(path, noise(2, 50_001).T, 48_000, subtype="FLOAT")
    return path


def processed(source: Path, processor: Processor) -> tuple[FileReport, Block]:
    target = source.with_name("out.wav")
    report = process_file(source, target, processor)
    return report, soundfile.read(target, dtype="float32", always_2d=True)[0].T


@given(delay=st.integers(0, 3 * BLOCK), n=st.integers(0, 2 * BLOCK), seed=st.integers(0, 999))
def test_latency_is_taken_out_whatever_the_blocks(delay: int, n: int, seed: int) -> None:
    x = noise(2, n, seed)
    engine = Engine(Delay(delay), 48_000, 2)
    ends = np.cumsum(varying_blocks(n, seed))
    pieces = list(aligned(engine, iter(np.split(x, ends[:-1], axis=1))))
    np.testing.assert_array_equal(np.concatenate(pieces, axis=1) if pieces else x, np.clip(x, -1, 1))


@pytest.mark.parametrize("model", [IdentitySpectrum(hop=256, lookahead=2), IdentityWaveform(hop=480)])
def test_an_identity_model_gives_the_file_back(source: Path, model: IdentitySpectrum | IdentityWaveform) -> None:
    report, y = processed(source, ModelProcessor(model))
    x = soundfile.read(source, dtype="float64")[0].T
    assert report.latency.total == model.spec.latency + model.spec.hop - 1
    assert y.shape == x.shape
    assert 10 * np.log10(np.sum(x**2) / max(np.sum((y - x) ** 2), 1e-30)) > 100.0


@pytest.mark.parametrize("sample_rate", [44_100, 16_000, 4_000])
def test_other_rates_keep_length_and_place(tmp_path: Path, sample_rate: int) -> None:
    n = sample_rate + 1
    x = 0.5 * np.sin(2 * np.pi * 440.0 * np.arange(n) / sample_rate)
    soundfile.write(tmp_path / "in.wav", x, sample_rate, subtype="FLOAT")
    report, y = processed(tmp_path / "in.wav", ModelProcessor(IdentitySpectrum(48_000)))
    assert (report.n_frames, report.sample_rate) == (n, sample_rate)
    middle = slice(n // 4, 3 * n // 4)
    np.testing.assert_allclose(y[0, middle], x[middle], atol=2e-3)


def test_a_file_sounds_as_it_would_live(source: Path) -> None:
    _, offline_output = processed(source, ModelProcessor(RecurrentSpectrum()))
    live = ModelProcessor(RecurrentSpectrum())
    config = StreamConfig(48_000, 2)
    live.prepare(config)
    x = soundfile.read(source, dtype="float32")[0].T
    latency = live.latency_samples
    x = np.pad(x, ((0, 0), (0, latency)))
    live_output = run_blocks(live, x, varying_blocks(x.shape[1]))[:, latency:]
    np.testing.assert_allclose(offline_output, live_output, atol=1e-6)


def test_a_file_shorter_than_the_latency(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "in.wav", [0.5, -0.25, 0.125], 48_000)
    _, y = processed(tmp_path / "in.wav", Delay(10_000))
    np.testing.assert_array_equal(y, [[0.5, -0.25, 0.125]])


def test_a_processor_is_used_file_after_file(source: Path) -> None:
    processor = ModelProcessor(RecurrentSpectrum())
    _, first = processed(source, processor)
    _, second = processed(source, processor)
    np.testing.assert_array_equal(first, second)


def test_the_report_says_what_was_removed_and_what_was_wrong(tmp_path: Path) -> None:
    x = noise(1, 96_000, level=0.1)
    x[0, 10], x[0, 20], x[0, 30] = np.nan, np.inf, -np.inf
    soundfile.write(tmp_path / "in.wav", x.T, 48_000, subtype="FLOAT")
    report, y = processed(tmp_path / "in.wav", Gain(-20.0))
    assert report.noise_removed_db == pytest.approx(20.0, abs=0.11)
    assert report.level_in_db - report.level_out_db == pytest.approx(20.0, abs=0.01)
    assert (report.statistics.silenced_samples, report.statistics.clamped_samples) == (3, 0)
    assert report.seconds == 2.0
    assert report.speed > 1.0
    np.testing.assert_array_equal(y[0, [10, 20, 30]], 0.0)
    assert processed(tmp_path / "in.wav", Gain(40.0))[0].statistics.clamped_samples > 10_000


def test_progress_grows_to_one(source: Path) -> None:
    shares: list[float] = []
    process_file(source, source.with_name("out.wav"), Delay(1000), shares.append)
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert len(shares) > 5


def test_a_file_is_not_written_onto_itself(source: Path) -> None:
    before = source.read_bytes()
    (source.parent / "link.wav").symlink_to(source)
    for target in (source, source.parent / "link.wav", source.parent / ".." / source.parent.name / "in.wav"):
        with pytest.raises(AudioFileError, match="onto itself"):
            process_file(source, target, Passthrough())
    assert source.read_bytes() == before


def test_a_failing_processor_is_named_and_leaves_nothing(source: Path) -> None:
    with pytest.raises(EngineError, match="the processor failed: RuntimeError: the hamster is tired"):
        process_file(source, source.with_name("out.wav"), Failing())
    assert [path.name for path in source.parent.iterdir()] == ["in.wav"]


def test_what_progress_raises_ends_the_work_and_leaves_nothing(source: Path) -> None:
    def stop(share: float) -> None:
        if share > 0.3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        process_file(source, source.with_name("out.wav"), Passthrough(), stop)
    assert [path.name for path in source.parent.iterdir()] == ["in.wav"]


def test_memory_does_not_grow_with_the_length(tmp_path: Path) -> None:
    peaks = []
    for seconds in (4, 40):
        soundfile.write(tmp_path / "in.wav", np.zeros((seconds * 48_000, 2), np.int16), 48_000)
        tracemalloc.start()
        try:
            process_file(tmp_path / "in.wav", tmp_path / "out.wav", Delay(1000))
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    assert peaks[1] < peaks[0] + 100_000


MEASURE = """
import resource, sys, time
from pathlib import Path
import streamproc
from streamproc.offline import process_file
processor = streamproc.load("denoise")
started = time.process_time()
report = process_file(Path(sys.argv[1]), Path(sys.argv[2]), processor)
spent = time.process_time() - started
print(report.seconds / spent, report.speed, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_an_hour_of_stereo(tmp_path: Path) -> None:
    """An hour at 48 kHz in stereo takes as much memory as a minute, and one core for less than a 20th of an hour.

    Processor time is asserted, since other programs do not count in it: ``pytest -m slow -k hour -s``.
    """
    rng = np.random.default_rng(0)
    minute = (3000 * rng.normal(size=(60 * 48_000, 2))).astype(np.int16)
    figures = {}
    for minutes in (1, 60):
        path = tmp_path / f"{minutes}.wav"
        with soundfile.SoundFile(path, "w", 48_000, 2) as file:
            for _ in range(minutes):
                file.write(minute)
        command = [sys.executable, "-c", MEASURE, str(path), str(tmp_path / "out.wav")]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        per_core, speed, megabytes = figures[minutes] = tuple(map(float, done.stdout.split()))
        sys.stdout.write(
            f"\n{minutes} min: {per_core:.1f} times real time per core, {speed:.1f} by the clock, {megabytes:.0f} MB\n"
        )
    assert soundfile.info(tmp_path / "out.wav").frames == 60 * len(minute)
    assert figures[60][2] < figures[1][2] + 150
    assert figures[60][0] > 20


def test_the_module_needs_no_sound_library_until_it_is_used() -> None:
    code = "import sys, streamproc.offline; sys.exit('soundfile' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
