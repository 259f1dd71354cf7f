"""Systems are aligned, and one small evaluation runs from end to end."""

from __future__ import annotations

import json
from time import perf_counter_ns

import numpy as np
import pytest
import soundfile as sf
import torch
import typer
from helpers import IdentitySpectrum
from typer.testing import CliRunner

import streamproc
from export.commands.evaluate import evaluate
from export.evaluate.cost import measure_cost
from export.evaluate.metrics import RATE, pesq_wb, si_sdr_db
from export.evaluate.mixtures import BABBLE, SNRS_DB, MixtureSet, resample
from export.evaluate.pictures import Point, tradeoff_points, worst_items
from export.evaluate.report import model_metrics
from export.evaluate.runner import Bench, Outcome
from export.evaluate.statistics import Results
from export.evaluate.systems import (
    NOISY,
    CheckpointSystem,
    EngineSystem,
    Rnnoise,
    System,
    SystemInfo,
    SystemUnavailable,
    candidates,
    peers,
)
from export.models import build_model, describe_model
from streamproc.bench.cases import Case
from streamproc.bench.timing import Effort
from streamproc.errors import ConfigError
from streamproc.model import FrameModel


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Untrained weights as training stores them."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("runs") / "tiny" / "ema.pt"
    path.parent.mkdir()
    model = build_model("GruDenoiser", {"hidden": 16, "n_layers": 1})
    torch.save({**describe_model(model), "ema": model.state_dict(), "progress": {"audio_hours": 0.5}}, path)
    return path


def lag(estimate: np.ndarray, reference: np.ndarray, reach: int = 3000) -> int:
    """Return by how many samples `estimate` comes late."""
    size = 1 << (2 * len(reference)).bit_length()
    correlation = np.fft.irfft(np.fft.rfft(estimate, size) * np.fft.rfft(reference, size).conj(), size)
    return int(np.concatenate([correlation[-reach:], correlation[:reach]]).argmax()) - reach


def clean_speech(shared_dir, sample_rate: int) -> np.ndarray:
    mixture = MixtureSet(1, val_dir=shared_dir / "data" / "val", seconds=4.0)[0]
    return mixture.at(sample_rate).clean


class TestAlignment:
    @pytest.mark.parametrize("sample_rate", [16000, 48000])
    @pytest.mark.parametrize("lookahead", [0, 2])
    def test_the_identity_scores_perfectly(self, small_set, sample_rate, lookahead):
        model = IdentitySpectrum(sample_rate, hop=sample_rate // 200, lookahead=lookahead)
        system = EngineSystem(streamproc.ModelProcessor(model), "identity")
        mixture = small_set[1].at(sample_rate)
        out = system.run(mixture.noisy)
        assert si_sdr_db(out, mixture.noisy) > 90.0
        assert pesq_wb(resample(out, sample_rate, RATE), mixture.at(RATE).noisy) == pytest.approx(4.64, abs=0.01)

    @pytest.mark.parametrize("name", ["gtcrn", "ulunas", "rnnoise"])
    def test_peers(self, shared_dir, name):
        system = _open_peer(name)
        speech = clean_speech(shared_dir, system.info.sample_rate)
        assert abs(lag(system.run(speech), speech)) <= 1

    def test_the_delay_of_rnnoise_is_measured(self, shared_dir, monkeypatch):
        system = _open_peer("rnnoise")
        speech = clean_speech(shared_dir, 48000)
        monkeypatch.setattr(Rnnoise, "DELAY", 0)
        assert lag(system.run(speech), speech) == pytest.approx(960, abs=1)

    def test_a_checkpoint_is_measured_as_the_engine_would_run_it(self, checkpoint, small_set):
        system = CheckpointSystem(checkpoint, "tiny")
        engine = EngineSystem(streamproc.ModelProcessor(TorchSteps(checkpoint)), "steps")
        noisy = small_set[0].at(48000).noisy[:24000]
        np.testing.assert_allclose(system.run(noisy), engine.run(noisy), atol=1e-5)
        assert system.info.frame_latency_ms == engine.info.frame_latency_ms == pytest.approx(512 / 48)
        assert "0.5 h" in system.info.description


class TorchSteps(FrameModel):
    """A trained module, one step at a time."""

    def __init__(self, path):
        from export.models import load_checkpoint

        self._module = load_checkpoint(path)
        super().__init__(self._module.spec)

    def step(self, frame, state, out, next_state):
        with torch.inference_mode():
            results = self._module.step(*(torch.from_numpy(array.copy()) for array in (frame, *state)))
        for target, result in zip((out, *next_state), results, strict=True):
            np.copyto(target, result.numpy())


def _open_peer(name: str) -> System:
    try:
        return peers([name])[0].open()
    except SystemUnavailable as error:
        pytest.skip(str(error))


class TestRequests:
    def test_names_are_unique(self, tmp_path):
        requests = candidates(["denoise", "old/denoise.onnx", "gtcrn"], [tmp_path / "denoise" / "ema.pt"])
        assert [request.name for request in requests] == ["denoise", "denoise-2", "gtcrn-2", "denoise-3"]

    def test_what_is_missing_is_named(self, tmp_path):
        with pytest.raises(SystemUnavailable, match=r"absent\.onnx"):
            candidates([str(tmp_path / "absent.onnx")], [])[0].open()
        with pytest.raises(SystemUnavailable, match="No such file"):
            candidates([], [tmp_path / "run" / "ema.pt"])[0].open()
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "ema.pt").write_bytes(b"no checkpoint at all")
        with pytest.raises(SystemUnavailable, match="not a checkpoint"):
            candidates([], [tmp_path / "run" / "ema.pt"])[0].open()
        with pytest.raises(ConfigError, match="known are gtcrn"):
            peers(["deepfilternet"])


