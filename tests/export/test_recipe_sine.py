"""The sine recipe: its data and bound, the fused training layer, the near-identity start, streaming, and refusals."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from export.models import (
    BidirectionalSampleDenoiser,
    SampleDenoiser,
    SampleDenoiserConfig,
    load_checkpoint,
    save_checkpoint,
)
from export.models.fused import run_layers
from export.models.sine import NetStack, SampleNet
from export.offline import export_offline
from export.recipes.job import RecipeJob
from export.recipes.metrics import mean_absolute_error
from export.recipes.sine import run
from export.recipes.sine.data import NOISE, PERIOD, best_possible, hide_targets, make_waves, waves_of
from export.recipes.sine.measuring import denoise, per_position
from export.recipes.sine.plans import Plan
from export.recipes.sine.training import Training, build
from export.target import ExportError, load_target
from export.to_onnx import export_onnx
from export.to_torchscript import export_torchscript
from export.verify import compare, require_parity
from streamproc import Engine, load
from streamproc.backends.loader import load_model
from streamproc.cli import main as streamproc_main
from streamproc.errors import ConfigError, ModelFileError

CELLS = ("rnn", "gru")
REFUSAL = r"bidirectional cannot run as a stream.*backwards from the last sample.*Use `sine`, the causal model"


# --- data -----------------------------------------------------------------------------------------------------------


def test_waves_are_sines_of_60_samples_in_bounded_noise() -> None:
    noisy, clean = make_waves(300, (0, 0))
    assert noisy.shape == clean.shape == (100, 300)
    torch.testing.assert_close(clean[PERIOD:], clean[:-PERIOD], atol=1e-6, rtol=0)
    error = noisy - clean
    assert error.abs().max() <= NOISE + 1e-6
    assert error.abs().mean() == pytest.approx(NOISE / 2, rel=0.02)
    # Offsets 0 to 100: those from 60 on repeat the phases of 0 to 40, and no other phase occurs.
    offsets = {int(k) for k in torch.round(torch.asin(clean[0].clamp(-1, 1)) / (2 * np.pi / PERIOD)).tolist()}
    assert offsets <= set(range(-15, 16))
    assert not torch.equal(make_waves(5, (0, 0))[0], make_waves(5, (0, 1))[0])


def test_no_estimate_beats_the_bound() -> None:
    noisy, clean = make_waves(1000, (3, 0))
    whole, causal = best_possible(noisy, causal=False), best_possible(noisy, causal=True)
    assert per_position(whole, clean).max() < 1e-3  # a hundred samples leave one of 60 sines, nearly always
    error = per_position(causal, clean)
    assert (np.diff(error[:20:4]) < 0).all()
    # It uses nothing that comes later, and knows at the end what the other knows everywhere.
    np.testing.assert_array_equal(best_possible(noisy[:30], causal=True), causal[:30])
    np.testing.assert_allclose(causal[-1], whole[-1])
    # Estimates that are as good as they look have more error: the input itself, and the middle of what is possible.
    assert error.mean() < per_position(noisy, clean).mean() / 10
    first = noisy[0].clamp(-1, 1).numpy()
    assert error[0] <= np.abs(first - clean[0].numpy()).mean() + 0.005


# --- the fused layer ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("layer", [nn.RNN, nn.GRU])
def test_fused_layers_are_torchs_own_for_every_network(layer: type[nn.RNN] | type[nn.GRU], reverse: bool) -> None:
    torch.manual_seed(1)
    steps, inputs, hidden, items, networks = 7, 3, 5, 4, 2
    layers = [layer(inputs, hidden, bidirectional=True).double() for _ in range(networks)]
    names = [name for name, _ in layers[0].named_parameters() if name.endswith("_reverse") == reverse]
    stacked = {
        name: torch.stack([net.get_parameter(name).detach() for net in layers]).requires_grad_() for name in names
    }
    x = torch.randn(steps, networks, inputs, items, dtype=torch.float64)
    out = run_layers(stacked, x, reverse)
    wanted = torch.randn_like(out)
    (out * wanted).sum().backward()
    for k, net in enumerate(layers):
        both, _ = net(x[:, k].transpose(1, 2))
        expected = both[..., hidden:] if reverse else both[..., :hidden]
        torch.testing.assert_close(out[:, k].transpose(1, 2), expected)
        (expected * wanted[:, k].transpose(1, 2)).sum().backward()
        for name in names:
            torch.testing.assert_close(stacked[name].grad[k], net.get_parameter(name).grad, msg=name)


def test_fused_layers_refuse_what_they_cannot_do() -> None:
    def stacked(layer: nn.Module) -> dict[str, Tensor]:
        return {name: value.detach().unsqueeze(0) for name, value in layer.named_parameters()}

    x = torch.zeros(3, 1, 1, 2)
    with pytest.raises(ConfigError, match="found 4 gates"):
        run_layers(stacked(nn.LSTM(1, 2)), x)
    with pytest.raises(ConfigError, match="bias_ih_l0, bias_hh_l0 missing"):
        run_layers(stacked(nn.GRU(1, 2, bias=False)), x)
    with pytest.raises(ConfigError, match=r"weight_ih_l0_reverse.* missing"):
        run_layers(stacked(nn.GRU(1, 2)), x, reverse=True)
    with pytest.raises(ConfigError, match="gets no gradient"):
        run_layers(stacked(nn.GRU(1, 2)), x.requires_grad_())


@pytest.mark.parametrize("bidirectional", [False, True], ids=["causal", "bidirectional"])
@pytest.mark.parametrize("cell", CELLS)
def test_a_stack_is_its_networks(cell: str, bidirectional: bool) -> None:
    torch.manual_seed(0)
    nets = [SampleNet(cell, 4, bidirectional) for _ in range(3)]
    stack = NetStack(nets)
    x = torch.randn(9, 3, 5)
    for k, net in enumerate(nets):
        torch.testing.assert_close(stack(x)[:, k].T, net(x[:, k].T)[0], atol=1e-6, rtol=1e-5)
    with torch.no_grad():
        for values in stack.parameters.values():
            values += 0.1
    stack.write_back()
    for k, net in enumerate(nets):
        torch.testing.assert_close(stack(x)[:, k].T, net(x[:, k].T)[0], atol=1e-6, rtol=1e-5)


# --- starting near the identity -------------------------------------------------------------------------------------


@pytest.mark.parametrize("bidirectional", [False, True], ids=["causal", "bidirectional"])
@pytest.mark.parametrize("cell", CELLS)
def test_the_start_is_as_near_the_identity_as_a_tanh_head_allows(cell: str, bidirectional: bool) -> None:
    noisy, clean = make_waves(200, (0, 0))
    plain, near = (build(Plan(cell, bidirectional, 1, 1, near_identity=on), 0) for on in (False, True))
    out = denoise([near], noisy.unsqueeze(1))[:, 0]
    least = (noisy.abs() - 1).clamp_min(0)
    assert ((out - noisy).abs() >= least - 1e-6).all()
    assert (out - noisy).abs().mean() <= least.mean() + 0.02
    inside = noisy.abs() < 0.9
    assert (out - noisy).abs()[inside].max() < 0.05
    # Good enough to begin below what the input itself scores; torch's start is far above.
    assert mean_absolute_error(out, clean) < mean_absolute_error(noisy, clean)
    assert mean_absolute_error(denoise([plain], noisy.unsqueeze(1))[:, 0], clean) > 0.5


def test_units_that_are_not_heard_at_first_still_learn() -> None:
    noisy, clean = waves_of(50, [0], 0)
    plan = Plan("gru", True, 3, 50, near_identity=True)
    before, after = build(plan, 0).net, Training(plan, [0]).run(noisy, clean).models[0].net
    for name, value in after.named_parameters():
        assert not torch.equal(value, before.get_parameter(name)), name


# --- training -------------------------------------------------------------------------------------------------------


def test_networks_that_train_side_by_side_do_not_touch_each_other() -> None:
    plan = Plan("gru", False, 4, 20, long=True)
    noisy, clean = waves_of(60, [0, 1], 0)
    together = Training(plan, [0, 1]).run(noisy, clean)
    alone = Training(plan, [1]).run(noisy[:, 1:], clean[:, 1:])
    np.testing.assert_allclose(together.losses[1], alone.losses[0], rtol=1e-4)
    assert together.losses[0] != together.losses[1]


def test_chunks_of_a_batch_add_up_to_its_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = Plan("rnn", False, 3, 40)
    noisy, clean = waves_of(40, [0], 0)
    whole = Training(plan, [0]).run(noisy, clean)
    monkeypatch.setattr("export.recipes.sine.training.CHUNK", 16)
    pieces = Training(plan, [0]).run(noisy, clean)
    np.testing.assert_allclose(whole.losses, pieces.losses, rtol=1e-4)


def test_a_training_goes_on_exactly_where_it_was_saved(tmp_path: Path) -> None:
    plan = Plan("gru", True, 9, 7, long=True)
    noisy, clean = waves_of(30, [0, 1], 0)
    whole = Training(plan, [0, 1]).run(noisy, clean, snapshot_every=2)
    for stop in (3, 5, 5, 9):  # 5 twice: nothing is done, nothing is lost
        piece = Training(plan, [0, 1])
        if stop > 3:
            piece.restore(tmp_path / "t.pt")
        piece.run(noisy, clean, snapshot_every=2, pause=lambda: piece.iteration == stop)  # noqa: B023
        piece.save(tmp_path / "t.pt")
    assert piece.losses == whole.losses
    assert [list(pair) for pair in piece.snapshots] == [list(pair) for pair in whole.snapshots]
    for ours, expected in zip(piece.models, whole.models, strict=True):
        for name, value in expected.state_dict().items():
            assert torch.equal(ours.state_dict()[name], value), name
    other = Training(replace(plan, lr=0.5), [0, 1])
    other.restore(tmp_path / "t.pt")
    assert other.iteration == 0


def test_every_sequence_is_seen_before_one_comes_again() -> None:
    from export.recipes.sine.training import _batches

    batches = _batches(10, 3, seed=0)
    first, second = (torch.cat([next(batches) for _ in range(3)]).tolist() for _ in range(2))
    assert len(set(first)) == len(set(second)) == 9
    assert first != second


def test_missing_targets_need_the_mask() -> None:
    """Masked, training goes on as if nothing were missing; unmasked, the loss is lost, and with MSE the weights too."""
    noisy, clean = waves_of(100, [0], 0)
    target = hide_targets(clean, 0.05, 0)
    assert float(torch.isnan(target).float().mean()) == pytest.approx(0.05, abs=0.01)
    assert torch.equal(target[~torch.isnan(target)], clean[~torch.isnan(target)])
    plan = Plan("gru", False, 25, 100)
    full, masked = (Training(plan, [0]).run(noisy, wanted) for wanted in (clean, target))
    assert masked.losses[0][-1] == pytest.approx(full.losses[0][-1], rel=0.05)
    assert masked.losses[0][-1] < masked.losses[0][0] / 2
    for loss in (nn.functional.l1_loss, nn.functional.mse_loss):
        assert np.isnan(Training(replace(plan, iterations=2), [0]).run(noisy, target, loss).losses[0]).all()
    broken = Training(replace(plan, iterations=1), [0]).run(noisy, target, nn.functional.mse_loss).models[0]
    assert all(torch.isnan(value).all() for value in broken.parameters())


# --- streaming ------------------------------------------------------------------------------------------------------


def awake(cell: str, kind: type = SampleDenoiser, hop: int = 8) -> SampleDenoiser:
    """Make a model away from its initial weights, but not so far that rounding grows from step to step."""
    torch.manual_seed(5)
    model = kind(SampleDenoiserConfig(cell=cell, hop=hop))
    with torch.no_grad():
        for value in model.parameters():
            value += 0.05 * torch.randn_like(value)
    return model.eval().requires_grad_(False)


@pytest.mark.parametrize("cell", CELLS)
def test_the_causal_model_is_the_same_offline_as_torchscript_and_as_onnx(cell: str, tmp_path: Path) -> None:
    model = awake(cell)
    export_onnx(model, tmp_path / "sine.onnx")
    export_torchscript(model, tmp_path / "sine.ts")
    require_parity(compare(model, [tmp_path / "sine.onnx", tmp_path / "sine.ts"], 500))


@pytest.mark.parametrize("hop", [1, 32, 480])
def test_the_hop_changes_no_sample(hop: int) -> None:
    model = awake("gru")
    audio = 0.5 * torch.randn(2, 960, generator=torch.Generator().manual_seed(0))
    expected = model(audio.unsqueeze(1))[0].squeeze(1)
    cut = SampleDenoiser(replace(model.config, hop=hop)).eval()
    cut.load_state_dict(model.state_dict())
    states = cut.init_state(2)
    pieces = []
    with torch.no_grad():
        for frame in audio.split(hop, dim=1):
            out, *states = cut.step(frame, *states)
            pieces.append(out)
    torch.testing.assert_close(torch.cat(pieces, 1), expected, atol=1e-6, rtol=1e-5)


def test_the_exported_model_streams_what_the_network_computes(tmp_path: Path) -> None:
    """Through the engine, in blocks of any size: the network's own numbers, at the level of the sound, one hop late."""
    model = awake("gru")
    path = tmp_path / "sine.onnx"
    export_onnx(model, path)
    noisy, _ = make_waves(1, (0, 0), 4000)
    engine = Engine(load(path), sample_rate=48_000)
    audio = 0.5 * noisy.T.numpy()
    edges = [1, 65, 700, 701, 2222]
    out = np.concatenate([engine.process(block).copy() for block in np.split(audio, edges, axis=1)], axis=1)
    late = engine.latency_samples
    assert late == model.spec.hop - 1
    expected = 0.5 * denoise([model], noisy.unsqueeze(1))[:, 0].T.numpy()
    np.testing.assert_allclose(out[:, late:], expected[:, : out.shape[1] - late], atol=1e-5)


