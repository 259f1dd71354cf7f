"""A recurrent network as a recursive filter: by construction, fast, by training, and with what is not linear on top."""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import scipy.signal
import torch

from streamproc.backends.loader import load_model

from ...models import load_checkpoint, save_checkpoint
from ...models.iir import PROBE_LIMIT, IirFilter, PedalModelConfig, TanhFilter
from ...tables import Table
from ..job import RecipeJob
from ..report import RecipeReport, Row
from . import accuracy, pedal, speed, training

QUALITIES = (0.995, 0.9995)
TARGETS = {0.995: 0.01, 0.9995: 0.03}
PROMISED = 1e-5
MINUTES_OF_AUDIO = 10
COST_LIMIT = 2.0
FIT_LIMIT_S = 300.0
LEVELS_DB = np.arange(-80.0, 21.0, 5.0)


def run(job: RecipeJob) -> RecipeReport:
    """Run all parts: construction, speed, training, pedal."""
    rows: list[Row] = []
    tables: list[Table] = []
    notes: list[str] = []
    _construct(job, rows, tables, notes)
    _speed(job, rows, tables, notes)
    trained = _train(job, rows, notes)
    pedal_file = _pedal(job, rows, notes)
    notes.append(
        "The document prints no figures of its own to compare with: it plots. What it says in words is that Adam does "
        "not converge for Q = 0.9995 at 8 kHz; the rows of its two methods show that."
    )
    live = (
        f"streamproc live --model {pedal_file}\n"
        f"streamproc denoise in.wav out.wav --model {trained}\n"
        f"streamproc bench {trained} {trained.with_suffix('.ts')}"
    )
    return RecipeReport(rows=rows, live=live, tables=tables, notes=notes)


# --- by construction ------------------------------------------------------------------------------------------------


def _construct(job: RecipeJob, rows: list[Row], tables: list[Table], notes: list[str]) -> None:
    quality = QUALITIES[0]
    levels = LEVELS_DB[::5] if job.quick else LEVELS_DB
    found = job.part(
        "level",
        lambda: accuracy.deviation_by_level(quality, levels),
        {"levels": levels.tolist(), "quality": quality},
    )
    with job.figure("level.png", figsize=(6, 3.5)) as (_, axes):
        axes.semilogy(levels, found["tanh"], "o-", label="tanh, as in the document")
        axes.semilogy(levels, found["linear"], "s-", label="linear, the same three units")
        axes.axvline(20 * np.log10(training.IMPULSE), color="0.7", label="the document's impulse")
        axes.set(xlabel="impulse, dB of 1", ylabel="largest error / peak", title="Delay chain beside lfilter")
        axes.legend()
    document_db = 20 * np.log10(training.IMPULSE)
    at_document = {name: float(np.interp(document_db, levels, np.log10(found[name]))) for name in found}
    rows += [
        Row("document's filter, tanh: error / peak", 10 ** at_document["tanh"]),
        Row("document's filter, linear, 3 units: error / peak", 10 ** at_document["linear"], target=PROMISED),
    ]
    job.export(TanhFilter.from_coefficients([1.0], training.document_filter(quality)).eval(), "tanh-filter")

    seconds = 10 if job.quick else 60 * MINUTES_OF_AUDIO
    config = {"seconds": seconds, "hop": accuracy.HOP, "limit": PROBE_LIMIT}
    results = [
        job.part(f"accuracy {design}", lambda design=design: accuracy.measure(design, seconds), config)
        for design in accuracy.designs(job.quick)
    ]
    errors = [result["chosen"] for result in results]
    worst = results[int(np.argmax(errors))]
    n_double = sum(result["state"] == "float64" for result in results)
    rows.append(
        Row(
            f"{len(results)} designs, {seconds} s, worst: error / peak",
            max(errors),
            target=PROMISED,
        )
    )
    notes.append(
        f"Exactness: ONNX files at a hop of {accuracy.HOP} beside `sosfilt` in float64, over noise, noise on a "
        f"constant, a sweep and silence; Butterworth, Chebyshev I and II and elliptic, low-pass, high-pass, "
        f"band-pass and band-stop, cut-offs of 0.02 to 0.4 of the sample rate, orders 1 to 12. The worst is "
        f"{worst['design']} ({worst['state']} state). Of {len(results)} designs {n_double} got a float64 state, "
        f"because float32 did not hold theirs to {PROBE_LIMIT:g} in a probe; all others have float32."
    )
    hard = [
        job.part(
            f"hard {design}",
            lambda design=design: accuracy.measure(design, seconds, both=True),
            config,
        )
        for design in accuracy.hard_designs(job.quick)
    ]
    tables.append(
        Table(
            f"Cut-offs below 0.02, error / peak over {seconds} s: nothing promised, measured",
            ("design", "float32 state", "float64 state", "chosen"),
            tuple((r["design"], f"{r['float32']:.1e}", f"{r['float64']:.1e}", r["state"]) for r in hard),
        )
    )
    rows.append(
        Row(
            "cut-offs down to 0.0001, worst: error / peak",
            max(result["chosen"] for result in hard),
        )
    )