class TestBench:
    def test_the_input_itself(self, small_set, tmp_path):
        outcome = Bench([NOISY], small_set, dnsmos_file=tmp_path / "absent").measure(1)
        scores = outcome.scores["noisy"]
        assert scores["clean_pesq"] == pytest.approx(4.64, abs=0.005)
        assert scores["noise_removed"] == pytest.approx(0.0, abs=1e-6)
        assert scores["cold_start"] == pytest.approx(0.0, abs=1e-6)
        assert "ovrl" not in scores

    def test_babble_alone_is_not_to_be_removed(self, small_set, tmp_path):
        bench = Bench([NOISY], small_set, dnsmos_file=tmp_path / "absent")
        babble = next(row.index for row in small_set.rows if row.kind == BABBLE)
        assert np.isnan(bench.measure(babble).scores["noisy"]["noise_removed"])


class TestResults:
    @pytest.fixture
    def results(self, small_set):
        """Outcomes with known figures: "better" gains its item's number over the input."""
        return Results(
            [
                Outcome(
                    row,
                    row.level_dbfs,
                    {
                        "noisy": {"pesq": 1.5, "si_sdr": row.snr_db},
                        "better": {"pesq": 1.5 + row.index, "si_sdr": row.snr_db + row.index},
                    },
                    {"noisy": 0.0, "better": 0.1},
                    {"noisy": [5.0, 5.0, 5.0], "better": [6.0, 7.0, 8.0 + row.index]},
                )
                for row in small_set.rows
            ]
        )

    def test_gains_are_paired(self, results):
        gain = results.mean("better", "si_sdr", versus="noisy")
        assert gain.mean == pytest.approx(3.5)
        assert 1.5 < gain.low < 3.5 < gain.high < 5.5

    def test_groups_hold_every_item_once(self, results):
        groups = results.split(lambda row: row.snr_db)
        assert list(groups) == sorted(SNRS_DB)
        assert sum(len(group.outcomes) for group in groups.values()) == 8

    def test_the_course_is_a_mean_for_every_second(self, results):
        assert [level.mean for level in results.course("better")] == pytest.approx([6.0, 7.0, 11.5])
        assert [level.n for level in results.course("noisy")] == [8, 8, 8]

    def test_the_worst_gain_least(self, results):
        assert worst_items(results, "better", 3) == [0, 1, 2]


