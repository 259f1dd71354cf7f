"""``streamproc live``: a microphone through the processor, in real time."""

from __future__ import annotations

from contextlib import ExitStack, nullcontext
from dataclasses import replace
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from ..errors import ConfigError
from . import options
from .console import ExitCode, command, stderr
from .processing import Processing

_DEVICES = "Devices"


class Mode(StrEnum):
    """Where the processor runs."""

    WORKER = "worker"
    INLINE = "inline"


class OnMiss(StrEnum):
    """What is heard in the place of a missed block."""

    DRY = "dry"
    SILENCE = "silence"
    PREDICT = "predict"


@command(
    """
    streamproc live
    streamproc live --input "usb mic" --output headphones
    streamproc live --virtual-mic
    streamproc live --record takes/ --duration 60 --json
    """
)
def live(
    model: options.ModelOption = None,
    attenuation_limit: options.AttenuationLimitOption = None,
    mix: options.MixOption = 1.0,
    highpass: options.HighPassOption = None,
    chain: options.ChainOption = None,
    channel_mode: options.ChannelModeOption = None,
    input_name: Annotated[
        str | None,
        typer.Option(
            "--input",
            "-i",
            metavar="NAME",
            help="Words that fit one microphone only, see [cyan]streamproc devices[/cyan]. "
            "[dim]default: the system's[/dim]",
            rich_help_panel=_DEVICES,
        ),
    ] = None,
    output_name: Annotated[
        str | None,
        typer.Option("--output", "-o", metavar="NAME", help="Likewise for the loudspeaker.", rich_help_panel=_DEVICES),
    ] = None,
    virtual_mic: Annotated[
        bool,
        typer.Option(
            "--virtual-mic",
            help="Play into a microphone called streamproc that call programs can choose (Linux).",
            rich_help_panel=_DEVICES,
        ),
    ] = False,
    channels: Annotated[
        int, typer.Option("--channels", "-c", min=1, metavar="N", help="Channels to process.", rich_help_panel=_DEVICES)
    ] = 1,
    rate: Annotated[
        int | None,
        typer.Option(
            "--rate",
            min=1000,
            max=options.LARGEST_RATE,
            metavar="HZ",
            help="Rate of the devices. [dim]default: their own[/dim]",
            rich_help_panel=_DEVICES,
        ),
    ] = None,
    block: Annotated[
        int,
        typer.Option(
            "--block",
            min=0,
            max=options.LARGEST_BLOCK,
            metavar="N",
            help="Frames per block; 0: as the device likes.",
            rich_help_panel=_DEVICES,
        ),
    ] = 0,
    latency: Annotated[
        float | None,
        typer.Option(
            "--latency",
            min=0.0,
            metavar="MS",
            help="Latency to ask the devices for; more is safer. "
            "[dim]default: their lowest; 20 and 35 ms through a sound server[/dim]",
            rich_help_panel=_DEVICES,
        ),
    ] = None,
    mode: Annotated[
        Mode | None,
        typer.Option(
            "--mode",
            help="Compute in a thread of its own, or in the audio callback. [dim]default: worker[/dim]",
            rich_help_panel=_DEVICES,
        ),
    ] = None,
    on_miss: Annotated[
        OnMiss | None,
        typer.Option(
            "--on-miss",
            help="What is heard where processed sound is not there in time: the input, nothing, or the way it probably "
            "goes on. [dim]default: dry[/dim]",
            rich_help_panel=_DEVICES,
        ),
    ] = None,
    record: Annotated[
        Path | None, typer.Option("--record", metavar="DIR", help="Record input and output into this folder.")
    ] = None,
    duration: Annotated[
        float | None, typer.Option("--duration", "-d", min=0.0, metavar="S", help="End after so many seconds.")
    ] = None,
    quiet: options.QuietOption = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a JSON object per second, and a summary, for programs.")
    ] = False,
) -> None:
    """Clean a microphone while you speak.

    Runs until q, Ctrl-C or --duration. When a device goes, the sound fades to silence and streamproc waits until the
    same device is back; no other takes its place.
    """
    from ..live import virtual_mic as virtual
    from ..live.config import LiveConfig
    from ..live.process import LiveProcess
    from ..live.session import SessionSettings
    from .live_report import reporter_for
    from .live_run import run

    if virtual_mic and output_name is not None:
        raise ConfigError("--virtual-mic is the output: leave --output out")
    if on_miss is OnMiss.PREDICT and mode is Mode.INLINE:
        raise ConfigError("--on-miss predict needs the worker that predicts ahead of time: leave --mode inline out")
    processing = Processing(model, attenuation_limit, mix, highpass, chain, channel_mode)
    settings = SessionSettings(
        input=input_name,
        output=output_name,
        sample_rate=rate,
        block=block,
        latency_ms=latency,
        n_channels=channels,
        mode=mode.value if mode else LiveConfig.mode,
        on_miss=on_miss.value if on_miss else LiveConfig.on_miss,
        record=record,
    )
    with ExitStack() as cleanup:
        process = LiveProcess(processing.build, settings)
        if virtual_mic:
            settings = replace(settings, input=input_name or virtual.real_microphone(), output=virtual.OUTPUT)
            make = partial(virtual.create, channels)
            make()
            cleanup.callback(virtual.remove)
            process = LiveProcess(processing.build, settings, before_start=make, on_orphaned=virtual.remove)
        with stderr.status("opening the devices ...") if stderr.is_terminal and not quiet else nullcontext():
            process.start()
        code = run(process, reporter_for(str(processing), quiet, as_json), duration)
    if code is not ExitCode.DONE:
        raise typer.Exit(code)
