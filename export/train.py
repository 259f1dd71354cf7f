"""The training loop: read top to bottom. What a run leaves behind is written by `export.run_folder`."""

from __future__ import annotations

import copy
import math
import signal
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from pytorch_optimizer import SOAP
from torch import Tensor

from streamproc.errors import ConfigError

from .compiling import Compiled
from .data.mix_config import MixConfig
from .data.mixing import Batch, open_mixer
from .data.prefetch import prefetch
from .data.validation import ValidationSet, enhance_all, make_validation_set, measure
from .losses import LossConfig, denoising_loss
from .memory import keep_freed_memory
from .models import StreamableModel, build_model, enhance, istft, load_checkpoint, stft, training_record
from .models.inherit import inherit
from .models.layers import reduce_precision
from .models.recurrence import has_fast_bfloat16
from .run_folder import Log, Progress, load_run, plot_curves, save_run

Optimiser = Literal["adamw", "soap"]

_CALIBRATION = 2**31
"""Index of the batch that fixes the feature scaling: one that no run gets to."""


@dataclass(frozen=True)
class TrainConfig:
    """One run.

    Parameters
    ----------
    name : str
        Folder of the run below `runs_dir`.
    speech, noise : tuple of str
        Folders to train on.
    rooms : str
        Folder of measured responses; may be empty.
    val_speech, val_noise : str
        Folders that are never trained on; empty for no validation.
    cache_dir, runs_dir : str
    model : str
        Class name known to `export.models.build_model`.
    model_config : dict
    mix : MixConfig
    loss : LossConfig
    start : str
        Checkpoint of a `GruDenoiser` to begin from instead of random weights, as far as sizes allow (`inherit`).
    teacher : str
        Checkpoint of a model at the same rate whose output is a second target; empty for none.
    teacher_share : float
        Share of that target in the loss, 0..1.
    batch : int
        Items per step.
    steps, minutes : int, float, optional
        Length of the run, and of its cosine schedule: one of them, above 0. A run by steps is reproducible to the
        bit; a run by minutes of training time ends when it should on a machine that is shared.
    lr, final_lr : float
        Learning rate after warm-up, and where the cosine ends.
    slow_prefix, slow_factor : str, float
        Parameters under this name learn more slowly: gradients of the complex filter are large.
    warmup : int
        Steps of linear warm-up.
    optimiser : {"adamw", "soap"}
        SOAP [1]_ is AdamW along the axes in which the gradients of a matrix are uncorrelated. From trained weights it
        gets on faster, from random ones more slowly (`docs/model.md`).
    weight_decay, clip_norm : float
    ema : float
        Decay of the averaged weights.
    seed : int
    workers : int
        Threads that each take a part of the batch, one core each; 1 on CUDA. With full products this is twice as fast
        as one batch on two threads.
    device : str
    reduced_precision : bool, optional
        Whether products of matrices round their operands to bfloat16; by default where the processor does that fast.
    compiled : bool
        Join elementwise arithmetic of the model and of the loss into machine code (`export.compiling`).
    save_minutes, validate_minutes, log_seconds : float
    n_val, n_synthetic, n_rooms : int
        Validation items, synthetic noises and simulated rooms.

    References
    ----------
    .. [1] N. Vyas et al., "SOAP: improving and stabilizing Shampoo using Adam", ICLR 2025.
    """

    name: str = "denoise"
    speech: tuple[str, ...] = ("../shared/data/train/speech",)
    noise: tuple[str, ...] = ("../shared/data/train/noise",)
    rooms: str = "../shared/data/rir"
    val_speech: str = "../shared/data/val/speech"
    val_noise: str = "../shared/data/val/noise"
    cache_dir: str = "cache"
    runs_dir: str = "runs"
    model: str = "GruDenoiser"
    model_config: dict[str, Any] = field(default_factory=dict)
    mix: MixConfig = field(default_factory=MixConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    start: str = ""
    teacher: str = ""
    teacher_share: float = 0.5
    batch: int = 16
    steps: int | None = None
    minutes: float | None = None
    lr: float = 1.5e-3
    final_lr: float = 2e-5
    slow_prefix: str = "taps"
    slow_factor: float = 0.3
    warmup: int = 100
    optimiser: Optimiser = "adamw"
    weight_decay: float = 1e-3
    clip_norm: float = 0.3
    ema: float = 0.999
    seed: int = 1
    workers: int = 2
    device: str = "cpu"
    reduced_precision: bool | None = None
    compiled: bool = True
    save_minutes: float = 2.0
    validate_minutes: float = 5.0
    log_seconds: float = 20.0
    n_val: int = 40
    n_synthetic: int = 400
    n_rooms: int = 160

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.minutes is None):
            raise ValueError("give a run either steps or minutes: its learning rate falls along one of them")
        for name, length in (("steps", self.steps), ("minutes", self.minutes)):
            if length is not None and not 0 < length < math.inf:  # NaN neither
                raise ValueError(f"{name} is {length:g}; a run ends after a number of {name} above 0")
        if self.optimiser not in get_args(Optimiser):
            raise ValueError(f"optimiser {self.optimiser!r} is unknown; known are {', '.join(get_args(Optimiser))}")