class Busy(System):
    """Takes a known time for a frame of 10 ms."""

    def __init__(self, name: str, us: float):
        super().__init__()
        self.info = SystemInfo(name, "", 16_000, 160, 20.0)
        self._us = us

    def _run(self, noisy):
        return noisy

    def case(self):
        def wait():
            done = perf_counter_ns() + round(1e3 * self._us)
            while perf_counter_ns() < done:
                pass

        return Case(self.info.name, wait, 0.01)


class TestCost:
    EFFORT = Effort(hot_s=0.001, most_hot=20, paced=5, longest_pause_s=0.0)

    def test_is_not_less_than_it_is(self):
        cost, notes = measure_cost([NOISY.open(), Busy("slow", 2000.0), Busy("quick", 20.0)], self.EFFORT)
        assert not notes
        assert list(cost["systems"]) == ["slow", "quick"]
        slow = cost["systems"]["slow"]
        assert slow["frame_us"] == pytest.approx(10_000.0)
        assert min(slow["hot_p50_us"], slow["paced_p50_us"]) >= 2000.0
        assert slow["share_of_core"] == pytest.approx(slow["hot_p50_us"] / 10_000.0)
        assert json.loads(json.dumps(cost)) == cost

    def test_a_system_that_cannot_stream_is_left_out_and_noted(self):
        broken = Busy("broken", 1.0)
        broken.case = lambda: streamproc.load("no_such_model")
        cost, notes = measure_cost([broken, Busy("quick", 20.0)], self.EFFORT)
        assert list(cost["systems"]) == ["quick"]
        assert notes[0].startswith("broken has no cost")

    @pytest.mark.parametrize("name", ["gtcrn", "rnnoise"])
    def test_a_frame_of_a_peer_is_as_long_as_its_hop(self, name):
        system = _open_peer(name)
        case = system.case()
        case.call()
        assert case.name == name
        assert case.audio_s == pytest.approx(system.info.hop / system.info.sample_rate)
        assert case.facts["frame_latency_ms"] == pytest.approx(system.info.frame_latency_ms)

    def test_a_checkpoint_costs_what_its_file_costs(self, checkpoint):
        system = CheckpointSystem(checkpoint, "tiny")
        case = system.case()
        case.call()
        assert case.audio_s == pytest.approx(256 / 48_000)

    def test_points_are_systems_with_a_cost(self):
        interval = {"mean": 2.0, "low": 1.5, "high": 2.5, "n": 4}
        record = {
            "systems": {name: {"frame_latency_ms": 32.0} for name in ("noisy", "a", "b")},
            "summary": {name: {"pesq": interval, "si_sdr": None} for name in ("noisy", "a", "b")},
            "cost": {"systems": {"a": {"share_of_core": 0.02}}},
        }
        assert tradeoff_points(record) == [Point("a", 0.02, 32.0, {"pesq": (2.0, 1.5, 2.5, 4)})]
        with pytest.raises(ConfigError, match="evaluate --plot"):
            tradeoff_points(record | {"cost": None})


@pytest.mark.parametrize("text", [None, "no json", "[]", "{}", '{"format": 99, "systems": {}}'])
def test_what_is_no_evaluation_is_not_drawn(text, tmp_path):
    file = tmp_path / "evaluation.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ConfigError, match=r"evaluation\.json (cannot be read|is not an evaluation)"):
        evaluate(replot=file, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("below", ["", "tables"])
def test_a_place_that_is_no_folder_is_refused_before_anything_is_measured(below, val_dir, tmp_path, monkeypatch):
    monkeypatch.setattr("export.evaluate.runner.measure_all", lambda *_: pytest.fail("it measures"))
    taken = tmp_path / "some_file.wav"
    taken.write_text("")
    with pytest.raises(ConfigError, match=r"some_file\.wav is not a folder"):
        evaluate(model=["denoise"], against="", val=val_dir, n=2, jobs=1, out=taken / below)


@pytest.mark.parametrize(
    ("arguments", "drawn"), [([], 60), (["--quick"], 20), (["--n", "3"], 3), (["--quick", "--n", "3"], 3)]
)
def test_as_many_mixtures_are_drawn_as_were_asked_for(arguments, drawn, tmp_path, monkeypatch):
    def draw(n, *_, **__):
        raise ConfigError(f"{n} mixtures")

    monkeypatch.setattr("export.evaluate.mixtures.MixtureSet", draw)
    app = typer.Typer()
    app.command()(evaluate)
    result = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path)])
    assert str(result.exception) == f"{drawn} mixtures"


