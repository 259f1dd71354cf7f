"""Filters as networks: equal to the filter, exported with their states, running like any model; and learned ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy.signal
import soundfile
import torch
from helpers import noise, run_blocks, varying_blocks
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from typer.testing import CliRunner

from export.models import IirFilter, PedalModel, PedalModelConfig, TanhFilter, load_checkpoint, save_checkpoint
from export.models.iir import LearnedSections, choose_state_dtype, row_length
from export.recipes.iir import pedal, run, training
from export.recipes.job import RecipeJob
from export.target import load_target
from export.to_onnx import export_onnx
from export.to_torchscript import export_torchscript
from streamproc.backends.loader import load_model
from streamproc.bench.cases import hop_suite, pool_suite
from streamproc.cli.app import app
from streamproc.dsp.state_space import StateSpace, normal_form
from streamproc.errors import AudioFileError, ConfigError
from streamproc.live import LiveConfig, LiveEngine
from streamproc.loading import load
from streamproc.processor import Chain
from streamproc.spec import StreamConfig
from streamproc.testing import FakeStream

RATE = 48_000
LOW_PASS = scipy.signal.ellip(7, 0.5, 70, 0.3, output="sos")
SLOW = scipy.signal.butter(4, 2e-4, output="sos")


def learned_pedal() -> PedalModel:
    torch.manual_seed(0)
    model = PedalModel(PedalModelConfig(hidden=4, n_before=2, n_after=1))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape)
    model.settle()
    return model.eval()


MODULES: dict[str, Callable[[], IirFilter | TanhFilter | PedalModel]] = {
    "one product": lambda: IirFilter.from_sections(LOW_PASS, RATE, hop=32),
    "rows": lambda: IirFilter.from_sections(LOW_PASS, RATE, hop=256),
    "slow": lambda: IirFilter.from_sections(SLOW, RATE, hop=192),
    "delay chain": lambda: IirFilter.from_coefficients([1.0, 0.3], [1.0, -1.8, 0.85], RATE),
    "tanh": lambda: TanhFilter.from_coefficients([1.0], training.document_filter(0.995), hop=32),
    "pedal": learned_pedal,
}


def through(model: IirFilter | TanhFilter | PedalModel, x: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return model(torch.from_numpy(x).reshape(x.shape[0], -1, model.spec.hop))[0].flatten(1).numpy()


# --- by construction ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("export", [export_onnx, export_torchscript], ids=["onnx", "ts"])
def test_files_equal_the_module_in_every_output_and_state(name: str, export: Callable, tmp_path: Path) -> None:
    module = MODULES[name]().eval()
    comparisons = export(module, tmp_path / f"filter.{'onnx' if export is export_onnx else 'ts'}")
    for comparison in comparisons.values():
        assert set(comparison.tensors) == {"audio_out", *(f"{state.name}_out" for state in module.spec.states)}
        assert all(tensor.scale > 0 for tensor in comparison.tensors.values())


@given(
    hop=st.sampled_from([1, 31, 64, 128, 160, 192, 509, 1024]),
    order=st.integers(1, 12),
    cutoff=st.floats(0.04, 0.9),
    dtype=st.sampled_from([None, "float64"]),
)
@settings(max_examples=15)
def test_any_hop_is_the_filter(hop: int, order: int, cutoff: float, dtype: str | None) -> None:
    sections = scipy.signal.butter(order, cutoff, output="sos")
    x = noise(2, 4 * hop)
    expected = scipy.signal.sosfilt(sections, x.astype(np.float64))
    y = through(IirFilter.from_sections(sections, RATE, hop=hop, state_dtype=dtype), x)
    assert np.abs(y - expected).max() <= 3e-6 * np.abs(x).max()


def test_rows_divide_the_hop() -> None:
    for hop in range(1, 2049):
        row = row_length(hop)
        assert hop % row == 0
        assert row == hop or 32 <= row <= 128


def test_the_state_is_as_wide_as_it_must_be() -> None:
    """Where float32 is chosen it holds; where it is not, it would have failed."""
    x = noise(1, RATE)
    for sections, dtype in ((LOW_PASS, "float32"), (SLOW, "float64")):
        assert choose_state_dtype(normal_form(sections)) == dtype
        expected = scipy.signal.sosfilt(sections, x.astype(np.float64))
        error = np.abs(through(IirFilter.from_sections(sections, RATE), x) - expected).max()
        assert error <= 2e-6 * np.abs(expected).max()
    notch = scipy.signal.cheby2(1, 60, [0.04, 0.052], "bandstop", output="sos")
    x = np.clip(x + 0.5, -1.0, 1.0).astype(np.float32)
    expected = scipy.signal.sosfilt(notch, x.astype(np.float64))
    errors = {
        dtype: np.abs(through(IirFilter.from_sections(notch, RATE, state_dtype=dtype), x) - expected).max()
        for dtype in ("float32", "float64")
    }
    assert choose_state_dtype(normal_form(notch)) == "float64"
    assert errors["float32"] > 1e-5 * np.abs(expected).max() > 50 * errors["float64"]


def test_the_document_s_network_is_the_filter_for_small_signals_only() -> None:
    """With tanh the deviation falls with the square of the level, without it there is none."""
    a = training.document_filter(0.995)
    tanh = TanhFilter.from_coefficients([1.0], a)
    assert tanh.rnn.weight_hh_l0.shape == (3, 3)
    np.testing.assert_allclose(tanh.rnn.weight_hh_l0.detach()[0], [-a[1], -a[2], 0.0], rtol=1e-6)
    linear = IirFilter.from_coefficients([1.0], a, 8000)
    errors = {}
    for level in (0.1, 0.01, 0.001):
        x = np.eye(1, 4800, dtype=np.float32) * np.float32(level)
        expected = scipy.signal.lfilter([1.0], a, x.astype(np.float64))
        errors[level] = np.abs(through(tanh, x) - expected).max() / np.abs(expected).max()
        assert np.abs(through(linear, x) - expected).max() <= 1e-6 * np.abs(expected).max()
    assert errors[0.1] > 0.1
    assert errors[0.001] / errors[0.01] == pytest.approx(0.01, rel=0.2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: IirFilter(StateSpace(np.eye(1), np.ones(1), np.ones(1), 0.0), RATE), "not stable"),
        (lambda: IirFilter.from_sections([[1, 0, 0, 1, -2.1, 1.1]], RATE), "not stable"),
        (lambda: IirFilter.from_sections(LOW_PASS, RATE, hop=0), "hop"),
        (lambda: PedalModel(PedalModelConfig(hidden=0, n_before=0, n_after=0)), "needs a filter or a GRU"),
        (lambda: PedalModel().calibrate(torch.zeros(1, 64)), "silent"),
    ],
    ids=["pole", "sections", "hop", "nothing", "silence"],
)
def test_refusals(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


# --- in the runtime -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A filter with a float32 and one with a float64 state."""
    folder = tmp_path_factory.mktemp("filters")
    for name, sections in (("low", LOW_PASS), ("slow", SLOW)):
        export_onnx(IirFilter.from_sections(sections, RATE, name=name).eval(), folder / f"{name}.onnx")
    return {name: folder / f"{name}.onnx" for name in ("low", "slow")}


