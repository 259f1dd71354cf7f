"""Leads over peers on recordings that were heard in training and on others."""

from __future__ import annotations

import pickle
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers import write_voices_and_noises

from export.__main__ import main
from export.data.cache import active_rms, open_cache
from export.evaluate.gap import CELLS, DrawnMixtures, tables
from export.evaluate.mixtures import PLAIN_LEVEL_DBFS, MixtureRow, rms
from export.evaluate.runner import Outcome
from export.evaluate.statistics import Results


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> DrawnMixtures:
    root = tmp_path_factory.mktemp("gap")
    write_voices_and_noises(root, 3)
    return DrawnMixtures(3, (root / "speech",), (root / "noise",), root / "cache")


def test_a_mixture_is_its_parts_at_the_level_and_ratio_that_its_row_says(drawn: DrawnMixtures) -> None:
    for mixture in drawn:
        np.testing.assert_allclose(mixture.clean + mixture.noise, mixture.noisy, atol=1e-6)
        level = active_rms(mixture.clean, mixture.sample_rate)
        assert 20 * np.log10(level) == pytest.approx(PLAIN_LEVEL_DBFS, abs=0.3)
        assert 20 * np.log10(level / rms(mixture.noise)) == pytest.approx(mixture.row.snr_db, abs=0.3)


def test_other_processes_draw_the_same_without_being_sent_the_sound(drawn: DrawnMixtures) -> None:
    first = drawn[1]  # after which the sound is open here
    unopened = DrawnMixtures(drawn.n, drawn.speech, drawn.noise, drawn.cache_dir)
    sent = pickle.dumps(unopened)
    assert len(sent) < 1000
    np.testing.assert_array_equal(pickle.loads(sent)[1].noisy, first.noisy)


def test_one_collection_alone_is_drawn_from(drawn: DrawnMixtures) -> None:
    everything = open_cache(drawn.noise, drawn.cache_dir)
    everything.source = ["a", "b", "a"]
    part = everything.from_source("a")
    assert (len(part), part.source) == (2, ["a", "a"])
    np.testing.assert_array_equal(part.read(1), everything.read(2))
    assert len(everything) == 3
    with pytest.raises(ValueError, match="no clip is from 'c'; there are a, b"):
        everything.from_source("c")
    with pytest.raises(ValueError, match="no clip is from 'none'; there are noise"):
        replace(drawn, noise_source="none")
    assert len(replace(drawn, noise_source="noise", seconds=2.0)[0].noisy) == 2 * 48_000


def test_tables_say_how_far_ahead_in_each_cell() -> None:
    def results(ahead: float) -> Results:
        row = MixtureRow(0, 0, "", (), (), "", 0.0, 0.0, None, 16_000)
        peer = {"si_sdr": 10.0, "pesq": 2.0}
        ours = {"si_sdr": 10.0 + ahead, "pesq": 2.0 - ahead}
        return Results([Outcome(row, 0.0, {"ours": ours, "peer": peer}, {}, {})] * 3)

    (table,) = tables(
        {cell: results(lead) for cell, lead in zip(CELLS, (1.0, 0.5, 0.25, 0.0), strict=True)}, ["ours"], ["peer"]
    )
    assert table.rows[0] == ("talkers heard, noises heard", "+1.00 ±0.00", "-1.000 ±0.000")
    assert table.rows[3] == ("talkers new, noises new", "+0.00 ±0.00", "+0.000 ±0.000")


def test_without_a_peer_nothing_is_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["export", "gap", "--against", ""])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 1
    assert "--against is empty" in capsys.readouterr().err


def test_a_folder_that_is_missing_is_named_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["export", "gap", "--model", "denoise", "--speech", str(tmp_path / "none")])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 1
    assert "none is not a folder" in capsys.readouterr().err


def test_the_command_measures_all_four_cells(
    shared_dir: Path, drawn: DrawnMixtures, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (shared_dir / "models/gtcrn_simple.onnx").is_file()
    monkeypatch.chdir(drawn.speech[0].parent)
    arguments = "gap --model denoise --against gtcrn --speech speech --noise noise --val . --n 2 --jobs 1"
    monkeypatch.setattr(sys, "argv", ["export", *arguments.split()])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 0
    assert "talkers new, noises heard" in capsys.readouterr().out
