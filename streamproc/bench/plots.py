"""A report as pictures: where a hop's time goes, how times are spread, what block size costs, where latency comes from.

Needs matplotlib, like `streamproc.plots`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from ..atomic import replacing
from ..errors import ConfigError
from ..plots import require_matplotlib
from .cases import ANALYSIS, ENGINE, STEP, SYNTHESIS
from .report import Report, Row
from .timing import Distribution

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PARTS = ("device_in", "resample", "reblock", "algorithmic", "queue", "device_out")

PART_COLOURS = dict(
    zip(PARTS, ("#8a8a8a", "#d98c3f", "#9dbcd8", "#1f4e79", "#5b9a68", "#b5b5b5"), strict=True)
)  # fmt: skip
"""The colour of every part of a latency, in pictures and on the terminal."""

_HOT, _PACED = "#d98c3f", "#1f4e79"
_STAGES = {ANALYSIS: "#9dbcd8", STEP: "#1f4e79", SYNTHESIS: "#9dbcd8", "around": "#d98c3f"}
_LINES = ("#1f4e79", "#d98c3f", "#5b9a68", "#a34a6b", "#8a8a8a")


def save_pictures(report: Report, folder: Path) -> list[Path]:
    """Draw every picture that the report has figures for.

    Parameters
    ----------
    report : Report
    folder : Path
        Made where it is missing. Pictures of the same name are replaced.

    Returns
    -------
    list of Path

    Raises
    ------
    ConfigError
        If a picture cannot be written.
    BackendUnavailable
        If matplotlib is missing.
    """
    require_matplotlib()
    suites = {kind: _suites_of(report, kind) for kind in ("hop", "callbacks", "streams")}
    drawn = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if suites["hop"]:
            drawn.append(_save(_draw_hops(suites["hop"], report), folder / "hop.png"))
            drawn.append(_save(_draw_spread(suites["hop"], report), folder / "spread.png"))
        if suites["callbacks"]:
            drawn.append(_save(_draw_blocks(suites["callbacks"], report), folder / "blocks.png"))
            drawn.append(_save(_draw_budgets(suites["callbacks"]), folder / "budget.png"))
        if suites["streams"]:
            drawn.append(_save(_draw_streams(suites["streams"], report), folder / "streams.png"))
    except OSError as error:
        raise ConfigError(f"{folder} cannot be written to: {error.strerror or error}") from error
    return drawn


def save_budget(parts_ms: Mapping[str, Mapping[str, float]], picture: Path, title: str) -> None:
    """Draw latencies as stacked bars.

    Parameters
    ----------
    parts_ms : dict of str to dict of str to float
        For each bar: milliseconds by the name of the part.
    picture : Path
    title : str

    Raises
    ------
    ConfigError
        If the picture cannot be written.
    """
    figure = _figure(1.6 + 0.42 * len(parts_ms))
    axes = figure.add_subplot()
    draw_budget(axes, parts_ms)
    axes.set_title(title, loc="left", parse_math=False)
    try:
        _save(figure, picture)
    except OSError as error:
        raise ConfigError(f"{picture} cannot be written: {error.strerror or error}") from error


def draw_budget(axes: Axes, parts_ms: Mapping[str, Mapping[str, float]]) -> None:
    """Draw a horizontal bar for each latency, part after part in the order of the signal path."""
    names = list(parts_ms)
    left = np.zeros(len(names))
    for part in PARTS:
        width = np.array([parts.get(part, 0.0) for parts in parts_ms.values()])
        if not width.any():
            continue
        bars = axes.barh(names, width, left=left, color=PART_COLOURS[part], label=part.replace("_", " "), height=0.66)
        texts = [f"{value:.1f}" if value > 0.06 * (left + width).max() else "" for value in width]
        axes.bar_label(bars, texts, label_type="center", color="white", fontsize=9)
        left += width
    for index, total in enumerate(left):
        axes.annotate(
            f" {total:.1f} ms", (total, index), xytext=(3, 0), textcoords="offset points", va="center", fontsize=9
        )
    axes.invert_yaxis()
    axes.set_xlim(0.0, 1.12 * left.max() if left.any() else 1.0)
    axes.set_xlabel("latency in ms")
    _plain(axes, "x")
    _legend_above(axes)


# --- one picture each -----------------------------------------------------------------------------------------------


def _draw_hops(suites: Mapping[str, Sequence[Row]], report: Report) -> Figure:
    """Draw where the median time of a hop goes: measured stages, and what remains of the whole."""
    figure = _figure(1.8 + 0.8 * len(suites))
    axes = figure.add_subplot()
    names, at = [], 0
    for label, rows in suites.items():
        found = {row.name: row for row in rows}
        for kind in ("hot", "paced"):
            left = 0.0
            total = _timing(found[ENGINE], kind).p50_us
            stages = {name: _timing(found[name], kind).p50_us for name in (ANALYSIS, STEP, SYNTHESIS) if name in found}
            stages["around"] = max(0.0, total - sum(stages.values()))
            for stage, width in stages.items():
                legend = {STEP: "model step", ANALYSIS: "transforms"}.get(stage, stage if stage == "around" else None)
                bar = axes.barh(
                    at, width, left=left, color=_STAGES[stage], height=0.7, edgecolor="white",
                    label=legend if at == 0 else None,
                )  # fmt: skip
                if width > 0.04 * total:
                    axes.bar_label(bar, [f"{width:.0f}"], label_type="center", color="white", fontsize=9)
                left += width
            hop_us = found[ENGINE].audio_us
            axes.annotate(
                f"{left:.0f} µs, {100 * left / hop_us:.1f} % of the hop", (left, at), xytext=(5, 0),
                textcoords="offset points", va="center", fontsize=9,
            )  # fmt: skip
            names.append(f"{label}, {kind}")
            at += 1
    axes.set_yticks(range(at), names)
    axes.invert_yaxis()
    axes.set_xlim(0.0, 1.25 * axes.get_xlim()[1])
    axes.set_xlabel("µs per hop (median)")
    axes.set_title("Where the time of a hop goes", loc="left")
    _legend_above(axes)
    _plain(axes, "x")
    _sign(figure, report)
    return figure


def _draw_spread(suites: Mapping[str, Sequence[Row]], report: Report) -> Figure:
    """Draw the times of a whole hop as histograms on a logarithmic axis: the tail is what live audio is about."""
    figure = _figure(1.0 + 2.2 * len(suites))
    for index, (label, rows) in enumerate(suites.items()):
        axes = figure.add_subplot(len(suites), 1, index + 1)
        row = next(row for row in rows if row.name == ENGINE)
        for kind, colour in (("hot", _HOT), ("paced", _PACED)):
            timing = _timing(row, kind)
            edges, counts = (np.array(values) for values in zip(*timing.histogram, strict=True))
            width = edges * (timing.bin_width - 1.0)
            axes.bar(edges, counts / timing.n, width, align="edge", color=colour, alpha=0.75, label=kind)
            for percentile, style in ((timing.p50_us, "-"), (timing.p99_us, "--")):
                axes.axvline(percentile, color=colour, linestyle=style, linewidth=1.2)
        axes.axvline(row.audio_us, color="black", linewidth=1.0)
        axes.annotate(
            "deadline", (row.audio_us, 0.97), xycoords=("data", "axes fraction"), xytext=(-4, 0),
            textcoords="offset points", ha="right", va="top", fontsize=9,
        )  # fmt: skip
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_title(f"{label}: a hop through the engine; lines: p50, p99 (dashed)", loc="left", parse_math=False)
        axes.set_ylabel("share of hops")
        axes.legend(loc="upper center", frameon=False)
        _plain(axes)
    axes.set_xlabel("µs")
    _sign(figure, report)
    return figure


def _draw_blocks(suites: Mapping[str, Sequence[Row]], report: Report) -> Figure:
    """Draw callback time and load against block size."""
    figure = _figure(4.6)
    left, right = figure.subplots(1, 2)
    for (label, rows), colour in zip(suites.items(), _LINES * len(suites), strict=False):
        rows = _sweep(rows)
        blocks = [row.facts["block"] for row in rows]
        p50, p99 = ([getattr(row.paced, name) for row in rows] for name in ("p50_us", "p99_us"))
        left.plot(blocks, p50, "o-", color=colour, label=f"{label}, p50")
        left.plot(blocks, p99, "o--", color=colour, label=f"{label}, p99", markerfacecolor="white")
        right.plot(blocks, [100 * row.load(row.paced.p50_us) for row in rows], "o-", color=colour)
        right.plot(
            blocks, [100 * row.load(row.paced.p99_us) for row in rows], "o--", color=colour, markerfacecolor="white"
        )
    right.axhline(100.0, color="black", linewidth=1.0)
    right.annotate("deadline", (0.99, 100.0), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=9)
    for axes, word in ((left, "µs per callback, paced"), (right, "load in %, paced")):
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        powers = [block for block in blocks if block & (block - 1) == 0] or blocks
        axes.set_xticks(powers, [str(block) for block in powers])
        axes.minorticks_off()
        axes.set_xlabel("block in frames")
        axes.set_title(word, loc="left")
        _plain(axes)
    left.legend(frameon=False, fontsize=9)
    _sign(figure, report)
    return figure


def _draw_budgets(suites: Mapping[str, Sequence[Row]]) -> Figure:
    """Draw the latency of every callback case as a stacked bar."""
    bars = {
        f"{label}, {row.name}" if len(suites) > 1 else row.name: row.facts["latency_ms"]
        for label, rows in suites.items()
        for row in rows
        if row.facts["n_channels"] == 1
    }
    figure = _figure(1.6 + 0.32 * len(bars))
    axes = figure.add_subplot()
    draw_budget(axes, bars)
    axes.set_title(f"Latency of the processor: {', '.join(suites)}", loc="left", parse_math=False)
    return figure


def _draw_streams(suites: Mapping[str, Sequence[Row]], report: Report) -> Figure:
    """Draw how many streams a core carries against how many it is given."""
    figure = _figure(4.4)
    axes = figure.add_subplot()
    for (label, rows), colour in zip(suites.items(), _LINES * len(suites), strict=False):
        for pooled, style in ((True, "o-"), (False, "o--")):
            chosen = [row for row in rows if row.facts["pooled"] is pooled]
            counts = [row.facts["n_streams"] for row in chosen]
            carried = [streams_per_core(row) for row in chosen]
            word = "one pool" if pooled else "separate engines"
            axes.plot(counts, carried, style, color=colour, label=f"{label}, {word}",
                      markerfacecolor=colour if pooled else "white")  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.minorticks_off()
    axes.set_ylim(bottom=0.0)
    axes.set_xlabel("streams")
    axes.set_title("Streams that one core carries (hot, median)", loc="left")
    axes.legend(frameon=False)
    _plain(axes)
    _sign(figure, report)
    return figure


def streams_per_core(row: Row) -> float:
    """Return how many streams a core carries when all its time goes into calls like this one."""
    return float(row.facts["n_streams"] * row.audio_us / row.hot.p50_us)


# --- what they share ------------------------------------------------------------------------------------------------


def _suites_of(report: Report, kind: str) -> dict[str, list[Row]]:
    """Return the suites of one kind by the label of their model."""
    suites = report.suites().items()
    return {name.split(" · ", 1)[1]: rows for name, rows in suites if name.startswith(f"{kind} · ")}


def _sweep(rows: Sequence[Row]) -> list[Row]:
    """Return the rows that differ in their block alone."""
    first = rows[0].facts
    same = [r for r in rows if all(r.facts[name] == first[name] for name in ("sample_rate", "n_channels"))]
    return sorted(same, key=lambda row: row.facts["block"])


def _timing(row: Row, kind: str) -> Distribution:
    return row.hot if kind == "hot" else row.paced


def _figure(height: float) -> Figure:
    require_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # Without pyplot there is no global state, and no window system is looked for.
    figure = Figure(figsize=(10.0, height), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _plain(axes: Axes, grid: Literal["x", "both"] = "both") -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
    axes.grid(True, axis=grid, color="#e4e4e4", linewidth=0.7)


def _legend_above(axes: Axes) -> None:
    axes.figure.legend(*axes.get_legend_handles_labels(), loc="outside upper right", ncol=6, frameon=False)


def _sign(figure: Figure, report: Report) -> None:
    """Say where the figures come from."""
    environment = report.environment
    busy = ", BUSY" if environment.is_busy else ""
    versions = " ".join(
        f"{name} {environment.packages[name]}" for name in ("onnxruntime",) if name in environment.packages
    )
    figure.supxlabel(
        f"{environment.cpu} · Python {environment.python} · {versions} · {environment.when[:10]}{busy}",
        fontsize=8, color="#707070",
    )  # fmt: skip


def _save(figure: Figure, picture: Path) -> Path:
    with replacing(picture) as temporary:
        figure.savefig(temporary, format="png")
    return picture