@pytest.mark.parametrize("name", ["low", "slow"])
def test_any_blocks_late_by_less_than_a_hop(files: dict[str, Path], name: str) -> None:
    x = noise(2, 5000)
    processor = load(files[name])
    processor.prepare(StreamConfig(RATE, 2))
    assert processor.latency_samples == 63
    y = run_blocks(processor, x, varying_blocks(5000))
    expected = scipy.signal.sosfilt({"low": LOW_PASS, "slow": SLOW}[name], x.astype(np.float64))
    np.testing.assert_allclose(y[:, 63:], expected[:, :-63], atol=1e-6)


def test_live(files: dict[str, Path]) -> None:
    engine = LiveEngine(load(files["slow"]), LiveConfig(RATE, fixed_block=64, mode="inline"))
    engine.start(own_thread=False)
    x = noise(1, 6400)
    heard = FakeStream(engine.callback, RATE).run(x, 64)
    late = engine.latency_samples
    expected = scipy.signal.sosfilt(SLOW, x.astype(np.float64))
    np.testing.assert_allclose(heard[:, late:], expected[:, : x.shape[1] - late], atol=1e-6)


def test_denoise_and_chain(files: dict[str, Path], tmp_path: Path) -> None:
    x = noise(1, RATE // 4)
    soundfile.write(tmp_path / "in.wav", x.T, RATE, subtype="FLOAT")
    (tmp_path / "chain.toml").write_text(
        '[[processor]]\ntype = "gain"\ngain_db = -6\n\n'
        f'[[processor]]\ntype = "model"\nmodel = "{files["low"]}"\n\n'
        f'[[processor]]\ntype = "model"\nmodel = "{files["slow"]}"\n'
    )
    runner = CliRunner()
    for name, options, sections, gain in (
        ("model.wav", ["--model", files["low"]], LOW_PASS, 1.0),
        ("chain.wav", ["--chain", tmp_path / "chain.toml"], np.r_[LOW_PASS, SLOW], 10 ** (-6 / 20)),
    ):
        out = tmp_path / name
        result = runner.invoke(app, ["denoise", str(tmp_path / "in.wav"), str(out), *map(str, options)])
        assert result.exit_code == 0, result.output
        expected = gain * scipy.signal.sosfilt(sections, x.astype(np.float64))
        np.testing.assert_allclose(soundfile.read(out, always_2d=True)[0].T, expected, atol=2e-6)


@pytest.mark.parametrize("name", ["low", "slow"])
def test_bench(files: dict[str, Path], name: str) -> None:
    for suite in (hop_suite(name, load_model(files[name])), pool_suite(name, load_model(files[name]), (1, 3))):
        for case in suite.cases():
            case.call()


def test_the_example(tmp_path: Path) -> None:
    module = load_target("examples.own_filter:build")
    export_onnx(module, tmp_path / "telephone.onnx")
    spectrum = np.abs(np.fft.rfft(through(module, np.eye(1, RATE, dtype=np.float32))[0]))  # 1 Hz per bin
    assert spectrum[[100, 6000]].max() < 0.01
    assert spectrum[400:3000].min() > 0.9


def test_several_filters_in_a_row_add_their_latencies(files: dict[str, Path]) -> None:
    chain = Chain([load(files["low"]), load(files["slow"])])
    chain.prepare(StreamConfig(RATE, fixed_block=64, max_block=64))
    assert chain.latency_samples == 0


# --- by training ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("quality", [0.995, 0.9995])
@pytest.mark.parametrize("seed", [0, 3])
def test_a_resonance_is_learned_from_a_random_start(quality: float, seed: int) -> None:
    response = training.document_response(quality)
    modes = training.fit_modes(response, seed, training.FitConfig(stages=10, steps=50))
    assert training.relative_error(modes.response(len(response)), response) <= {0.995: 0.01, 0.9995: 0.03}[quality]
    network = modes.state_space()
    assert network.radius < 1.0
    np.testing.assert_allclose(network.run(np.eye(1, 500)[0]), modes.response(500), atol=1e-12)


def test_networks_side_by_side_are_the_document_s() -> None:
    """Responses and gradients are those of `nn.RNN`, one network at a time."""
    responses = np.stack([training.document_response(quality, 300) for quality in (0.9, 0.995)])
    together = training.ManyTanhNetworks(responses, [3, 4])
    gradients = together.gradients(together.weights)
    found = together.run(together.weights)
    pulse = torch.zeros(1, 300, 1)
    pulse[0, 0] = training.IMPULSE
    for k, seed in enumerate((3, 4)):
        torch.manual_seed(seed)
        network, output = torch.nn.RNN(1, 3, bias=False, batch_first=True), torch.nn.Linear(3, 1, bias=False)
        y = output(network(pulse)[0])[0, :, 0]
        (y - torch.from_numpy(responses[k]).float()).square().sum().backward()
        np.testing.assert_allclose(found[k], y.detach(), atol=1e-6)
        for name, weight in (("hh", network.weight_hh_l0), ("ih", network.weight_ih_l0), ("out", output.weight)):
            torch.testing.assert_close(gradients[name][k], weight.grad, rtol=1e-4, atol=1e-6)


def test_adam_learns_what_decays_fast() -> None:
    networks = training.ManyTanhNetworks(0.1 * training.document_response(0.5, 50)[None], [0])
    before = networks.errors()
    networks.train_adam(epochs=300, lr=1e-2)
    assert networks.errors()[0] < 0.5 * before[0]


def test_random_directions_never_get_worse() -> None:
    networks = training.ManyTanhNetworks(training.document_response(0.9, 200)[None], [0])
    before = networks.errors()
    networks.train_random_directions(iterations=40)
    assert networks.errors()[0] < before[0]


def test_learned_sections_are_stable_and_start_as_the_identity() -> None:
    learned = LearnedSections(4)
    x = torch.randn(2, 2000)
    torch.testing.assert_close(learned(x), x, atol=1e-5, rtol=0)
    generator = torch.Generator().manual_seed(0)
    for spread in (1.0, 3.0, 10.0, 100.0):
        with torch.no_grad():
            for parameter in (learned.poles, learned.zeros):
                parameter.copy_(spread * torch.randn(parameter.shape, generator=generator))
        assert normal_form(learned.sections()).radius < 1.0


def test_the_pedal_trains_as_it_streams() -> None:
    """Filtering by spectra, and the GRU on chunks, give what the step gives where the GRU remembers little."""
    model = learned_pedal()
    x = noise(2, 3072, level=0.1)
    with torch.no_grad():
        trained = model.train_sequence(torch.from_numpy(x), chunk=256, warm_up=256).numpy()
    # A stream starts with a state of zero, a chunk with what the warm-up has made of it.
    np.testing.assert_allclose(trained[:, 500:], through(model, x)[:, 500:], atol=1e-3 * np.abs(trained).max())


def test_silence_stays_silence() -> None:
    assert not through(learned_pedal(), np.zeros((1, 640), np.float32)).any()


@pytest.mark.parametrize("sizes", [{"hidden": 0}, {"n_before": 0}, {"n_after": 0, "n_before": 0}], ids=str)
def test_parts_can_be_left_out(sizes: dict[str, int], tmp_path: Path) -> None:
    model = PedalModel(PedalModelConfig(**sizes))
    x = noise(1, 1280)
    model.calibrate(torch.from_numpy(x))
    save_checkpoint(model, tmp_path / "pedal.pt")
    again = load_checkpoint(tmp_path / "pedal.pt")
    np.testing.assert_array_equal(through(again, x), through(model, x))
    export_onnx(again.eval(), tmp_path / "pedal.onnx", 32)
    assert load_model(tmp_path / "pedal.onnx").spec == again.spec


def test_a_pedal_is_learned() -> None:
    """A short training beats the filters alone in as many steps."""
    plan = pedal.PedalTraining(train_s=3, test_s=1, frames=1024, batch=6, steps=25)
    recordings = pedal.simulated_recordings(plan)
    dry, wet = (pedal.whole_hops(signal, 64) for signal in (recordings.test_dry, recordings.test_wet))
    assert np.abs(wet).max() > 0.1
    errors = []
    for hidden in (0, 4):
        config = PedalModelConfig(hidden=hidden, n_before=2, n_after=2)
        model, losses = pedal.train_pedal(config, plan, recordings, 0)
        errors.append(pedal.ratio(through(model, dry), wet))
        assert np.mean(losses[-5:]) < np.mean(losses[:5])
    assert errors[1] < errors[0]


def test_recordings_of_ones_own(tmp_path: Path) -> None:
    dry = noise(2, 12 * 16_000)
    soundfile.write(tmp_path / "dry.wav", dry.T, 16_000, subtype="FLOAT")
    with pytest.raises(AudioFileError, match=r"wet\.wav does not exist"):
        pedal.read_recordings(tmp_path)
    soundfile.write(tmp_path / "wet.wav", -dry[0], 16_000, subtype="FLOAT")
    found = pedal.read_recordings(tmp_path)
    assert (found.sample_rate, found.dry.size, found.test_wet.size) == (16_000, 160_000, 32_000)
    np.testing.assert_array_equal(np.r_[found.wet, found.test_wet], -dry[0])
    soundfile.write(tmp_path / "wet.wav", -dry[0, 1:], 16_000)
    with pytest.raises(ConfigError, match=r"one rate and one length.*192000 frames at 16000 Hz and 191999"):
        pedal.read_recordings(tmp_path)
    for name in ("dry.wav", "wet.wav"):
        soundfile.write(tmp_path / name, dry[0, :16_000], 16_000)
    with pytest.raises(ConfigError, match=r"1\.0 s are too short"):
        pedal.read_recordings(tmp_path)


def test_the_quick_recipe_runs_and_resumes(tmp_path: Path) -> None:
    def job(**options: object) -> RecipeJob:
        return RecipeJob("iir", tmp_path, quick=True, seeds=(0,), console=Console(quiet=True), **options)

    first = job()
    report = run(first)
    first.finish(report, "python -m export recipe iir --quick", {})
    for name in (
        "trained-filter.onnx",
        "trained-filter.ts",
        "tanh-filter.onnx",
        "low-pass.ts",
        "pedal.onnx",
        "pedal.ts",
    ):
        assert (tmp_path / name).is_file(), name
    assert [row.ours for row in run(job(minutes=0.0)).rows] == [row.ours for row in report.rows]
    assert all(row.verdict != "missed" for row in report.rows)
