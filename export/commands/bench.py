"""``python -m export bench``: what the eager step of a model costs beside the files made of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def bench(
    targets: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL...",
            help="Checkpoints (runs/NAME/ema.pt), names of models of this project, or package.module:callable.",
        ),
    ],
    quick: Annotated[bool, typer.Option("--quick", help="Seconds instead of minutes, and figures to match.")] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write everything, histograms too, as JSON.")
    ] = None,
    compare: Annotated[
        Path | None, typer.Option("--compare", metavar="OLD", help="Print ratios to a report of --json.")
    ] = None,
) -> None:
    """Time a model's step in torch beside its ONNX and TorchScript files: alone and through the engine, hot and paced.

    The files are made for the occasion, of the same weights, and proven equal. Everything runs in turns on one core;
    docs/performance.md tells how to read the figures.
    """
    from streamproc.bench.compare import compare as compare_reports
    from streamproc.bench.report import Report
    from streamproc.bench.timing import QUICK, THOROUGH
    from streamproc.cli.bench import bench_progress, warn_of
    from streamproc.cli.bench_report import print_comparison, print_report
    from streamproc.cli.console import stdout
    from streamproc.places import require_file

    from ..bench import run_bench

    old = Report.load(compare) if compare else None
    if json_file is not None:
        require_file(json_file)
    with bench_progress(enabled=True) as on_step:
        report = run_bench(targets, QUICK if quick else THOROUGH, on_step)
    warn_of(report)
    print_report(report, stdout)
    if old is not None:
        print_comparison(compare_reports(old, report), stdout)
    if json_file is not None:
        report.save(json_file)
