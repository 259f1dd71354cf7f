"""Every system on every mixture, in several processes."""

from __future__ import annotations

import math
import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .metrics import DNSMOS_FILE, RATE, Dnsmos, attenuation_db, course_db, pesq_wb, score, si_sdr_db
from .mixtures import BABBLE, Mixture, MixtureRow, Signal, resample
from .systems import Request, System

Scores = dict[str, float]
"""Figures by the keys of `metrics.METRICS` and `metrics.PROBES`; NaN where undefined."""

_COLD_S = 1.0


@dataclass(frozen=True)
class Outcome:
    """What came of one mixture.

    Attributes
    ----------
    row : MixtureRow
    level_dbfs : float
        See `Mixture.level_dbfs`.
    scores : dict of str to Scores
        By system.
    rtf : dict of str to float
        Processor time over audio time, by system. An indication only: nobody kept the cores free.
    course : dict of str to list of float
        `metrics.course_db` of every second, by system.
    """

    row: MixtureRow
    level_dbfs: float
    scores: dict[str, Scores]
    rtf: dict[str, float]
    course: dict[str, list[float]]


class Bench:
    """Systems, ready to run, and what to measure of them.

    Parameters
    ----------
    requests : sequence of Request
    mixtures : sequence of Mixture
    probes : bool
        Measure `metrics.PROBES` too.
    dnsmos_file : path, optional
        There are DNSMOS figures where this file is.

    Raises
    ------
    SystemUnavailable
        If one of the systems cannot run here.
    """

    def __init__(
        self,
        requests: Sequence[Request],
        mixtures: Sequence[Mixture],
        probes: bool = True,
        dnsmos_file: Path = DNSMOS_FILE,
    ) -> None:
        self.systems = {request.name: request.open() for request in requests}
        self.mixtures = mixtures
        self._probes = probes
        self._dnsmos = Dnsmos(dnsmos_file) if dnsmos_file and dnsmos_file.is_file() else None

    def measure(self, index: int) -> Outcome:
        """Run every system on mixture `index` and score what comes out."""
        mixture = self.mixtures[index]
        reference = mixture.at(RATE).clean
        scores, rtf, course = {}, {}, {}
        for name, system in self.systems.items():
            rate = system.info.sample_rate
            heard = mixture.at(rate)
            system.busy_s = system.audio_s = 0.0
            estimate = system.run(heard.noisy)
            at_rate = resample(estimate, rate, RATE)
            scores[name] = score(at_rate, reference, self._dnsmos)
            course[name] = course_db(at_rate, reference, RATE)
            if self._probes:
                scores[name] |= _probe(system, heard, estimate)
            rtf[name] = system.busy_s / system.audio_s
        return Outcome(mixture.row, mixture.level_dbfs, scores, rtf, course)

    def run(self, name: str, mixture: Mixture, sample_rate: int) -> Signal:
        """Return what one system makes of a mixture, at any rate."""
        own = self.systems[name].info.sample_rate
        return resample(self.systems[name].run(mixture.at(own).noisy), own, sample_rate)


def measure_all(
    requests: Sequence[Request],
    mixtures: Sequence[Mixture],
    probes: bool = True,
    dnsmos_file: Path | None = DNSMOS_FILE,
    jobs: int = 1,
) -> Iterator[Outcome]:
    """Yield the outcome of every mixture in turn.

    Parameters
    ----------
    requests, mixtures, probes, dnsmos_file
        As for `Bench`.
    jobs : int
        Processes; 1 works in this one.
    """
    arguments = (requests, mixtures, probes, dnsmos_file)
    if jobs == 1:
        yield from map(Bench(*arguments).measure, range(len(mixtures)))
        return
    # Sessions and thread pools do not survive a fork.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context, _open_bench, arguments) as pool:
        try:
            yield from pool.map(_measure, range(len(mixtures)))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


_bench: Bench | None = None
"""The bench of this worker process."""


def _open_bench(*arguments: Any) -> None:
    global _bench
    _bench = Bench(*arguments)


def _measure(index: int) -> Outcome:
    assert _bench is not None, "a worker opens its bench first"
    return _bench.measure(index)


def _probe(system: System, heard: Mixture, estimate: Signal) -> Scores:
    """Measure what becomes of clean speech and of noise alone, and what a cold start costs.

    Parameters
    ----------
    system : System
    heard : Mixture
        At the rate of the system.
    estimate : Signal
        What the system made of the mixture.
    """
    rate = system.info.sample_rate
    clean, kept = (resample(part, rate, RATE) for part in (heard.clean, system.run(heard.clean)))
    removed = math.nan
    if heard.row.kind != BABBLE:  # which is speech, and no system's to remove
        noise, rest = (resample(part, rate, RATE) for part in (heard.noise, system.run(heard.noise)))
        removed = attenuation_db(rest, noise)
    second = _loudest_second(heard)
    warm = si_sdr_db(estimate[second], heard.clean[second])
    cold = si_sdr_db(system.run(heard.noisy[second]), heard.clean[second])
    return {"clean_pesq": pesq_wb(kept, clean), "noise_removed": removed, "cold_start": cold - warm}


def _loudest_second(heard: Mixture) -> slice:
    """Return the second with the most speech after half of the mixture, where every system is warm."""
    n = round(_COLD_S * heard.sample_rate)
    energy = np.cumsum(np.square(heard.clean, dtype=np.float64))
    half = len(energy) // 2
    start = half + int(np.argmax(energy[half + n :] - energy[half:-n]))
    return slice(start, start + n)
