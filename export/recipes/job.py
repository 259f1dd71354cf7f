"""What a recipe is given: where to write, how much to do, and how to keep what is done."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from rich.console import Console
from rich.progress import track

from streamproc.atomic import replacing
from streamproc.errors import StreamprocError
from streamproc.places import require_folder
from streamproc.text import clock

from .report import RecipeReport, RunRecord, results_table, write_report

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..model_file import StepModule

Item = TypeVar("Item")

PARTS = "parts"
"""Folder below the output folder where finished parts are kept."""


class RecipeStopped(StreamprocError):
    """The time that was given is used up, and parts are left."""


class DataMissing(StreamprocError):
    """The recordings or files that a recipe works on are not there."""


class RecipeJob:
    """One run of a recipe.

    Parameters
    ----------
    name : str
    out : Path
        Folder for everything that is written; made if it is missing.
    quick : bool
        A minute instead of the full run: enough to see that everything works, too little for its figures.
    seeds : sequence of int
    resume : bool
        Take parts that an earlier call finished as they are.
    data : Path, optional
        Folder of data in the place of the recipe's own.
    minutes : float, optional
        Begin no part after this time.
    console : rich.console.Console, optional

    Raises
    ------
    ConfigError
        If `out` cannot be written to.
    """

    def __init__(
        self,
        name: str,
        out: Path,
        quick: bool = False,
        seeds: Sequence[int] = (0,),
        resume: bool = True,
        data: Path | None = None,
        minutes: float | None = None,
        console: Console | None = None,
    ) -> None:
        self.name, self.out, self.quick, self.resume = name, out, quick, resume
        self.seeds = tuple(seeds)
        self.data, self.minutes = data, minutes
        self.console = console or Console()
        self._began = time.monotonic()
        self._earlier_s = 0.0
        self._figures: list[str] = []
        self._parity: dict[str, float] = {}
        require_folder(out)
        out.mkdir(parents=True, exist_ok=True)

    # --- telling ----------------------------------------------------------------------------------------------------

    def say(self, text: str) -> None:
        """Print a line."""
        self.console.print(text, markup=False, highlight=False)

    def track(self, items: Iterable[Item], what: str, total: int | None = None) -> Iterable[Item]:
        """Yield `items` behind a progress bar; without a terminal there is no bar."""
        quiet = not self.console.is_terminal
        return track(items, what, total, console=self.console, transient=True, disable=quiet)

    # --- keeping ----------------------------------------------------------------------------------------------------

    def path(self, name: str) -> Path:
        """Return the path of a file of this run; the folder for it exists."""
        path = self.out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def part(
        self, key: str, compute: Callable[[], Any], config: dict[str, Any] | None = None, files: Sequence[str] = ()
    ) -> Any:
        """Return the result of one part of the work; a finished one is read, so that an interrupted run goes on.

        Parameters
        ----------
        key : str
            Name of the part, unique in the recipe: ``"gru seed 3"``.
        compute : callable
            Returns anything that JSON can hold (numbers, text, lists, dicts with text as keys). A non-finite number
            comes back as NaN, a tuple as a list, and so from the first call on.
        config : dict, optional
            Everything that the result depends on: sizes, learning rate, steps, seed. When it changes, the part is
            computed again. Whether the run is quick counts by itself.
        files : sequence of str
            Files below the output folder that `compute` writes, for example weights: without them it is not finished.

        Raises
        ------
        RecipeStopped
            If the part is still to be done and the time is used up.
        """
        record = self.path(f"{PARTS}/{_slug(key)}.json")
        wanted = json.loads(json.dumps({"quick": self.quick, **(config or {})}, default=str))
        if self.resume and record.is_file() and all((self.out / name).is_file() for name in files):
            try:
                stored = json.loads(record.read_text())
            except ValueError:  # not ours, or damaged: the part is simply done again
                stored = {}
            if stored.get("config") == wanted:
                self._earlier_s += stored["seconds"]
                return stored["result"]
        if self.time_is_over:
            raise self.stopped(f"before {key!r}")
        began, earlier_s = time.monotonic(), self._earlier_s
        result = compute()
        seconds = time.monotonic() - began + self._earlier_s - earlier_s
        text = json.dumps({"key": key, "config": wanted, "seconds": seconds, "result": result}, indent=1)
        with replacing(record) as path:
            path.write_text(text + "\n")
        self.say(f"{key}: {clock(seconds)}")
        return json.loads(text)["result"]

    @property
    def time_is_over(self) -> bool:
        """Whether the minutes that were given are used up. Long parts look here, and save where they are."""
        return self.minutes is not None and time.monotonic() - self._began > 60 * self.minutes

    def stopped(self, where: str) -> RecipeStopped:
        """Return what to raise when the time is over, once everything is saved."""
        return RecipeStopped(
            f"recipe {self.name}: {self.minutes:g} minutes are over {where}; the same command goes on from here"
        )

    def count_earlier(self, seconds: float) -> None:
        """Count what an earlier call spent on the part that is being computed, and saved half done."""
        self._earlier_s += seconds

    def folder(self, default: Path | str, what: str) -> Path:
        """Return the folder of data: the one the user gave, or `default`.

        Parameters
        ----------
        default : path
        what : str
            What lies there, for the message: ``"the four polyphonic sets (Nottingham.mat, ...)"``.

        Raises
        ------
        DataMissing
            With the folder that was expected.
        """
        folder = Path(default) if self.data is None else self.data
        if not folder.is_dir():
            raise DataMissing(
                f"recipe {self.name}: the folder {folder} is missing, where {what} should be; --data takes another one"
            )
        return folder

    # --- showing ----------------------------------------------------------------------------------------------------

    @contextmanager
    def figure(self, name: str, n_rows: int = 1, n_columns: int = 1, **options: Any) -> Iterator[tuple[Figure, Any]]:
        """Yield a matplotlib figure and its axes (as `pyplot.subplots` does); it is saved as PNG when the block ends.

        Parameters
        ----------
        name : str
            File below the output folder, ending in ``.png``.
        n_rows, n_columns : int
        **options
            For `pyplot.subplots`: ``figsize``, ``sharex``, ...
        """
        pyplot = _pyplot()
        figure, axes = pyplot.subplots(n_rows, n_columns, **{"constrained_layout": True, **options})
        try:
            yield figure, axes
            with replacing(self.path(name)) as path:
                figure.savefig(path, dpi=110, format="png")
        finally:
            pyplot.close(figure)
        self._figures.append(name)

    def animate(
        self, name: str, draw: Callable[[Any, Any], None], frames: Sequence[Any], per_second: float = 20, **options: Any
    ) -> None:
        """Save an animation as GIF.

        Parameters
        ----------
        name : str
            File below the output folder, ending in ``.gif``.
        draw : callable
            Gets cleared axes and one item of `frames`, and draws it.
        frames : sequence
        per_second : float
        **options
            For `pyplot.subplots`.
        """
        from matplotlib.animation import FuncAnimation, PillowWriter

        pyplot = _pyplot()
        figure, axes = pyplot.subplots(**{"constrained_layout": True, **options})

        def update(frame: Any) -> tuple[()]:
            axes.clear()
            draw(axes, frame)
            return ()

        try:
            # Drawing starts at the first frame by itself otherwise, and would draw it twice.
            animation = FuncAnimation(figure, update, frames=frames, init_func=lambda: (), cache_frame_data=False)
            with replacing(self.path(name)) as path:
                partial = path.with_suffix(".gif")  # the writer chooses the format by the ending
                try:
                    animation.save(partial, writer=PillowWriter(fps=per_second), dpi=80)
                    partial.replace(path)
                finally:
                    partial.unlink(missing_ok=True)
        finally:
            pyplot.close(figure)
        self._figures.append(name)

    # --- exporting --------------------------------------------------------------------------------------------------

    def export(self, module: StepModule, stem: str) -> list[Path]:
        """Export a module as ``stem.onnx`` and ``stem.ts``, both proven equal to it, outputs and states.

        Returns
        -------
        list of Path
            The ONNX file first.

        Raises
        ------
        ParityError, ModelFileError
            If a file does not compute what the module computes.
        """
        from ..to_onnx import export_onnx
        from ..to_torchscript import export_torchscript

        paths = []
        for ending, export in (("onnx", export_onnx), ("ts", export_torchscript)):
            path = self.path(f"{stem}.{ending}")
            comparisons = export(module, path)
            tensors = [tensor for comparison in comparisons.values() for tensor in comparison.tensors.values()]
            self._parity[path.name] = max(tensor.error / tensor.tolerance for tensor in tensors)
            paths.append(path)
        return paths

    # --- ending -----------------------------------------------------------------------------------------------------

    def finish(self, report: RecipeReport, command: str, environment: dict[str, str]) -> None:
        """Write the report and print its tables."""
        record = RunRecord(
            name=self.name,
            command=command,
            quick=self.quick,
            seeds=self.seeds,
            seconds=self._earlier_s + time.monotonic() - self._began,
            environment=environment,
            figures=self._figures,
            models=list(self._parity),
            parity=self._parity,
        )
        write_report(report, record, self.out)
        for table in (results_table(report, record), *report.tables):
            self.console.print(table.rich())
        for note in report.notes:
            self.say(f"- {note}")
        if report.live:
            self.say(f"\nTry it:\n{report.live}")
        self.say(f"\nwrote {self.out}/: {', '.join(['report.md', 'report.json', *self._figures, *self._parity])}")


def _slug(key: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", key.lower()).strip("-")


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot
