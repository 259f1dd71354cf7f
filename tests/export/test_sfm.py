"""State-frequency memory: equal to its equations, for any length, in every exported form."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from export.models import StreamableModel, sfm
from export.models.sfm import EPS, SfmCell, rotation
from export.to_onnx import export_onnx
from export.to_torchscript import export_torchscript
from streamproc.errors import ConfigError
from streamproc.spec import ModelSpec

torch.set_num_threads(1)

KINDS = ("fixed", "literal", "accumulated")
N, D, K, M = 3, 5, 4, 2
GRID = [0.3, 1.7, 2.9, 6.1]


def make_cell(kind: str, seed: int = 0, **options: Any) -> SfmCell:
    """A small cell away from its initial weights, with frequencies that are no neat part of a turn."""
    torch.manual_seed(seed)
    cell = SfmCell(N, D, K, M, kind, **{"frequencies": GRID, **options})
    with torch.no_grad():
        for parameter in cell.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return cell


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-x))


def loop_from_the_equations(cell: SfmCell, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """S_t and z_t as they are written: complex numbers and a clock, one sequence, float64.

    The weights' rows are: state forget gate, input gate, frequency forget gate, modulation, output gates frequency by
    frequency, and the frequencies of an adaptive cell.
    """
    weights = {name: value.detach().double().numpy() for name, value in cell.named_parameters()}
    ends = np.cumsum([D, D, K, D, K * M, K if cell.kind != "fixed" else 0])
    v, w, b = (
        dict(zip(("ste", "g", "fre", "i", "o", "w"), np.split(weights[name], ends[:-1]), strict=True))
        for name in ("from_input.weight", "from_output.weight", "from_input.bias")
    )
    s, z, phase = np.zeros((D, K), complex), np.zeros(M), np.zeros(K)
    memories, outputs = [], []
    for t, x_t in enumerate(x, start=1):
        pre = {name: w[name] @ z + v[name] @ x_t + b[name] for name in v}
        f = np.outer(sigmoid(pre["ste"]), sigmoid(pre["fre"]))
        if cell.kind == "fixed":
            phase = np.array(GRID) * t
        elif cell.kind == "literal":
            phase = pre["w"] * t
        else:
            phase = phase + pre["w"]
        s = f * s + np.outer(sigmoid(pre["g"]) * np.tanh(pre["i"]), np.exp(1j * phase))
        a = np.sqrt(s.real**2 + s.imag**2 + EPS)
        z_next = np.zeros(M)
        for k in range(K):
            w_k, u_k = weights["from_amplitude"][k, :, :M].T, weights["from_amplitude"][k, :, M:].T
            o_k = sigmoid(u_k @ a[:, k] + pre["o"][k * M : (k + 1) * M])
            z_next += o_k * np.tanh(w_k @ a[:, k] + weights["output_bias"][k, 0])
        z = z_next
        memories.append(a.T)
        outputs.append(z)
    return np.array(memories), np.array(outputs)


@pytest.mark.parametrize("kind", KINDS)
def test_the_cell_is_its_equations(kind: str) -> None:
    cell = make_cell(kind).double()
    # The literal cell multiplies its frequencies by the clock, and rounding with them: 1e-16 is 1e-4 after 60 steps.
    n_steps = 20 if kind == "literal" else 60
    x = torch.randn(2, n_steps, N, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for with_gradient in (False, True):  # two ways through the loop
        with torch.set_grad_enabled(with_gradient):
            z, *states = cell(x, *(state.double() for state in cell.init_state(2)))
        for channel in range(2):
            amplitude, expected = loop_from_the_equations(cell, x[channel].numpy())
            assert np.abs(expected).max() > 0.3
            np.testing.assert_allclose(z[channel].detach(), expected, atol=1e-6 if kind == "fixed" else 1e-10)
            np.testing.assert_allclose(cell.amplitude(*states)[channel].detach(), amplitude[-1], atol=2e-6)


def test_the_number_of_parameters_is_the_documented_one() -> None:
    for kind in KINDS:
        rows = 3 * D + K + K * M
        expected = rows * (N + M + 1) + K * M * (2 * D + 1) + (K * (N + M + 1) if kind != "fixed" else 0)
        assert make_cell(kind).n_parameters == expected
    # The document's 50 x 4 with one output is its "about 1 k"; with 92 outputs and a readout its "about 139 k".
    assert SfmCell(1, 50, 4, 1).n_parameters + 4 == 882
    assert SfmCell(88, 50, 4, 92).n_parameters + 88 * 93 == 139_834


# --- streaming ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_any_split_of_time_gives_the_same(kind: str) -> None:
    cell = make_cell(kind).eval().requires_grad_(False)
    x = torch.randn(2, 50, N, generator=torch.Generator().manual_seed(2))
    expected, *expected_states = cell(x)
    for sizes in ((1,) * 50, (7, 1, 30, 12), (49, 1)):
        states, pieces = cell.init_state(2), []
        for block in x.split(list(sizes), 1):
            z, *next_states = cell.sequence(block, *states)
            states = tuple(next_states)
            pieces.append(z)
        torch.testing.assert_close(torch.cat(pieces, 1), expected, rtol=0, atol=1e-5)
        for state, other in zip(states, expected_states, strict=True):
            torch.testing.assert_close(state, other, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_used_cell_starts_again_like_a_fresh_one(kind: str) -> None:
    cell, fresh = make_cell(kind), make_cell(kind)
    x = torch.randn(1, 20, N)
    cell(100 * x)
    for found, expected in zip(cell(x), fresh(x), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_the_future_and_other_channels_change_nothing(kind: str) -> None:
    cell = make_cell(kind).requires_grad_(False)
    x = torch.randn(2, 20, N)
    changed = x.clone()
    changed[:, 12:] += 1.0
    changed[1] += 1.0
    assert torch.equal(cell(x)[0][0, :12], cell(changed)[0][0, :12])
    assert not torch.equal(cell(x)[0][0, 12], cell(changed)[0][0, 12])


def drift(n_steps: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Run a memory that forgets nothing, the hardest case: whatever rounding does to it stays.

    Gates are saturated: forget gates open, and the input gate open exactly where x is 1, which is now and then. So S_t
    of the document's recurrence is a sum over the writes, known in float64. Return the amplitudes found and expected
    at the end, and the change of amplitude while nothing is written, over the last half.
    """
    cell = SfmCell(1, 1, 7, 1, frequencies=[2 * np.pi * k / 7 for k in range(1, 8)]).requires_grad_(False)
    cell.from_input.weight.zero_()
    cell.from_output.weight.zero_()
    layout = cell.layout
    cell.from_input.bias[layout.state_forget] = 40.0
    cell.from_input.bias[layout.frequency_forget] = 40.0
    cell.from_input.weight[layout.input_gate] = 80.0
    cell.from_input.bias[layout.input_gate] = -40.0
    cell.from_input.bias[layout.modulation] = 1.0
    writes = np.random.default_rng(0).choice(n_steps // 2, 20, replace=False)
    x = torch.zeros(1, n_steps, 1)
    x[0, writes] = 1.0
    states: tuple[torch.Tensor, ...] = cell.init_state(1)
    half = np.empty(0)
    for number, block in enumerate(x.split(n_steps // 10, 1), start=1):
        _, *next_states = cell.sequence(block, *states)
        states = tuple(next_states)
        if number == 5:
            half = cell.amplitude(*states).numpy().ravel()
    found = cell.amplitude(*states).numpy().ravel()
    cos, sin = cell.turn.double().numpy().reshape(2, 7)
    # The clock of the equations: every write with the phase of its time. Their frequencies, in float64.
    waves = np.exp(1j * np.arctan2(sin, cos)[:, None] * (writes + 1.0)[None])
    expected = np.sqrt(np.abs(np.tanh(1.0) * waves.sum(1)) ** 2 + EPS)
    return found, expected, found / half - 1.0


def test_what_is_held_neither_grows_nor_shrinks() -> None:
    found, expected, change = drift(20_000)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert np.abs(change).max() < 5e-5


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_what_is_held_for_a_million_steps_neither_grows_nor_shrinks() -> None:
    found, expected, change = drift(1_000_000)
    np.testing.assert_allclose(found, expected, rtol=2e-3)
    assert np.abs(change).max() < 1e-3


def test_the_rotation_is_a_rotation() -> None:
    frequencies = np.linspace(0.1, 2 * np.pi - 0.1, 50)
    cos, sin = rotation(list(frequencies)).astype(np.float64)
    rounded = np.exp(1j * frequencies).astype(np.complex64).astype(np.complex128)
    growth, growth_of_rounded = np.abs(cos**2 + sin**2 - 1.0), np.abs(np.abs(rounded) ** 2 - 1.0)
    assert (growth <= growth_of_rounded).all()
    assert np.median(growth) < 0.02 * np.median(growth_of_rounded)
    np.testing.assert_allclose(np.exp(1j * frequencies), cos + 1j * sin, atol=3e-6)
    assert rotation([np.pi / 2, np.pi, 2 * np.pi]).T.tolist() == [[0.0, 1.0], [-1.0, 0.0], [1.0, 0.0]]


# --- gradients ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_the_written_gradient_is_that_of_every_operation(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cell = make_cell(kind).double()
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(2, 7, N, dtype=torch.float64, generator=generator, requires_grad=True)
    states = [0.5 * torch.randn(2, *s.shape, dtype=torch.float64, generator=generator) for s in cell.states]
    wanted = [x, *(state.requires_grad_() for state in states[:2]), *cell.parameters()]

    def gradients() -> tuple[torch.Tensor, ...]:
        results = cell.sequence(x, *states)
        weights = torch.Generator().manual_seed(4)
        loss = sum((r * torch.randn(r.shape, dtype=r.dtype, generator=weights)).sum() for r in results)
        return torch.autograd.grad(loss, wanted)

    written = gradients()

    class EveryOperation:
        apply = staticmethod(sfm._run)

    monkeypatch.setattr(sfm, "_Loop", EveryOperation)
    for found, expected in zip(written, gradients(), strict=True):
        assert expected.abs().max() > 1e-4
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)


def test_an_empty_memory_has_a_gradient() -> None:
    cell = make_cell("fixed")
    with torch.no_grad():
        cell.from_input.bias[cell.layout.modulation] = 0.0  # with x = 0 nothing at all is written
    memory, output = cell.init_state(1)
    z, *_ = cell.sequence(torch.zeros(1, 4, N), memory.requires_grad_(), output)
    z.sum().backward()
    for parameter in (memory, *cell.parameters()):
        assert torch.isfinite(parameter.grad).all()


def test_training_leaves_nothing_behind() -> None:
    """A result that holds what made it would live for ever: gigabytes after some minutes of training."""
    resource = pytest.importorskip("resource")
    torch.manual_seed(0)
    cell = SfmCell(8, 40, 4, 40)

    def peak_after(n_updates: int) -> int:
        for _ in range(n_updates):
            cell(torch.randn(16, 60, 8))[0].sum().backward()
        peak: int = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak

    settled = peak_after(3)
    # One update keeps about 7 MB until it is done; ru_maxrss counts KiB.
    assert peak_after(20) - settled < 40 * 1024


# --- export ---------------------------------------------------------------------------------------------------------


class SfmGain(StreamableModel):
    """A state-frequency memory that looks at a hop of audio and sets its gain."""

    HOP = 16

    def __init__(self, kind: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.cell = SfmCell(self.HOP, 8, 3, 6, kind, frequencies=[0.4, 1.5, 3.0])
        self.gain = torch.nn.Linear(6, 1)
        self.spec = ModelSpec(
            name="sfm-gain", version="0", sample_rate=16_000, hop=self.HOP, io="waveform", window=self.HOP,
            weights_licence="MIT", states=self.cell.states,
        )  # fmt: skip

    def sequence(self, frames: torch.Tensor, *states: torch.Tensor) -> tuple[torch.Tensor, ...]:
        z, *next_states = self.cell.sequence(5.0 * frames, *states)
        return frames * (1.0 + self.gain(z)), *next_states


@pytest.mark.parametrize("kind", ["fixed", "accumulated"])
@pytest.mark.parametrize("form", ["onnx", "ts"])
def test_exported_forms_compute_the_same(kind: str, form: str, tmp_path: Path) -> None:
    module = SfmGain(kind).eval().requires_grad_(False)
    export = {"onnx": export_onnx, "ts": export_torchscript}[form]
    comparisons = export(module, tmp_path / f"a.{form}", 512)
    compared = comparisons["ONNX" if form == "onnx" else "TorchScript"]
    assert set(compared.tensors) == {"audio_out", "memory_out", "output_out"}
    assert all(tensor.scale > 1e-2 for tensor in compared.tensors.values())


# --- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((3, 0, 4, 2), "n_states .* must be at least 1, found 0"),
        ((3, 5, 4, 2, "adaptive"), "fixed, literal or accumulated; found 'adaptive'"),
        ((3, 5, 4, 2, "fixed", [0.1]), "4 frequencies were announced, found 1"),
    ],
)
def test_wrong_cells_are_refused(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SfmCell(*arguments)
