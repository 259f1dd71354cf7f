"""Two reports side by side, as ratios."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, log

from .report import Report, Row


@dataclass(frozen=True)
class Change:
    """One case in two reports. A ratio is new over old: 0.5 is twice as fast."""

    old: Row
    new: Row

    @property
    def hot_p50(self) -> float:
        """Ratio of the medians, hot."""
        return self.new.hot.p50_us / self.old.hot.p50_us

    @property
    def paced_p50(self) -> float:
        """Ratio of the medians, paced."""
        return self.new.paced.p50_us / self.old.paced.p50_us

    @property
    def paced_p99(self) -> float:
        """Ratio of the 99th percentiles, paced."""
        return self.new.paced.p99_us / self.old.paced.p99_us


@dataclass(frozen=True)
class Comparison:
    """Everything that two reports have in common, and what they do not.

    Parameters
    ----------
    changes : sequence of Change
    only_old, only_new : sequence of str
        Cases that one report has.
    warnings : sequence of str
        Why the ratios may say more about the machines than about the code.
    """

    changes: Sequence[Change]
    only_old: Sequence[str]
    only_new: Sequence[str]
    warnings: Sequence[str]

    @property
    def overall_hot_p50(self) -> float:
        """Geometric mean of the hot ratios; 1 where nothing is common."""
        logs = [log(change.hot_p50) for change in self.changes]
        return exp(sum(logs) / len(logs)) if logs else 1.0


def compare(old: Report, new: Report) -> Comparison:
    """Compare two reports case by case."""
    before, after = ({row.key: row for row in report.rows} for report in (old, new))
    warnings = old.environment.differences(new.environment)
    warnings += [
        f"the {word} report was made on a busy machine (load {report.environment.load_average})"
        for word, report in (("old", old), ("new", new))
        if report.environment.is_busy
    ]
    if old.effort != new.effort:
        warnings.append("one of the two measured longer than the other")
    return Comparison(
        [Change(before[key], row) for key, row in after.items() if key in before],
        [f"{suite}: {name}" for suite, name in before if (suite, name) not in after],
        [f"{suite}: {name}" for suite, name in after if (suite, name) not in before],
        warnings,
    )