def train(config: TrainConfig, resume: bool = True, report: Callable[[str], None] = print) -> Path:
    """Train until the schedule ends, going on from ``last.pt`` where there is one; return the path of ``ema.pt``.

    Ctrl-C or SIGTERM saves and stops.
    """
    keep_freed_memory()
    torch.set_num_threads(1)  # parallel over items, not inside operators: see TrainConfig.workers
    torch.manual_seed(config.seed)
    device = open_device(config.device)
    folder = Path(config.runs_dir) / config.name
    folder.mkdir(parents=True, exist_ok=True)

    model = build_model(config.model, config.model_config)
    model.to(device)
    mix = config.mix
    mixer = open_mixer(
        config.speech, config.noise, config.cache_dir, mix, config.seed,
        Path(config.rooms) if config.rooms else None, config.n_synthetic, config.n_rooms,
    )  # fmt: skip
    validation = None
    if config.val_speech:
        validation = make_validation_set(
            config.val_speech, config.val_noise, config.cache_dir, mix.sample_rate, config.n_val
        )
    resuming = resume and (folder / "last.pt").is_file()
    if config.start and not resuming:
        inherit(model, load_checkpoint(config.start))
    elif not resuming:
        example = torch.from_numpy(mixer.batch(_CALIBRATION, config.batch).noisy)
        model.calibrate(stft(example.to(device), model.spec))
    teacher = load_checkpoint(config.teacher).to(device) if config.teacher else None
    if teacher and teacher.spec.sample_rate != mix.sample_rate:
        raise ValueError(f"{config.teacher} is for {teacher.spec.sample_rate} Hz, the training for {mix.sample_rate}")
    average = copy.deepcopy(model).eval().requires_grad_(False)
    on_cpu = device.type == "cpu"
    fast = on_cpu and (has_fast_bfloat16() if config.reduced_precision is None else config.reduced_precision)
    for part in (model, teacher):
        if part is not None:
            reduce_precision(part, fast)
    optimiser = make_optimiser(model, config)
    if config.compiled:
        for name in model.compilable:
            setattr(model, name, Compiled(getattr(model, name)))
    progress = Progress()
    if resuming:
        progress = load_run(folder / "last.pt", model, average, optimiser)
        report(f"resumed {folder} at step {progress.step}, {progress.audio_hours:.1f} h of audio")
    log = Log(folder / "log.csv", progress.step)
    n_parameters = sum(p.numel() for p in model.parameters())
    report(f"{config.model}: {n_parameters} parameters")
    report(f"speech {mixer.speech.hours:.2f} h, noise {mixer.noise.hours:.2f} h")

    def save() -> None:
        save_run(folder, config, model, average, optimiser, progress)

    stopping = Stop()
    pool = ThreadPoolExecutor(config.workers)
    now = time.monotonic
    saved = validated = logged = now()
    losses: list[float] = []
    norms: list[float] = []
    waited = 0.0
    with pool, stopping, closing(prefetch(mixer, progress.step, config.batch)) as batches:
        while share_done(config, progress) < 1.0 and not stopping.asked:
            began = now()
            batch = next(batches)
            waited += now() - began
            lr = learning_rate(config, progress)
            for group in optimiser.param_groups:
                group["lr"] = lr * group["factor"]
            loss = accumulate_gradients(model, batch, config, pool, teacher)
            norm = float(torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm))
            if math.isfinite(norm):
                optimiser.step()
                follow(average, model, min(config.ema, (1 + progress.step) / (10 + progress.step)))
            losses.append(loss)
            norms.append(norm)
            progress.step += 1
            progress.seconds += now() - began
            progress.audio_hours += batch.noisy.size / mix.sample_rate / 3600

            if now() - logged >= config.log_seconds or share_done(config, progress) >= 1.0:
                row = {
                    "step": progress.step,
                    "minutes": progress.seconds / 60,
                    "hours": progress.audio_hours,
                    "lr": lr,
                    "train_loss": float(np.mean(losses)),
                    "grad_norm": float(np.median(norms)),
                    "frames_per_s": len(losses) * batch.noisy.size / model.spec.hop / (now() - logged),
                    "wait_share": waited / (now() - logged),
                }
                log.write(row)
                report("  ".join(f"{name} {value:.4g}" for name, value in row.items()))
                losses, norms, waited, logged = [], [], 0.0, now()
            if now() - saved >= 60 * config.save_minutes:
                save()
                saved = now()
            if validation and now() - validated >= 60 * config.validate_minutes:
                progress.seconds += _validate(average, validation, config, progress, log, report)
                plot_curves(folder)
                validated = logged = now()
                losses, norms, waited = [], [], 0.0
        save()
    if validation:
        _validate(average, validation, config, progress, log, report)
        save()  # again, with the figures
        plot_curves(folder)
    report(f"{'stopped' if stopping.asked else 'done'} at step {progress.step}: {folder / 'ema.pt'}")
    return folder / "ema.pt"


