"""The clip that ships is what its README says, and the demo measures what it shows."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from export import demo_clip
from export.data.cache import active_rms
from export.evaluate import metrics
from streamproc.errors import ConfigError

FOLDER = Path(__file__).parents[2] / "examples" / "demo"


@pytest.fixture(scope="module")
def demo():
    """Load ``examples/demo/demo.py``, which is a script and not part of a package."""
    spec = importlib.util.spec_from_file_location("demo", FOLDER / "demo.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def snr_db(noisy, clean):
    return 20 * np.log10(active_rms(clean, demo_clip.RATE) / np.std(noisy - clean))


def test_the_shipped_clip():
    noisy, clean = (sf.read(FOLDER / name)[0] for name in ("noisy.flac", "clean.flac"))
    info = sf.info(FOLDER / "noisy.flac")
    assert (info.samplerate, info.channels, info.subtype) == (48000, 1, "PCM_16")
    assert 8.0 < info.duration < 12.0
    assert len(noisy) == len(clean)
    assert snr_db(noisy, clean) == pytest.approx(demo_clip.SNR_DB, abs=0.05)
    assert 0.3 < np.abs(noisy).max() < 0.99
    assert sum((FOLDER / name).stat().st_size for name in ("noisy.flac", "clean.flac")) < 1_500_000


@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed: apt-get install espeak-ng")
def test_speech_is_at_its_level():
    sentence = demo_clip.Sentence("Hello there.", level_db=-6.0)
    samples = demo_clip.speak(sentence)
    assert active_rms(samples, demo_clip.RATE) == pytest.approx(10 ** (-6 / 20), rel=1e-3)
    np.testing.assert_array_equal(samples, demo_clip.speak(sentence))


class TestWithoutSynthesiser:
    """With any other source of speech."""

    @pytest.fixture
    def stub(self, monkeypatch):
        def speak(sentence):
            rng = np.random.default_rng(len(sentence.text))
            n = demo_clip.RATE // 2
            return rng.normal(size=n) * np.sin(np.pi * np.arange(n) / n) * 10 ** (sentence.level_db / 20)

        monkeypatch.setattr(demo_clip, "speak", speak)

    @pytest.mark.usefixtures("stub")
    def test_is_repeatable_and_exact(self):
        noisy, clean = demo_clip.make_demo_clip(3)
        again, _ = demo_clip.make_demo_clip(3)
        np.testing.assert_array_equal(noisy, again)
        assert snr_db(noisy, clean) == pytest.approx(demo_clip.SNR_DB, abs=0.01)
        assert not np.array_equal(noisy, demo_clip.make_demo_clip(4)[0])

    @pytest.mark.usefixtures("stub")
    def test_a_file_in_the_place_of_the_folder_stays(self, tmp_path):
        (tmp_path / "clip").write_text("mine")
        with pytest.raises(ConfigError, match="clip is not a folder"):
            demo_clip.write_demo_clip(tmp_path / "clip")
        assert (tmp_path / "clip").read_text() == "mine"

    def test_says_how_to_get_one(self, monkeypatch):
        monkeypatch.setattr(shutil, "which", lambda _: None)
        with pytest.raises(demo_clip.SynthesiserMissing, match="apt-get install espeak-ng"):
            demo_clip.speak(demo_clip.SPEECH[0])


class TestDemo:
    def test_finds_the_clean_speech(self, demo, tmp_path):
        names = ("noisy.flac", "clean.flac", "a_7_noisy.wav", "a_7_clean.wav", "a_8_noisy.wav", "b_noisy_snr0_48k.wav")
        for name in (*names, "b_clean_48k.wav"):
            (tmp_path / name).touch()
        found = {name: demo.find_clean(tmp_path / name) for name in names if "noisy" in name}
        assert {name: path and path.name for name, path in found.items()} == {
            "noisy.flac": "clean.flac",
            "a_7_noisy.wav": "a_7_clean.wav",
            "a_8_noisy.wav": None,
            "b_noisy_snr0_48k.wav": "b_clean_48k.wav",
        }

    def test_measures_as_the_evaluation_does(self, demo):
        noisy, clean = (sf.read(FOLDER / name)[0] for name in ("noisy.flac", "clean.flac"))
        expected = metrics.si_sdr_db(noisy, clean)
        assert demo.si_sdr_db(FOLDER / "noisy.flac", FOLDER / "clean.flac") == pytest.approx(expected, abs=1e-6)

    def test_runs(self, demo, shared_dir, tmp_path, capsys):
        model = shared_dir / "models" / "gtcrn_simple.onnx"
        for name in ("noisy", "clean"):
            samples, rate = sf.read(FOLDER / f"{name}.flac", start=40_000, frames=72_000)
            sf.write(tmp_path / f"{name}.wav", samples, rate)
        out = tmp_path / "out"
        assert demo.main(["--out", str(out), "--model", str(model), str(tmp_path / "noisy.wav")]) == 0
        printed = capsys.readouterr().out
        assert "Latency of gtcrn" in printed
        assert "→" in printed.split("noisy.wav")[1]
        assert sf.info(out / "noisy_gtcrn_simple.wav").frames == 72_000
        assert (out / "noisy_gtcrn_simple.png").stat().st_size > 10_000

    def test_a_model_that_is_not_there(self, demo, tmp_path, capsys):
        assert demo.main(["--out", str(tmp_path), "--model", str(tmp_path / "no.onnx")]) == 1
        assert "no.onnx" in capsys.readouterr().out
