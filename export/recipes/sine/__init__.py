"""A noisy sine, denoised by recurrent networks: after N. Batra, "Signal denoising using RNNs in PyTorch" (2018)."""

from __future__ import annotations

from ..job import RecipeJob
from ..report import RecipeReport
from .experiment import Experiment
from .plans import CAUSAL
from .reporting import draw, notes, rows, tables

__all__ = ["run"]


def run(job: RecipeJob) -> RecipeReport:
    """Train everything, see what is possible, export the causal network, stream a tone through it, and draw it all."""
    experiment = Experiment(job)
    results = experiment.train()
    bounds = experiment.least_possible_errors()
    missing = experiment.try_missing_targets()
    ends = experiment.errors_at_the_ends()

    causal, onnx, chosen = experiment.export_causal(results[CAUSAL])
    experiment.export_bidirectional()
    streamed = experiment.stream(onnx, causal.config)

    draw(job, results, bounds, experiment.first_wave())
    return RecipeReport(
        rows=rows(job.seeds[0], results, bounds, streamed),
        live=f"streamproc denoise {job.out}/noisy.wav clean.wav --model {onnx}\nstreamproc live --model {onnx}",
        tables=tables(results, bounds, ends, missing),
        notes=[*notes(streamed), chosen],
    )
