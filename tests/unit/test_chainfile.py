"""Chain files: what they build, and what they say when they cannot."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from helpers import noise, prepared, run_blocks

from streamproc.chainfile import load_chain
from streamproc.dsp import PROCESSORS, Delay, Gain, HighPass, Limiter, NoiseGate, ParametricEq
from streamproc.errors import ConfigError, ModelFileError
from streamproc.mix import Mix
from streamproc.processor import Chain, Processor
from streamproc.spec import StreamConfig

DOCUMENT = Path(__file__).parents[2] / "docs" / "chains.md"


class Models:
    """Resolves every name to a delay of 100 samples and remembers what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str | None]] = []

    def __call__(self, model: str, channel_mode: str | None = None) -> Processor:
        self.asked.append((model, channel_mode))
        return Delay(100)


def write(folder: Path, text: str) -> Path:
    path = folder / "chain.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_documented_example_works(tmp_path):
    example = re.search(r"```toml\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    models = Models()
    chain = load_chain(write(tmp_path, example[1]), models)
    kinds = [type(processor) for processor in chain.processors]
    assert kinds == [HighPass, Mix, NoiseGate, ParametricEq, Gain, Limiter]
    assert models.asked == [("denoise", None)]
    values = {name: value.value for name, value in chain.parameters.items()}
    assert values["cutoff"] == 80.0
    assert values["attenuation_limit"] == 24.0
    assert values["threshold"] == -55.0
    assert values["band2.freq"] == 3000.0
    assert values["band1.q"] == pytest.approx(0.5**0.5)
    assert values["gain"] == 6.0
    x = noise(2, 20_000, level=0.5)
    y = run_blocks(prepared(lambda: chain, StreamConfig(48000, 2)), x, [5000] * 4)
    assert chain.latency_samples == 100 + 144
    assert np.abs(y).max() <= 10 ** (-1 / 20)


def test_the_document_names_every_key():
    """The table of the document and the constructors agree, key by key."""
    rows = re.findall(r"^\|(.*)\|$", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE)[2:]
    documented: dict[str, set[str]] = {}
    for row in rows:
        kind, keys = (re.findall(r"`(\w+)`", cell) for cell in row.split("|")[:2])
        current = kind[0] if kind else current  # noqa: F821  # the first row names its type
        documented.setdefault(current, set()).update(keys)
    documented["eq"] -= {"kind", "freq_hz", "gain_db", "q"}
    for kind, make in PROCESSORS.items():
        accepted = set(make.__init__.__annotations__) - {"return"}
        assert documented.pop(kind) == accepted
    assert documented == {"model": {"model", "mix", "attenuation_limit_db", "channel_mode"}}


def test_defaults_are_those_of_the_constructors(tmp_path):
    text = "".join(f"[[processor]]\ntype = '{kind}'\n" for kind in PROCESSORS if kind != "eq")
    chain = load_chain(write(tmp_path, text), Models())
    made = Chain([make() for kind, make in PROCESSORS.items() if kind != "eq"])
    assert {n: v.value for n, v in chain.parameters.items()} == {n: v.value for n, v in made.parameters.items()}


def test_model_table(tmp_path):
    models = Models()
    text = (
        "[[processor]]\ntype = 'model'\nmodel = 'gtcrn'\nmix = 0.5\nattenuation_limit_db = inf\nchannel_mode = 'mono'"
    )
    (mix,) = load_chain(write(tmp_path, text), models).processors
    assert models.asked == [("gtcrn", "mono")]
    assert mix.parameters["mix"].value == 0.5
    assert mix.parameters["attenuation_limit"].value == 100.0


def test_a_model_file_beside_the_chain_goes_first(tmp_path):
    (tmp_path / "mine.onnx").touch()
    models = Models()
    load_chain(write(tmp_path, "[[processor]]\ntype = 'model'\nmodel = 'mine.onnx'"), models)
    assert models.asked == [(str(tmp_path / "mine.onnx"), None)]


def test_errors_of_the_resolver_come_through(tmp_path):
    def resolve(model: str, channel_mode: str | None = None) -> Processor:
        raise ModelFileError(f"no model {model!r}")

    with pytest.raises(ModelFileError, match=r"chain\.toml, processor 1 \(model\): no model 'x'"):
        load_chain(write(tmp_path, "[[processor]]\ntype = 'model'\nmodel = 'x'"), resolve)


FIRST = "[[processor]]\ntype = 'gain'\n[[processor]]\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"needs at least one \[\[processor\]\] table"),
        ("[processor]\ntype = 'gain'", "in double brackets"),
        ("processor = 3", "in double brackets"),
        ("processor = [1]", "in double brackets"),
        ("[[processors]]\ntype = 'gain'", r"found 'processors'; a chain has only \[\[processor\]\]"),
        ("[[processor]\n", "not a TOML file: .*line 1"),
        (FIRST, r"processor 2: found no type; type must be one of gain, high_pass, eq, gate, limiter, model"),
        (FIRST + "type = 'reverb'", "processor 2: found type 'reverb'; type must be one of gain"),
        (FIRST + "type = ['gain']", "processor 2: found type"),
        (FIRST + "type = 'gate'\ntreshold_db = -3", r"processor 2 \(gate\): 'treshold_db' is unknown; allowed are th"),
        (FIRST + "type = 'gate'\nthreshold_db = 3", r"processor 2 \(gate\): threshold must lie between -100 and 0 dB"),
        (FIRST + "type = 'high_pass'\ncutoff_hz = '80'", r"\(high_pass\): cutoff_hz must be a number, found '80'"),
        (FIRST + "type = 'high_pass'\ncutoff_hz = true", "must be a number, found True"),
        (FIRST + f"type = 'high_pass'\ncutoff_hz = {10**400}", "cutoff must lie between 1 and 192000 Hz, found 1000"),
        (FIRST + "type = 'high_pass'\norder = 2.0", "order must be a whole number, found 2.0"),
        (FIRST + "type = 'high_pass'\norder = 20", "order must lie between 1 and 8, found 20"),
        (FIRST + "type = 'limiter'\nceiling_db = nan", "ceiling must lie between -40 and 0 dB, found nan"),
        (FIRST + "type = 'eq'", r"processor 2 \(eq\): 'bands' is missing"),
        (FIRST + "type = 'eq'\nbands = []", "needs at least one band"),
        (FIRST + "type = 'eq'\nbands = 3", "bands must be a list of tables, found 3"),
        (FIRST + "type = 'eq'\nbands = [{kind = 'peak'}]", r"\(eq\): bands, band 1: 'freq_hz' is missing"),
        (FIRST + "type = 'eq'\nbands = [{kind = 'x', freq_hz = 9}]", "kind must be one of peak, low_shelf"),
        (FIRST + "type = 'eq'\nbands = [{kind = 3, freq_hz = 9}]", "band 1: kind must be a text, found 3"),
        (FIRST + "type = 'eq'\nbands = [{kind = 'peak', freq_hz = 9, f = 3}]", "band 1: 'f' is unknown; allowed"),
        (FIRST + "type = 'model'", "'model' is missing"),
        (FIRST + "type = 'model'\nmodel = 3", "model must be a text, found 3"),
        (FIRST + "type = 'model'\nmodel = 'x'\nmix = 2", r"processor 2 \(model\): mix must lie between 0 and 1, fo"),
    ],
)  # fmt: skip
def test_mistakes_are_named(tmp_path, text, message):
    path = write(tmp_path, text)
    with pytest.raises(ConfigError, match=message) as caught:
        load_chain(path, Models())
    assert str(caught.value).startswith(str(path))


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(ConfigError, match=r"none.toml: the chain file cannot be read: No such file"):
        load_chain(tmp_path / "none.toml", Models())
    with pytest.raises(ConfigError, match="cannot be read"):
        load_chain(tmp_path, Models())
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not a TOML file"):
        load_chain(tmp_path / "binary.toml", Models())
