"""The signal-type recipe: its waves, what a small model learns of them, and a quick run from end to end."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from export.models.wave_classifier import WaveClassifier, WaveClassifierConfig
from export.recipes import signal_type
from export.recipes.job import RecipeJob
from streamproc.backends.loader import load_model
from streamproc.errors import ConfigError

torch.set_num_threads(1)


def test_waves_are_what_they_are_called() -> None:
    waves = signal_type.make_waves(400, 12, np.random.default_rng(0))
    assert (np.diff(waves.times, axis=1) >= 0).all()
    assert waves.times.min() >= 30.0
    assert waves.times.max() <= 60.0
    assert 0.4 < waves.square.mean() < 0.6
    levels = np.abs(waves.values)
    flat = np.ptp(levels, axis=1) < 1e-9
    assert (flat == waves.square).all(), "a square wave has one magnitude, a saw-tooth has not"
    assert levels.max() <= 2.0
    seen = signal_type.inputs(waves, with_time=True).numpy()
    assert seen.shape == (400, 12, 2)
    np.testing.assert_allclose(30.0 + np.cumsum(seen[..., 1], axis=1), waves.times, rtol=1e-5)


def test_a_saw_tooth_rises_at_one_rate_between_its_jumps() -> None:
    waves = signal_type.make_waves(50, 400, np.random.default_rng(1))
    for times, values in zip(waves.times[~waves.square], waves.values[~waves.square], strict=True):
        slopes = np.diff(values) / np.diff(times)
        rising = slopes[slopes > 0]
        assert np.median(np.abs(rising / np.median(rising) - 1.0)) < 1e-6


def test_all_models_are_of_about_the_same_size() -> None:
    for what, config in signal_type.CELLS.items():
        assert 850 <= WaveClassifier(config).n_parameters <= 1200, what


def test_a_small_memory_learns_the_difference() -> None:
    plan = signal_type.Plan(n_train=600, n_test=500, epochs=10, lr=1e-2)
    _, result = signal_type.train(signal_type.CELLS["SFM"], plan, seed=0)
    assert result["accuracy"] > 0.7


def test_a_quick_run_writes_everything(tmp_path: Path) -> None:
    job = RecipeJob("signal-type", tmp_path, quick=True, console=Console(quiet=True))
    report = signal_type.run(job)
    assert [row.what for row in report.rows[2:]] == [
        f"{what} ({WaveClassifier(config).n_parameters} parameters), values alone"
        for what, config in signal_type.CELLS.items()
    ]
    names = {path.name for path in tmp_path.iterdir() if path.is_file()}
    assert names == {"waves.png", "accuracy.png", "signal-type.onnx", "signal-type.ts"}
    assert load_model(tmp_path / "signal-type.onnx").spec.name == "wave-sfm-fixed"


def test_an_unknown_cell_is_refused() -> None:
    with pytest.raises(ConfigError, match="'rnn' is unknown; known are lstm, gru, clockwork, sfm-fixed"):
        WaveClassifier(WaveClassifierConfig("rnn"))