# --- cost -----------------------------------------------------------------------------------------------------------


def _speed(job: RecipeJob, rows: list[Row], tables: list[Table], notes: list[str]) -> None:
    blocks = speed.BLOCKS[-1:] if job.quick else speed.BLOCKS
    orders = (4,) if job.quick else (4, 12)
    worst = {"numpy": 0.0, "ONNX float32": 0.0, "ONNX float64": 0.0, "TorchScript": 0.0}
    for order in orders:
        lines = []
        for block in blocks:
            cost = job.part(
                f"cost order {order} block {block}",
                lambda block=block, order=order: speed.measure_block(block, order),
                {"block": block, "order": order},
            )
            lines.append((str(block), *(f"{cost[name]:.1f}" for name in cost)))
            worst = {name: max(value, cost[name] / cost["sosfilt"]) for name, value in worst.items()}
        tables.append(Table(f"Order {order}, us of CPU for one block of one channel", ("block", *cost), tuple(lines)))
    rows += [
        Row(
            f"{name}: cost / sosfilt, worst block",
            ratio,
            target=None if name == "TorchScript" else COST_LIMIT,
            digits=2,
        )
        for name, ratio in worst.items()
    ]
    notes.append(
        "Cost: medians of calls in turns in one process, in CPU time of the thread. `sosfilt` and `lfilter` spend "
        "most of theirs on looking at their arguments. numpy is `streamproc.dsp.Biquads`: float64, any block, no "
        "latency."
    )


# --- by training ----------------------------------------------------------------------------------------------------


