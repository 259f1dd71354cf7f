"""The music recipe: its data, its figure, its baselines, and a quick run from end to end."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from scipy.io import savemat

from export.data.polyphonic import PianoRolls, Song, chunks, cut_songs, load_set
from export.models import NotePredictor, NotePredictorConfig
from export.recipes import music
from export.recipes.job import DataMissing, RecipeJob
from streamproc.errors import ConfigError

torch.set_num_threads(1)


def make_songs(lengths: list[int], seed: int = 0) -> tuple[Song, ...]:
    rng = np.random.default_rng(seed)
    return tuple((rng.random((n, 88)) < 0.05).astype(np.float32) for n in lengths)


def as_cells(songs: tuple[Song, ...]) -> np.ndarray:
    cells = np.empty((1, len(songs)), object)
    for index, song in enumerate(songs):
        cells[0, index] = song.astype(np.uint8)
    return cells


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "polyphonic"
    path.mkdir()
    content = {name: as_cells(make_songs([50, 30, 41, 60], seed)) for seed, name in
               enumerate(("traindata", "validdata", "testdata"))}  # fmt: skip
    savemat(path / "JSB_Chorales.mat", content)
    return path


def test_sets_are_read_as_they_are(folder: Path) -> None:
    rolls = load_set(folder, "JSB")
    for found, expected in zip(rolls.test, make_songs([50, 30, 41, 60], 2), strict=True):
        assert np.array_equal(found, expected)


def test_what_is_no_set_is_explained(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"Nottingham\.mat: not a MATLAB file with traindata.*\[steps, 88\]"):
        load_set(folder, "Nottingham")
    savemat(folder / "Nottingham.mat", {name: as_cells(make_songs([5])) for name in ("traindata", "validdata")})
    with pytest.raises(ConfigError, match="testdata"):
        load_set(folder, "Nottingham")
    wide = {name: np.zeros((1, 1), object) for name in ("traindata", "validdata", "testdata")}
    for cells in wide.values():
        cells[0, 0] = np.zeros((4, 87), np.uint8)
    savemat(folder / "Nottingham.mat", wide)
    with pytest.raises(ConfigError, match=r"found a roll of shape \[4, 87\]"):
        load_set(folder, "Nottingham")


@pytest.mark.parametrize("longest", [None, 25])
def test_chunks_hold_every_step_once_with_the_one_before_it(longest: int | None) -> None:
    songs = make_songs([70, 9, 33, 40, 1, 55], 3)
    rng = np.random.default_rng(0) if longest else None
    seen: list[bytes] = []
    rows = 0
    for chunk in chunks(songs, batch=3, steps=20, longest=longest, rng=rng):
        assert len(chunk.now) <= 3
        assert chunk.now.shape[1] <= 20
        if not chunk.fresh:
            assert len(chunk.now) <= rows, "songs only leave a batch"
        rows = len(chunk.now)
        seen += [
            np.concatenate([before, now]).tobytes()
            for before, now in zip(chunk.before[chunk.present], chunk.now[chunk.present], strict=True)
        ]
    expected = [
        np.concatenate([song[t - 1] if t else np.zeros(88, np.float32), song[t]]).tobytes()
        for song in songs
        for t in range(len(song))
    ]
    assert sorted(seen) == sorted(expected)


def test_pieces_cover_songs_and_are_short_enough() -> None:
    songs = make_songs([70, 25, 26, 3])
    pieces = cut_songs(songs, 25, np.random.default_rng(0))
    for index, song in enumerate(songs):
        steps = [t for i, start, stop in pieces if i == index for t in range(start, stop)]
        assert steps == list(range(len(song)))
    assert max(stop - start for _, start, stop in pieces) <= 25


def test_the_figure_is_the_sum_over_notes_averaged_over_steps() -> None:
    songs = make_songs([70, 9, 33], 4)
    torch.manual_seed(0)
    model = NotePredictor(NotePredictorConfig("gru", 5)).eval()
    total, n_steps = 0.0, 0
    with torch.no_grad():
        for song in songs:
            before = np.concatenate([np.zeros((1, 88), np.float32), song[:-1]])
            p = model(torch.from_numpy(before)[None])[0][0].double().numpy()
            total += (song * np.log(p) + (1 - song) * np.log(1 - p)).sum()
            n_steps += len(song)
    assert music.evaluate(model, songs) == pytest.approx(total / n_steps, rel=1e-5)


def test_the_baselines_are_right_for_a_process_that_is_known() -> None:
    """Every note stays as it is with probability 0.9: a step is 88 such coins, and on its own 88 fair ones."""
    rng = np.random.default_rng(0)

    def song(n: int) -> Song:
        turns = rng.random((n, 88)) < 0.1
        return (np.cumsum(turns, 0) % 2).astype(np.float32)

    rolls = PianoRolls((song(20_000),), (song(10),), (song(20_000),))
    entropy = -88 * (0.9 * np.log(0.9) + 0.1 * np.log(0.1))
    assert music.first_order(rolls) == pytest.approx(-entropy, rel=0.01)
    assert music.marginal(rolls) == pytest.approx(-88 * np.log(2), rel=0.01)


def test_training_learns_what_can_be_learned() -> None:
    """Song after song the same eight steps: better than both baselines after a few updates."""
    loop = make_songs([8], 5)[0]
    rolls = PianoRolls(*((np.tile(loop, (5, 1)),) * 8 for _ in range(3)))
    plan = music.Plan(lr=2e-2, updates=40, batch=8, steps=40, dropout=0.0, every=20)
    for cell in ("sfm-fixed", "gru"):
        _, result = music.train(rolls, NotePredictorConfig(cell, 24, 12, 4), plan, seed=0)
        assert result["test"] > max(music.first_order(rolls), music.marginal(rolls)) + 1.0


def test_a_quick_run_writes_everything(folder: Path, tmp_path: Path) -> None:
    job = RecipeJob("music", tmp_path / "out", quick=True, data=folder, console=Console(quiet=True))
    report = music.run(job)
    assert len(report.rows) == 1 + len(music.CELLS)
    assert report.rows[0].target == 3
    assert {path.name for path in (tmp_path / "out").iterdir() if path.is_file()} == {
        "amplitudes.png", "music-sfm-fixed.onnx", "music-sfm-fixed.ts", "music-sfm-accumulated.onnx",
        "music-sfm-accumulated.ts",
    }  # fmt: skip
    again = music.run(RecipeJob("music", tmp_path / "out", quick=True, data=folder, minutes=0.0,
                                console=Console(quiet=True)))  # fmt: skip
    assert [row.ours for row in again.rows] == [row.ours for row in report.rows]


def test_missing_data_is_explained(tmp_path: Path) -> None:
    with pytest.raises(DataMissing, match=r"four polyphonic sets \(JSB_Chorales\.mat"):
        music.run(RecipeJob("music", tmp_path, data=tmp_path / "none", console=Console(quiet=True)))
