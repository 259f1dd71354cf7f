"""Denoise recordings and show what was gained: latency budget, speed, noise removed, and SI-SDR where it can be known.

::

    python examples/demo/demo.py --out demo-out examples/demo/noisy.flac more.wav ...

Each file is written to the folder of ``--out`` with a picture of its spectrograms before and after. Where the clean
speech lies beside a noisy file (``talk_7_clean.wav`` beside ``talk_7_noisy.wav``), the two are compared with it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

import streamproc
from streamproc.errors import BackendUnavailable, StreamprocError
from streamproc.offline import FileReport, process_file

LIVE_RATE = 48_000
LIVE_BLOCK = 128


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo; return the exit code."""
    options = _parse(arguments)
    console = Console()
    try:
        console.print(latency_table(options.model))
        options.out.mkdir(parents=True, exist_ok=True)
        reports = []
        with Progress(console=console, transient=True) as progress:
            for source in options.files:
                task = progress.add_task(source.name, total=1.0)
                target = options.out / f"{source.stem}_{Path(options.model).stem}.wav"
                reports.append(
                    process_file(
                        source,
                        target,
                        streamproc.load(options.model),
                        lambda share, task=task: progress.update(task, completed=share),
                    )
                )
                draw_comparison(source, target, console)
        console.print(results_table(reports))
        console.print(f"wrote [bold]{options.out}/[/]: listen to the .wav files, look at the .png files")
    except (StreamprocError, OSError) as error:
        console.print(f"error: {error}", style="red", markup=False, soft_wrap=True)
        return 1
    return 0


def latency_table(model: str) -> Table:
    """Return where a live microphone's delay comes from, without the sound card's own."""
    processor = streamproc.load(model)
    budget = streamproc.Engine(processor, LIVE_RATE, fixed_block=LIVE_BLOCK).latency.ms(LIVE_RATE)
    spec = processor.model.spec
    frame_ms = 1000 * (spec.hop + spec.latency) / spec.sample_rate
    table = Table(
        title=f"Latency of {spec.name} {spec.version}, live at {LIVE_RATE // 1000} kHz in blocks of {LIVE_BLOCK} "
        f"(frame latency {frame_ms:.1f} ms)",
        title_justify="left",
    )
    named = {name: value for name, value in budget.items() if value or name == "total"}
    for name in named:
        table.add_column(f"{name} ms", justify="right")
    table.add_row(*(f"{value:.2f}" for value in named.values()))
    return table


def results_table(reports: Sequence[FileReport]) -> Table:
    """Return one line for each file."""
    table = Table(title="What was done", title_justify="left")
    table.add_column("file", overflow="fold")
    for heading in ("seconds", "rtf", "noise floor dB", "removed dB", "SI-SDR dB"):
        table.add_column(heading, justify="right", no_wrap=True)
    for report in reports:
        clean = find_clean(report.source)
        change = ""
        if clean is not None:
            before, after = (si_sdr_db(path, clean) for path in (report.source, report.target))
            change = f"{before:.1f} → {after:.1f}"
        table.add_row(
            report.source.name,
            f"{report.seconds:.1f}",
            f"{report.statistics.rtf:.4f}",
            f"{report.floor_in_db:.0f} → {report.floor_out_db:.0f}",
            f"{report.noise_removed_db:.1f}",
            change,
        )
    return table


def draw_comparison(source: Path, target: Path, console: Console) -> None:
    """Draw the spectrograms before and after; without matplotlib, say so."""
    from streamproc.plots import save_comparison

    try:
        save_comparison(source, target, target.with_suffix(".png"))
    except BackendUnavailable as error:
        console.print(f"no picture of {target.name}: {error}", style="yellow", markup=False)


def find_clean(noisy: Path) -> Path | None:
    """Return the clean speech beside a noisy file: the same name, less some words, with "clean" for "noisy"."""
    words = set(noisy.stem.split("_"))
    if "noisy" not in words:
        return None
    found = []
    for path in noisy.parent.glob(f"*clean*{noisy.suffix}"):
        clean_words = set(path.stem.split("_"))
        if "clean" in clean_words and clean_words - {"clean"} <= words - {"noisy"}:
            found.append((len(clean_words), path))
    return max(found)[1] if found else None


def si_sdr_db(estimate: Path, reference: Path) -> float:
    """Return how far the speech stands above all else in a file, in dB, at the best scale (Le Roux et al., 2019)."""
    x, s = (_read_mono(path) for path in (estimate, reference))
    n = min(len(x), len(s))
    x, s = x[:n] - x[:n].mean(), s[:n] - s[:n].mean()
    target = (x @ s) / (s @ s) * s
    return float(10 * np.log10((target @ target) / np.sum((x - target) ** 2)))


def _read_mono(path: Path) -> npt.NDArray[np.float64]:
    samples, _ = soundfile.read(path, always_2d=True)
    return np.asarray(samples.mean(axis=1))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", type=Path, default=[Path(__file__).with_name("noisy.flac")])
    parser.add_argument("--out", type=Path, default=Path("demo-out"), help="folder for the results (%(default)s)")
    parser.add_argument("--model", default="denoise", help="name or file of a model (%(default)s)")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
