"""Plots of an evaluation, spectrograms of its worst items, and sound to listen to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import soundfile as sf

from streamproc.atomic import replacing
from streamproc.errors import ConfigError
from streamproc.plots import overview

from .metrics import METRICS
from .mixtures import MixtureRow
from .report import GROUPINGS, MAIN
from .runner import Bench
from .statistics import Results
from .systems import NOISY

if TYPE_CHECKING:
    from matplotlib.axes import Axes

N_WORST = 5
N_LISTEN = 6
CLEAN = "clean"

_RATE = 48_000
_RANGE_DB = 70.0
_TOP_HZ = 12_000
_SHOWN = tuple(metric for metric in METRICS if metric.key in ("pesq", "estoi", "si_sdr", "ovrl"))


def worst_items(results: Results, system: str, n: int = N_WORST) -> list[int]:
    """Return the items where a system gains least over the input, the worst first.

    Items are ranked by their gain in PESQ and by that in SI-SDR, and the two ranks added.
    """
    ranks = np.zeros(len(results.outcomes), np.int64)
    for metric in MAIN:
        gain = np.nan_to_num(results.values(system, metric.key, versus=NOISY.name), nan=np.inf)
        ranks += gain.argsort(kind="stable").argsort(kind="stable")
    return [int(index) for index in ranks.argsort(kind="stable")[:n]]


def spread_items(n_items: int, n: int = N_LISTEN) -> list[int]:
    """Return about `n` items spread evenly over the set."""
    return sorted({round(place) for place in np.linspace(0, n_items - 1, min(n, n_items))})


def plot_results(results: Results, folder: Path) -> None:
    """Draw figures by SNR with their intervals, and gains by kind of noise: ``by_snr.png`` and ``by_kind.png``."""
    from matplotlib.figure import Figure

    metrics = [metric for metric in _SHOWN if results.has(metric.key)]
    by_snr = results.split(GROUPINGS["SNR in dB"])
    figure = Figure(figsize=(3.4 * len(metrics), 3.4), layout="constrained")
    for axes, metric in zip(np.atleast_1d(figure.subplots(1, len(metrics))), metrics, strict=True):
        for place, system in enumerate(results.systems):
            means, lows, highs, _ = np.array([group.mean(system, metric.key) for group in by_snr.values()]).T
            beside = np.array(list(by_snr)) + 0.25 * place  # intervals must not cover each other
            axes.errorbar(beside, means, [means - lows, highs - means], label=system, **_style(system))
        axes.set(title=f"{metric.label} {metric.unit}", xlabel="SNR in dB", xticks=list(by_snr))
        axes.grid(alpha=0.3)
    figure.axes[0].legend(fontsize="small")
    figure.savefig(folder / "by_snr.png", dpi=130)

    processed = [system for system in results.systems if system != NOISY.name]
    if not processed:
        return
    by_kind = results.split(GROUPINGS["kind of noise"])
    figure = Figure(figsize=(10, 0.5 + 0.16 * len(by_kind) * (len(processed) + 1)), layout="constrained")
    for axes, metric in zip(figure.subplots(1, len(MAIN), sharey=True), MAIN, strict=True):
        _draw_gains(axes, by_kind, processed, metric.key)
        axes.set(title=f"{metric.label} gain {metric.unit}")
    axes.invert_yaxis()  # shared: the first kind comes on top in both
    figure.axes[-1].legend(fontsize="small")
    figure.savefig(folder / "by_kind.png", dpi=130)


def plot_tradeoff(record: Mapping[str, Any], path: Path) -> None:
    """Draw quality against cost, a point for each system, in the colour of its frame latency.

    Parameters
    ----------
    record : dict
        What `report.as_json` returns, or an ``evaluation.json`` of ``evaluate --plot``.
    path : path
        The picture.

    Raises
    ------
    ConfigError
        If the record holds no cost.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    points = tradeoff_points(record)
    metrics = [metric for metric in MAIN if metric.key in record["metrics"]]
    longest_ms = max(point.latency_ms for point in points)
    colours = ScalarMappable(Normalize(0.0, 1.1 * longest_ms), "viridis_r")
    figure = Figure(figsize=(5.2 * len(metrics), 4.2), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(metrics)))
    for axes, metric in zip(panels, metrics, strict=True):
        for place, point in enumerate(sorted(points, key=lambda point: point.share_of_core)):
            if metric.key not in point.quality:
                continue
            mean, low, high, _ = point.quality[metric.key]
            colour = colours.to_rgba(point.latency_ms)
            share = 100 * point.share_of_core
            axes.errorbar(share, mean, [[mean - low], [high - mean]], color=colour, alpha=0.35, zorder=1)
            axes.scatter(share, mean, 90, color=colour, edgecolor="black", linewidth=0.7, zorder=2)
            # Neighbours are named at opposite ends of their intervals.
            end, aside, anchor = (high, 3, "bottom") if place % 2 == 0 else (low, -3, "top")
            axes.annotate(
                f"{point.name}\n{point.latency_ms:.3g} ms", (share, end), xytext=(0, aside),
                textcoords="offset points", ha="center", va=anchor, fontsize="small", parse_math=False,
            )  # fmt: skip
        untouched = record["summary"].get(NOISY.name, {}).get(metric.key)
        if untouched:
            axes.axhline(untouched["mean"], color="0.5", linestyle="--", zorder=0)
            axes.annotate(
                NOISY.name, (0.02, untouched["mean"]), xycoords=("axes fraction", "data"), xytext=(0, 3),
                textcoords="offset points", fontsize="small", color="0.4",
            )  # fmt: skip
        axes.set(
            title=f"{metric.label} {metric.unit}".strip(),
            xscale="log",
            xlabel="% of one core (hot median)",
        )
        axes.margins(x=0.25, y=0.2)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter("{x:g}")
        axes.grid(alpha=0.3)
    figure.colorbar(colours, ax=list(panels), label="frame latency in ms")
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=130, format="png")


