"""The loop: it learns, stops when told to, and goes on to the bit."""

from __future__ import annotations

import csv
import json
import math
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
import typer
from helpers import write_voices_and_noises
from typer.testing import CliRunner, Result

from export.__main__ import make_app
from export.data.mix_config import MixConfig
from export.losses import LossConfig, _Spectrum, denoising_loss, si_sdr_db
from export.models import load_checkpoint, training_record
from export.run_folder import Progress
from export.train import Optimiser, TrainConfig, fresh_seed, learning_rate, train
from streamproc.errors import ConfigError

RATE = 48_000


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """A run of a few steps of a tiny model on made-up sounds."""
    root = tmp_path_factory.mktemp("train")
    write_voices_and_noises(root, 3)
    return TrainConfig(
        compiled=False,  # half a minute of compiling for seconds of training
        name="tiny", speech=(f"{root}/speech",), noise=(f"{root}/noise",), rooms="", val_speech="",
        cache_dir=f"{root}/cache", runs_dir=f"{root}/runs", model_config={"hidden": 8, "n_low": 16, "n_bands": 4},
        batch=4, steps=6, warmup=2, mix=MixConfig(seconds=0.4), log_seconds=0.0, n_synthetic=0, n_rooms=0,
    )  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Restore torch's threads, which training sets to one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def quiet(_: str) -> None:
    """Take no notice."""


both_optimisers = pytest.mark.parametrize("optimiser", get_args(Optimiser))


@both_optimisers
def test_an_interrupted_run_goes_on_to_the_bit(config: TrainConfig, optimiser: Optimiser) -> None:
    config = replace(config, runs_dir=f"{config.runs_dir}/{optimiser}", optimiser=optimiser)
    straight = train(replace(config, name="straight"), report=quiet)

    def interrupt(line: str) -> None:
        if line.startswith("step 3 "):
            signal.raise_signal(signal.SIGTERM)

    halfway = train(replace(config, name="broken"), report=interrupt)
    assert torch.load(halfway, weights_only=True)["progress"]["step"] == 3
    finished = train(replace(config, name="broken"), report=quiet)
    states = [torch.load(path.with_name("last.pt"), weights_only=True) for path in (straight, finished)]
    assert states[0]["progress"]["step"] == states[1]["progress"]["step"] == 6
    for part in ("weights", "ema"):
        for name, tensor in states[0][part].items():
            assert torch.equal(tensor, states[1][part][name]), name
    with finished.with_name("log.csv").open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert [int(row["step"]) for row in rows] == [1, 2, 3, 4, 5, 6]


@both_optimisers
def test_the_loss_falls_and_the_record_is_complete(config: TrainConfig, optimiser: Optimiser) -> None:
    config = replace(config, runs_dir=f"{config.runs_dir}/{optimiser}", optimiser=optimiser)
    long = replace(config, name="learns", steps=40, lr=1e-2, validate_minutes=0.0)
    path = train(long, report=quiet)
    with path.with_name("log.csv").open(newline="") as lines:
        losses = [float(row["train_loss"]) for row in csv.DictReader(lines) if row["train_loss"]]
    assert np.mean(losses[-8:]) < np.mean(losses[:8]) - 0.05
    stored = torch.load(path, weights_only=True)
    assert stored["train_config"]["batch"] == 4
    assert stored["progress"]["audio_hours"] == pytest.approx(40 * 4 * 0.4 / 3600)
    assert stored["environment"]["torch"] == torch.__version__
    record = json.loads(path.with_name("run.json").read_text())
    assert record["train_config"]["batch"] == 4
    assert record["progress"] == stored["progress"]
    assert record["model_config"]["hidden"] == 8
    told = training_record(path)
    assert (told["run"], told["started_from"], told["steps"]) == ("learns", "random weights", 40)
    torch.save({"weights": {}}, path.with_name("foreign.pt"))
    assert training_record(path.with_name("foreign.pt")) == {}
    # What goes on from there hears mixtures that nobody has heard.
    seeds = [fresh_seed(start) for start in (None, path.with_name("foreign.pt"), path)]
    assert seeds == [1, 1, long.seed + 1]
    with pytest.raises(ConfigError, match=r"foreign\.pt: .*it holds no model"):
        load_checkpoint(path.with_name("foreign.pt"))
    path.with_name("text.pt").write_text("no weights")
    with pytest.raises(ConfigError, match=r"text\.pt: .*torch reads no weights"):
        load_checkpoint(path.with_name("text.pt"))
    model = load_checkpoint(path)
    assert not model.training
    assert model.spec.states[1].shape == (1, 8)
    assert not list(path.parent.glob(".streamproc-*"))


