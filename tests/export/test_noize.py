"""The music predictor: its equations, its linear part, its data, its continuation, and the recipe from end to end."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from rich.console import Console
from scipy.linalg import solve_toeplitz

from export.data.music import choose, list_music, open_music, read_tracks, split_music
from export.models import NoizeNet, NoizeNetConfig
from export.models.noize import LinearContinuation, levinson
from export.recipes import find_recipe
from export.recipes.job import DataMissing, RecipeJob
from export.recipes.noize import experiment
from export.recipes.noize.concealing import (
    Method,
    ModelPredictor,
    Playback,
    Repetition,
    draw_misses,
    heard_with_misses,
    log_spectral_distance_db,
)
from export.recipes.noize.continuing import coloured_noise, continue_music, spectral_flatness_db
from export.recipes.noize.training import Recording, Training, TrainingConfig, figures, predict_linearly, predict_with
from export.to_onnx import export_onnx
from export.to_torchscript import export_torchscript
from export.verify import require_parity
from streamproc.backends.loader import load_model
from streamproc.errors import ConfigError

SMALL = NoizeNetConfig(windows=(512, 256), order=8, spacing=2, hidden=12)
RATE = SMALL.sample_rate


def melody(seconds: float, seed: int = 0) -> np.ndarray:
    """Decaying notes of a scale, float32 [frames]."""
    rng = np.random.default_rng(seed)
    t = np.arange(round(0.25 * RATE)) / RATE
    notes = 220.0 * 2 ** (rng.choice([0, 2, 4, 7, 9, 12], round(4 * seconds)) / 12)
    tones = [np.exp(-6 * t) * (np.sin(2 * np.pi * f * t) + 0.3 * np.sin(4 * np.pi * f * t)) for f in notes]
    return (0.4 * np.concatenate(tones)).astype(np.float32)


@pytest.fixture(scope="module")
def model() -> NoizeNet:
    torch.manual_seed(0)
    return NoizeNet(SMALL).eval().requires_grad_(False)


# --- the model ------------------------------------------------------------------------------------------------------


def test_the_documents_lstm_is_pytorchs() -> None:
    """The six equations, written with numpy in the document's names, and `torch.nn.LSTM` over 50 steps."""
    torch.manual_seed(1)
    inputs, hidden = 5, 7
    lstm = torch.nn.LSTM(inputs, hidden).double()
    x = torch.randn(50, inputs, dtype=torch.float64)
    weights = {name: value.detach().numpy() for name, value in lstm.named_parameters()}
    w_ii, w_if, w_ig, w_io = np.split(weights["weight_ih_l0"], 4)
    w_hi, w_hf, w_hg, w_ho = np.split(weights["weight_hh_l0"], 4)
    b_ii, b_if, b_ig, b_io = np.split(weights["bias_ih_l0"], 4)
    b_hi, b_hf, b_hg, b_ho = np.split(weights["bias_hh_l0"], 4)

    def sigma(a: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-a))

    h, c = np.zeros(hidden), np.zeros(hidden)
    outputs = []
    for x_t in x.numpy():
        i = sigma(w_ii @ x_t + b_ii + w_hi @ h + b_hi)
        f = sigma(w_if @ x_t + b_if + w_hf @ h + b_hf)
        g = np.tanh(w_ig @ x_t + b_ig + w_hg @ h + b_hg)
        o = sigma(w_io @ x_t + b_io + w_ho @ h + b_ho)
        c = f * c + i * g
        h = o * np.tanh(c)
        outputs.append(h)
    found, (h_n, c_n) = lstm(x)
    np.testing.assert_allclose(found.detach().numpy(), outputs, atol=1e-12)
    np.testing.assert_allclose(h_n.detach().numpy()[0], h, atol=1e-12)
    np.testing.assert_allclose(c_n.detach().numpy()[0], c, atol=1e-12)


def test_both_files_equal_the_module_and_dropout_stays_off(model: NoizeNet, tmp_path: Path) -> None:
    assert model.config.dropout > 0
    require_parity(export_onnx(model, tmp_path / "noize.onnx", 100))
    require_parity(export_torchscript(model, tmp_path / "noize.ts", 100))
    assert not any(part.training for part in model.modules())


def test_the_past_alone_decides(model: NoizeNet) -> None:
    frames = torch.from_numpy(melody(1.0)).reshape(1, -1, SMALL.hop)
    changed = frames.clone()
    changed[:, 50:] = 0.3
    np.testing.assert_array_equal(model(frames)[0][:, :50], model(changed)[0][:, :50])
    halves = model(frames[:, :33])
    second = model(frames[:, 33:], *halves[1:])
    torch.testing.assert_close(torch.cat([halves[0], second[0]], 1), model(frames)[0], atol=1e-6, rtol=0)