# --- whole signals --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def offline_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("offline") / "sine-bidirectional.onnx"
    export_offline(awake("gru", BidirectionalSampleDenoiser), path)
    return path


def test_a_bidirectional_model_needs_the_last_sample_for_the_first() -> None:
    model = awake("gru", BidirectionalSampleDenoiser)
    audio = 0.5 * torch.randn(1, 50, generator=torch.Generator().manual_seed(0))
    changed = audio.clone()
    changed[:, -1] += 0.5
    assert model(audio)[0, 40] != model(changed)[0, 40]


def test_an_offline_file_runs_on_whole_signals(offline_file: Path) -> None:
    import onnxruntime

    audio = np.random.default_rng(0).uniform(-0.5, 0.5, (3, 333)).astype(np.float32)
    (found,) = onnxruntime.InferenceSession(offline_file).run(None, {"audio": audio})
    expected = awake("gru", BidirectionalSampleDenoiser)(torch.from_numpy(audio))
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)


@pytest.mark.parametrize("export", [export_onnx, export_torchscript])
def test_streaming_exporters_refuse_it_and_leave_nothing_behind(export: object, tmp_path: Path) -> None:
    path = tmp_path / ("x.onnx" if export is export_onnx else "x.ts")
    with pytest.raises(ConfigError, match=REFUSAL):
        export(awake("rnn", BidirectionalSampleDenoiser), path)
    assert not list(tmp_path.iterdir())


