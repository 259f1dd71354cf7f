"""Which suites make up a bench, and running them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..backends.loader import load_model
from ..errors import BackendUnavailable, ConfigError
from ..model import FrameModel
from .cases import Suite, callbacks_suite, hop_suite, pool_suite
from .environment import Environment
from .peers import peer_case, peers_suite
from .report import Report, Row
from .resources import measure_resources
from .timing import QUICK, THOROUGH, Distribution, Effort, time_hot, time_paced, undisturbed

OnStep = Callable[[str, float], None]
"""Called between two timed calls, with what is being done and the share of the whole bench that is done."""


@dataclass(frozen=True)
class BenchSettings:
    """What a bench consists of.

    Parameters
    ----------
    models : sequence of str
        As `load_model` takes them.
    against : sequence of str
        Peers: model files, or names of packages, see `streamproc.bench.peers`.
    blocks, sample_rates, channels : sequence of int
        All blocks are timed at the first rate and number of channels; the others with the usual block.
    pool_sizes : sequence of int
        Numbers of streams; none: pools are left out.
    quick : bool
        Seconds instead of minutes, and figures to match.
    """

    models: Sequence[str]
    against: Sequence[str] = ()
    blocks: Sequence[int] = (32, 64, 128, 256, 480, 512, 1024, 2048)
    sample_rates: Sequence[int] = (48_000, 44_100, 16_000)
    channels: Sequence[int] = (1, 2)
    pool_sizes: Sequence[int] = ()
    quick: bool = False

    @property
    def effort(self) -> Effort:
        """How long each case is measured."""
        return QUICK if self.quick else THOROUGH


def run_bench(settings: BenchSettings, on_step: OnStep = lambda _what, _share: None) -> Report:
    """Run a bench.

    Raises
    ------
    ModelFileError, BackendUnavailable
        If a model cannot be loaded. Peers that are not installed are left out, and noted.
    ConfigError
        If the settings cannot work.
    """
    if len(set(settings.models)) != len(settings.models):
        raise ConfigError(f"a model is named twice: {', '.join(settings.models)}")
    environment = Environment.now()
    on_step("loading", 0.0)
    models = [(label, load_model(name)) for name, label in zip(settings.models, _labels(settings.models), strict=True)]
    suites, notes = _suites(settings, models)
    resources = []
    for name, label in zip(settings.models, _labels(settings.models), strict=True):
        on_step(f"loading {label} in a process of its own", 0.0)
        resources.append(replace(measure_resources(name), model=label))
    rows, core = run_suites(suites, settings.effort, on_step)
    return Report(environment, settings.effort, rows, resources, notes, core)


def run_suites(
    suites: Sequence[Suite], effort: Effort, on_step: OnStep = lambda _what, _share: None
) -> tuple[list[Row], int | None]:
    """Time suites one after another, undisturbed.

    Returns
    -------
    rows : list of Row
    core : int or None
        The core that all of it ran on.
    """
    rows: list[Row] = []
    with undisturbed() as core:
        for number, suite in enumerate(suites):

            def progress(share: float, number: int = number, name: str = suite.name) -> None:
                on_step(name, (number + share) / len(suites))

            rows += run_suite(suite, effort, progress)
    return rows, core


def run_suite(suite: Suite, effort: Effort, on_progress: Callable[[float], None] = lambda _: None) -> list[Row]:
    """Time the cases of a suite, first hot, then paced."""
    cases = suite.cases()
    calls = [case.call for case in cases]
    hot = time_hot(calls, effort, lambda share: on_progress(0.3 * share))
    paced = time_paced(calls, [case.audio_s for case in cases], effort, lambda share: on_progress(0.3 + 0.7 * share))
    return [
        Row(
            suite=suite.name,
            name=case.name,
            audio_us=1e6 * case.audio_s,
            hot=Distribution.of(hot_times),
            paced=Distribution.of(paced_times),
            misses=int((paced_times > 1e6 * case.audio_s).sum()),
            facts=dict(case.facts),
            reference=case.reference,
        )
        for case, hot_times, paced_times in zip(cases, hot, paced, strict=True)
    ]


def _suites(settings: BenchSettings, models: Sequence[tuple[str, FrameModel]]) -> tuple[list[Suite], list[str]]:
    """Return what is run, and what is not."""
    suites, notes = [], []
    for label, model in models:
        suites.append(hop_suite(label, model))
        suites.append(callbacks_suite(label, model, settings.blocks, settings.sample_rates, settings.channels))
        if settings.pool_sizes:
            suites.append(pool_suite(label, model, settings.pool_sizes))
    peers = []
    for peer in dict.fromkeys(settings.against):
        try:
            peers.append(peer_case(peer))
        except BackendUnavailable as error:
            notes.append(str(error))
    if peers or len(models) > 1:
        suites.append(peers_suite(models, peers))
    return suites, notes


def _labels(models: Sequence[str]) -> list[str]:
    """Return a short name for each model; files that share one are told apart by suffix, or else by folder."""
    stems = [Path(model).stem if Path(model).suffix else model for model in models]
    for labels in (stems, [Path(model).name for model in models]):
        if len(set(labels)) == len(labels):
            return labels
    return list(models)
