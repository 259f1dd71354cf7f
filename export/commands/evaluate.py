"""``python -m export evaluate``: our models beside the peers on one fixed set of mixtures."""

from __future__ import annotations

import os
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from ._shared import Checkpoints, Models

N_MIXTURES = 60
N_QUICK = 20
N_VARIED = 120
TRADEOFF = "tradeoff.png"


def evaluate(
    model: Models = None,
    checkpoint: Checkpoints = None,
    against: Annotated[str, typer.Option(help="Peers, with commas between; empty for none.")] = "gtcrn,ulunas,rnnoise",
    n: Annotated[
        int | None,
        typer.Option("--n", min=2, help=f"Mixtures. [dim]default: {N_MIXTURES}, with --quick {N_QUICK}[/dim]"),
    ] = None,
    varied: Annotated[
        bool | None,
        typer.Option("--varied/--plain", help="Three levels and simulated rooms. [dim]default: from 120 on[/dim]"),
    ] = None,
    seconds: Annotated[
        float | None,
        typer.Option(min=3, help="Length of each; recordings that are shorter go round. [dim]default: 5[/dim]"),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer mixtures; no single signals, plots or sound.")] = False,
    plot: Annotated[
        bool, typer.Option("--plot", help="Also time every system, and draw quality against cost and latency.")
    ] = False,
    replot: Annotated[
        Path | None, typer.Option(metavar="JSON", help="Only draw that again, from an evaluation.json of --plot.")
    ] = None,
    val: Annotated[
        Path | None, typer.Option(help="Folder with speech and noise. [dim]default: ../shared/data/val[/dim]")
    ] = None,
    out: Annotated[Path, typer.Option(help="Where the tables, plots and sounds go.")] = Path("evaluation"),
    jobs: Annotated[int, typer.Option(min=1, help="Processes.")] = min(2, os.cpu_count() or 1),
) -> None:
    """Measure PESQ, STOI, ESTOI, SI-SDR and DNSMOS with confidence intervals; write tables, plots and sound."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when the libraries below load, here and in the workers

    from rich.console import Console
    from rich.progress import track

    from streamproc.bench.timing import QUICK, THOROUGH
    from streamproc.cli.bench import bench_progress
    from streamproc.errors import ConfigError
    from streamproc.places import require_folder
    from streamproc.sidecar import shipped_models

    from ..evaluate import pictures, report
    from ..evaluate.cost import measure_cost
    from ..evaluate.metrics import DNSMOS_FILE
    from ..evaluate.mixtures import SECONDS, VAL_DIR, MixtureSet
    from ..evaluate.runner import Bench, measure_all
    from ..evaluate.statistics import Results
    from ..evaluate.systems import NOISY, SystemUnavailable, candidates, peers

    console = Console() if sys.stdout.isatty() else Console(width=120)
    require_folder(out)
    if replot is not None:
        record = report.read_json(replot)
        out.mkdir(parents=True, exist_ok=True)
        pictures.plot_tradeoff(record, out / TRADEOFF)
        console.print(f"wrote [bold]{out / TRADEOFF}[/]", highlight=False)
        return
    n = n or (N_QUICK if quick else N_MIXTURES)
    varied = n >= N_VARIED if varied is None else varied
    try:
        mixtures = MixtureSet(n, varied, val or VAL_DIR, seconds=seconds or SECONDS)
    except FileNotFoundError as error:
        raise ConfigError(f"{error}; --val takes a folder with speech and noise in it") from error

    asked_for = candidates(model or [], checkpoint or [])
    optional = [] if asked_for else candidates(sorted(shipped_models()), [])
    optional += peers(name for name in against.split(",") if name)
    requests, infos, notes = [], [], []
    for request in (NOISY, *asked_for, *optional):
        try:
            infos.append(request.open().info)
            requests.append(request)
        except SystemUnavailable as error:
            if request in asked_for:
                raise
            notes.append(f"{request.name} is left out: {error}")
    if not DNSMOS_FILE.is_file():
        notes.append(f"no DNSMOS figures: {DNSMOS_FILE} is absent")
    for note in notes:
        console.print(f"note: {note}", style="yellow", markup=False, highlight=False)

    outcomes = measure_all(requests, mixtures, not quick, DNSMOS_FILE, jobs)
    results = Results(list(track(outcomes, f"{len(requests)} systems", len(mixtures), console=console)))
    name = f"{n} {'varied' if varied else 'plain'} mixtures of {mixtures.val_dir.name}, {mixtures.seconds:g} s each"
    tables = report.tables(results, infos, name)
    cost = None
    if plot:
        systems = [request.open() for request in requests]
        with bench_progress(enabled=True) as on_step:  # which draws nothing while something is timed
            cost, missing = measure_cost(systems, QUICK if quick else THOROUGH, on_step)
        notes += missing
        tables.append(report.cost_table(cost, infos))
    for table in tables:
        console.print(table.rich())
    command = ["python", "-m", "export", *sys.argv[1:]]
    record = report.as_json(results, infos, mixtures, command, _environment(), notes, cost)
    report.write_text(out, tables, record)
    if cost is not None and cost["systems"]:
        pictures.plot_tradeoff(record, out / TRADEOFF)
    if not quick:
        focus = requests[min(1, len(requests) - 1)].name
        with console.status("plots, spectrograms and sound"):
            worst, sounds = pictures.worst_items(results, focus), out / "listening"
            pictures.write_listening(Bench(requests, mixtures), sorted({*worst, *pictures.spread_items(n)}), sounds)
            pictures.plot_results(results, out)
            pictures.plot_items([mixtures.rows[item] for item in worst], focus, sounds, out / "worst.png")
    console.print(f"wrote [bold]{out}/[/]: {', '.join(sorted(path.name for path in out.iterdir()))}", highlight=False)


def _environment() -> dict[str, str]:
    from ..run_folder import environment

    packages = ("streamproc", "onnxruntime", "pesq", "pystoi", "soxr")
    return environment() | {package: version(package) for package in packages}