def make_optimiser(model: StreamableModel, config: TrainConfig) -> torch.optim.Optimizer:
    """Return the optimiser of a model's parameters; each group has the ``factor`` of its learning rate."""
    slow = [p for name, p in model.named_parameters() if name.startswith(config.slow_prefix)]
    rest = [p for name, p in model.named_parameters() if not name.startswith(config.slow_prefix)]
    groups = [{"params": rest, "factor": 1.0}, {"params": slow, "factor": config.slow_factor}]
    common: dict[str, Any] = {"lr": config.lr, "betas": (0.9, 0.98), "weight_decay": config.weight_decay}
    if config.optimiser == "soap":  # its first step finds the axes and moves nothing
        return SOAP(groups, shampoo_beta=0.95, precondition_frequency=10, **common)
    return torch.optim.AdamW(groups, **common)


def open_device(name: str) -> torch.device:
    """Return the device of this name, on which something could be computed.

    Raises
    ------
    ConfigError
        If there is none here.
    """
    try:
        torch.zeros(1, device=name).item()
    except (AssertionError, RuntimeError) as error:  # without CUDA torch asserts
        raise ConfigError(
            f"torch cannot compute on device {name!r} here; use cpu, or cuda where there is an NVIDIA card and a torch "
            f"that was built for it"
        ) from error
    return torch.device(name)


def fresh_seed(start: Path | None) -> int:
    """Return a seed whose mixtures a checkpoint has not seen: one more than its own, or 1 without a checkpoint.

    A mixture is a function of the seed and its number. A run that starts from another under the same seed hears the
    same mixtures once more: its loss falls, and nothing is gained (`docs/model.md`).
    """
    return 1 if start is None else 1 + int(training_record(start).get("seed", 0))


def share_done(config: TrainConfig, progress: Progress) -> float:
    """Part of the schedule that is done, 0..1."""
    if config.steps is not None:
        return min(1.0, progress.step / config.steps)
    assert config.minutes is not None, "a run has either"
    return min(1.0, progress.seconds / 60 / config.minutes)


def learning_rate(config: TrainConfig, progress: Progress) -> float:
    """Linear warm-up, then a cosine to `final_lr` at the end of the schedule."""
    warm = min(1.0, (progress.step + 1) / config.warmup) if config.warmup else 1.0
    cosine = 0.5 * (1 + math.cos(math.pi * share_done(config, progress)))
    return warm * (config.final_lr + (config.lr - config.final_lr) * cosine)