def test_a_run_with_validation_logs_gains_and_draws_its_curves(config: TrainConfig) -> None:
    path = train(
        replace(config, name="checked", steps=2, val_speech=config.speech[0], val_noise=config.noise[0], n_val=2),
        report=quiet,
    )
    with path.with_name("log.csv").open(newline="") as lines:
        last = list(csv.DictReader(lines))[-1]
    assert np.isfinite(float(last["val_loss"]))
    assert np.isfinite(float(last["val_si_sdr_gain"]))
    assert torch.load(path, weights_only=True)["progress"]["figures"]["val_loss"] == pytest.approx(
        float(last["val_loss"]), rel=1e-4
    )
    assert path.with_name("curves.png").stat().st_size > 1000


def test_the_gradient_does_not_depend_on_the_number_of_workers(config: TrainConfig) -> None:
    exact = replace(config, steps=1, reduced_precision=False)
    paths = [train(replace(exact, name=f"w{n}", workers=n), report=quiet) for n in (1, 2)]
    weights = [torch.load(path.with_name("last.pt"), weights_only=True) for path in paths]
    for a, b in zip(*(state["optimiser"]["state"].values() for state in weights), strict=True):
        torch.testing.assert_close(a["exp_avg"], b["exp_avg"], rtol=1e-3, atol=1e-6)


def test_its_own_teacher_has_nothing_to_teach(config: TrainConfig) -> None:
    start = str(train(replace(config, name="start"), report=quiet))
    again = replace(config, steps=1, start=start, reduced_precision=False)

    def gradient_norm(name: str, **teaching: Any) -> float:
        path = train(replace(again, name=name, **teaching), report=quiet)
        with path.with_name("log.csv").open(newline="") as lines:
            return float(next(csv.DictReader(lines))["grad_norm"])

    alone, half, taught = (
        gradient_norm("alone"),
        gradient_norm("half", teacher=start, teacher_share=0.5),
        gradient_norm("taught", teacher=start, teacher_share=1.0),
    )
    assert taught < 1e-3 * alone
    assert half == pytest.approx(0.5 * alone, rel=1e-3)


def test_a_teacher_for_another_rate_is_refused(config: TrainConfig) -> None:
    start = train(replace(config, name="teacher"), report=quiet)
    other = replace(
        config, name="refused", teacher=str(start), mix=MixConfig(sample_rate=16_000, seconds=0.4),
        model_config={**config.model_config, "sample_rate": 16_000},
    )  # fmt: skip
    with pytest.raises(ValueError, match="48000 Hz, the training for 16000"):
        train(other, report=quiet)


@pytest.mark.parametrize("text", ["no weights", "encoding of a text", "left in peace", "I came\n", "", "(("])
def test_whatever_else_is_in_a_file_it_is_no_checkpoint(tmp_path: Path, text: str) -> None:
    file = tmp_path / "notes.txt"
    file.write_text(text)
    for read in (load_checkpoint, training_record, fresh_seed):
        with pytest.raises(ConfigError, match=r"notes\.txt: not a checkpoint of this project's training"):
            read(file)
    with pytest.raises(ConfigError, match=r"none\.pt cannot be read: No such file"):
        load_checkpoint(tmp_path / "none.pt")