def test_the_export_commands_refuse_it_by_name() -> None:
    with pytest.raises(ConfigError, match=REFUSAL):
        load_target("sine-bidirectional")


def test_the_runtime_refuses_its_file(offline_file: Path) -> None:
    with pytest.raises(ModelFileError, match=REFUSAL):
        load_model(offline_file)


@pytest.mark.parametrize("command", [["live"], ["denoise", "in.wav", "out.wav"]], ids=["live", "denoise"])
def test_commands_that_stream_refuse_its_file(
    command: Sequence[str],
    offline_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import soundfile

    monkeypatch.chdir(tmp_path)
    soundfile.write("in.wav", np.zeros(4800), 48_000)
    monkeypatch.setattr("sys.argv", ["streamproc", *command, "--model", str(offline_file)])
    with pytest.raises(SystemExit) as ended:
        streamproc_main()
    assert ended.value.code not in (0, None)
    said = " ".join(capsys.readouterr().err.split())
    assert "cannot run as a stream" in said
    assert "Use `sine`, the causal model" in said
    assert not (tmp_path / "out.wav").exists()


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    save_checkpoint(awake("gru", BidirectionalSampleDenoiser), tmp_path / "w.pt")
    with pytest.raises(ExportError, match="holds a BidirectionalSampleDenoiser, and sine is a SampleDenoiser"):
        load_target("sine", tmp_path / "w.pt")


def test_weights_come_back_as_they_were(tmp_path: Path) -> None:
    model = awake("rnn")
    save_checkpoint(model, tmp_path / "w.pt")
    again = load_checkpoint(tmp_path / "w.pt")
    assert again.config == model.config
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value)


