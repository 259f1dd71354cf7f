"""`streamproc view` and the pictures of sound behind it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from commands import Run, tree
from helpers import noise

from streamproc import plots
from streamproc.errors import AudioFileError, BackendUnavailable
from streamproc.plots import MAX_COLUMNS, overview, save_comparison


def write(path: Path, x: np.ndarray, sample_rate: int = 48_000) -> Path:
    soundfile.write(path, x, sample_rate, subtype="FLOAT")
    return path


def test_a_picture_beside_the_file(run: Run, tmp_path: Path) -> None:
    sound = write(tmp_path / "take $1_[b]_音.wav", noise(2, 24_000).T)
    result = run("view", sound)
    assert result.exit_code == 0
    assert result.stdout.strip() == str(sound.with_suffix(".png"))
    assert sound.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert run("view", sound, "--quiet").output == ""
    assert run("view", sound, "--out", tmp_path / "b.jpg").exit_code == 2
    assert tree(tmp_path) == sorted([sound.name, sound.with_suffix(".png").name])


def test_what_cannot_be_read_or_written(run: Run, tmp_path: Path) -> None:
    sound = write(tmp_path / "a.wav", noise(1, 1000).T)
    for source, out, words in (
        (tmp_path / "missing.wav", tmp_path / "a.png", "does not exist"),
        (tmp_path, tmp_path / "a.png", "is a folder"),
        (sound, tmp_path / "missing" / "a.png", "No such file"),
    ):
        result = run("view", source, "--out", out)
        assert result.exit_code == 2
        assert words in result.stderr
    assert tree(tmp_path) == ["a.wav"]


def test_without_matplotlib_the_extra_is_named(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sound = write(tmp_path / "a.wav", noise(1, 1000).T)
    monkeypatch.setattr(plots, "find_spec", lambda _: None)
    result = run("view", sound)
    assert result.exit_code == 2
    assert "pip install 'streamproc[plot]'" in result.stderr
    with pytest.raises(BackendUnavailable):
        save_comparison(sound, sound, tmp_path / "a.png")
    result = run("denoise", sound, tmp_path / "b.wav", "--model", "none", "--highpass", 20, "--plot")
    assert result.exit_code == 2
    assert not (tmp_path / "b.wav").exists()


def test_a_sine_at_full_scale_has_level_zero_at_its_place(tmp_path: Path) -> None:
    t = np.arange(96_000) / 48_000
    sound = overview(write(tmp_path / "a.wav", np.sin(2 * np.pi * 3000.0 * t)))
    column = len(sound.power) // 2
    bins_hz = np.linspace(0, 24_000, sound.spectrum.shape[1])
    peak = int(sound.spectrum[column].argmax())
    assert bins_hz[peak] == pytest.approx(3000.0, abs=24.0)
    assert 10 * np.log10(sound.spectrum[column, peak]) == pytest.approx(0.0, abs=0.05)
    assert sound.power[column] == pytest.approx(0.5, rel=1e-2)
    assert (sound.lowest[column], sound.highest[column]) == pytest.approx((-1.0, 1.0), abs=0.02)


@pytest.mark.parametrize("n_frames", [1, 100, 48_000, 1_000_000, 5_000_000])
def test_a_click_is_shown_where_it_is(tmp_path: Path, n_frames: int) -> None:
    """At any length; the columns of a long file are merged, and none is lost."""
    x = np.zeros(n_frames, np.float32)
    click = int(0.7 * n_frames)
    x[click] = 0.5
    sound = overview(write(tmp_path / "a.wav", x))
    assert sound.n_frames == n_frames
    assert len(sound.power) <= MAX_COLUMNS
    column = int(sound.highest.argmax())
    assert sound.highest[column] == 0.5
    assert column == int(click / 48_000 / sound.column_s)
    assert abs(int(sound.spectrum.sum(axis=1).argmax()) - column) <= 1
    total = float(sound.power.sum() * sound.column_s * 48_000)
    assert total == pytest.approx(0.25, rel=0.5 if n_frames < 1000 else 1e-2)


def test_bad_samples_do_not_spoil_a_picture(tmp_path: Path) -> None:
    x = noise(1, 10_000).T
    x[5000:5010] = np.nan
    x[6000], x[7000] = np.inf, 1e30
    sound = overview(write(tmp_path / "a.wav", x))
    assert np.isfinite(sound.spectrum).all()
    assert sound.highest.max() < 1.0


@pytest.mark.parametrize("sample_rate", [1, 4_000])
def test_silence_at_an_odd_rate(run: Run, tmp_path: Path, sample_rate: int) -> None:
    assert run("view", write(tmp_path / "a.wav", np.zeros((2_000, 3)), sample_rate)).exit_code == 0


@pytest.mark.parametrize(("sample_rate", "n_frames"), [(1, 1), (500, 100), (1000, 500), (1400, 900), (2000, 1)])
def test_a_short_file_at_a_low_rate(run: Run, tmp_path: Path, sample_rate: int, n_frames: int) -> None:
    sound = write(tmp_path / "a.wav", noise(1, n_frames).T, sample_rate)
    assert overview(sound).n_frames == n_frames
    assert run("view", sound).exit_code == 0


def test_a_name_that_is_no_text_is_drawn_all_the_same(run: Run, tmp_path: Path) -> None:
    sound = tmp_path / os.fsdecode(b"bad\xff\xfename.wav")
    write(tmp_path / "a.wav", noise(1, 1000).T).rename(sound)
    assert run("view", sound, "--out", tmp_path / "a.png").exit_code == 0
    assert run("denoise", sound, tmp_path / "b.wav", "--model", "none", "--highpass", 20, "--plot").exit_code == 0


def test_a_sound_is_not_replaced_by_its_picture(run: Run, tmp_path: Path) -> None:
    named_like_a_picture = write(tmp_path / "a.wav", noise(1, 1000).T).rename(tmp_path / "sound.png")
    link = tmp_path / "link.wav"
    link.symlink_to(named_like_a_picture)
    before = named_like_a_picture.read_bytes()
    for arguments in ((named_like_a_picture,), (link, "--out", named_like_a_picture)):
        result = run("view", *arguments)
        assert result.exit_code == 2
        assert "would be replaced by its picture" in result.stderr
    assert named_like_a_picture.read_bytes() == before


def test_a_comparison_shows_the_three_views_of_both_on_the_same_scales(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[tuple[str, str]] = []
    for name in ("draw_samples", "draw_envelope", "draw_spectrogram"):
        draw = getattr(plots, name)

        def noted(axes: Any, sound: plots.Overview, *others: Any, name: str = name, draw: Any = draw) -> Any:
            drawn.append((name, sound.name))
            return draw(axes, sound, *others)

        monkeypatch.setattr(plots, name, noted)
    figures: list[Any] = []
    finish = plots._finish
    monkeypatch.setattr(plots, "_finish", lambda figure, *others: (figures.append(figure), finish(figure, *others)))
    quiet, loud = (
        write(tmp_path / "quiet.wav", noise(1, 9000, level=0.01).T),
        write(tmp_path / "loud.wav", noise(1, 9000).T),
    )
    for before, after in ((quiet, loud), (loud, quiet)):
        save_comparison(before, after, tmp_path / "a.png")
    assert len(drawn) == len(set(drawn)) * 2 == 12
    for figure in figures:
        for left, right in np.reshape(figure.axes[:6], (3, 2)):
            assert left.get_ylim() == right.get_ylim()
        assert figure.axes[0].get_ylim()[1] > 0.5  # the louder one fits


def test_a_picture_that_fails_leaves_nothing(tmp_path: Path) -> None:
    sound = write(tmp_path / "a.wav", noise(1, 1000).T)
    with pytest.raises(AudioFileError, match="cannot be written"):
        save_comparison(sound, sound, tmp_path)
    assert tree(tmp_path) == ["a.wav"]