def _train(job: RecipeJob, rows: list[Row], notes: list[str]) -> Path:
    responses = {quality: training.document_response(quality) for quality in QUALITIES}
    pairs = [(quality, seed) for quality in QUALITIES for seed in job.seeds]
    epochs, iterations = (1, 3) if job.quick else (500, 1500)

    def train_as_document(method: str) -> list[float]:
        networks = training.ManyTanhNetworks(
            np.stack([responses[quality] for quality, _ in pairs]), [seed for _, seed in pairs]
        )
        if method == "adam":
            networks.train_adam(epochs)
        else:
            networks.train_random_directions(iterations)
        return networks.errors()

    config = training.FitConfig(stages=8, steps=50) if job.quick else training.FitConfig()

    def fit(quality: float, seed: int) -> dict[str, Any]:
        began = time.thread_time()
        watched: list[tuple[float, float]] = []

        def watch(memory: float, modes: training.Modes) -> None:
            response = modes.response(training.N_FRAMES)
            watched.append((memory, training.relative_error(response, responses[quality])))

        modes = training.fit_modes(responses[quality], seed, config, watch)
        return {
            "error": watched[-1][1],
            "cpu_s": time.thread_time() - began,
            "watched": watched,
            "modes": [modes.angle.tolist(), modes.radius.tolist(), (modes.output / training.IMPULSE).tolist()],
        }

    ours = {
        (quality, seed): job.part(
            f"fit {quality} seed {seed}", lambda q=quality, s=seed: fit(q, s), training.fit_key(config)
        )
        for quality, seed in pairs
    }
    theirs = {
        method: job.part(method, lambda method=method: train_as_document(method), {"seeds": job.seeds, "n": n})
        for method, n in (("adam", epochs), ("random directions", iterations))
    }
    for quality in QUALITIES:
        for method, name in (("adam", "document's Adam"), ("random directions", "random directions")):
            each = [error for error, (q, _) in zip(theirs[method], pairs, strict=True) if q == quality]
            rows.append(Row.median(f"Q {quality}, {name}: response error", each))
        each = [result["error"] for (q, _), result in ours.items() if q == quality]
        rows.append(
            Row(
                f"Q {quality}, ours, worst seed: response error",
                max(each),
                target=TARGETS[quality],
                each=tuple(each),
                digits=5,
            )
        )
    measured, clean = training.noisy_body()
    body = training.FitConfig(n_modes=training.N_BODY_MODES, stages=config.stages, steps=config.steps)

    def fit_body(seed: int) -> float:
        return training.relative_error(training.fit_modes(measured, seed, body).response(len(clean)), clean)

    each = [
        job.part(f"fit body seed {seed}", lambda seed=seed: fit_body(seed), training.fit_key(body))
        for seed in job.seeds
    ]
    rows.append(
        Row(
            "4 resonances in noise, worst seed: response error",
            max(each),
            each=tuple(each),
            digits=5,
        )
    )
    cpu_s = sum(result["cpu_s"] for result in ours.values())
    rows.append(Row(f"ours, all {len(pairs)} runs: seconds of one core", cpu_s, target=FIT_LIMIT_S, digits=0))
    notes.append(
        f"Training: error is the root of error energy over target energy, of the 0.6 s response. All methods start at "
        f"random, and every figure is of the last network, not of the best on the way. Ours is Adam too, on a linear "
        f"network of two hidden units and an output layer, with the memory of the loss growing from "
        f"{config.shortest:g} samples on (`export/recipes/iir/training.py` says why that makes the difference); its "
        f"time is CPU time, because the machine is shared. The target is linear, which the "
        f"document's tanh network can only approach. Its random directions are called but not shown in the document: "
        f"ours are the plain method with its arguments. The response in noise is of four resonances (180 to 2200 Hz, "
        f"Q 0.995 to 0.9995) at 40 dB and compared with the one without "
        f"noise; {training.N_BODY_MODES} modes, of which the spare ones fade."
    )
    with job.figure("training.png", 1, 2, figsize=(9, 3.5), sharey=True) as (_, axes):
        for quality, ax in zip(QUALITIES, axes, strict=True):
            for (q, _), result in ours.items():
                if q == quality:
                    ax.loglog(*np.transpose(result["watched"]), color="C0", alpha=0.6)
            for method, colour in (("adam", "C1"), ("random directions", "C2")):
                for error, (q, _) in zip(theirs[method], pairs, strict=True):
                    if q == quality:
                        ax.axhline(error, color=colour, alpha=0.5, lw=0.8)
            ax.axhline(TARGETS[quality], color="0.5", ls=":")
            ax.set(title=f"Q = {quality}", xlabel="memory of the loss, samples")
        axes[0].set_ylabel("error of the response")
        axes[0].plot([], [], "C0", label="ours, each seed")
        axes[0].plot([], [], "C1", label="Adam as in the document, at its end")
        axes[0].plot([], [], "C2", label="random directions, at their end")
        axes[0].legend(fontsize=7)
    with job.figure("response.png", 1, 2, figsize=(9, 3)) as (_, axes):
        for quality, ax in zip(QUALITIES, axes, strict=True):
            angle, radius, output = ours[quality, job.seeds[0]]["modes"]
            found = training.Modes(np.array(angle), np.array(radius), training.IMPULSE * np.array(output))
            late = slice(600, 760) if quality < 0.999 else slice(training.N_FRAMES - 160, training.N_FRAMES)
            sample = np.arange(training.N_FRAMES)[late]
            ax.plot(sample, responses[quality][late], label="lfilter")
            ax.plot(sample, found.response(training.N_FRAMES)[late], "--", label="trained")
            ax.set(title=f"Q = {quality}, seed {job.seeds[0]}, late in the response", xlabel="sample")
        axes[0].legend()

    quality, seed = QUALITIES[-1], job.seeds[0]
    modes = training.Modes(*map(np.array, ours[quality, seed]["modes"]))
    trained = IirFilter(
        modes.state_space(),
        training.SAMPLE_RATE,
        name="trained-filter",
        description="A resonance at 440 Hz, learned from its impulse response.",
    )
    onnx, _ = job.export(trained.eval(), "trained-filter")
    pulse = (training.IMPULSE * np.eye(1, training.N_FRAMES)).astype(np.float32)
    heard = np.concatenate(list(accuracy.run_model(load_model(onnx), [pulse])), axis=1)[0]
    rows.append(
        Row(
            f"Q {quality}, exported file: response error",
            training.relative_error(heard, responses[quality]),
            target=TARGETS[quality],
            digits=5,
        )
    )
    low_pass = IirFilter.from_sections(
        scipy.signal.ellip(7, 0.5, 70, 0.3, output="sos"), 48_000, name="low-pass", description="Elliptic, 7.2 kHz."
    )
    job.export(low_pass.eval(), "low-pass")
    return onnx


