"""Tables and figures of the recipe."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...tables import Table
from ..job import RecipeJob

_PREDICTORS = {
    "silence": "silence",
    "repeat": "the last hop again",
    "short": "linear prediction, order 16",
    "linear": "linear prediction over 16 ms",
    "noize": "NoizeNet",
}


def tables(
    measured: dict[str, Any], continued: dict[str, Any], filled: dict[str, dict[str, Any]], denoised: dict[str, Any]
) -> list[Table]:
    """Return the tables: predictors, continuations, ways to fill misses, and the same behind the denoiser."""
    result = [_predictors(split, scores) for split, scores in measured.items()]
    result.append(
        Table(
            "A recording goes on",
            ("", "length, s", "level at the end, dB", "spectral flatness, dB", "at full scale"),
            tuple(
                (
                    name,
                    f"{of['seconds']:g}",
                    "" if name == "prompt" else f"{of['level_db']:+.1f}",
                    f"{of['flatness_db']:.1f}",
                    f"{of['peak_share']:.2%}",
                )
                for name, of in continued.items()
            ),
        )
    )
    if filled:
        methods = list(next(iter(next(iter(filled.values())).values())))
        rows = []
        for kind, shares in filled.items():
            for metric, unit, digits in (("pesq", "PESQ", 2), ("lsd", "LSD, dB", 2)):
                for share, scores in shares.items():
                    if metric in scores[methods[0]]:
                        found = (f"{scores[name][metric]:.{digits}f}" for name in methods)
                        rows.append((f"{kind}, {share} missed, {unit}", *found))
        result.append(Table("Missed blocks of 10 ms, filled by", ("", *methods), tuple(rows)))
    if denoised:
        columns = list(next(iter(denoised.values())))
        rows = [
            (f"{snr} SNR", *(f"{scores[name]['pesq']:.2f}" for name in columns)) for snr, scores in denoised.items()
        ]
        result.append(
            Table("Missed blocks behind the denoiser, PESQ against clean speech", ("", *columns), tuple(rows))
        )
    return result


def _predictors(split: str, scores: dict[str, Any]) -> Table:
    columns = (("mse", 5), ("mae", 4), ("mbe", 5), ("error_db", 2))
    rows = (
        (label, *(f"{scores[name][key]:.{digits}f}" for key, digits in columns)) for name, label in _PREDICTORS.items()
    )
    header = ("", "MSE", "MAE", "MBE", "error of a hop, dB")
    return Table(f"The next 10 ms of music, {split} recordings", header, tuple(rows))


def draw(
    job: RecipeJob, curve: Sequence[dict[str, float]], measured: dict[str, Any], filled: dict[str, dict[str, Any]]
) -> None:
    """Draw how training went, and what each way to fill misses costs."""
    with job.figure("noize.png", 1, 1 + len(filled), figsize=(4.5 * (1 + len(filled)), 3.6)) as (_, axes):
        first, *others = axes.ravel() if filled else [axes]
        steps = [row["step"] for row in curve]
        for name, word in (("loss", "training"), ("validation", "validation")):
            first.plot(steps, [row[name] for row in curve], label=word)
        first.set_title("loss", loc="left")
        first.set_xlabel("step")
        first.legend()
        for axis, (kind, shares) in zip(others, filled.items(), strict=True):
            metric = "pesq" if kind == "speech" else "lsd"
            percent = [float(share.split()[0]) for share in shares]
            for method in next(iter(shares.values())):
                axis.plot(percent, [scores[method][metric] for scores in shares.values()], marker="o", label=method)
            axis.set_title(f"{kind}: {'PESQ' if metric == 'pesq' else 'log-spectral distance, dB'}", loc="left")
            axis.set_xlabel("blocks missed, %")
            axis.legend(fontsize=7)
