"""LSTM, GRU and clockwork cells on the streaming base, and the note predictor around every cell."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from export.models import (
    NotePredictor,
    NotePredictorConfig,
    StreamingModule,
    WaveClassifier,
    WaveClassifierConfig,
)
from export.models.clockwork import ClockworkCell
from export.models.gated import GatedCell
from export.to_onnx import export_onnx
from export.to_torchscript import export_torchscript
from streamproc.errors import ConfigError

torch.set_num_threads(1)

CELLS = {
    "lstm": lambda: GatedCell("lstm", 3, 8),
    "gru": lambda: GatedCell("gru", 3, 8),
    "clockwork": lambda: ClockworkCell(3, 8, (1, 2, 4, 8)),
}
PREDICTORS = ("lstm", "gru", "sfm-fixed", "sfm-accumulated")


def make(name: str) -> StreamingModule:
    torch.manual_seed(0)
    return CELLS[name]().eval().requires_grad_(False)


@pytest.mark.parametrize("name", CELLS)
def test_any_split_of_time_gives_the_same(name: str) -> None:
    cell = make(name)
    x = torch.randn(2, 40, 3, generator=torch.Generator().manual_seed(1))
    expected, *expected_states = cell(x)
    for sizes in ((1,) * 40, (7, 1, 20, 12)):
        states: tuple[torch.Tensor, ...] = cell.init_state(2)
        pieces = []
        for block in x.split(list(sizes), 1):
            z, *next_states = cell.sequence(block, *states)
            states = tuple(next_states)
            pieces.append(z)
        torch.testing.assert_close(torch.cat(pieces, 1), expected, rtol=0, atol=1e-5)
        for state, other in zip(states, expected_states, strict=True):
            torch.testing.assert_close(state, other, rtol=0, atol=1e-5)


def test_the_clockwork_keeps_its_hours() -> None:
    cell = make("clockwork")
    z = cell(torch.randn(1, 40, 3))[0][0].numpy().reshape(40, 4, 2)
    for group, period in enumerate((1, 2, 4, 8)):
        for t in range(1, 40):
            moved = not np.array_equal(z[t, group], z[t - 1, group])
            assert moved == (t % period == 0)


def test_slow_groups_do_not_hear_fast_ones() -> None:
    cell = make("clockwork")
    hidden, clock = cell.init_state(1)
    other = hidden.clone()
    other[:, :2] = 1.0  # the fastest group
    x = torch.zeros(1, 17, 3)
    z, changed = cell.sequence(x, hidden, clock)[0], cell.sequence(x, other, clock)[0]
    assert torch.equal(z[..., 2:], changed[..., 2:])
    assert not torch.equal(z[..., :2], changed[..., :2])


def test_the_number_of_parameters_is_the_documented_one() -> None:
    assert make("clockwork").n_parameters == 8 * 8 * 5 // (2 * 4) + 8 * 4
    assert sum(p.numel() for p in make("lstm").parameters()) == 4 * 8 * (3 + 8 + 2)
    for cell, n_outputs in (("lstm", 139), ("gru", 164), ("sfm-fixed", 92), ("sfm-accumulated", 92)):
        n = sum(p.numel() for p in NotePredictor(NotePredictorConfig(cell, n_outputs)).parameters())
        assert abs(n - 139_000) < 2_000, cell


@pytest.mark.parametrize("cell", PREDICTORS)
@pytest.mark.parametrize("form", ["onnx", "ts"])
def test_every_exported_predictor_computes_the_same(cell: str, form: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = NotePredictor(NotePredictorConfig(cell, n_outputs=9, n_states=6, n_frequencies=3)).eval()
    with torch.no_grad():
        model.readout.bias.zero_()
        for weight in model.cell.parameters():
            weight *= 2.0
    export = {"onnx": export_onnx, "ts": export_torchscript}[form]
    compared = export(model.requires_grad_(False), tmp_path / f"a.{form}", 512)
    tensors = compared["ONNX" if form == "onnx" else "TorchScript"].tensors
    assert set(tensors) == {"audio_out", *(f"{state.name}_out" for state in model.states)}
    assert all(tensor.scale > 1e-3 for tensor in tensors.values())


def test_the_literal_cell_is_not_exported(tmp_path: Path) -> None:
    for model in (
        NotePredictor(NotePredictorConfig("sfm-literal", 4, 3, 2)),
        WaveClassifier(WaveClassifierConfig("sfm-literal")),
    ):
        with pytest.raises(ConfigError, match=r"clock that grows.*Use the accumulated one"):
            export_onnx(model.eval(), tmp_path / "a.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("make_wrong", "message"),
    [
        (lambda: ClockworkCell(1, 9, (1, 2)), "9 units cannot be shared among 2 periods"),
        (lambda: ClockworkCell(1, 8, (1, 3, 4, 8)), r"each a part of the last.*\[1, 3, 4, 8\]"),
        (lambda: ClockworkCell(1, 8, ()), "periods must rise"),
        (lambda: NotePredictor(NotePredictorConfig("sfm")), "'sfm' is unknown; known are lstm, gru, sfm-fixed"),
    ],
)
def test_wrong_cells_are_refused(make_wrong: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_wrong()