# --- not linear -----------------------------------------------------------------------------------------------------


def _pedal(job: RecipeJob, rows: list[Row], notes: list[str]) -> Path:
    plan = pedal.PedalTraining(train_s=2, test_s=1, batch=2, steps=4) if job.quick else pedal.PedalTraining()
    if job.data is None:
        recordings, source = pedal.simulated_recordings(plan), "simulated"
    else:
        recordings = pedal.read_recordings(job.folder(job.data, "dry.wav and wet.wav"))
        source = f"{job.data}, {recordings.dry.size} frames"
    whole = PedalModelConfig(sample_rate=recordings.sample_rate)
    models = {
        "filters alone": replace(whole, hidden=0),
        "GRU alone": replace(whole, n_before=0, n_after=0),
        "filters and GRU": whole,
    }
    dry, wet = (pedal.whole_hops(signal, whole.hop) for signal in (recordings.test_dry, recordings.test_wet))
    found = {}
    for name, config in models.items():
        weights = f"weights/pedal-{name.lower().replace(' ', '-')}.pt"

        def train(config: PedalModelConfig = config, weights: str = weights) -> dict[str, Any]:
            model, losses = pedal.train_pedal(
                config, plan, recordings, 0, lambda steps: job.track(steps, "training the pedal", plan.steps)
            )
            save_checkpoint(model, job.path(weights))
            with torch.no_grad():
                frames = torch.from_numpy(dry).reshape(1, -1, config.hop)
                y = model(frames)[0].reshape(1, -1).numpy()
            return {"esr": pedal.ratio(y, wet), "losses": losses, "n": sum(p.numel() for p in model.parameters())}

        key = {**asdict(config), **asdict(plan), "recordings": source}
        found[name] = job.part(f"pedal {name}", train, key, files=[weights])
    onnx, _ = job.export(load_checkpoint(job.path("weights/pedal-filters-and-gru.pt")), "pedal")
    heard = np.concatenate(list(accuracy.run_model(load_model(onnx), [dry])), axis=1)
    for name, result in found.items():
        rows.append(Row(f"pedal, {name} ({result['n']} parameters): ESR", result["esr"], digits=5))
    rows.append(Row("pedal, exported file in the runtime: ESR", pedal.ratio(heard, wet), digits=5))
    notes.append(
        f"Pedal: two filters, a tanh with bias and 24 dB of gain, three filters, all simulated at 48 kHz; "
        f"{plan.train_s:g} s of plucked strings to learn from, {plan.test_s:g} s of others to test on, no "
        f"pre-emphasis, {plan.steps} steps of Adam. All three models train alike, the GRU on chunks with 32 samples "
        f"of past: enough beside filters, and a handicap for the GRU alone. One seed. "
        f"`--data DIR` learns from your own `dry.wav` and `wet.wav` instead."
        if job.data is None
        else f"Pedal: recordings of {job.data}, the last sixth to test on; {plan.steps} steps of Adam."
    )
    with job.figure("pedal.png", 1, 2, figsize=(9, 3)) as (_, axes):
        for name, result in found.items():
            smooth = np.convolve(result["losses"], np.ones(10) / 10, "valid") if not job.quick else result["losses"]
            axes[0].semilogy(smooth, label=name)
        axes[0].set(xlabel="step", ylabel="error-to-signal ratio, training")
        axes[0].legend(fontsize=7)
        loudest = int(np.abs(dry[0]).argmax())
        here = slice(max(0, loudest - 200), loudest + 600)
        axes[1].plot(dry[0, here], "0.7", label="dry")
        axes[1].plot(wet[0, here], label="pedal")
        axes[1].plot(heard[0, here], "--", label="model, exported")
        axes[1].set(xlabel="sample")
        axes[1].legend(fontsize=7)
    return onnx