def accumulate_gradients(
    model: StreamableModel,
    batch: Batch,
    config: TrainConfig,
    pool: ThreadPoolExecutor,
    teacher: StreamableModel | None = None,
) -> float:
    """Set ``.grad`` of every parameter to the mean gradient over the batch; return the mean loss.

    The batch is cut into `workers` parts. Every thread differentiates its own graph against the shared weights, and
    the parts are added in a fixed order, so the result does not depend on which thread was first.
    """
    parameters = list(model.parameters())
    parts = np.array_split(np.arange(len(batch.noisy)), config.workers)

    def differentiate(rows: np.ndarray) -> tuple[float, tuple[Tensor, ...]]:
        device = parameters[0].device
        arrays = (batch.noisy, batch.clean, batch.bandwidth_hz, batch.has_speech)
        noisy, clean, bandwidth_hz, has_speech = (torch.from_numpy(array[rows]).to(device) for array in arrays)
        targets = [(1.0, clean)]
        if teacher is not None:
            with torch.no_grad():
                targets = [(1.0 - config.teacher_share, clean), (config.teacher_share, enhance(teacher, noisy))]
        losses = item_losses(model, noisy, targets, bandwidth_hz, has_speech, config.loss, config.compiled)
        loss = losses.sum() / len(batch.noisy)
        return float(loss.detach()), torch.autograd.grad(loss, parameters)

    results = list(pool.map(differentiate, parts))
    for parameter, *gradients in zip(parameters, *(gradients for _, gradients in results), strict=True):
        parameter.grad = torch.stack(gradients).sum(0) if len(gradients) > 1 else gradients[0]
    return sum(loss for loss, _ in results)


def item_losses(
    model: StreamableModel,
    noisy: Tensor,
    targets: Sequence[tuple[float, Tensor]],
    bandwidth_hz: Tensor,
    has_speech: Tensor,
    config: LossConfig,
    compiled: bool = False,
) -> Tensor:
    """Loss of every item [items]: from samples to samples, so the short synthesis window is part of it.

    `targets` are shares and samples [items, frames].
    """
    spec = model.spec
    delay = spec.latency
    enhanced = istft(model(stft(noisy, spec))[0], spec)[..., delay : noisy.shape[-1]]
    noisy_rms = noisy.square().mean(-1).sqrt()
    losses = torch.zeros_like(noisy_rms)
    for share, target in targets:
        aligned = target[..., : target.shape[-1] - delay]
        losses = losses + share * denoising_loss(
            enhanced, aligned, noisy_rms, bandwidth_hz, has_speech, spec.sample_rate, config, compiled
        )
    return losses


@torch.no_grad()
def follow(average: StreamableModel, model: StreamableModel, decay: float) -> None:
    """Move the averaged weights towards the trained ones."""
    torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1.0 - decay)


class Stop:
    """Turns the first SIGINT or SIGTERM into a wish to stop after the step; the second one is as rude as usual."""

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Stop:
        try:
            self._before = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)}
        except ValueError:  # not in the main thread: nothing to catch here
            self._before = {}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, _frame: object) -> None:
        self.asked = True
        signal.signal(number, self._before[number])


def _validate(
    average: StreamableModel,
    validation: ValidationSet,
    config: TrainConfig,
    progress: Progress,
    log: Log,
    report: Callable[[str], None],
) -> float:
    """Log the averaged model's figures; return the seconds it took."""
    began = time.monotonic()
    device = torch.device(config.device)
    row = {"step": progress.step, "minutes": progress.seconds / 60, "hours": progress.audio_hours}
    progress.figures = validation_figures(average, validation, config.loss, device)
    row |= progress.figures
    log.write(row)
    report("VAL  " + "  ".join(f"{name} {value:.4g}" for name, value in row.items()))
    return time.monotonic() - began


def validation_figures(
    model: StreamableModel, validation: ValidationSet, loss_config: LossConfig, device: torch.device
) -> dict[str, float]:
    """Loss, SI-SDR and PESQ over the validation set, gains over the noisy input, and PESQ of clean speech."""
    enhanced = enhance_all(model, validation.noisy, device)
    noisy_rms = torch.from_numpy(validation.noisy).square().mean(-1).sqrt()
    loss = denoising_loss(
        torch.from_numpy(enhanced), torch.from_numpy(validation.clean), noisy_rms,
        torch.from_numpy(validation.bandwidth_hz), torch.ones(len(enhanced), dtype=torch.bool),
        validation.sample_rate, loss_config,
    )  # fmt: skip
    before = measure(validation.clean, validation.noisy, validation.sample_rate)
    after = measure(validation.clean, enhanced, validation.sample_rate)
    few = validation.clean[:6]
    untouched = measure(few, enhance_all(model, few, device), validation.sample_rate)
    return {
        "val_loss": float(loss.mean()),
        "val_si_sdr": after["si_sdr"],
        "val_si_sdr_gain": after["si_sdr"] - before["si_sdr"],
        "val_pesq": after["pesq"],
        "val_pesq_gain": after["pesq"] - before["pesq"],
        "clean_pesq": untouched["pesq"],
    }