@pytest.mark.parametrize("device", ["foo", "cuda:99", "meta", ""])
def test_a_device_that_is_not_there_is_refused_before_anything_is_opened(
    config: TrainConfig, tmp_path: Path, device: str
) -> None:
    with pytest.raises(ConfigError, match=f"torch cannot compute on device '{device}' here; use cpu"):
        train(replace(config, runs_dir=str(tmp_path / "runs"), device=device), report=quiet)
    assert not (tmp_path / "runs").exists()


def test_a_run_goes_on_only_with_its_own_model(config: TrainConfig) -> None:
    short = replace(config, name="other", steps=1)
    log = train(short, report=quiet).with_name("log.csv")
    before = log.read_bytes()
    wide = replace(short, model_config={**config.model_config, "hidden": 12, "name": "wide"})
    with pytest.raises(
        ConfigError, match=r"last\.pt is of another model \(name 'denoise', not 'wide', hidden 8, not 12"
    ):
        train(wide, report=quiet)
    assert log.read_bytes() == before
    assert train(wide, resume=False, report=quiet).is_file()


@pytest.mark.parametrize("stored", [{"weights": {}}, {"format": 2, "model": "GruDenoiser", "weights": {}}])
def test_a_run_does_not_go_on_from_something_else(config: TrainConfig, stored: dict[str, Any]) -> None:
    path = train(replace(config, name="damaged", steps=1), report=quiet).with_name("last.pt")
    torch.save(stored, path)
    with pytest.raises(ConfigError, match=r"last\.pt holds nothing that this training can go on from: "):
        train(replace(config, name="damaged", steps=1), report=quiet)
    path.unlink()


def test_a_run_does_not_go_on_with_another_optimiser(config: TrainConfig) -> None:
    for one, other in (("adamw", "soap"), ("soap", "adamw")):
        run = replace(config, name=f"begun-with-{one}", steps=1)
        train(replace(run, optimiser=one), report=quiet)
        with pytest.raises(ConfigError, match=r"last\.pt holds nothing .*what the optimiser remembers"):
            train(replace(run, optimiser=other, steps=2), report=quiet)


def test_an_unknown_optimiser_is_refused() -> None:
    with pytest.raises(ValueError, match="optimiser 'sgd' is unknown; known are adamw, soap"):
        TrainConfig(steps=1, optimiser="sgd")  # type: ignore[arg-type]


def test_what_a_stored_run_does_not_know_yet_does_not_keep_it_from_going_on(config: TrainConfig) -> None:
    path = train(replace(config, name="old", steps=1), report=quiet).with_name("last.pt")
    stored = torch.load(path, weights_only=True)
    del stored["model_config"]["n_frequencies"]
    torch.save(stored, path)
    said: list[str] = []
    train(replace(config, name="old", steps=2), report=said.append)
    assert said[0].startswith("resumed")


def test_learning_rate_warms_up_and_falls_along_steps_or_minutes() -> None:
    by_steps = TrainConfig(steps=1000, warmup=100, lr=1.0, final_lr=0.1)
    assert learning_rate(by_steps, Progress(0)) == pytest.approx(0.01)
    assert learning_rate(by_steps, Progress(500)) == pytest.approx(0.55)
    assert learning_rate(by_steps, Progress(1000)) == pytest.approx(0.1)
    by_minutes = TrainConfig(minutes=10, warmup=0, lr=1.0, final_lr=0.1)
    assert learning_rate(by_minutes, Progress(7, seconds=300)) == pytest.approx(0.55)
    with pytest.raises(ValueError, match="either steps or minutes"):
        TrainConfig()


@pytest.mark.parametrize("value", [0, -5, math.nan, math.inf])
@pytest.mark.parametrize("name", ["steps", "minutes"])
def test_a_run_that_would_never_end_is_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} is {value}; a run ends after a number of {name} above 0"):
        TrainConfig(**{name: value})


