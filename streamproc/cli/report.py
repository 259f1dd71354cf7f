"""What ``denoise`` shows: bars while it works, a table or JSON when it has."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich import box
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from .._version import __version__
from ..offline import FileReport
from ..text import clock, counted
from .batch import Outcome
from .console import stderr, stdout
from .plan import Job, Plan
from .processing import Processing


class BatchProgress:
    """A bar for every file that is being worked on, and one for all of them; on stderr, and only on a terminal.

    Parameters
    ----------
    jobs : sequence of Job
    enabled : bool
    """

    def __init__(self, jobs: Sequence[Job], enabled: bool) -> None:
        self._jobs = jobs
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            TaskProgressColumn(),
            TimeRemainingColumn(compact=True),
            console=stderr,
            transient=True,
            disable=not (enabled and stderr.is_terminal),
        )
        # Files differ in length, and bytes are known without opening them.
        self._sizes = [_size(job.source) for job in jobs]
        self._shares = [0.0] * len(jobs)
        self._done = 0.0
        self._bars: dict[int, TaskID] = {}
        self._total = self._progress.add_task(counted(len(jobs), "file"), total=sum(self._sizes), visible=len(jobs) > 1)

    def __enter__(self) -> BatchProgress:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        # A terminal that was closed cannot be tidied up; that must not hide why we leave.
        with suppress(OSError):
            self._progress.stop()

    def update(self, number: int, share: float) -> None:
        """Show that `share` of a job is done."""
        if share <= self._shares[number]:
            return
        self._done += self._sizes[number] * (share - self._shares[number])
        self._shares[number] = share
        if number not in self._bars:
            self._bars[number] = self._progress.add_task(self._jobs[number].source.name, total=1.0)
        self._progress.update(self._bars[number], completed=share)
        self._progress.update(self._total, completed=self._done)

    def finish(self, number: int) -> None:
        """Take away the bar of a job that has ended, well or not."""
        self.update(number, 1.0)
        self._progress.remove_task(self._bars[number])


def _size(path: Path) -> int:
    try:
        return max(1, path.stat().st_size)
    except OSError:
        return 1


class Summary:
    """The outcome of a batch.

    Parameters
    ----------
    plan : Plan
    processing : Processing
    """

    def __init__(self, plan: Plan, processing: Processing) -> None:
        self._plan = plan
        self._processing = processing
        self._by_number: dict[int, Outcome] = {}
        self.wall_s = 0.0

    def add(self, number: int, outcome: Outcome) -> None:
        """Take in how one job of the plan ended."""
        self._by_number[number] = outcome

    @property
    def _outcomes(self) -> list[Outcome]:
        """What has ended so far, in the order of the plan."""
        return [outcome for _, outcome in sorted(self._by_number.items(), key=lambda item: item[0])]

    @property
    def failures(self) -> list[Outcome]:
        """Jobs of which something was not done."""
        return [outcome for outcome in self._outcomes if outcome.error is not None]

    @property
    def reports(self) -> list[FileReport]:
        """What was written."""
        return [outcome.report for outcome in self._outcomes if outcome.report is not None]

    def print_table(self) -> None:
        """Print a row for every file that was written, and a line about all of them."""
        if self.reports:
            stdout.print(self._table())
        for report in self.reports:
            if remarks := _remarks(report):
                stdout.print(Text(f"{report.target}: {remarks}", "yellow"), soft_wrap=True)
        stdout.print(self._closing_line())

    def _table(self) -> Table:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=Text(str(self._processing)), title_justify="left")
        table.add_column("file", overflow="fold", ratio=1)
        for name in ("length", "latency", "rtf (p99)", "noise floor, dB", "removed"):
            table.add_column(name, justify="right", no_wrap=True)
        root = os.path.commonpath([report.target.parent for report in self.reports])
        for report in self.reports:
            table.add_row(
                Text(os.path.relpath(report.target, root)),
                clock(report.seconds),
                f"{report.latency.ms(report.sample_rate)['total']:.1f} ms",
                f"{report.statistics.rtf:.3f} ({report.rtf_p99:.3f})",
                f"{report.floor_in_db:.1f} → {report.floor_out_db:.1f}",
                f"[bold green]{report.noise_removed_db:.1f} dB",
            )
        return table

    def _closing_line(self) -> Text:
        line = Text(counted(len(self.reports), "file"))
        if self.reports:
            seconds = sum(report.seconds for report in self.reports)
            line.append(
                f", {clock(seconds)} of sound in {clock(self.wall_s)}: {seconds / self.wall_s:.0f} times real time"
            )
        not_reached = len(self._plan.jobs) - len(self._by_number)
        for count, word, style in (
            (len(self._plan.skipped), "skipped", "cyan"),
            (len(self.failures), "failed", "bold red"),
            (not_reached, "not done", "bold yellow"),
        ):
            if count:
                line.append(" · ").append(f"{count} {word}", style)
        return line

    def print_json(self) -> None:
        """Print everything as one JSON object; its fields are described in docs/command-line.md."""
        files = [_outcome_fields(outcome) for outcome in self._outcomes]
        files += [_job_fields(job, "skipped") for job in self._plan.skipped]
        files += [_job_fields(job, "not done") for n, job in enumerate(self._plan.jobs) if n not in self._by_number]
        document = {
            "streamproc": __version__,
            "processing": str(self._processing),
            "done": len(self._by_number) - len(self.failures),
            "skipped": len(self._plan.skipped),
            "failed": len(self.failures),
            "not_done": len(self._plan.jobs) - len(self._by_number),
            "wall_s": self.wall_s,
            "files": files,
        }
        stdout.print_json(json.dumps(document), ensure_ascii=True)


def _job_fields(job: Job, status: str) -> dict[str, Any]:
    picture = None if job.picture is None else str(job.picture)
    return {"source": str(job.source), "target": str(job.target), "picture": picture, "status": status}


def _outcome_fields(outcome: Outcome) -> dict[str, Any]:
    fields = _job_fields(outcome.job, "done" if outcome.error is None else "failed")
    if outcome.error is not None:
        fields["error"] = outcome.error
    report = outcome.report
    if report is not None:
        fields |= {name: value for name, value in asdict(report).items() if name not in ("source", "target", "latency")}
        fields |= {
            "seconds": report.seconds,
            "speed": report.speed,
            "rtf": report.statistics.rtf,
            "rtf_p99": report.rtf_p99,
            "noise_removed_db": report.noise_removed_db,
            "latency_samples": report.latency.total,
            "latency_ms": report.latency.ms(report.sample_rate),
        }
    return fields


def _remarks(report: FileReport) -> str:
    """Say what was wrong with the sound, if anything."""
    counts = report.statistics
    parts = (
        (counts.silenced_samples, "sample", "not finite, silenced"),
        (counts.clamped_samples, "sample", "beyond full scale, clamped"),
        (counts.recoveries, "block", "lost: the processor failed and was reset"),
    )
    return "; ".join(f"{counted(count, noun)} {fate}" for count, noun, fate in parts if count)
