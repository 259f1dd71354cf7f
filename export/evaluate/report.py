"""What an evaluation leaves behind: tables for the terminal and for Markdown, and everything as JSON."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from streamproc.errors import ConfigError

from ..tables import Table
from .metrics import METRICS, PROBES, Metric
from .mixtures import MixtureRow, MixtureSet
from .statistics import CONFIDENCE, Interval, Results
from .systems import NOISY, SystemInfo

FORMAT = 1
"""Version of the layout of ``evaluation.json``."""

MAIN = tuple(metric for metric in METRICS if metric.key in ("pesq", "si_sdr"))
"""What gains and groups are shown in."""

Grouping = Callable[[MixtureRow], Hashable]

GROUPINGS: dict[str, Grouping] = {
    "SNR in dB": lambda row: row.snr_db,
    "kind of noise": lambda row: row.kind,
    "level in dBFS": lambda row: row.level_dbfs,
    "room": lambda row: "dry" if row.room is None else "room",
}


def tables(results: Results, infos: Sequence[SystemInfo], set_name: str) -> list[Table]:
    """Return every table of an evaluation, the most important first."""
    shown = [_overview(results, infos, set_name)]
    if NOISY.name in results.systems and len(results.systems) > 1:
        shown.append(_gains(results))
    for name, key in GROUPINGS.items():
        groups = results.split(key)
        if len(groups) > 1:
            shown += [_by_group(results, metric, name, groups) for metric in MAIN]
    return [*shown, _by_second(results)]


def _overview(results: Results, infos: Sequence[SystemInfo], set_name: str) -> Table:
    metrics = [metric for metric in METRICS if results.has(metric.key)]
    latency = {info.name: f"{info.frame_latency_ms:.1f}" if info.hop else "" for info in infos}
    return Table(
        title=f"{set_name}: frame latency, means, and half of their {CONFIDENCE:.0%} intervals",
        header=("", "ms", *(_heading(metric) for metric in metrics)),
        rows=tuple(
            (name, latency[name], *(_with_spread(results.mean(name, metric.key), metric) for metric in metrics))
            for name in results.systems
        ),
    )


def _gains(results: Results) -> Table:
    probes = [probe for probe in PROBES if results.has(probe.key)]
    processed = [name for name in results.systems if name != NOISY.name]
    return Table(
        title="Gain over the input" + (", and what single signals show" if probes else ""),
        header=("", *(f"{_heading(metric)} gain" for metric in MAIN), *(_heading(probe) for probe in probes)),
        rows=tuple(
            (
                name,
                *(_with_spread(results.mean(name, metric.key, versus=NOISY.name), metric, "+") for metric in MAIN),
                *(_with_spread(results.mean(name, probe.key), probe) for probe in probes),
            )
            for name in processed
        ),
    )


def _by_group(results: Results, metric: Metric, name: str, groups: dict[Hashable, Results]) -> Table:
    return Table(
        title=f"{_heading(metric)} by {name} (clips)",
        header=("", *(f"{_group_name(key)} ({len(group.outcomes)})" for key, group in groups.items())),
        rows=tuple(
            (system, *(_plain(group.mean(system, metric.key).mean, metric) for group in groups.values()))
            for system in results.systems
        ),
    )


def _by_second(results: Results) -> Table:
    courses = {system: results.course(system) for system in results.systems}
    seconds = range(len(courses[results.systems[0]]))
    return Table(
        title="Speech over what is wrong with it in dB, by second since the start",
        header=("", *(f"{second} to {second + 1}" for second in seconds)),
        rows=tuple((system, *(f"{level.mean:.1f}" for level in course)) for system, course in courses.items()),
    )


def cost_table(cost: Mapping[str, Any], infos: Sequence[SystemInfo]) -> Table:
    """Return what `cost.measure_cost` found as a table."""
    latency = {info.name: info.frame_latency_ms for info in infos}
    return Table(
        title="Cost: a frame in us, mono; length and frame latency in ms",
        header=("", "length", "latency", "hot p50", "paced p50", "paced p99", "% of a core"),
        rows=tuple(
            (
                name,
                f"{figures['frame_us'] / 1e3:.1f}",
                f"{latency[name]:.1f}",
                *(f"{figures[key]:.0f}" for key in ("hot_p50_us", "paced_p50_us", "paced_p99_us")),
                f"{100 * figures['share_of_core']:.2f}",
            )
            for name, figures in cost["systems"].items()
        ),
    )


def as_json(
    results: Results,
    infos: Sequence[SystemInfo],
    mixtures: MixtureSet,
    command: Sequence[str],
    environment: dict[str, str],
    notes: Sequence[str],
    cost: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return all that is known, ready for `json.dumps`; figures that do not exist are null."""
    columns = [metric for metric in (*METRICS, *PROBES) if results.has(metric.key)]

    def summary(part: Results) -> dict[str, Any]:
        return {
            system: {metric.key: _interval(part.mean(system, metric.key)) for metric in columns}
            for system in part.systems
        }

    return {
        "format": FORMAT,
        "command": shlex.join(command),
        "environment": environment,
        "notes": list(notes),
        "set": {
            "n": len(mixtures),
            "varied": mixtures.varied,
            "seconds": mixtures.seconds,
            "seed": mixtures.seed,
        },
        "metrics": {metric.key: {"label": metric.label, "unit": metric.unit} for metric in columns},
        "confidence": CONFIDENCE,
        "systems": {info.name: {**asdict(info), "rtf_indication": results.rtf(info.name)} for info in infos},
        "cost": cost,
        "summary": summary(results),
        "gain_over_noisy": {
            system: {metric.key: _interval(results.mean(system, metric.key, versus=NOISY.name)) for metric in columns}
            for system in results.systems
            if NOISY.name in results.systems and system != NOISY.name
        },
        "groups": {
            name: {_group_name(key): summary(group) for key, group in results.split(grouping).items()}
            for name, grouping in GROUPINGS.items()
        },
        "course_db": {system: [_interval(level) for level in results.course(system)] for system in results.systems},
        "items": [
            {
                **asdict(outcome.row),
                "reached_level_dbfs": outcome.level_dbfs,
                "scores": _without_nan(outcome.scores),
                "rtf": outcome.rtf,
                "course_db": {system: list(map(_finite, levels)) for system, levels in outcome.course.items()},
            }
            for outcome in results.outcomes
        ],
    }


