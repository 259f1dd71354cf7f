"""What a bench found: plain values, to JSON and back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .._version import __version__
from ..atomic import replacing
from ..errors import ConfigError
from .environment import Environment
from .resources import Resources
from .timing import Distribution, Effort

FORMAT_VERSION = 2
"""2: paced calls come at the pace of the sound and in bursts; 1: after 3 ms each, every case in turn."""


@dataclass(frozen=True)
class Row:
    """One case, timed.

    Parameters
    ----------
    suite : str
        Cases of a suite took turns; ratios within it hold.
    name : str
        Unique within the suite.
    audio_us : float
        Length of the sound that one call is about, in microseconds.
    hot, paced : Distribution
        Time of a call.
    misses : int
        Paced calls that took longer than their sound.
    facts : dict
        What the case was: numbers and words.
    reference : str, optional
        Name of the row that this one is to be compared with.
    """

    suite: str
    name: str
    audio_us: float
    hot: Distribution
    paced: Distribution
    misses: int
    facts: dict[str, Any] = field(default_factory=dict)
    reference: str | None = None

    @property
    def rtf(self) -> float:
        """Processing time over audio time, hot, over the whole run."""
        return self.hot.mean_us / self.audio_us

    def load(self, time_us: float) -> float:
        """Return a time as a share of the sound that the call is about."""
        return time_us / self.audio_us

    @property
    def key(self) -> tuple[str, str]:
        """What makes it the same case in another report."""
        return self.suite, self.name


@dataclass(frozen=True)
class Report:
    """A whole bench.

    Parameters
    ----------
    environment : Environment
    effort : Effort
    rows : sequence of Row
    resources : sequence of Resources
        One for each model.
    notes : sequence of str
        What was left out, and why.
    pinned_to : int or None
        The core that all of it ran on.
    """

    environment: Environment
    effort: Effort
    rows: Sequence[Row] = ()
    resources: Sequence[Resources] = ()
    notes: Sequence[str] = ()
    pinned_to: int | None = None

    def suites(self) -> dict[str, list[Row]]:
        """Return the rows of each suite, in the order in which they ran."""
        suites: dict[str, list[Row]] = {}
        for row in self.rows:
            suites.setdefault(row.suite, []).append(row)
        return suites

    def document(self) -> dict[str, Any]:
        """Return everything as what JSON can hold."""
        return {"format_version": FORMAT_VERSION, "streamproc": __version__, **asdict(self)}

    def save(self, path: Path) -> None:
        """Write the report as JSON.

        Raises
        ------
        ConfigError
            If the file cannot be written.
        """
        try:
            with replacing(path) as temporary:
                temporary.write_text(json.dumps(self.document(), indent=1) + "\n")
        except OSError as error:
            raise ConfigError(f"{path} cannot be written: {error.strerror or error}") from error

    @classmethod
    def load(cls, path: Path) -> Report:
        """Read a report.

        Raises
        ------
        ConfigError
            If the file is missing or not a report.
        """
        try:
            document = json.loads(path.read_text())
            if (found := document.pop("format_version")) != FORMAT_VERSION:
                other = "a later streamproc" if found > FORMAT_VERSION else "an earlier one, which timed otherwise"
                raise ConfigError(f"{path} was written by {other}; run both benches with the same streamproc")
            document.pop("streamproc")
            return cls(
                environment=Environment(**document.pop("environment")),
                effort=Effort(**document.pop("effort")),
                rows=[_row(row) for row in document.pop("rows")],
                resources=[Resources(**entry) for entry in document.pop("resources")],
                **document,
            )
        except OSError as error:
            raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            if isinstance(error, ConfigError):
                raise
            raise ConfigError(f"{path} is not a report of `streamproc bench --json` ({error})") from None


def _row(document: Mapping[str, Any]) -> Row:
    return Row(**{**document, "hot": _distribution(document["hot"]), "paced": _distribution(document["paced"])})


def _distribution(document: Mapping[str, Any]) -> Distribution:
    histogram = tuple((float(edge), int(count)) for edge, count in document["histogram"])
    return Distribution(**{**document, "histogram": histogram})
