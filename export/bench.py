"""What a model costs in each of its forms: as the file that ships, as TorchScript, and eagerly in torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from streamproc.backends.loader import load_model
from streamproc.backends.torchscript import TorchScriptModel
from streamproc.bench.cases import forms_suite
from streamproc.bench.environment import Environment
from streamproc.bench.report import Report
from streamproc.bench.runner import OnStep, run_suites
from streamproc.bench.timing import Effort
from streamproc.errors import ConfigError
from streamproc.model import FrameModel

from .model_file import StepForward, StepModule
from .target import load_target
from .to_onnx import export_onnx
from .to_torchscript import export_torchscript

CHECKPOINTS = Path(__file__).parent / "checkpoints"
"""Weights of the models that ship, ``NAME/ema.pt``."""


@dataclass(frozen=True)
class Subject:
    """A model to be timed.

    Parameters
    ----------
    label : str
    module : StepModule
        In evaluation mode.
    notes : tuple of str
        What should be known of it.
    """

    label: str
    module: StepModule
    notes: tuple[str, ...] = ()


def open_subject(target: str) -> Subject:
    """Load what was typed on the command line.

    Parameters
    ----------
    target : str
        A checkpoint of training (``runs/NAME/ema.pt``); the name of a model of this project, with the weights that
        ship where there are any; or ``package.module:callable``.

    Raises
    ------
    ExportError, ConfigError
        If there is no such thing, or it is no model.
    """
    if Path(target).suffix == ".pt":
        path = Path(target)
        # The checkpoint says itself which model it is of.
        return Subject(path.absolute().parent.name, load_target("denoise", path))
    shipped = CHECKPOINTS / target / "ema.pt"
    if shipped.is_file():
        return Subject(target, load_target(target, shipped))
    notes = () if ":" in target else (f"{target}: no weights ship with it, so these are untrained",)
    return Subject(target, load_target(target), notes)


def forms_of(module: StepModule, folder: Path) -> dict[str, FrameModel]:
    """Return a module as the runtime knows it: exported to ONNX and to TorchScript, and as it is.

    Parameters
    ----------
    module : StepModule
    folder : Path
        Where the files are written, each proven equal to the module.

    Raises
    ------
    ParityError, ModelFileError
        If a file does not compute what the module computes.
    """
    export_onnx(module, folder / "model.onnx")
    export_torchscript(module, folder / "model.ts")
    return {
        "ONNX": load_model(folder / "model.onnx"),
        "TorchScript": load_model(folder / "model.ts"),
        "eager": TorchScriptModel(StepForward(module).eval(), module.spec),
    }


def run_bench(targets: Sequence[str], effort: Effort, on_step: OnStep = lambda _what, _share: None) -> Report:
    """Time the step of each model, alone and through the engine, in every form, hot and paced.

    Raises
    ------
    ExportError
        See `open_subject`.
    ConfigError
        If two targets would go by one name.
    """
    environment = Environment.now()
    subjects = [open_subject(target) for target in targets]
    labels = [subject.label for subject in subjects]
    if len(set(labels)) != len(labels):
        labels = list(targets)
    if len(set(labels)) != len(labels):
        raise ConfigError(f"a model is named twice: {', '.join(labels)}")
    suites = []
    with TemporaryDirectory() as folder:
        for number, (label, subject) in enumerate(zip(labels, subjects, strict=True)):
            on_step(f"exporting {label}, and proving it", 0.0)
            own = Path(folder, str(number))
            own.mkdir()
            suites.append(forms_suite(label, forms_of(subject.module, own)))
        rows, core = run_suites(suites, effort, on_step)
    return Report(environment, effort, rows, (), [note for subject in subjects for note in subject.notes], core)