def read_json(file: Path) -> dict[str, Any]:
    """Return what `as_json` made and `write_text` wrote.

    Raises
    ------
    ConfigError
        If the file cannot be read or is nothing of the kind.
    """
    try:
        record = json.loads(file.read_text())
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror or error}") from error
    except ValueError:
        record = None
    if is_record(record):
        return dict(record)
    raise ConfigError(f"{file} is not an evaluation.json of `python -m export evaluate` in format {FORMAT}")


def is_record(value: Any) -> bool:
    """Whether a value read from JSON is what `as_json` makes."""
    return (
        isinstance(value, dict) and value.get("format") == FORMAT and {"systems", "summary", "metrics"} <= value.keys()
    )


def model_metrics(record: Mapping[str, Any], system: str) -> dict[str, Any]:
    """Return the figures of one system as they go into its model file: means, gains over the input, and how made.

    Parameters
    ----------
    record : mapping
        What `as_json` made.
    system : str

    Raises
    ------
    ConfigError
        If that system was not evaluated.
    """
    if system not in record["summary"]:
        raise ConfigError(f"the evaluation has no figures of {system!r}, only of {', '.join(record['summary'])}")
    drawn = record["set"]

    def means(figures: Mapping[str, Any], metrics: Sequence[Metric], suffix: str = "") -> dict[str, float]:
        known = [metric for metric in metrics if figures.get(metric.key)]
        return {f"{metric.key}{suffix}": round(figures[metric.key]["mean"], metric.digits) for metric in known}

    return {
        "how": f"{record['command']}: {drawn['n']} {'varied' if drawn['varied'] else 'plain'} mixtures; means",
        **means(record["summary"][system], (*METRICS, *PROBES)),
        **means(record["gain_over_noisy"].get(system, {}), METRICS, "_gain"),
        "noisy": means(record["summary"].get(NOISY.name, {}), METRICS),
    }


def write_text(folder: Path, shown: Sequence[Table], record: dict[str, Any]) -> None:
    """Write ``evaluation.json`` and ``evaluation.md`` into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "evaluation.json").write_text(json.dumps(record, indent=1, allow_nan=False) + "\n")
    made = f"Made by `{record['command']}` at {record['environment'].get('commit', '')[:10] or 'no commit'}."
    (folder / "evaluation.md").write_text("\n".join([made, "", *(table.markdown() for table in shown)]))


def _heading(metric: Metric) -> str:
    return f"{metric.label} {metric.unit}".strip()


def _plain(value: float, metric: Metric) -> str:
    return "-" if math.isnan(value) else f"{value:.{metric.digits}f}"


def _with_spread(interval: Interval, metric: Metric, sign: str = "") -> str:
    if not interval.n:
        return "-"
    return f"{interval.mean:{sign}.{metric.digits}f} ±{interval.half_width:.{metric.digits}f}"


def _group_name(key: Hashable) -> str:
    return f"{key:g}" if isinstance(key, float) else str(key)


def _interval(interval: Interval) -> dict[str, Any] | None:
    return dict(interval._asdict()) if interval.n else None


def _without_nan(scores: dict[str, dict[str, float]]) -> dict[str, dict[str, float | None]]:
    return {system: {key: _finite(value) for key, value in figures.items()} for system, figures in scores.items()}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
