"""What ``bench`` shows: a table for every suite."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..bench.compare import Change, Comparison
from ..bench.plots import streams_per_core
from ..bench.report import Report, Row
from ..bench.timing import Distribution

_WIDE = 118
"""Columns of a terminal that has room for every percentile."""


def print_report(report: Report, console: Console) -> None:
    """Print everything but the histograms."""
    console.print(_where(report))
    for suite, rows in report.suites().items():
        kind, _, label = suite.partition(" · ")
        if kind == "hop":
            console.print(_hop_table(label, rows, console.width, "the same by hand"))
        elif kind == "forms":
            console.print(_hop_table(label, rows, console.width, rows[0].facts["form"]))
        elif kind == "callbacks":
            console.print(_callback_table(label, rows, console.width))
        elif kind == "streams":
            console.print(_stream_table(label, rows))
        else:
            console.print(_side_by_side_table(rows))
    if report.resources:
        console.print(_resource_table(report))


def _where(report: Report) -> Text:
    machine = report.environment
    core = "" if report.pinned_to is None else f", all on core {report.pinned_to}"
    versions = " · ".join(f"{name} {number}" for name, number in machine.packages.items())
    line = Text(f"{machine.cpu}, {machine.n_cpus} cores{core} · {machine.system} · Python {machine.python}\n")
    line.append(f"{versions}\n", "dim")
    details = [f"load average {machine.load_average}"] if machine.load_average is not None else []
    details += [f"governor {machine.governor}"] if machine.governor else []
    return line.append(" · ".join([*details, machine.when]), "bold red" if machine.is_busy else "dim")


def _table(title: str, explanation: str, columns: Sequence[str], first: str = "") -> Table:
    table = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
        title=Text.assemble((title, "bold cyan"), f"  {explanation}"),
        title_justify="left",
        title_style="",
    )
    table.add_column(first, overflow="fold", min_width=12)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _hop_table(label: str, rows: Sequence[Row], width: int, reference: str) -> Table:
    """Return times of a hop, and ratios to rows that are `reference`."""
    percentiles = ("p50", "p95", "p99", "p99.9", "max") if width >= _WIDE else ("p50", "p99")
    columns = [f"{kind} {percentile}" if percentile == "p50" else percentile
               for kind in ("hot", "paced") for percentile in percentiles]  # fmt: skip
    explanation = f"a hop of {_ms(rows[0].audio_us)}, in µs; x: ratio to {reference}"
    table = _table(label, explanation, [*columns, "x hot", "x paced p99"])
    by_name = {row.name: row for row in rows}
    for row in rows:
        ratios = ("", "")
        if row.reference is not None:
            against = Change(by_name[row.reference], row)
            ratios = (f"{against.hot_p50:.2f}", f"{against.paced_p99:.2f}")
        table.add_row(row.name, *_times(row.hot, percentiles), *_times(row.paced, percentiles), *ratios)
    return table


def _times(times: Distribution, percentiles: Sequence[str]) -> list[str]:
    values = {
        "p50": times.p50_us,
        "p95": times.p95_us,
        "p99": times.p99_us,
        "p99.9": times.p99_9_us,
        "max": times.max_us,
    }
    return [_us(values[name]) for name in percentiles]


def _callback_table(label: str, rows: Sequence[Row], width: int) -> Table:
    wide = width >= _WIDE
    percentiles = ("p50", "p99", "max") if wide else ("p50", "p99")
    hot = ["hot p50"] if wide else []
    columns = ["latency", *hot, "paced p50", *percentiles[1:], "load p50", *percentiles[1:], "rtf", "misses"]
    table = _table(label, "a callback, in µs; latency in ms, load in %", columns, "rate, block")
    for row in rows:
        loads = {"p50": row.paced.p50_us, "p99": row.paced.p99_us, "max": row.paced.max_us}
        table.add_row(
            row.name,
            f"{row.facts['latency_ms'].get('total', 0.0):.1f}",
            *([_us(row.hot.p50_us)] if wide else []),
            *_times(row.paced, percentiles),
            *(f"{100 * row.load(loads[name]):.1f}" for name in percentiles),
            f"{row.rtf:.4f}",
            Text(f"{row.misses}/{row.paced.n}", "bold red" if row.misses else ""),
        )
    return table


def _side_by_side_table(rows: Sequence[Row]) -> Table:
    columns = ["rate", "frame", "latency", "hot p50", "p99", "paced p50", "p99", "rtf", "x first"]
    table = _table("side by side", "a frame of each per call, in µs; frame and latency in ms", columns)
    for row in rows:
        facts = row.facts
        table.add_row(
            Text(row.name),
            str(facts["sample_rate"]),
            f"{row.audio_us / 1e3:.1f}",
            f"{facts['frame_latency_ms']:.1f}",
            *map(_us, (row.hot.p50_us, row.hot.p99_us, row.paced.p50_us, row.paced.p99_us)),
            f"{row.rtf:.4f}",
            f"{row.rtf / rows[0].rtf:.2f}",
        )
    return table


def _stream_table(label: str, rows: Sequence[Row]) -> Table:
    columns = ["engines", "per core", "pool", "per core", "gain"]
    table = _table(label, "µs per stream and hop, hot; streams that a core carries", columns, "streams")
    by_name = {row.name: row for row in rows}
    for row in rows:
        if row.reference is None:
            continue
        alone, n = by_name[row.reference], row.facts["n_streams"]
        cells = [text for one in (alone, row) for text in (_us(one.hot.p50_us / n), f"{streams_per_core(one):.0f}")]
        table.add_row(str(n), *cells, f"{alone.hot.p50_us / row.hot.p50_us:.2f}")
    return table


def _resource_table(report: Report) -> Table:
    columns = ["runs in", "MB", "state", "MMAC/s", "import", "load", "prepare", "first hop", "MiB"]
    table = _table("loading", "in a process of its own, in ms; memory of the package + of the model", columns)
    for entry in report.resources:
        table.add_row(
            Text(entry.model),
            entry.backend,
            f"{entry.file_bytes / 1e6:.2f}",
            f"{entry.n_state_values:,}",
            "-" if entry.macs_per_second is None else f"{entry.macs_per_second / 1e6:.0f}",
            *(f"{value:.0f}" for value in (entry.import_ms, entry.load_ms, entry.prepare_ms)),
            f"{entry.first_call_us / 1e3:.2f}",
            "-" if entry.model_mib is None else f"{entry.package_mib:.0f} + {entry.model_mib:.1f}",
        )
    return table


def print_comparison(comparison: Comparison, console: Console) -> None:
    """Print ratios, new over old."""
    table = _table("compared", "new over old; below 1 is faster", ["hot p50", "paced p50", "paced p99"])
    suite = ""
    for change in comparison.changes:
        if change.new.suite != suite:
            suite = change.new.suite
            table.add_row(Text(suite, "dim"))
        table.add_row(Text(f"  {change.new.name}"), *map(_ratio, (change.hot_p50, change.paced_p50, change.paced_p99)))
    table.add_section()
    table.add_row("geometric mean", _ratio(comparison.overall_hot_p50), style="bold")
    console.print(table)
    for warning in comparison.warnings:
        console.print(Text(f"not alike: {warning}", "yellow"), soft_wrap=True)
    for words, names in (("only before", comparison.only_old), ("only now", comparison.only_new)):
        if names:
            console.print(Text(f"{words}: {', '.join(names)}", "dim"), soft_wrap=True)


def _ratio(value: float) -> Text:
    return Text(f"{value:.2f}", "green" if value < 0.95 else "red" if value > 1.05 else "")


def _us(value: float | None) -> str:
    """Write microseconds with about three digits."""
    if value is None:
        return "-"
    return f"{value:.1f}" if value < 100.0 else f"{value:.0f}"


def _ms(value_us: float) -> str:
    return f"{value_us / 1e3:.3g} ms"
