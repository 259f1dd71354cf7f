"""``streamproc bench``: what models cost, hot and paced, beside what others cost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from ..errors import ConfigError
from . import options
from .console import command, complain, note, stderr, stdout
from .processing import DEFAULT_MODEL

if TYPE_CHECKING:
    from ..bench.report import Report

_REFRESH_S = 0.25


@command(
    """
    streamproc bench --quick
    streamproc bench denoise my_model.onnx my_model.ts --json new.json --compare old.json
    streamproc bench --against gtcrn.onnx,rnnoise,webrtc --pool --plot pictures/
    """
)
def bench(
    models: Annotated[
        list[str] | None,
        typer.Argument(metavar="MODEL", help="Shipped models or model files. [dim]default: denoise[/dim]"),
    ] = None,
    against: Annotated[
        str,
        typer.Option(
            "--against",
            metavar="A,B,...",
            help="Others, timed in the same run: model files, and [cyan]rnnoise[/cyan] and [cyan]webrtc[/cyan] where "
            "pyrnnoise and webrtc-noise-gain are installed.",
        ),
    ] = "",
    blocks: Annotated[
        str, typer.Option("--blocks", metavar="N,N,...", help="Block sizes in frames.")
    ] = "32,64,128,256,480,512,1024,2048",
    rates: Annotated[
        str,
        typer.Option("--rates", metavar="HZ,HZ,...", help="Rates; all block sizes at the first, 128 at the others."),
    ] = "48000,44100,16000",
    channels: Annotated[
        str, typer.Option("--channels", metavar="N,N,...", help="Numbers of channels, likewise.")
    ] = "1,2",
    pool: Annotated[bool, typer.Option("--pool", help="Also many streams through one batched call.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="Seconds instead of minutes, and figures to match.")] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write everything, histograms too, as JSON.")
    ] = None,
    plot: Annotated[Path | None, typer.Option("--plot", metavar="DIR", help="Draw pictures into a folder.")] = None,
    compare: Annotated[
        Path | None, typer.Option("--compare", metavar="OLD", help="Print ratios to a report of --json.")
    ] = None,
    quiet: options.QuietOption = False,
) -> None:
    """Time models step by step and callback by callback: hot, and paced as under a sound card.

    Everything of a table ran in turns on one core, so that its ratios hold. How to read the figures is told in
    docs/performance.md.
    """
    from ..bench.compare import compare as compare_reports
    from ..bench.report import Report
    from ..bench.runner import BenchSettings, run_bench
    from ..places import require_file, require_folder
    from .bench_report import print_comparison, print_report

    settings = BenchSettings(
        models=models or [DEFAULT_MODEL],
        against=[peer.strip() for peer in against.split(",") if peer.strip()],
        blocks=_numbers("--blocks", blocks),
        sample_rates=_numbers("--rates", rates),
        channels=_numbers("--channels", channels),
        pool_sizes=((1, 8) if quick else (1, 2, 4, 8, 16, 32, 64)) if pool else (),
        quick=quick,
    )
    old = Report.load(compare) if compare else None
    if json_file is not None:
        require_file(json_file)
    if plot is not None:
        from ..plots import require_matplotlib

        require_matplotlib()
        require_folder(plot)
    with bench_progress(enabled=not quiet) as on_step:
        report = run_bench(settings, on_step)
    warn_of(report)
    if not quiet:
        print_report(report, stdout)
    if old is not None:
        print_comparison(compare_reports(old, report), stdout)
    if json_file is not None:  # after the tables: a disk that has filled up meanwhile takes the file alone
        report.save(json_file)
    if plot is not None:
        from ..bench.plots import save_pictures

        for picture in save_pictures(report, plot):
            note(str(picture))


def warn_of(report: Report) -> None:
    """Say on stderr what was left out, and whether the machine was too busy for the times to be believed."""
    for remark in report.notes:
        complain(remark, "note")
    if report.environment.is_busy:
        complain(
            f"the machine was busy when this began (load {report.environment.load_average}): "
            "trust ratios, not times; run it again when nothing else runs",
            "warning",
        )


def _numbers(option: str, text: str) -> list[int]:
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < 1:
        raise ConfigError(f"{option} must be whole numbers above 0 with commas between them, found {text!r}")
    return list(dict.fromkeys(numbers))


@contextmanager
def bench_progress(enabled: bool) -> Iterator[Callable[[str, float], None]]:
    """Show how far the bench is, on a terminal. Drawn between two timed calls, never beside one."""
    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None),
        TaskProgressColumn(),
        TimeRemainingColumn(compact=True),
        console=stderr,
        transient=True,
        auto_refresh=False,  # no thread that draws while something is timed
        disable=not (enabled and stderr.is_terminal),
    )
    task = bar.add_task("", total=1.0)
    drawn = 0.0

    def on_step(what: str, share: float) -> None:
        nonlocal drawn
        if monotonic() - drawn >= _REFRESH_S:
            bar.update(task, description=what, completed=share, refresh=True)
            drawn = monotonic()

    with bar:
        yield on_step