def test_silence_is_predicted_from_silence(model: NoizeNet) -> None:
    assert model(torch.zeros(1, 40, SMALL.hop))[0].abs().max() < 1e-4


@pytest.mark.parametrize(
    "wrong", [{"windows": (500,)}, {"hop": 155}, {"windows": (512, 1024)}, {"order": 300, "spacing": 4}]
)
def test_sizes_that_do_not_fit_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="windows must be multiples of 32"):
        NoizeNetConfig(**wrong)


def test_the_linear_part_solves_the_normal_equations() -> None:
    x = torch.from_numpy(melody(1.0)[:2048].astype(np.float64)) + 0.01 * torch.randn(3, 2048, dtype=torch.float64)
    linear = LinearContinuation((2048, 1024), 64, 4, 160)
    for past, both in zip(x.numpy(), linear(x).numpy(), strict=True):
        for n, found in zip((2048, 1024), both, strict=True):
            rise, fall = np.arange(n - n // 16) / (n - n // 16), 1 - np.arange(n // 16) / (n // 16)
            windowed = past[-n:] * (0.5 - 0.5 * np.cos(np.pi * np.concatenate([rise, fall])))
            r = np.correlate(windowed, windowed, "full")[n - 1 :]
            column = r[:256:4] + np.eye(1, 64)[0] * linear.FLOOR * r[0]
            z = solve_toeplitz(column, past[::-4][:64])
            np.testing.assert_allclose(found, [r[k + 1 : k + 257 : 4] @ z for k in range(160)], atol=1e-6)
    assert linear(torch.zeros(1, 2048)).abs().max() == 0


def test_levinson_solves_toeplitz_systems() -> None:
    rng = np.random.default_rng(0)
    row = np.exp(-np.arange(30) / 5) * np.cos(np.arange(30))
    right = rng.standard_normal((4, 30))
    expected = [solve_toeplitz(row + np.eye(1, 30)[0] * 1e-3, each) for each in right]
    found = levinson(torch.from_numpy(np.tile(row, (4, 1))), torch.from_numpy(right), 1e-3)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-10)


# --- training and measuring -----------------------------------------------------------------------------------------


def test_training_helps_and_goes_on_to_the_same_end(tmp_path: Path) -> None:
    sounds = [melody(3.0, seed).reshape(-1, SMALL.hop) for seed in range(3)]
    recordings = [Recording(hops, predict_linearly(NoizeNet(SMALL).linear, hops)) for hops in sounds]
    config = TrainingConfig(steps=60, batch=6, piece=40, lr=5e-3, validate_every=20)

    def begun() -> Training:
        torch.manual_seed(0)
        return Training(NoizeNet(SMALL), config)

    training = begun()
    training.advance(recordings[:2], recordings[2:], 60, lambda _: None)
    model, curve = training.finish(), training.curve
    assert curve[-1]["validation"] < curve[0]["validation"]
    held_out = [recordings[2].hops]
    ours = figures(held_out, [predict_with(model, recordings[2])])
    assert ours["error_db"] < figures(held_out, [recordings[2].linear[:, 0]])["error_db"]
    assert ours["mse"] < figures(held_out, held_out)["mse"]
    for to_step in (25, 60):  # and once more, put aside in between
        again = begun()
        if to_step == 60:
            again.restore(tmp_path / "training.pt")
        again.advance(recordings[:2], recordings[2:], to_step, lambda _: None)
        again.save(tmp_path / "training.pt")
    assert again.curve == curve
    for name, value in again.finish().state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name


def test_figures_are_of_the_coming_hop() -> None:
    hops = melody(1.0).reshape(-1, 160)
    perfect = np.concatenate([hops[1:], hops[:1]])
    assert figures([hops], [perfect])["mse"] == 0
    silent = figures([hops], [0 * hops])
    assert silent["error_db"] == pytest.approx(0.0, abs=1e-9)
    assert silent["mse"] == pytest.approx(float(np.mean(hops[1:].astype(np.float64) ** 2)))
    assert figures([hops], [perfect + 0.1])["mbe"] == pytest.approx(0.1, abs=1e-6)


# --- data -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like the Free Music Archive's: mp3 in numbered folders, one broken, and tracks.csv beside it."""
    root = tmp_path_factory.mktemp("archive")
    rows = []
    splits = ["training"] * 3 + ["validation", "test"]
    for number, split in enumerate(splits, 2):
        path = root / "fma_small" / "000" / f"{number:06d}.mp3"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, melody(2.6, number), RATE)
        rows.append([str(number), split, "Hip-Hop" if number % 2 else "Folk"])
    (root / "fma_small" / "000" / "000099.mp3").write_bytes(b"this is not music" * 50)
    (root / "fma_metadata").mkdir()
    with (root / "fma_metadata" / "tracks.csv").open("w", newline="") as out:
        writer = csv.writer(out)
        writer.writerows([["", "set", "track"], ["", "split", "genre_top"], ["track_id", "", ""], *rows])
    return root / "fma_small"


def test_the_free_music_archive_is_read_with_genres_and_splits(archive: Path, tmp_path: Path) -> None:
    clips = {clip.path.stem: clip for clip in list_music(archive)}
    assert (clips["000002"].category, clips["000003"].category) == ("Folk", "Hip-Hop")
    assert clips["000099"].source == "unlisted"
    music = open_music(archive, tmp_path, RATE)
    assert len(music) == 5
    assert [Path(name).name for name in music.broken] == ["000099.mp3"]
    assert split_music(music) == {"training": [0, 1, 2], "validation": [3], "test": [4]}
    assert open_music(archive, tmp_path, RATE).broken == music.broken, "known from the cache too"


def test_of_a_large_folder_a_part_is_taken_by_chance_that_can_be_repeated(archive: Path, tmp_path: Path) -> None:
    clips = list_music(archive)
    assert choose(clips, 10.0) == clips
    assert len(choose(clips, 0.1)) < len(clips)
    assert choose(clips, 0.1, seed=1) == choose(clips, 0.1, seed=1)
    assert len({tuple(choose(clips, 0.1, seed)) for seed in range(9)}) > 1
    seconds = open_music(archive, tmp_path, RATE, minutes=0.1).hours * 3600
    assert 6.0 <= seconds < 6.0 + 2.8


def test_any_folder_is_split_by_recording_and_by_chance_that_can_be_repeated(tmp_path: Path) -> None:
    for number in range(10):
        soundfile.write(tmp_path / f"{number}.wav", melody(0.5, number), RATE)
    music = open_music(tmp_path, tmp_path / "cache", RATE)
    parts = split_music(music, seed=3)
    assert {name: len(clips) for name, clips in parts.items()} == {"training": 6, "validation": 2, "test": 2}
    assert sorted(clip for clips in parts.values() for clip in clips) == list(range(10))
    assert split_music(music, seed=3) == parts
    assert split_music(music, seed=4) != parts


def test_data_that_cannot_serve_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tracks.csv").write_text("a,b\nc,d\n")
    with pytest.raises(ValueError, match="genre_top"):
        read_tracks(tmp_path / "tracks.csv")
    (tmp_path / "tracks.csv").unlink()
    (tmp_path / "a.wav").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="1 files cannot be decoded"):
        open_music(tmp_path, tmp_path / "cache", RATE)
    soundfile.write(tmp_path / "b.wav", melody(0.5), RATE)
    with pytest.raises(ValueError, match="at least five"):
        split_music(open_music(tmp_path, tmp_path / "cache", RATE))
    with pytest.raises(DataMissing, match="at least five"):
        find_recipe("noize").load()(quick_job(tmp_path / "out", tmp_path))


# --- continuing -----------------------------------------------------------------------------------------------------


def test_a_continuation_can_be_repeated_and_chance_can_be_left_out(model: NoizeNet) -> None:
    prompt = melody(1.0)
    calm = continue_music(model, prompt, 0.5, temperature=0.0)
    assert len(calm) == RATE // 2
    np.testing.assert_array_equal(calm, continue_music(model, prompt, 0.5, temperature=0.0, seed=5))
    wild = continue_music(model, prompt, 0.5, seed=1)
    np.testing.assert_array_equal(wild, continue_music(model, prompt, 0.5, seed=1))
    assert not np.array_equal(wild, continue_music(model, prompt, 0.5, seed=2))
    assert np.isfinite(wild).all()
    assert np.abs(wild).max() <= 1.0


def test_the_level_of_a_continuation_stays(model: NoizeNet) -> None:
    prompt = 0.2 * melody(1.0)
    last = continue_music(model, prompt, 6.0)[-RATE:]
    assert abs(10 * np.log10(np.mean(last**2) / np.mean(prompt**2))) < 6


