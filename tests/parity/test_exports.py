"""Exported files equal the module, in every output and every state; a file that does not is never written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from helpers import noise, run_blocks, varying_blocks
from onnx import numpy_helper
from torch_models import GruMask, Leaky

from export import to_onnx, to_torchscript
from export.half import round_weights
from export.models import build_model
from export.target import ExportError, check_step, load_target
from export.to_onnx import export_onnx
from export.to_torchscript import export_torchscript
from export.verify import ParityError, Reference, ValueReadWarning, compare, require_parity
from export.waveform import FactoredDft, WaveformModel
from streamproc.backends.loader import load_model
from streamproc.errors import ConfigError, GoldenMismatch, ModelFileError
from streamproc.model import FrameModel, SpectrumFrames, WaveformFrames
from streamproc.reblock import Reblock
from streamproc.spec import Block, ControlSpec, StateSpec, StreamConfig

SMALL_DENOISER = {"hidden": 32, "n_low": 32, "n_bands": 8}

MODULES: dict[str, Callable[[], Any]] = {
    "gru mask": GruMask,
    "leaky": Leaky,
    "gru mask as waveform": lambda: WaveformModel(GruMask()),
    "denoiser": lambda: build_model("GruDenoiser", SMALL_DENOISER),
    "denoiser as waveform": lambda: WaveformModel(build_model("GruDenoiser", SMALL_DENOISER)),
}
EXPORTS = {"onnx": export_onnx, "ts": export_torchscript}


@pytest.fixture(params=EXPORTS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("name", MODULES)
def test_every_form_computes_the_same(name: str, kind: str, tmp_path: Path) -> None:
    module = MODULES[name]().eval()
    path = tmp_path / f"model.{kind}"
    comparisons = EXPORTS[kind](module, path)
    assert load_model(path).spec == module.spec
    form = "ONNX" if kind == "onnx" else "TorchScript"
    assert set(comparisons) == {form, f"{form}, golden"} | ({"offline"} if hasattr(module, "sequence") else set())
    carried = [module.spec.frame_input, *(state.name for state in module.spec.states)]
    for what, comparison in comparisons.items():
        assert set(comparison.tensors) == {f"{tensor}_out" for tensor in carried}
        assert comparison.n_steps == (16 if "golden" in what else 512)
        assert all(tensor.scale > 0 for tensor in comparison.tensors.values()), "all zero proves nothing"
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_rounded_weights_take_half_the_file_and_lose_nothing(tmp_path: Path) -> None:
    module = build_model("GruDenoiser", {"hidden": 64, "n_layers": 2}).eval().requires_grad_(False)
    torch.nn.init.normal_(module.taps.weight, std=0.01)  # zeros, as they start, always fit
    whole, half = tmp_path / "whole.onnx", tmp_path / "half.onnx"
    export_onnx(module, whole)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    round_weights(module)
    assert any(not torch.equal(value, before[name]) for name, value in module.state_dict().items())
    for name, value in module.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=2**-11, atol=2**-24)
    export_onnx(module, half)
    n_weights = sum(weight.numel() for weight in module.parameters() if weight.dim() > 1)
    assert whole.stat().st_size - half.stat().st_size == pytest.approx(2 * n_weights, rel=0.02)
    # Rounding what is rounded changes nothing: the file still equals the module.
    round_weights(module)
    assert not any(comparison.failures for comparison in compare(module, [half]).values())


def test_weights_that_do_not_fit_16_bits_are_refused() -> None:
    module = build_model("GruDenoiser", SMALL_DENOISER)
    with torch.no_grad():
        module.gains.weight[0, 0] = 1e5
    with pytest.raises(ConfigError, match=r"gains\.weight: weights of up to 100000 do not fit 16 bits"):
        round_weights(module)


@pytest.mark.parametrize("name", MODULES)
def test_an_exported_step_asks_for_the_number_of_channels_at_most(name: str, tmp_path: Path) -> None:
    export_onnx(MODULES[name]().eval(), tmp_path / "model.onnx")
    nodes = onnx.load(tmp_path / "model.onnx").graph.node
    made_by = {output: node for node in nodes for output in node.output}
    asked = [node for node in nodes if node.op_type == "Gather" and made_by[node.input[0]].op_type == "Shape"]
    axes = [int(numpy_helper.to_array(made_by[node.input[1]].attribute[0].t)) for node in asked]
    assert not any(axes), "channels are the first axis"


def test_the_comparison_starts_from_a_state_that_is_not_zero() -> None:
    for make in MODULES.values():
        for state in Reference(make().eval(), 500).start:
            assert state.abs().max() > 1e-3


def test_a_sequence_that_is_not_the_step_is_found(tmp_path: Path) -> None:
    module = GruMask().eval()
    offline = module.sequence
    module.sequence = lambda frames, *inputs: offline(frames.flip(1) if frames.shape[1] > 1 else frames, *inputs)
    with pytest.raises(ParityError, match=r"offline: spectrum_out differs by .*offline: hidden_out differs by"):
        export_onnx(module, tmp_path / "a.onnx")
    assert not list(tmp_path.iterdir())


def _spoil_weights(graph: onnx.ModelProto) -> None:
    weights = next(w for w in graph.graph.initializer if len(w.dims) >= 2)
    weights.CopyFrom(numpy_helper.from_array(1.01 * numpy_helper.to_array(weights), weights.name))


def _swap_layers(graph: onnx.ModelProto) -> None:
    """Write the state of layer 0 where that of layer 1 belongs: invisible from a state of zero, in one step."""
    last = next(node for node in graph.graph.node if "hidden_out" in node.output)
    before = last.input[0]
    reverse = onnx.helper.make_node("Gather", [before, "reversed"], ["swapped"], axis=0)
    graph.graph.initializer.append(numpy_helper.from_array(np.array([1, 0]), "reversed"))
    graph.graph.node.insert(list(graph.graph.node).index(last), reverse)
    last.input[0] = "swapped"


@pytest.mark.parametrize("spoil", [_spoil_weights, _swap_layers])
def test_a_wrong_onnx_export_is_never_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[onnx.ModelProto], None]
) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"the export before")
    trace = to_onnx._trace

    def wrong(module: Any, partial: Path) -> None:
        trace(module, partial)
        graph = onnx.load(partial)
        spoil(graph)
        onnx.save(graph, partial)

    monkeypatch.setattr(to_onnx, "_trace", wrong)
    with pytest.raises((ParityError, GoldenMismatch), match="differs by"):
        export_onnx(GruMask().eval(), path)
    assert path.read_bytes() == b"the export before"
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_a_step_that_branches_on_values_is_never_written(tmp_path: Path, kind: str) -> None:
    class Branching(Leaky):
        def step(self, audio: Any, memory: Any) -> Any:
            return (audio if memory.abs().sum() > 1 else -audio), 0.5 * memory + audio

    refused = pytest.raises((ParityError, GoldenMismatch), match="audio_out differs by")
    with refused, pytest.warns(ValueReadWarning, match="reads the value of a tensor in Python") as warned:
        EXPORTS[kind](Branching().eval(), tmp_path / f"a.{kind}")
    lines = [Path(warning.filename).name for warning in warned if warning.category is ValueReadWarning]
    assert lines == [Path(__file__).name]
    assert not list(tmp_path.iterdir())


def _forgets_in_pauses(audio: Any, memory: Any) -> Any:
    return (audio + memory, 0.9 * memory + 0.1) if audio.abs().max() > 1e-4 else (audio, 0.0 * memory)


def _clips_when_loud(audio: Any, memory: Any) -> Any:
    return (audio.tanh() if audio.abs().max() > 0.9 else audio), 0.5 * memory + audio


def _keeps_its_gain(audio: Any, memory: Any, gain: Any) -> Any:
    return audio * float(gain), 0.5 * memory + audio


def _mutes_below_half(audio: Any, memory: Any, gain: Any) -> Any:
    return (audio * gain if gain > 0.5 else 0.0 * audio), 0.5 * memory + audio


@pytest.mark.filterwarnings("ignore::export.verify.ValueReadWarning")
@pytest.mark.parametrize("step", [_forgets_in_pauses, _clips_when_loud, _keeps_its_gain, _mutes_below_half])
def test_the_proof_has_pauses_and_full_scale_and_moves_controls(
    step: Callable[..., Any], kind: str, tmp_path: Path
) -> None:
    controls = (ControlSpec("gain", 1.0, 0.0, 2.0),) if "gain" in step.__annotations__ else ()
    with pytest.raises(ParityError, match="_out differs by"):
        EXPORTS[kind](_with_step(step, controls=controls), tmp_path / f"a.{kind}")
    assert not list(tmp_path.iterdir())


def test_a_control_at_its_end_that_breaks_the_step_is_named(tmp_path: Path) -> None:
    module = _with_step(
        lambda audio, memory, width: (audio / width, memory), controls=(ControlSpec("width", 1.0, 0.0, 2.0),)
    )
    with pytest.raises(ParityError, match="leaky: its step gives numbers that are not finite with width 0; "):
        export_onnx(module, tmp_path / "a.onnx")


def test_the_controls_of_a_proof_move_apart() -> None:
    controls = (ControlSpec("gain", 1, 0, 2), ControlSpec("depth", 1, 0, 2))
    found = np.array(Reference(_with_step(lambda audio, memory, *_: (audio, memory), controls=controls)).settings)
    assert found[:, 0].min() == 0
    assert found[:, 0].max() == 2
    assert np.ptp(found, axis=1).max() > 0.5


def _with_step(step: Callable[..., Any], **changes: Any) -> Leaky:
    module = Leaky().eval()
    module.spec = replace(module.spec, **changes)
    module.step = step
    return module


def test_an_input_that_the_step_does_not_read_is_declared_all_the_same(tmp_path: Path, kind: str) -> None:
    """Unread are a control with an integer default and a state in the middle of the others."""
    module = _with_step(
        lambda audio, unread, memory, idle, gain: (gain * audio, 0.5 * audio, 0.5 * memory + audio),
        states=(StateSpec("unread", (32,)), StateSpec("memory", (32,))),
        controls=(ControlSpec("idle", 1, 0, 2), ControlSpec("gain", 1, 0, 2)),
    )
    comparisons = EXPORTS[kind](module, tmp_path / f"a.{kind}")
    require_parity(comparisons)
    assert load_model(tmp_path / f"a.{kind}").controls.keys() == {"idle", "gain"}


def test_a_step_may_work_in_place(tmp_path: Path, kind: str) -> None:
    def step(audio: Any, memory: Any) -> Any:
        memory.mul_(0.5).add_(audio)
        return audio.mul_(0.5), memory

    EXPORTS[kind](_with_step(step), tmp_path / f"a.{kind}")
    model = load_model(tmp_path / f"a.{kind}")
    frame, state = np.ones((1, 32), np.float32), (np.ones((1, 32), np.float32),)
    out, after = np.empty_like(frame), (np.empty_like(frame),)
    model.step(frame, state, out, after)
    assert (out[0, 0], after[0][0, 0]) == (0.5, 1.5)
    assert np.all(frame == 1), "the frame belongs to the host"
    assert np.all(state[0] == 1)


def test_metrics_are_stored_as_json_has_them(tmp_path: Path, kind: str) -> None:
    module = Leaky().eval()
    module.spec = replace(module.spec, metrics={"snr": np.float32(3.5), "both": (1, 2), "all": np.arange(2)})
    EXPORTS[kind](module, tmp_path / f"a.{kind}")
    assert load_model(tmp_path / f"a.{kind}").spec.metrics == {"snr": 3.5, "both": [1, 2], "all": [0, 1]}


@pytest.mark.parametrize("value", [object(), float("nan")])
def test_metrics_that_no_file_can_hold_are_refused(tmp_path: Path, value: object) -> None:
    module = Leaky().eval()
    module.spec = replace(module.spec, metrics={"snr": value})
    with pytest.raises(ConfigError, match="leaky: its metrics cannot be stored"):
        export_onnx(module, tmp_path / "a.onnx")
    assert not list(tmp_path.iterdir())


def test_a_file_may_have_the_longest_name(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"{'n' * (254 - len(kind))}.{kind}"
    EXPORTS[kind](Leaky().eval(), path)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_a_link_stays_a_link(tmp_path: Path, kind: str) -> None:
    (tmp_path / "real").mkdir()
    link, real = tmp_path / f"link.{kind}", tmp_path / "real" / "file"
    link.symlink_to(real)
    EXPORTS[kind](Leaky().eval(), link)
    assert link.is_symlink()
    assert real.stat().st_size > 0


def test_an_error_names_the_file_that_was_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(to_onnx, "metadata_text", lambda module: "{}")
    with pytest.raises(ModelFileError, match=rf"^{tmp_path}/a\.onnx: "):
        export_onnx(Leaky().eval(), tmp_path / "a.onnx")


def test_files_of_another_module_are_refused(tmp_path: Path) -> None:
    export_onnx(GruMask(seed=1).eval(), tmp_path / "other.onnx")
    with pytest.raises(ParityError, match="ONNX: spectrum_out differs by"):
        require_parity(compare(GruMask(seed=2).eval(), [tmp_path / "other.onnx"]))
    renamed = GruMask(seed=1).eval()
    renamed.spec = replace(renamed.spec, version="9")
    with pytest.raises(ModelFileError, match=r"other\.onnx: .*version is '0\.1', the module says '9'"):
        compare(renamed, [tmp_path / "other.onnx"])


# --- analysis and synthesis inside the graph ------------------------------------------------------------------------


@pytest.mark.parametrize("size", [2, 26, 128, 512, 882, 960, 1024])
def test_the_factored_transform_is_the_transform(size: int) -> None:
    dft = FactoredDft(size)
    samples = torch.from_numpy(np.random.default_rng(0).normal(size=(3, size)).astype(np.float32))
    spectrum = np.fft.rfft(samples.numpy())
    np.testing.assert_allclose(torch.view_as_complex(dft(samples).contiguous()), spectrum, atol=2e-6 * size**0.5 * 4)
    changed = (spectrum * np.linspace(1, 2j, size // 2 + 1)).astype(np.complex64)
    expected = np.fft.irfft(changed, size)
    for n_newest in {size, size // 2, 1}:
        found = dft.inverse(torch.view_as_real(torch.from_numpy(changed)), n_newest)
        np.testing.assert_allclose(found, expected[:, size - n_newest :], atol=1e-5)


def test_an_odd_transform_is_refused() -> None:
    with pytest.raises(ConfigError, match="even size, found 15"):
        FactoredDft(15)


@pytest.mark.parametrize("name", ["gru mask", "denoiser"])
def test_a_waveform_file_equals_the_spectrum_file_in_the_engine(name: str, kind: str, tmp_path: Path) -> None:
    module = MODULES[name]().eval()
    EXPORTS[kind](module, tmp_path / f"spectrum.{kind}")
    EXPORTS[kind](WaveformModel(module).eval(), tmp_path / f"waveform.{kind}")
    spectrum, waveform = (load_model(tmp_path / f"{io}.{kind}") for io in ("spectrum", "waveform"))
    assert waveform.spec.io == "waveform"
    assert waveform.spec.latency == spectrum.spec.latency
    blocks = varying_blocks(20_000)
    x = noise(2, 20_000)
    expected, delay = _run(spectrum, SpectrumFrames(spectrum), x, blocks)
    found, same_delay = _run(waveform, WaveformFrames(waveform), x, blocks)
    assert delay == same_delay
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


def _run(model: FrameModel, frames: Any, x: Block, blocks: list[int]) -> tuple[Block, int]:
    processor = Reblock(frames, model.spec.hop)
    processor.prepare(StreamConfig(model.spec.sample_rate, x.shape[0], max(blocks)))
    return run_blocks(processor, x, blocks), processor.latency_samples


def test_only_a_spectrum_model_can_become_a_waveform_model() -> None:
    with pytest.raises(ConfigError, match="takes waveform already"):
        WaveformModel(Leaky())


# --- what can be exported -------------------------------------------------------------------------------------------


def build_leaky() -> Leaky:
    return Leaky()


def build_mask() -> GruMask:
    return GruMask(seed=5)


def build_from(checkpoint: Path | None) -> GruMask:
    module = GruMask(seed=6)
    if checkpoint is not None:
        module.load_state_dict(torch.load(checkpoint, weights_only=True)["mine"])
    return module


def build_nonsense() -> object:
    return torch.nn.Linear(2, 2)


def build_with(size: int) -> None:
    raise AssertionError(f"there is no size, found {size}")


def build_broken() -> None:
    raise RuntimeError("no weights here")


class Weighted(Leaky):
    def __init__(self) -> None:
        super().__init__()
        self.weights = torch.nn.Parameter(torch.zeros(3))


def test_a_parameter_may_be_called_weights(tmp_path: Path) -> None:
    torch.save({"weights": torch.arange(3.0)}, tmp_path / "w.pt")
    module = load_target(f"{__name__}:Weighted", tmp_path / "w.pt")
    assert module.weights.tolist() == [0, 1, 2]


def test_targets_are_made_with_their_weights(tmp_path: Path) -> None:
    expected = GruMask(seed=7)
    torch.save(expected.state_dict(), tmp_path / "plain.pt")
    torch.save({"state_dict": expected.state_dict(), "epoch": 3}, tmp_path / "wrapped.pt")
    torch.save({"mine": expected.state_dict()}, tmp_path / "own.pt")
    for target, checkpoint in (("build_mask", "plain"), ("build_mask", "wrapped"), ("build_from", "own")):
        module = load_target(f"{__name__}:{target}", tmp_path / f"{checkpoint}.pt", version="3.0")
        assert module.spec.version == "3.0"
        assert not module.training
        torch.testing.assert_close(module.decode.weight, expected.decode.weight, rtol=0, atol=0)
    assert load_target(f"{__name__}:build_from").spec.version == "0.1"


@pytest.mark.parametrize(
    ("target", "checkpoint", "message"),
    [
        ("denoize", None, r"no model of this project has this name \(denoise, "),
        ("no_such.module:build", None, "cannot be imported.*No module named"),
        (":build", None, r"^:build: cannot be imported \(ValueError: Empty module name\)"),
        (".x:build", None, r"cannot be imported \(TypeError: "),
        ("broken_target:build", None, r"cannot be imported \(ValueError: no accelerator here\)"),
        ("builtins:dict", None, r"makes no module \(ValueError: no signature found"),
        (f"{__name__}:build_with", None, r"makes no module \(TypeError: .*missing 1 required positional argument"),
        (f"{__name__}:build_broken", None, r"makes no module \(RuntimeError: no weights here\)"),
        (f"{__name__}:missing", None, "cannot be imported"),
        (f"{__name__}:MODULES", None, "is dict, expected a callable"),
        (f"{__name__}:build_nonsense", None, "made Linear, expected a torch.nn.Module with `spec`"),
        (f"{__name__}:build_mask", "none.pt", "there is no such checkpoint"),
        (f"{__name__}:build_mask", __file__, "does not fit GruMask"),
        ("denoise", "none.pt", "there is no such checkpoint"),
    ],
)
def test_targets_that_cannot_be_exported(
    target: str, checkpoint: str | None, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_target.py").write_text("raise ValueError('no accelerator here')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ExportError, match=message):
        load_target(target, None if checkpoint is None else Path(checkpoint))


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (lambda audio, memory: audio, "step returns Tensor, expected"),
        (lambda audio, memory: (audio,), r"step returns 1 values, expected \(audio_out, memory_out\)"),
        (lambda audio, memory: (audio, None), "step returns NoneType for memory_out, expected a tensor"),
        (lambda audio, memory: (audio[:, :4], memory), r"output 'audio_out' is float32 \[2, 4\]"),
        (lambda audio, memory: (audio, memory.double()), r"output 'memory_out' is float64 \[2, 32\]"),
        (lambda audio, memory: (audio.reshape(1, 32), memory), "step fails on 2 channels"),
    ],
)
def test_a_step_that_breaks_its_spec_is_explained(step: Callable[..., Any], message: str) -> None:
    module = Leaky()
    module.step = step
    with pytest.raises((ExportError, ModelFileError), match=message):
        check_step(module, "mine")


def test_a_module_has_a_free_channel_axis() -> None:
    module = Leaky()
    module.spec = replace(module.spec, channels=1)
    with pytest.raises(ExportError, match="its spec fixes the channels"):
        check_step(module, "mine")


def test_states_that_are_not_in_the_spec_are_explained() -> None:
    module = Leaky()
    module.spec = replace(module.spec, states=(*module.spec.states, StateSpec("more", (3,))))
    with pytest.raises(ExportError, match=r"step fails on 2 channels.*positional argument"):
        check_step(module, "mine")


def test_the_same_module_gives_the_same_file(tmp_path: Path) -> None:
    module = GruMask().eval()
    first, second = (tmp_path / name for name in ("a.onnx", "b.onnx"))
    export_onnx(module, first, 500)
    export_onnx(module, second, 500)
    assert first.read_bytes() == second.read_bytes()
    assert str(Path.cwd()).encode() not in first.read_bytes()


def test_torchscript_is_silent_about_its_own_age(tmp_path: Path) -> None:
    """Warnings are errors here, so that this passes shows that exactly the known ones are silenced."""
    to_torchscript.export_torchscript(Leaky().eval(), tmp_path / "a.ts", 500)