@pytest.mark.parametrize(
    ("fields", "message"), [({"cell": "lstm"}, "'rnn' or 'gru', found 'lstm'"), ({"full_scale": 0.0}, "found 0.0")]
)
def test_a_wrong_configuration_says_what_is_allowed(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SampleDenoiserConfig(**fields)


# --- end to end -----------------------------------------------------------------------------------------------------


def test_the_quick_recipe_runs_from_end_to_end_and_goes_on_where_it_was(tmp_path: Path) -> None:
    job = RecipeJob("sine", tmp_path, quick=True, seeds=(0,), console=Console(quiet=True))
    report = run(job)
    job.finish(report, "python -m export recipe sine --quick", {})
    for name in ("error-by-position.png", "learning-curves.png", "learning.gif", "report.md", "noisy.wav"):
        assert (tmp_path / name).stat().st_size > 0, name
    record = json.loads((tmp_path / "report.json").read_text())
    assert record["models"] == ["sine.onnx", "sine.ts"]
    assert all(share <= 1.0 for share in record["parity"].values())
    # The exported file is the checkpoint beside it, and denoises even after so little training.
    require_parity(compare(load_target("sine", tmp_path / "sine.pt"), [tmp_path / "sine.onnx"], 500))
    streamed = next(row for row in report.rows if "as a file" in row.what)
    assert streamed.ours < NOISE / 2
    again = RecipeJob("sine", tmp_path, quick=True, seeds=(0,), minutes=0.0, console=Console(quiet=True))
    assert [row.ours for row in run(again).rows] == [row.ours for row in report.rows]
