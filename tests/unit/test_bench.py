"""What the bench times, what it reports of it, and its command; how it times is in `test_bench_timing.py`."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from helpers import IdentitySpectrum
from onnx_graphs import leaky_golden, write_model
from rich.console import Console
from typer.testing import CliRunner, Result

from streamproc.backends.loader import load_model
from streamproc.backends.onnx import OnnxModel
from streamproc.bench.bare import BareStep
from streamproc.bench.cases import Case, callbacks_suite, hop_suite, pool_suite
from streamproc.bench.compare import compare
from streamproc.bench.environment import Environment
from streamproc.bench.peers import PACKAGES, peer_case
from streamproc.bench.report import Report, Row
from streamproc.bench.resources import Resources, measure_resources
from streamproc.bench.runner import BenchSettings, _labels, run_bench, run_suite
from streamproc.bench.timing import Distribution, Effort
from streamproc.cli.app import app
from streamproc.cli.bench_report import print_comparison, print_report
from streamproc.errors import BackendUnavailable, ConfigError, ModelFileError

BRIEF = Effort(hot_s=0.01, most_hot=100, paced=20, longest_pause_s=0.0)


# --- what is timed --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "leaky.onnx")


def test_the_step_by_hand_does_what_the_model_does(file: Path) -> None:
    model, golden = load_model(file), leaky_golden()
    assert isinstance(model, OnnxModel)
    step = BareStep(model)
    for frame, expected in zip(golden.frames, golden.outputs, strict=True):
        step.frame[...] = frame
        step()
        np.testing.assert_allclose(step.result, expected, atol=1e-6)


def test_every_row_of_a_hop_and_its_reference_exist(file: Path) -> None:
    for model in (load_model(file), IdentitySpectrum(48_000, 256)):
        cases = hop_suite("x", model).cases()
        names = [case.name for case in cases]
        assert len(set(names)) == len(names)
        assert {case.reference for case in cases if case.reference} <= set(names)
        assert {"model step", "whole hop", "around a free model", "callback without a step"} <= set(names)
        for case in cases:
            case.call()


def test_blocks_rates_and_channels_are_varied_one_at_a_time() -> None:
    cases = callbacks_suite("x", IdentitySpectrum(48_000, 256), [64, 256], [48_000, 16_000], [1, 2]).cases()
    found = [tuple(case.facts[name] for name in ("sample_rate", "block", "n_channels")) for case in cases]
    assert found == [(48_000, 64, 1), (48_000, 256, 1), (16_000, 128, 1), (48_000, 128, 2), (16_000, 128, 2)]
    assert cases[1].facts["latency_samples"] == 256
    assert len({case.name for case in cases}) == len(cases)


def test_pools_stand_beside_engines() -> None:
    cases = pool_suite("x", IdentitySpectrum(48_000, 64), [1, 3]).cases()
    assert [case.name for case in cases] == ["1 separate engine", "pool of 1", "3 separate engines", "pool of 3"]
    assert cases[3].reference == "3 separate engines"
    for case in cases:
        case.call()


def test_peers_that_are_not_installed_say_how_to_get_them(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr("streamproc.bench.peers.import_module", missing)
    for peer in PACKAGES:
        with pytest.raises(BackendUnavailable, match=f"{peer} is left out: .* pip install"):
            peer_case(peer)
    with pytest.raises(ModelFileError):
        peer_case("no_such.onnx")


@pytest.mark.parametrize(("peer", "module"), [("rnnoise", "pyrnnoise"), ("webrtc", "webrtc_noise_gain")])
def test_peers_that_are_installed_run(peer: str, module: str) -> None:
    pytest.importorskip(module)
    case = peer_case(peer)
    case.call()
    assert case.audio_s == 0.01


# --- reports --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def report(file: Path) -> Report:
    model = IdentitySpectrum(48_000, 256)
    suites = [
        hop_suite("m", model),
        callbacks_suite("m", model, [64, 128], [48_000], [1]),
        pool_suite("m", model, [1, 2]),
    ]
    rows = [row for suite in suites for row in run_suite(suite, BRIEF)]
    return Report(Environment.now(), BRIEF, rows, [measure_resources(str(file))], ["something was left out"], 1)


def test_a_report_survives_its_file(report: Report, tmp_path: Path) -> None:
    report.save(tmp_path / "report.json")
    again = Report.load(tmp_path / "report.json")
    assert json.dumps(again.document()) == json.dumps(report.document())
    assert again.rows[0].hot == report.rows[0].hot


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is not a report"),
        ("[]", "is not a report"),
        ("{}", "is not a report"),
        ('{"format_version": "1"}', "is not a report"),
        ('{"format_version": 2, "streamproc": "0"}', "is not a report"),
        ('{"format_version": 99}', "a later streamproc; run both"),
        ('{"format_version": 1}', "an earlier one, which timed otherwise; run both"),
    ],
)
def test_what_is_no_report_is_refused(text: str, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=rf"report\.json .*{reason}"):
        Report.load(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        Report.load(tmp_path / "missing.json")


def test_resources_are_those_of_the_file(report: Report, file: Path) -> None:
    found: Resources = report.resources[0]
    assert found.backend == "ONNX"
    assert found.file_bytes == file.stat().st_size
    assert (found.sample_rate, found.hop, found.n_state_values) == (16_000, 8, 9)
    assert found.load_ms > 0.0
    assert found.macs_per_second is None


def test_a_comparison_gives_ratios_of_what_is_common(report: Report) -> None:
    def slower(row: Row) -> Row:
        return replace(row, hot=replace(row.hot, p50_us=2.0 * row.hot.p50_us))

    machine = replace(report.environment, cpu="another", load_average=7.0)
    new = replace(report, environment=machine, rows=[slower(row) for row in report.rows[1:]])
    found = compare(report, new)
    assert {change.hot_p50 for change in found.changes} == {2.0}
    assert found.overall_hot_p50 == pytest.approx(2.0)
    assert {change.paced_p99 for change in found.changes} == {1.0}
    assert found.only_old == [f"{report.rows[0].suite}: {report.rows[0].name}"]
    assert found.only_new == []
    assert any("cpu" in warning and "another" in warning for warning in found.warnings)
    assert any("the new report was made on a busy machine" in warning for warning in found.warnings)


def test_pictures_are_drawn_of_what_there_is(report: Report, tmp_path: Path) -> None:
    from streamproc.bench.plots import save_pictures

    pictures = save_pictures(report, tmp_path / "new" / "folder")
    assert [picture.name for picture in pictures] == [
        "hop.png",
        "spread.png",
        "blocks.png",
        "budget.png",
        "streams.png",
    ]
    assert all(picture.read_bytes().startswith(b"\x89PNG") for picture in pictures)
    assert save_pictures(replace(report, rows=[]), tmp_path) == []


# --- the command ----------------------------------------------------------------------------------------------------


def test_ratios_to_the_row_by_hand_are_in_the_table() -> None:
    """Hot by the medians, paced by the 99th percentiles: the two that are promised."""

    def row(name: str, hot_us: float, paced_p99_us: float, reference: str | None = None) -> Row:
        paced = Distribution.of(np.array([10.0] * 95 + [paced_p99_us] * 5))
        hot = Distribution.of(np.full(100, hot_us))
        return Row("hop · model", name, 5000.0, hot, paced, 0, reference=reference)

    rows = [row("by hand", 10.0, 40.0), row("ours", 15.0, 50.0, "by hand")]
    console = Console(width=80, file=StringIO())
    print_report(Report(Environment.now(), BRIEF, rows), console)
    assert isinstance(console.file, StringIO)
    lines = {line.split("  ")[0].strip(): line.split() for line in console.file.getvalue().splitlines()}
    assert lines["ours"][-2:] == ["1.50", "1.25"]
    assert lines["by hand"][-1] == "40.0"


def test_a_file_name_in_brackets_is_shown_as_it_is(report: Report) -> None:
    name = "[red].onnx"
    facts = {"sample_rate": 16_000, "frame_latency_ms": 1.0}
    row = replace(report.rows[0], suite="side by side", name=name, reference=None, facts=facts)
    resources = [replace(report.resources[0], model=name)]
    named = replace(report, rows=[row], resources=resources)
    console = Console(width=120, file=StringIO())
    print_report(named, console)
    print_comparison(compare(named, named), console)
    assert isinstance(console.file, StringIO)
    assert console.file.getvalue().count(name) == 3


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    monkeypatch.setattr("streamproc.bench.runner.QUICK", replace(BRIEF, hot_s=0.001, paced=5))
    return lambda *arguments: CliRunner().invoke(app, ["bench", *map(str, arguments)])


def test_the_whole_command(run: Callable[..., Result], file: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first.json", tmp_path / "second.json"
    few = ("--quick", "--blocks", "64,128", "--rates", "16000,48000", "--channels", "1")
    result = run(file, *few, "--json", first, "--pool", "--against", file, "--plot", tmp_path / "pictures")
    assert result.exit_code == 0, result.output
    for words in ("whole hop by hand", "16 kHz, 64, mono", "48 kHz, 128, mono", "side by side", "streams"):
        assert words in result.stdout
    assert (tmp_path / "pictures" / "hop.png").is_file()
    result = run(file, *few, "--json", second, "--compare", first)
    assert result.exit_code == 0, result.output
    assert "geometric mean" in result.stdout
    assert "only before" in result.stdout
    report = Report.load(second)
    assert report.pinned_to is None or report.pinned_to in os.sched_getaffinity(0)
    assert report.rows[0].suite == "hop · leaky"


@pytest.mark.parametrize(
    ("models", "labels"),
    [
        (["denoise", "a/b.onnx"], ["denoise", "b"]),
        (["a/b.onnx", "a/b.ts"], ["b.onnx", "b.ts"]),
        (["a/b.onnx", "c/b.onnx"], ["a/b.onnx", "c/b.onnx"]),
    ],
)
def test_models_that_share_a_name_are_told_apart(models: list[str], labels: list[str]) -> None:
    assert _labels(models) == labels


def test_a_model_is_not_timed_twice(file: Path) -> None:
    with pytest.raises(ConfigError, match="twice"):
        run_bench(BenchSettings([str(file), str(file)], quick=True))


def measure_nothing(name: str) -> Resources:
    return Resources(name, name, "ONNX", 16_000, 8, 0, 1, 9, None, 1.0, 1.0, 1.0, 1.0, None, None)


@pytest.mark.parametrize(
    ("option", "place", "message"),
    [
        ("--json", "nowhere/report.json", "there is no folder"),
        ("--json", "taken/report.json", "is not a folder"),
        ("--json", ".", "it exists and is not a file"),
        ("--json", 300 * "n" + ".json", "File name too long"),
        ("--plot", "taken", "is not a folder"),
        ("--plot", "taken/pictures", "is not a folder"),
    ],
)
def test_places_that_cannot_be_written_are_refused_before_anything_is_measured(
    run: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str, place: str, message: str
) -> None:
    monkeypatch.setattr("streamproc.bench.runner.run_bench", lambda *_: pytest.fail("it measures"))
    (tmp_path / "taken").write_text("")
    result = run("--quick", option, tmp_path / place)
    assert result.exit_code == 2
    assert f"{tmp_path / place} cannot be written" in result.stderr
    assert message in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_what_was_measured_is_shown_before_it_is_saved(
    run: Callable[..., Result], report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_report: Report, path: Path) -> None:
        raise ConfigError(f"{path} cannot be written: No space left on device")

    monkeypatch.setattr("streamproc.bench.runner.run_bench", lambda *_: report)
    monkeypatch.setattr(Report, "save", full)
    result = run("--json", tmp_path / "report.json")
    assert result.exit_code == 2
    assert "No space left" in result.stderr
    assert "callback without a step" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--blocks", "x"), "--blocks must be whole numbers"),
        (("--rates", "0"), "--rates must be whole numbers"),
        (("no_such.onnx",), "there is no such file"),
        (("--compare", "no_such.json"), "cannot be read"),
    ],
)
def test_what_cannot_be_done_is_refused(run: Callable[..., Result], arguments: tuple[str, ...], message: str) -> None:
    result = run("--quick", *arguments)
    assert result.exit_code == 2
    assert message in result.stderr


def test_a_peer_that_is_missing_does_not_stop_the_others(
    run: Callable[..., Result], file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> Case:
        raise BackendUnavailable("rnnoise is left out: pyrnnoise is not installed; pip install pyrnnoise")

    monkeypatch.setitem(PACKAGES, "rnnoise", missing)
    monkeypatch.setattr("streamproc.bench.runner.measure_resources", measure_nothing)
    result = run(file, "--quick", "--against", "rnnoise", "--blocks", "64", "--rates", "16000", "--channels", "1")
    assert result.exit_code == 0, result.output
    assert "rnnoise is left out" in result.stderr


def test_the_command_explains_itself_with_examples() -> None:
    result = CliRunner().invoke(app, ["bench", "--help"])
    assert result.exit_code == 0
    assert "Examples" in result.stdout
    assert "streamproc bench" in result.stdout
