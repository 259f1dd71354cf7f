"""What a run leaves in ``runs/<name>``, and how it goes on from there.

``last.pt`` is everything needed to go on exactly, ``ema.pt`` the averaged weights for `export.models.load_checkpoint`,
``run.json`` everything but the weights; ``log.csv`` and ``curves.png`` tell how it went.
"""

from __future__ import annotations

import csv
import json
import os
import platform
import subprocess
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from streamproc.atomic import replacing
from streamproc.errors import ConfigError

from .models import StreamableModel, describe_model, read_stored, require_format

if TYPE_CHECKING:
    from .train import TrainConfig

COLUMNS = (
    "step", "minutes", "hours", "lr", "train_loss", "grad_norm", "frames_per_s", "wait_share",
    "val_loss", "val_si_sdr", "val_si_sdr_gain", "val_pesq", "val_pesq_gain", "clean_pesq",
)  # fmt: skip


@dataclass
class Progress:
    """How far a run is.

    Attributes
    ----------
    step : int
    seconds : float
        Training time over all sessions, validation included.
    audio_hours : float
        Audio seen, hours.
    figures : dict
        Results of the last validation.
    """

    step: int = 0
    seconds: float = 0.0
    audio_hours: float = 0.0
    figures: dict[str, float] = field(default_factory=dict)


def save_run(
    folder: Path,
    config: TrainConfig,
    model: StreamableModel,
    average: StreamableModel,
    optimiser: torch.optim.Optimizer,
    progress: Progress,
) -> None:
    """Write ``ema.pt``, ``last.pt`` and ``run.json``; a full disk leaves the old ones whole."""
    record = {
        **describe_model(model),
        "train_config": asdict(config),
        "progress": asdict(progress),
        "environment": environment(),
    }
    averaged = {**record, "ema": average.state_dict()}
    whole = {**averaged, "weights": model.state_dict(), "optimiser": optimiser.state_dict()}
    for name, content in (("ema.pt", averaged), ("last.pt", whole)):
        with replacing(folder / name) as partial:
            torch.save(content, partial)
    with replacing(folder / "run.json") as partial:
        partial.write_text(json.dumps(record, indent=1) + "\n")


def load_run(
    path: Path, model: StreamableModel, average: StreamableModel, optimiser: torch.optim.Optimizer
) -> Progress:
    """Load ``last.pt`` into a model, its average and its optimiser; return how far it was.

    Raises
    ------
    ConfigError
        If it holds another model, another optimiser, or nothing of the kind.
    """
    stored = read_stored(path)
    require_format(stored, path)
    other = _differences(stored, model)
    if other:
        raise ConfigError(
            f"{path} is of another model ({other}); go on with the options that the run was begun with, "
            f"take another --name, or begin again with --fresh"
        )
    try:
        if any(optimiser.defaults.keys() - group.keys() for group in stored["optimiser"]["param_groups"]):
            raise ValueError("another optimiser")  # torch would load what it remembers
        model.load_state_dict(stored["weights"])
        average.load_state_dict(stored["ema"])
        optimiser.load_state_dict(stored["optimiser"])
        return Progress(**stored["progress"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"{path} holds nothing that this training can go on from: weights, figures or what the optimiser remembers "
            f"are missing, or others; go on with the options that the run was begun with, take another --name, or "
            f"begin again with --fresh"
        ) from error


def _differences(stored: dict[str, Any], model: StreamableModel) -> str:
    """Say what a checkpoint has otherwise than the model; fields that it does not know came later, and change nothing.

    Also those that change no size count: the weights would load, and mean something else.
    """
    asked = describe_model(model)
    old = {**stored.get("model_config", {}), "model": stored.get("model", asked["model"])}
    new = {**asked["model_config"], "model": asked["model"]}
    return ", ".join(
        f"{name} {old[name]!r}, not {new[name]!r}" for name in new if name in old and old[name] != new[name]
    )


class Log:
    """The run's CSV. Rows beyond the step that was resumed from are dropped: they will be written again."""

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        rows: list[dict[str, str]] = []
        if step and path.is_file():
            with path.open(newline="") as lines:
                rows = [row for row in csv.DictReader(lines) if int(row["step"]) <= step]
        with path.open("w", newline="") as out:
            writer = csv.DictWriter(out, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)

    def write(self, row: dict[str, float]) -> None:
        """Append one row; columns that are not given stay empty."""
        with self.path.open("a", newline="") as out:
            rounded = {name: value if isinstance(value, int) else f"{value:.6g}" for name, value in row.items()}
            csv.DictWriter(out, COLUMNS).writerow(rounded)


def environment() -> dict[str, str]:
    """Versions and machine, for the record that travels with the weights."""
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        commit = ""
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "commit": commit,
        "date": time.strftime("%Y-%m-%d"),
    }


def plot_curves(folder: Path) -> None:
    """Draw ``log.csv`` as ``curves.png``: loss, SI-SDR and PESQ over hours of audio."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    with (folder / "log.csv").open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    figure, axes = pyplot.subplots(1, 3, figsize=(13, 3.6), constrained_layout=True)
    panels = (("train_loss", "val_loss"), ("val_si_sdr", "val_si_sdr_gain"), ("val_pesq", "val_pesq_gain"))
    for axis, names in zip(axes, panels, strict=True):
        for name in names:
            points = [(float(row["hours"]), float(row[name])) for row in rows if row[name]]
            if points:
                axis.plot(*zip(*points, strict=True), label=name.replace("_", " "))
                axis.legend()
        axis.set_xlabel("hours of audio seen")
        axis.grid(alpha=0.3)
    figure.savefig(folder / "curves.png", dpi=110)
    pyplot.close(figure)