class Point(NamedTuple):
    """A system between quality, cost and latency."""

    name: str
    share_of_core: float
    latency_ms: float
    quality: dict[str, tuple[float, float, float, int]]
    """Mean, interval and number of clips by the key of the metric."""


def tradeoff_points(record: Mapping[str, Any]) -> list[Point]:
    """Return every system of a record that has a cost.

    Raises
    ------
    ConfigError
        If there is none.
    """
    cost = record.get("cost") or {"systems": {}}
    points = [
        Point(
            name,
            figures["share_of_core"],
            record["systems"][name]["frame_latency_ms"],
            {
                key: (value["mean"], value["low"], value["high"], value["n"])
                for key, value in record["summary"][name].items()
                if value is not None
            },
        )
        for name, figures in cost["systems"].items()
    ]
    if not points:
        raise ConfigError("this evaluation holds no cost of any system; measure it with `evaluate --plot`")
    return points


def write_listening(bench: Bench, items: Sequence[int], folder: Path) -> None:
    """Write every system's output for some items as FLAC, a folder for each item; those of an older run go."""
    for old in folder.glob("[0-9][0-9][0-9]_*/*.flac"):
        old.unlink()
    for item in items:
        mixture = bench.mixtures[item]
        target = folder / item_name(mixture.row)
        target.mkdir(parents=True, exist_ok=True)
        sounds = {CLEAN: mixture.at(_RATE).clean}
        sounds |= {name: bench.run(name, mixture, _RATE) for name in bench.systems}
        for name, samples in sounds.items():
            sf.write(target / f"{name}.flac", np.clip(samples, -1.0, 1.0), _RATE)


def plot_items(rows: Sequence[MixtureRow], system: str, folder: Path, path: Path) -> None:
    """Draw spectrograms of what `write_listening` wrote: the input, what `system` made of it, and the reference.

    Parameters
    ----------
    rows : sequence of MixtureRow
        From top to bottom.
    system : str
    folder : path
        Where the sounds are.
    path : path
        The picture.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 2.6 * len(rows)), layout="constrained")
    panels = figure.subplots(len(rows), 3, sharex=True, sharey=True, squeeze=False)
    for row, line in zip(rows, panels, strict=True):
        sounds = {name: overview(folder / item_name(row) / f"{name}.flac") for name in (NOISY.name, system, CLEAN)}
        top_db = 10 * np.log10(sounds[CLEAN].spectrum.max())
        for axes, (name, sound) in zip(line, sounds.items(), strict=True):
            axes.imshow(
                10 * np.log10(sound.spectrum.T + 1e-12),
                origin="lower", aspect="auto", extent=(0.0, sound.seconds, 0.0, _RATE / 2000),
                cmap="magma", vmin=top_db - _RANGE_DB, vmax=top_db,
            )  # fmt: skip
            axes.set_title(f"{item_name(row)}: {name}", fontsize="small")
        line[0].set_ylabel("kHz")
    panels[0][0].set_ylim(0.0, min(_TOP_HZ, max(row.sample_rate for row in rows) / 2) / 1000)
    for axes in panels[-1]:
        axes.set_xlabel("s")
    figure.savefig(path, dpi=90)


def item_name(row: MixtureRow) -> str:
    """Return a name for files: number, kind of noise, SNR, and the room where there is one."""
    kind = row.kind.replace("/", "-").replace(" ", "-")
    return f"{row.index:03d}_{kind}_{row.snr_db:+g}dB" + ("" if row.room is None else "_room")


def _draw_gains(axes: Axes, by_kind: Mapping[object, Results], systems: Sequence[str], metric: str) -> None:
    height = 0.8 / len(systems)
    for place, system in enumerate(systems):
        gains = [group.mean(system, metric, versus=NOISY.name) for group in by_kind.values()]
        means, lows, highs, _ = np.array(gains).T
        y = np.arange(len(by_kind)) + (place - (len(systems) - 1) / 2) * height
        axes.barh(y, means, height * 0.9, xerr=[means - lows, highs - means], label=system, error_kw={"alpha": 0.4})
    axes.set_yticks(range(len(by_kind)), [str(kind) for kind in by_kind])
    axes.grid(axis="x", alpha=0.3)


def _style(system: str) -> dict[str, object]:
    return {"marker": "o", "capsize": 3} | ({"color": "0.5", "linestyle": "--"} if system == NOISY.name else {})