@pytest.mark.parametrize(
    ("wrong", "words"),
    [({"temperature": -1.0}, "temperature"), ({"seconds": 0.0}, "seconds"), ({"prompt": np.zeros(3)}, "prompt")],
)
def test_continuations_that_cannot_be_are_refused(model: NoizeNet, wrong: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        continue_music(model, **{"prompt": melody(0.5), "seconds": 1.0, **wrong})  # type: ignore[arg-type]


def test_chance_has_the_colour_of_the_past() -> None:
    past = np.convolve(np.random.default_rng(0).standard_normal(4096), np.ones(8) / 8, "same").astype(np.float32)
    noise = coloured_noise(past, 20_000, np.random.default_rng(1))
    assert np.mean(noise**2) == pytest.approx(1.0, rel=0.15)
    power = np.abs(np.fft.rfft(noise)) ** 2
    assert power[:1000].mean() > 30 * power[-1000:].mean()


def test_flatness_tells_noise_from_tones() -> None:
    noise = np.random.default_rng(0).standard_normal(20_000).astype(np.float32)
    assert spectral_flatness_db(noise) == pytest.approx(-2.5, abs=0.2)
    assert spectral_flatness_db(melody(1.0)) < -20


# --- concealing -----------------------------------------------------------------------------------------------------


def test_what_fills_misses_is_heard_where_they_are_and_nowhere_else() -> None:
    clean = melody(1.0)
    missed = draw_misses(100, 0.2, seed=1)
    assert not missed[:20].any()
    assert missed.any()
    repetition = Method("repetition", "predict", Repetition)
    heard = heard_with_misses(repetition, Playback(np.pad(clean, (0, 160))), 0 * clean, RATE, 160, missed)
    near = np.repeat(missed, 160)
    near |= np.concatenate([np.zeros(80, bool), near[:-80]])  # and the 5 ms after them
    np.testing.assert_array_equal(heard[~near], clean[~near])
    first = int(np.flatnonzero(missed)[0]) * 160
    np.testing.assert_allclose(heard[first + 80 : first + 160], clean[first - 80 : first], atol=1e-6)


def test_the_models_predictor_goes_on_hop_by_hop(model: NoizeNet, tmp_path: Path) -> None:
    """As the module does when it hears its own predictions; also where a block ends within a hop."""
    export_onnx(model, tmp_path / "noize.onnx", 100)
    predictor = ModelPredictor(load_model(tmp_path / "noize.onnx"))
    predictor.prepare(RATE, 1, 200)
    sound = melody(0.5)
    for start, stop in ((0, 200), (200, 201), (201, 4000), (4000, 4050)):
        predictor.hear(sound[None, start:stop])
    out = np.empty((1, 400), np.float32)
    predictor.predict(out)
    frames = torch.from_numpy(sound[:4000]).reshape(1, -1, 160)
    prediction, *states = model(frames)
    hops = [prediction[:, -1]]
    for _ in range(2):
        following, *states = model(hops[-1].unsqueeze(1), *states)
        hops.append(following[:, -1])
    np.testing.assert_allclose(out[0], torch.cat(hops, 1)[0, 50:450].numpy(), atol=1e-5)
    once_more = np.empty_like(out)
    predictor.predict(once_more)
    np.testing.assert_array_equal(once_more, out)


def test_the_spectral_distance_knows_equal_louder_and_holes() -> None:
    x = (0.1 * np.random.default_rng(0).standard_normal(RATE)).astype(np.float32)
    assert log_spectral_distance_db(x, x, RATE) == 0
    assert log_spectral_distance_db(x, 0.5 * x, RATE) == pytest.approx(6.02, abs=0.01)
    hole = x.copy()
    hole[4000:4160] = 0
    assert 0 < log_spectral_distance_db(x, hole, RATE) < 3


# --- the recipe -----------------------------------------------------------------------------------------------------


def quick_job(out: Path, data: Path) -> RecipeJob:
    return RecipeJob("noize", out, quick=True, data=data, console=Console(quiet=True))


def test_the_recipe_runs_and_goes_on(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experiment, "VALIDATION", tmp_path / "no speech here")
    run = find_recipe("noize").load()
    report = run(quick_job(tmp_path, archive))
    assert {"noize.onnx", "noize.ts", "continuation.wav", "continuation.png", "prompt.wav", "noize.png"} <= {
        path.name for path in tmp_path.iterdir()
    }
    assert soundfile.info(tmp_path / "continuation.wav").duration == 1.0
    assert any("1 files broken" in note for note in report.notes)
    assert all(row.verdict in ("hit", "missed") for row in report.rows)
    weights = (tmp_path / "weights" / "noize.pt").read_bytes()
    monkeypatch.setattr(experiment.Training, "advance", None)  # what is done is not done again
    again = experiment.Experiment(quick_job(tmp_path, archive))
    again.train()
    assert again.measure()["test"]["noize"]["mse"] == report.rows[0].ours
    assert (tmp_path / "weights" / "noize.pt").read_bytes() == weights
