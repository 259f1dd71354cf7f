"""The parts of the recipe: each is kept when it is done, so that an interrupted run goes on."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from ...models import SampleDenoiser, SampleDenoiserConfig, load_checkpoint, save_checkpoint
from ...offline import export_offline
from ...verify import ParityError
from ..job import RecipeJob
from .data import TRAIN, hide_targets, make_waves, waves_of
from .measuring import (
    Bounds,
    Results,
    errors_at_the_ends,
    figures,
    figures_at_start,
    least_possible_errors,
    stream_a_tone,
    try_missing_targets,
)
from .plans import BIDIRECTIONAL, CAUSAL, FIRST_SEED, PLANS, SHOWN, Sizes
from .training import Training, build


class Experiment:
    """Everything that the recipe computes.

    Parameters
    ----------
    job : RecipeJob
    """

    def __init__(self, job: RecipeJob) -> None:
        self._job = job
        self._sizes = Sizes.quick() if job.quick else Sizes()
        # What every part depends on.
        self._key = asdict(self._sizes)

    # --- training ---------------------------------------------------------------------------------------------------

    def train(self) -> Results:
        """Train every plan from all seeds, and keep the weights; return the figures of every seed."""
        return {name: self._train(name) for name in PLANS}

    def _train(self, name: str) -> Any:
        job, sizes = self._job, self._sizes
        plan = sizes.shorten(PLANS[name])
        seeds = job.seeds[:1] if name in FIRST_SEED else job.seeds
        files = [_weights(name, seed) for seed in seeds]
        unfinished = job.path(_weights(name, "unfinished"))

        def compute() -> list[dict[str, Any]]:
            noisy, clean = waves_of(sizes.n_train, seeds, TRAIN)
            target = hide_targets(clean, plan.missing, seeds[0]) if plan.missing else clean
            at_start = figures_at_start([build(plan, seed) for seed in seeds], seeds, sizes.n_test)
            trained = Training(plan, seeds)
            if job.resume and unfinished.is_file():
                trained.restore(unfinished)
                job.count_earlier(trained.seconds)
            trained.run(noisy, target, snapshot_every=0 if plan.long else 4, pause=lambda: job.time_is_over)
            if trained.iteration < plan.iterations:
                trained.save(unfinished)
                raise job.stopped(f"in {name!r} at iteration {trained.iteration} of {plan.iterations}")
            at_end = figures(trained, noisy, clean, sizes.n_test)
            for model, file in zip(trained.models, files, strict=True):
                save_checkpoint(model, job.path(file))
            unfinished.unlink(missing_ok=True)
            return [{**end, **start} for end, start in zip(at_end, at_start, strict=True)]

        return job.part(name, compute, {**asdict(plan), **self._key, "seeds": seeds}, files)

    def first_wave(self) -> tuple[Tensor, Tensor]:
        """Return the first wave that the first seed is trained on, float32 [steps]: noisy and clean."""
        noisy, clean = make_waves(self._sizes.n_train, (self._job.seeds[0], TRAIN))
        return noisy[:, 0], clean[:, 0]

    # --- measuring --------------------------------------------------------------------------------------------------

    def least_possible_errors(self) -> Bounds:
        """Return the least possible error of every position: ``causal``, and of the ``whole`` wave."""
        n, seed = self._sizes.n_test, self._job.seeds[0]
        found: Bounds = self._job.part(
            "least possible errors", lambda: least_possible_errors(n, seed), {**self._key, "seed": seed}
        )
        return found

    def try_missing_targets(self) -> list[list[Any]]:
        """Return what missing targets do to a training, see `measuring.try_missing_targets`."""
        n = self._sizes.n_train
        found: list[list[Any]] = self._job.part("missing targets", lambda: try_missing_targets(n), self._key)
        return found

    def errors_at_the_ends(self) -> dict[str, dict[str, float]]:
        """Return the errors at both ends and between, alone and within longer waves, by name of the network."""
        job = self._job

        def compute() -> dict[str, dict[str, float]]:
            models = {name: [load_checkpoint(job.path(_weights(name, seed))) for seed in job.seeds] for name in SHOWN}
            return errors_at_the_ends(models, job.seeds, self._sizes.n_test // 2)

        plans = {name: asdict(PLANS[name]) for name in SHOWN}
        found: dict[str, dict[str, float]] = job.part(
            "ends", compute, {**self._key, "seeds": job.seeds, "plans": plans}
        )
        return found

    # --- exporting --------------------------------------------------------------------------------------------------

    def export_causal(self, results: list[dict[str, Any]]) -> tuple[SampleDenoiser, Path, str]:
        """Export the network with the least training error of those whose files are proven equal.

        Returns
        -------
        model : SampleDenoiser
        path : Path
            Of the ONNX file; the weights are beside it as ``sine.pt``.
        note : str
            Which one it is, and what became of better ones.
        """
        job = self._job
        errors = {seed: result["train"] for seed, result in zip(job.seeds, results, strict=True)}
        refused: dict[int, ParityError] = {}
        for seed in sorted(errors, key=errors.__getitem__):
            model = load_checkpoint(job.path(_weights(CAUSAL, seed)))
            try:
                path, _ = job.export(model, "sine")
            except ParityError as error:
                refused[seed] = error
                continue
            save_checkpoint(model, job.path("sine.pt"))
            note = f"Exported is seed {seed}, whose training error is the least"
            if refused:
                note += (
                    f" of those whose files were proven equal; refused: {', '.join(f'seed {k}' for k in refused)}, "
                    "where on the proof's signal, nothing like what it learned, rounding decides which way it goes"
                )
            return model, path, f"{note}."
        raise ParityError(f"no seed gave a file that equals its network: {refused}")

    def export_bidirectional(self) -> None:
        """Export the bidirectional network of the first seed, for whole signals."""
        job = self._job
        export_offline(
            load_checkpoint(job.path(_weights(BIDIRECTIONAL, job.seeds[0]))), job.path("sine-bidirectional.onnx")
        )

    def stream(self, model: Path, config: SampleDenoiserConfig) -> dict[str, float]:
        """Stream a noisy tone through an exported file, see `measuring.stream_a_tone`."""
        job = self._job
        seconds = 1.0 if job.quick else 10.0
        return stream_a_tone(model, config, seconds, job.path("noisy.wav"), job.path("denoised.wav"))


def _weights(name: str, seed: int | str) -> str:
    return f"weights/{name.lower().replace(',', '').replace('%', '').replace(' ', '-')}-{seed}.pt"