# --- the command ----------------------------------------------------------------------------------------------------

Run = Callable[..., Result]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """``python -m export train`` where nothing of ../shared is there; prints the folders instead of training."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def show(config: TrainConfig, **_: Any) -> None:
        typer.echo(f"rooms {config.rooms!r} speech {config.val_speech!r} noise {config.val_noise!r}")

    monkeypatch.setattr("export.train.train", show)
    return lambda *arguments: CliRunner().invoke(make_app(), ["train", "--name", "x", "--steps", "1", *arguments])


def test_default_folders_that_are_missing_are_told_and_done_without(command: Run, tmp_path: Path) -> None:
    result = command()
    assert result.exit_code == 0, result.output
    assert result.stdout == "rooms '' speech '' noise ''\n"
    assert result.stderr.splitlines() == [
        "note: ../shared/data/rir is not there (--rooms takes another folder): rooms are simulated ones alone",
        "note: ../shared/data/val/speech is not there (--val-speech takes another folder): nothing is validated",
    ]
    (tmp_path / "shared/data/rir").mkdir(parents=True)
    assert "--rooms" not in command().stderr


def test_folders_of_ones_own_are_taken(command: Run, tmp_path: Path) -> None:
    own = [str(tmp_path / name) for name in ("rooms", "speech", "noise")]
    for folder in own:
        Path(folder).mkdir()
    result = command("--rooms", own[0], "--val-speech", own[1], "--val-noise", own[2])
    assert result.stdout == f"rooms {own[0]!r} speech {own[1]!r} noise {own[2]!r}\n"
    assert not result.stderr


@pytest.mark.parametrize(
    ("option", "folder", "message"),
    [
        ("--rooms", "rooom", "--rooms: rooom is not a folder"),
        ("--val-speech", "speeech", "--val-speech: speeech is not a folder"),
        ("--val-noise", "noiiise", "--val-noise: noiiise is not a folder"),
        ("--val-noise", ".", "--val-speech: ../shared/data/val/speech is not a folder"),
        ("--val-speech", ".", "--val-noise: ../shared/data/val/noise is not a folder"),
    ],
)
def test_folders_that_were_asked_for_must_be_there(command: Run, option: str, folder: str, message: str) -> None:
    result = command(option, folder)
    assert result.exit_code == 1
    assert f"error: {message}; give a folder of sound files, or leave out {option}\n" in result.stderr
    assert not result.stdout


@pytest.mark.parametrize("length", [("--minutes", "-1"), ("--minutes", "0")])
def test_a_length_that_is_none_is_refused_on_the_command_line(command: Run, length: tuple[str, str]) -> None:
    result = CliRunner().invoke(make_app(), ["train", "--name", "x", *length])
    assert result.exit_code == 1
    assert f"error: minutes is {length[1]}; a run ends after" in result.stderr


@pytest.mark.parametrize("knee", ["0", "-0.1", "NaN", "Infinity"])
def test_a_loss_without_slopes_is_refused_on_the_command_line(command: Run, knee: str) -> None:
    result = command("--loss", f'{{"knee": {knee}}}')
    assert result.exit_code == 1
    assert "error: knee is" in result.stderr


def loss_of(
    estimate: torch.Tensor, target: torch.Tensor, bandwidth_hz: float = 24_000.0, config: LossConfig | None = None
) -> torch.Tensor:
    has_speech = target.abs().amax(-1) > 0
    rms = torch.full((len(target),), 0.1)
    bandwidth = torch.full((len(target),), bandwidth_hz)
    return denoising_loss(estimate, target, rms, bandwidth, has_speech, RATE, config or LossConfig())


def test_loss_is_finite_with_gradients_for_silence_and_perfection() -> None:
    target = torch.cat([0.1 * torch.randn(2, 8192, generator=torch.Generator().manual_seed(0)), torch.zeros(2, 8192)])
    for estimate in (target.clone(), torch.zeros_like(target), 0.5 * target + 1e-3):
        estimate.requires_grad_()
        loss = loss_of(estimate, target)
        (gradient,) = torch.autograd.grad(loss.sum(), estimate)
        assert torch.isfinite(loss).all()
        assert torch.isfinite(gradient).all()
    assert (loss_of(target, target)[:2] < loss_of(0.5 * target, target)[:2]).all()


def test_a_difference_that_is_twice_as_large_costs_twice_as_much() -> None:
    target = 0.1 * torch.randn(1, 8192, generator=torch.Generator().manual_seed(0))
    spectral_only = LossConfig(snr_weight=0.0, loudness_weight=0.0)
    far, twice_as_far = (loss_of(target * (1 + step) ** (1 / 0.3), target, config=spectral_only) for step in (0.3, 0.6))
    assert 1.9 < float(twice_as_far / far) < 2.3  # squares would make it 4


@pytest.mark.parametrize(("bandwidth_hz", "above_hz"), [(8000.0, 14_000), (4000.0, 7500)], ids=str)
def test_nothing_above_the_bandwidth_counts(bandwidth_hz: float, above_hz: int) -> None:
    time_s = torch.arange(16_384) / RATE
    target = 0.1 * torch.randn(1, 16_384, generator=torch.Generator().manual_seed(0))
    frequency = torch.fft.rfftfreq(16_384, 1 / RATE)
    target = torch.fft.irfft(torch.fft.rfft(target) * (frequency < bandwidth_hz))
    extra = target + 0.05 * torch.sin(2 * torch.pi * above_hz * time_s)
    torch.testing.assert_close(
        loss_of(extra, target, bandwidth_hz), loss_of(target, target, bandwidth_hz), atol=2e-3, rtol=0
    )
    assert loss_of(extra, target) > loss_of(target, target) + 0.05


def test_the_first_sound_counts_as_much_as_any_other() -> None:
    """A cold start begins there: what the loss does not hear, nothing learns."""
    target = 0.1 * torch.randn(1, 16_384, generator=torch.Generator().manual_seed(0))
    costs = []
    for start in (0, 8192):
        estimate = target.clone()
        estimate[:, start : start + 256] = 0.0
        costs.append(float(loss_of(estimate, target) - loss_of(target, target)))
    assert costs[0] > 0.8 * costs[1] > 0.0


def test_weights_that_would_mean_something_else_are_refused(config: TrainConfig) -> None:
    """Files of format 1 have the taps of the filter the other way round, and would load."""
    path = train(replace(config, name="old", steps=1), report=quiet)
    for file in (path, path.with_name("last.pt")):
        stored = torch.load(file, weights_only=True)
        assert stored.pop("format") == 2
        torch.save(stored, file)
    with pytest.raises(ConfigError, match=r"ema\.pt: a checkpoint of format 1, and this version reads 2"):
        load_checkpoint(path)
    with pytest.raises(ConfigError, match=r"last\.pt: a checkpoint of format 1"):
        train(replace(config, name="old", steps=2), report=quiet)


def test_gradient_of_the_spectrum_is_that_of_its_steps() -> None:
    samples = torch.randn(2, 100, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    taper = torch.hann_window(16, dtype=torch.float64)
    for hop in (4, 8, 16):
        assert torch.autograd.gradcheck(partial(_Spectrum.apply, taper=taper, hop=hop), samples)


def test_si_sdr_ignores_scale_and_counts_noise() -> None:
    generator = torch.Generator().manual_seed(0)
    target = torch.randn(1, 48_000, generator=generator)
    noise = torch.randn(1, 48_000, generator=generator)
    assert float(si_sdr_db(0.3 * (target + 0.1 * noise), target)) == pytest.approx(20.0, abs=0.2)