def test_a_folder_without_recordings_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="--val takes a folder"):
        evaluate(val=tmp_path, out=tmp_path / "out", n=2)


def test_from_the_command_line(val_dir, checkpoint, tmp_path, monkeypatch):
    """Two systems on two mixtures, no scorer: tables, JSON, plots and sound."""
    monkeypatch.setattr("export.evaluate.metrics.DNSMOS_FILE", tmp_path / "absent.onnx")
    app = typer.Typer()
    app.command()(evaluate)
    out = tmp_path / "out"
    monkeypatch.setattr("streamproc.bench.timing.THOROUGH", TestCost.EFFORT)
    arguments = ["--checkpoint", str(checkpoint), "--against", "", "--n", "2", "--jobs", "1", "--plot"]
    result = CliRunner().invoke(app, [*arguments, "--val", str(val_dir), "--out", str(out)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "PESQ" in result.output

    record = json.loads((out / "evaluation.json").read_text())
    assert list(record["systems"]) == ["noisy", "tiny"]
    assert record["set"] == {"n": 2, "varied": False, "seconds": 5.0, "seed": 2026}
    assert len(record["items"]) == 2
    assert len(record["course_db"]["tiny"]) == 5
    assert all(len(item["course_db"]["noisy"]) == 5 for item in record["items"])
    assert "by second since the start" in (out / "evaluation.md").read_text()
    assert record["summary"]["noisy"]["si_sdr"]["n"] == 2
    assert set(record["gain_over_noisy"]) == {"tiny"}
    assert record["environment"]["python"]
    assert "ovrl" not in record["metrics"]
    assert any("no DNSMOS figures" in note for note in record["notes"])
    assert list(record["cost"]["systems"]) == ["tiny"]
    assert 0.0 < record["cost"]["systems"]["tiny"]["share_of_core"] < 1.0
    assert "| tiny |" in (out / "evaluation.md").read_text()
    assert "% of a core" in (out / "evaluation.md").read_text()
    for name in ("by_snr.png", "by_kind.png", "worst.png", "tradeoff.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")
    sounds = sorted(path.name for path in (out / "listening").glob("000_*/*.flac"))
    assert sounds == ["clean.flac", "noisy.flac", "tiny.flac"]
    assert sf.info(out / "listening" / "000_babble_-5dB" / "tiny.flac").samplerate == 48000

    figures = model_metrics(record, "tiny")
    assert figures["pesq"] == round(record["summary"]["tiny"]["pesq"]["mean"], 2)
    assert figures["si_sdr_gain"] == round(record["gain_over_noisy"]["tiny"]["si_sdr"]["mean"], 1)
    assert "cold_start" in figures
    assert set(figures["noisy"]) == {"pesq", "stoi", "estoi", "si_sdr"}
    assert "2 plain mixtures" in figures["how"]
    with pytest.raises(ConfigError, match="no figures of 'large', only of noisy, tiny"):
        model_metrics(record, "large")

    again = tmp_path / "again"
    arguments = ["--replot", str(out / "evaluation.json"), "--out", str(again)]
    assert CliRunner().invoke(app, arguments, catch_exceptions=False).exit_code == 0
    assert [path.name for path in again.iterdir()] == ["tradeoff.png"]
    assert (again / "tradeoff.png").read_bytes() == (out / "tradeoff.png").read_bytes()
