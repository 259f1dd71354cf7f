"""``streamproc denoise``: files in, clean files out."""

from __future__ import annotations

import os
from contextlib import closing, suppress
from enum import StrEnum
from pathlib import Path
from time import perf_counter
from typing import Annotated

import typer

from . import options
from .console import ExitCode, command, complain
from .processing import Processing


class Format(StrEnum):
    """Formats that a folder can be written in."""

    WAV = "wav"
    FLAC = "flac"
    OGG = "ogg"
    OPUS = "opus"


@command(
    """
    streamproc denoise noisy.wav clean.wav
    streamproc denoise talk.mp3 talk.flac --attenuation-limit 12 --plot
    streamproc denoise recordings/ --out cleaned/ --jobs 4 --skip-existing
    streamproc denoise hum.wav out.wav --model none --highpass 80
    """
)
def denoise(
    paths: Annotated[
        list[Path], typer.Argument(metavar="IN OUT | IN...", help="One input and one output, or inputs with --out.")
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="DIR", help="Folder for the outputs; the tree of a folder is kept."),
    ] = None,
    model: options.ModelOption = None,
    attenuation_limit: options.AttenuationLimitOption = None,
    mix: options.MixOption = 1.0,
    highpass: options.HighPassOption = None,
    chain: options.ChainOption = None,
    channel_mode: options.ChannelModeOption = None,
    file_format: Annotated[
        Format | None,
        typer.Option("--format", help="Format of the files in --out. [dim]default: as the input, else wav[/dim]"),
    ] = None,
    jobs: Annotated[
        int, typer.Option("--jobs", "-j", min=0, metavar="N", help="Files at a time; 0: one per core.")
    ] = 1,
    skip_existing: Annotated[bool, typer.Option("--skip-existing", help="Leave out files that are done.")] = False,
    plot: Annotated[bool, typer.Option("--plot", help="Draw before and after beside each output (PNG).")] = False,
    quiet: options.QuietOption = False,
    as_json: options.JsonOption = False,
) -> None:
    """Remove noise from sound files.

    Reads wav, flac, ogg, opus, mp3 and whatever else libsndfile reads; writes wav, flac, ogg, opus or aiff, by the
    extension. Sample rate, channels, sample type, tags and length stay as they are, and the output lines up with the
    input to the sample. An output appears when it is complete, or not at all.
    """
    from .batch import run_batch
    from .plan import make_plan
    from .report import BatchProgress, Summary

    processing = Processing(model, attenuation_limit, mix, highpass, chain, channel_mode)
    plan = make_plan(paths, out, file_format and f".{file_format}", plot, skip_existing)
    if plot:
        from ..plots import require_matplotlib

        require_matplotlib()
    started = perf_counter()
    progress = BatchProgress(plan.jobs, enabled=not quiet)
    outcomes = run_batch(plan.jobs, processing, jobs or os.cpu_count() or 1, progress.update)
    summary = Summary(plan, processing)

    def conclude() -> None:
        summary.wall_s = perf_counter() - started
        try:
            if as_json:
                summary.print_json()
            elif not quiet:
                summary.print_table()
        finally:
            # Also where nobody reads the table any more.
            for outcome in summary.failures:
                complain(outcome.error)

    try:
        with progress, closing(outcomes):
            for number, outcome in outcomes:
                progress.finish(number)
                summary.add(number, outcome)
    except BaseException:
        # What ended it says more than a table that has no reader.
        with suppress(OSError):
            conclude()
        raise
    conclude()
    if summary.failures:
        raise typer.Exit(ExitCode.FAILED)
