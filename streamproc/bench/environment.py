"""Where a bench ran: figures mean little without it."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass, fields
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

BUSY_LOAD = 0.5
"""Load average above which something else is running, and figures are not to be trusted."""

_PACKAGES = ("streamproc", "numpy", "scipy", "onnxruntime", "torch", "pyrnnoise", "webrtc-noise-gain")
_GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")


@dataclass(frozen=True)
class Environment:
    """A machine at the moment when a bench began."""

    when: str
    """ISO 8601, local time."""
    cpu: str
    n_cpus: int
    """That this process may use."""
    system: str
    python: str
    packages: dict[str, str]
    governor: str | None
    """How the system chooses the clock of the processor; None where it does not tell."""
    load_average: float | None
    """Programs that wanted to run during the last minute; None where the system does not tell."""

    @classmethod
    def now(cls) -> Environment:
        """Look around."""
        return cls(
            when=datetime.now().astimezone().isoformat(timespec="seconds"),
            cpu=_cpu(),
            n_cpus=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
            system=f"{platform.system()} {platform.release()}",
            python=platform.python_version(),
            packages=_versions(),
            governor=_GOVERNOR.read_text().strip() if _GOVERNOR.is_file() else None,
            load_average=round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        )

    @property
    def is_busy(self) -> bool:
        """Whether other programs disturb the figures."""
        return self.load_average is not None and self.load_average > BUSY_LOAD

    def differences(self, other: Environment) -> list[str]:
        """Say in what two machines differ that makes their times differ too."""
        found = []
        for field in fields(self):
            mine, theirs = getattr(self, field.name), getattr(other, field.name)
            if field.name == "packages":
                found += [
                    f"{name} {mine.get(name, 'absent')} → {theirs.get(name, 'absent')}"
                    for name in sorted(mine.keys() | theirs.keys())
                    if mine.get(name) != theirs.get(name)
                ]
            elif field.name not in ("when", "load_average") and mine != theirs:
                found.append(f"{field.name} {mine} → {theirs}")
        return found


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
