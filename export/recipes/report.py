"""What a recipe hands back, and how it is written: a table in the terminal, ``report.md`` and ``report.json``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from streamproc.atomic import replacing
from streamproc.errors import ConfigError
from streamproc.text import clock

from ..tables import Table

HEADER = ("", "document", "ours", "target", "")


@dataclass(frozen=True)
class Row:
    """One figure beside the document's, and whether the target was hit.

    Parameters
    ----------
    what : str
        What was measured, with its unit.
    ours : float
        NaN where a method gave none (it diverged): that is always a miss.
    document : float, optional
        The document's figure for the same thing.
    target : float, optional
        What ours had to reach; without one there is nothing to hit.
    better : {"lower", "higher"}
        Which way is better: `ours` must not be above, or not below, the target.
    each : tuple of float
        The single figures that `ours` is the median of, one per seed.
    digits : int
        Decimals shown. The verdict is on the figure itself, not on what is shown of it.
    """

    what: str
    ours: float
    document: float | None = None
    target: float | None = None
    better: Literal["lower", "higher"] = "lower"
    each: tuple[float, ...] = ()
    digits: int = 4

    @classmethod
    def median(cls, what: str, each: Sequence[float], **others: Any) -> Row:
        """Make a row of the median over seeds; the smallest and the largest are shown beside it."""
        return cls(what, float(np.median(each)), each=tuple(float(value) for value in each), **others)

    @property
    def verdict(self) -> str:
        """``hit``, ``missed``, or nothing without a target."""
        if self.target is None:
            return ""
        reached = self.ours <= self.target if self.better == "lower" else self.ours >= self.target
        return "hit" if reached else "missed"

    def cells(self) -> tuple[str, ...]:
        """Return the row as text, in the order of `HEADER`."""
        sign = {"lower": "≤", "higher": "≥"}[self.better]
        ours = self._number(self.ours)
        if len(self.each) > 1:
            ours += f" ({self._number(min(self.each))} to {self._number(max(self.each))})"
        target = "" if self.target is None else f"{sign} {self._number(self.target)}"
        document = "" if self.document is None else self._number(self.document)
        return self.what, document, ours, target, self.verdict

    def _number(self, value: float) -> str:
        if value and abs(value) < 10**-self.digits:
            return f"{value:.1e}"
        return f"{value:.{self.digits}f}"


@dataclass
class RecipeReport:
    """What a recipe found.

    Parameters
    ----------
    rows : list of Row
        The table, in order.
    live : str
        The command that runs an exported model, or several, one per line.
    tables : list of Table
        Further tables that are not of the form ours against theirs.
    notes : list of str
        What is comparable with the document and what is not, what fell short and what was tried: a sentence each.
    """

    rows: list[Row]
    live: str = ""
    tables: list[Table] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class RunRecord:
    """How a report came about.

    Parameters
    ----------
    name, command : str
    quick : bool
    seeds : tuple of int
    seconds : float
        Run time of every part, also of those that an earlier, interrupted call finished.
    environment : dict
    figures, models : lists of str
        Files in the output folder.
    parity : dict of str to float
        For every exported file the largest share of the allowed difference that any tensor used.
    """

    name: str
    command: str
    quick: bool
    seeds: tuple[int, ...]
    seconds: float
    environment: dict[str, str]
    figures: list[str]
    models: list[str]
    parity: dict[str, float]


def results_table(report: RecipeReport, record: RunRecord) -> Table:
    """Return the table of ours against theirs."""
    kind = "a quick run: these figures are not results" if record.quick else seeds_text(record.seeds)
    return Table(f"{record.name}, {kind}", HEADER, tuple(row.cells() for row in report.rows))


def seeds_text(seeds: Sequence[int]) -> str:
    """Say how many seeds a figure is made of."""
    if len(seeds) == 1:
        return f"seed {seeds[0]}"
    return f"median (smallest to largest) of seeds {seeds[0]} to {seeds[-1]}"


def as_markdown(report: RecipeReport, record: RunRecord) -> str:
    """Return everything as Markdown: this text is what ``docs/recipes.md`` shows."""
    environment = ", ".join(f"{name} {value}" for name, value in record.environment.items() if value)
    pieces = [results_table(report, record).markdown(), *(table.markdown() for table in report.tables)]
    if report.notes:
        pieces.append("\n".join(f"- {note}" for note in report.notes) + "\n")
    if report.live:
        pieces.append(f"```\n{report.live}\n```\n")
    if record.parity:
        worst = max(record.parity.values())
        pieces.append(
            f"Exported {', '.join(f'`{name}`' for name in record.parity)}: outputs and states equal those of the "
            f"module, at most {worst:.1%} of the allowed difference.\n"
        )
    pieces.append(f"`{record.command}`: {clock(record.seconds)}, {environment}.\n")
    return "\n".join(pieces)


def write_report(report: RecipeReport, record: RunRecord, out: Path) -> None:
    """Write ``report.md`` and ``report.json`` into `out`; JSON holds every seed's figure, NaN as null."""
    content = {
        **asdict(record),
        "rows": [{**asdict(row), "verdict": row.verdict} for row in report.rows],
        "tables": [asdict(table) for table in report.tables],
        "notes": report.notes,
        "live": report.live,
    }
    for name, text in (
        ("report.md", as_markdown(report, record)),
        ("report.json", json.dumps(finite(content), indent=1, allow_nan=False) + "\n"),
    ):
        with replacing(out / name) as path:
            path.write_text(text)


def insert_report(markdown: str, name: str, docs: Path) -> None:
    """Put a report into a page, in the place of the one between ``<!-- report: NAME -->`` and ``<!-- /report -->``.

    Raises
    ------
    ConfigError
        If the page is missing or has no such place; it is left as it was.
    """
    opening, closing = f"<!-- report: {name} -->\n", "<!-- /report -->"
    text = docs.read_text() if docs.is_file() else ""
    before, found, rest = text.partition(opening)
    _, end, after = rest.partition(closing)
    if not found or not end:
        raise ConfigError(f"{docs}: has no place for the report between {opening.strip()} and {closing}")
    with replacing(docs) as path:
        path.write_text(f"{before}{opening}\n{markdown}\n{closing}{after}")


def finite(value: Any) -> Any:
    """Return JSON-like `value` with null in the place of numbers that JSON does not have."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
