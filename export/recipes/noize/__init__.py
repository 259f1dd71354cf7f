"""Noize net: an LSTM that predicts and continues music from raw audio, and fills what a live stream misses."""

from __future__ import annotations

from ..job import RecipeJob
from ..report import RecipeReport, Row
from .experiment import TEMPERATURE, Experiment
from .reporting import draw, tables

__all__ = ["run"]


def run(job: RecipeJob) -> RecipeReport:
    """Train on music, compare with trivial predictors, continue a recording, and conceal missed blocks."""
    experiment = Experiment(job)
    curve = experiment.train()
    measured = experiment.measure()
    onnx, _ = job.export(experiment.model, "noize")
    continued = experiment.continue_a_recording()
    filled = experiment.conceal(onnx)
    denoised = experiment.conceal_denoised()
    draw(job, curve, measured, filled)

    test = measured["test"]
    noize, linear, short, repeat = (test[name] for name in ("noize", "linear", "short", "repeat"))
    held_out = ", ".join(f"{name} {experiment.minutes[name]:.1f} min" for name in ("training", "validation", "test"))
    rows = [
        Row("MSE of the next 10 ms; to beat: linear, order 16", noize["mse"], target=short["mse"]),
        Row("MAE; to beat: linear, order 16", noize["mae"], target=short["mae"]),
        Row("error of a hop, dB; to beat: linear, order 16", noize["error_db"], target=short["error_db"], digits=2),
        Row("error of a hop, dB; to beat: the last hop again", noize["error_db"], target=repeat["error_db"], digits=2),
        Row(
            "validation, error of a hop, dB; to beat: linear, order 16",
            measured["validation"]["noize"]["error_db"],
            target=measured["validation"]["short"]["error_db"],
            digits=2,
        ),
        Row(
            "error of a hop, dB; to beat: its own linear input",
            noize["error_db"],
            target=linear["error_db"],
            digits=2,
        ),
    ]
    for kind, metric, better in (("speech", "pesq", "higher"), ("music", "lsd", "lower")):
        if kind in filled:
            of = {name: filled[kind]["10 %"][name][metric] for name in filled[kind]["10 %"]}
            simple = [of[name] for name in ("silence", "repetition", "repetition, fading")]
            unit = "PESQ" if metric == "pesq" else "LSD, dB"
            rows.append(
                Row(
                    f"{kind}, 10 % missed, --on-miss predict, {unit}; to beat: simple fills",
                    of["linear prediction"],
                    target=max(simple) if better == "higher" else min(simple),
                    better=better,  # type: ignore[arg-type]
                    digits=2,
                )
            )
    return RecipeReport(
        rows=rows,
        live="streamproc live --on-miss predict\n"
        f"streamproc inspect {onnx} --verify\n"
        f"streamproc view {job.out / 'continuation.wav'}",
        tables=tables(measured, continued, filled, denoised),
        notes=[
            f"Music: {experiment.n_recordings} recordings, {held_out}, whole recordings held out; "
            f"{experiment.n_broken} files broken and left out. Training stopped by the validation recordings, "
            "everything else is of the test recordings. The document is unfinished and has no figures to compare with.",
            "Error of a hop: energy of the error over that of the hop, at most 1, mean over hops, in dB; silence gets "
            "0.",
            f"Continuation: after the first {continued['prompt']['seconds']:g} s of a test recording (`prompt.wav`); "
            f"temperature {TEMPERATURE:g} is `continuation.wav`, shown in `continuation.png`. Spectral flatness tells "
            "noise (-2.5 dB) from tones (far below).",
            "Simple fills are silence, repetition and repetition that fades; the best of them is to beat. PESQ is "
            "wide-band (ITU-T P.862.2), LSD the log-spectral distance of 32 ms frames.",
            "Misses: drawn block by block, through the live engine: a missed block comes late, so every prediction "
            "starts from true sound. Mean over clips.",
        ],
    )
