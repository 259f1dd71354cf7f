"""The parts of the recipe: each is kept when it is done, so that an interrupted run goes on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile
import torch

from streamproc import load
from streamproc.atomic import replacing
from streamproc.backends.loader import load_model
from streamproc.errors import ConfigError
from streamproc.plots import save_view

from ...data.cache import open_cache
from ...data.music import Split, open_music, split_music
from ...data.validation import make_validation_set
from ...evaluate.metrics import RATE, pesq_wb
from ...models import NoizeNet, NoizeNetConfig, load_checkpoint, save_checkpoint
from ...models.noize import LinearContinuation
from ..job import DataMissing, RecipeJob
from .concealing import (
    Method,
    ModelPredictor,
    Playback,
    classical_methods,
    draw_misses,
    heard_with_misses,
    log_spectral_distance_db,
)
from .continuing import continue_music, spectral_flatness_db
from .training import Hops, Recording, Training, TrainingConfig, figures, predict_linearly, predict_with, read_hops

MUSIC = Path("../shared/data/train/noise")
VALIDATION = Path("../shared/data/val")
WEIGHTS, CHECKPOINT = "weights/noize.pt", "weights/training.pt"
LINEAR = "linear/{}.npy"

MOST_MINUTES = 40.0
"""Of a larger folder of music so much is taken: linear predictions are kept in memory, 12 MB a minute."""

SHORT_ORDER = 16
TEMPERATURE, TEMPERATURES, SEED = 0.8, (0.4, 0.8, 1.0), 0
SHARES = (0.02, 0.05, 0.1, 0.2)
SNRS_DB = (0.0, 10.0, 20.0, 40.0)
_HOST_RATE = 48_000

Sound = npt.NDArray[np.float32]
Scores = dict[str, dict[str, float]]
"""Method, then metric."""


class Experiment:
    """Everything that the recipe does with one folder of music.

    Parameters
    ----------
    job : RecipeJob

    Raises
    ------
    DataMissing
        If there is no music, or too little to hold some out.
    """

    def __init__(self, job: RecipeJob) -> None:
        self._job = job
        small = NoizeNetConfig(windows=(512, 256), order=8, spacing=2, hidden=16)
        self._config = small if job.quick else NoizeNetConfig()
        self._training = TrainingConfig(steps=6, batch=4, piece=40, validate_every=3) if job.quick else TrainingConfig()
        folder = job.folder(MUSIC, "music: indexed, in the Free Music Archive's layout, or any sound files")
        try:
            self._music = open_music(folder, job.path("cache"), self._config.sample_rate, MOST_MINUTES)
            self._parts = split_music(self._music, self._training.seed)
        except (ValueError, FileNotFoundError) as error:
            raise DataMissing(f"recipe {job.name}: {error}") from error
        self.n_recordings, self.n_broken = len(self._music), len(self._music.broken)
        length = self._music.length / self._music.sample_rate / 60
        self.minutes = {name: float(length[clips].sum()) for name, clips in self._parts.items()}
        job.say(f"{self.n_recordings} recordings, {length.sum():.1f} min; {self.n_broken} files broken")
        # What every part depends on.
        self._key = {"model": asdict(self._config), "music": [int(n) for n in self._music.length]}

    # --- training ---------------------------------------------------------------------------------------------------

    def train(self) -> list[dict[str, float]]:
        """Train the model, and keep it as `model`; return its curve."""
        job, key = self._job, {**self._key, "training": asdict(self._training)}
        for clips in self._parts.values():
            for clip in clips:
                files = [LINEAR.format(clip)]
                job.part(f"linear predictions {clip}", lambda clip=clip: self._predict_linearly(clip), self._key, files)

        torch.manual_seed(self._training.seed)
        training = Training(NoizeNet(self._config), self._training)
        job.say(f"NoizeNet: {sum(p.numel() for p in training.model.parameters())} parameters")
        checkpoint = job.path(CHECKPOINT)
        every = self._training.validate_every

        def advance(to_step: int) -> list[dict[str, float]]:
            if to_step > every:
                training.restore(checkpoint)
            if training.step != to_step - every:
                raise ConfigError(f"{checkpoint} is at step {training.step}, not {to_step - every}: use --fresh")
            training.advance(self._recordings["training"], self._recordings["validation"], to_step, job.say)
            training.save(checkpoint)
            if training.step == self._training.steps:
                save_checkpoint(training.finish(), job.path(WEIGHTS))
            return training.curve

        curve: list[dict[str, float]] = []
        for to_step in range(every, self._training.steps + 1, every):
            files = [CHECKPOINT, WEIGHTS] if to_step == self._training.steps else [CHECKPOINT]
            curve = job.part(f"training to step {to_step}", lambda to_step=to_step: advance(to_step), key, files)
        model = load_checkpoint(job.path(WEIGHTS))
        assert isinstance(model, NoizeNet)
        self.model = model
        return curve

    def _predict_linearly(self, clip: int) -> int:
        found = predict_linearly(NoizeNet(self._config).linear, self._hops(clip))
        with replacing(self._job.path(LINEAR.format(clip))) as path, path.open("wb") as out:
            np.save(out, found)
        return len(found)

    def _hops(self, clip: int) -> Hops:
        return read_hops(self._music, [clip], self._config.hop, 4.0 if self._job.quick else None)[0]

    @cached_property
    def _recordings(self) -> dict[Split, list[Recording]]:
        return {
            name: [Recording(self._hops(clip), np.load(self._job.path(LINEAR.format(clip)))) for clip in clips]
            for name, clips in self._parts.items()
        }

    # --- predicting -------------------------------------------------------------------------------------------------

    def measure(self) -> dict[str, Scores]:
        """Return the figures of every predictor of the next hop, by split."""

        def compute() -> dict[str, Scores]:
            cfg = self._config
            short = LinearContinuation(cfg.windows[:1], SHORT_ORDER, 1, cfg.hop)
            scores: dict[str, Scores] = {}
            for split in ("validation", "test"):
                recordings = self._recordings[split]
                hops = [recording.hops for recording in recordings]
                predictions: dict[str, list[Hops]] = {
                    "silence": [0.0 * each for each in hops],
                    "repeat": hops,
                    "short": [predict_linearly(short, each)[:, 0] for each in hops],
                    "linear": [recording.linear[:, 0] for recording in recordings],
                    "noize": [predict_with(self.model, recording) for recording in recordings],
                }
                scores[split] = {name: figures(hops, found) for name, found in predictions.items()}
            return scores

        scores: dict[str, Scores] = self._job.part("predictors", compute, self._trained_key)
        return scores

    @property
    def _trained_key(self) -> dict[str, Any]:
        return {**self._key, "training": asdict(self._training)}

    # --- continuing -------------------------------------------------------------------------------------------------

    def continue_a_recording(self) -> dict[str, dict[str, float]]:
        """Continue the longest test recording after its first seconds; write sounds, and a picture of the minute.

        Returns
        -------
        dict of str to dict
            ``prompt``, and each temperature: ``seconds``, ``level_db`` of the last tenth against the prompt,
            ``flatness_db`` (see `spectral_flatness_db`) and ``peak_share``, the samples at full scale.
        """
        job, rate = self._job, self._music.sample_rate
        seconds, prompt_s = (1.0, 1.0) if job.quick else (60.0, 10.0)
        longest = max(self._parts["test"], key=lambda clip: int(self._music.length[clip]))
        prompt = self._music.read(longest, 0, round(prompt_s * rate))
        soundfile.write(job.path("prompt.wav"), prompt, rate)
        power = float(np.mean(prompt.astype(np.float64) ** 2))

        def figures_of(sound: Sound) -> dict[str, float]:
            last = float(np.mean(sound[-len(sound) // 10 :].astype(np.float64) ** 2))
            return {
                "seconds": len(sound) / rate,
                "level_db": float(10 * np.log10(max(last, 1e-12) / max(power, 1e-12))),
                "flatness_db": spectral_flatness_db(sound),
                "peak_share": float(np.mean(np.abs(sound) >= 1.0)),
            }

        def compute(temperature: float, seconds: float, name: str) -> dict[str, float]:
            sound = continue_music(
                self.model,
                prompt,
                seconds,
                temperature,
                SEED,
                lambda hops: job.track(hops, f"temperature {temperature:g}"),
            )
            soundfile.write(job.path(f"{name}.wav"), sound, rate)
            save_view(job.path(f"{name}.wav"), job.path(f"{name}.png"))
            return figures_of(sound)

        found = {"prompt": figures_of(prompt)}
        for temperature in (TEMPERATURE,) if job.quick else TEMPERATURES:
            whole = temperature == TEMPERATURE
            name = "continuation" if whole else f"continuation-{temperature:g}"
            length = seconds if whole else seconds / 6
            found[f"temperature {temperature:g}"] = job.part(
                f"continuation, temperature {temperature:g}",
                lambda temperature=temperature, length=length, name=name: compute(temperature, length, name),
                {**self._trained_key, "seconds": length, "seed": SEED},
                files=[f"{name}.wav", f"{name}.png"],
            )
        return found

    # --- concealing -------------------------------------------------------------------------------------------------

    def conceal(self, model_file: Path) -> dict[str, dict[str, Scores]]:
        """Fill missed blocks of speech and music in every way; scores by kind of sound and share of misses."""
        methods = (*classical_methods(), Method("NoizeNet", "predict", lambda: ModelPredictor(load_model(model_file))))
        n_clips, seconds = (1, 2.0) if self._job.quick else (8, 6.0)
        kinds = {"music": self._music_clips(n_clips, seconds), "speech": self._speech_clips(n_clips, seconds)}
        found: dict[str, dict[str, Scores]] = {}
        for kind, clips in kinds.items():
            for share in (0.1,) if self._job.quick else SHARES:
                if clips:
                    found.setdefault(kind, {})[f"{100 * share:.0f} %"] = {
                        method.name: self._job.part(
                            f"misses, {kind}, {share:.0%}, {method.name}",
                            lambda clips=clips, method=method, share=share, kind=kind: self._fill(
                                clips, method, share, kind == "speech"
                            ),
                            {
                                **(self._trained_key if method.name == "NoizeNet" else self._key),
                                "n_clips": len(clips),
                                "seconds": seconds,
                            },
                        )
                        for method in methods
                    }
        return found

    def _fill(self, clips: Sequence[Sound], method: Method, share: float, with_pesq: bool) -> dict[str, float]:
        block, rate = self._config.hop, self._config.sample_rate
        scores = []
        for seed, clip in enumerate(clips):
            missed = draw_misses(len(clip) // block, share, seed)
            clean = clip[: len(missed) * block]
            padded = np.concatenate([clean, np.zeros(block, np.float32)])
            # The input is silence: where a prediction has faded there is nothing to help it.
            heard = heard_with_misses(method, Playback(padded), 0 * clean, rate, block, missed)
            figures = {"lsd": log_spectral_distance_db(clean, heard, rate)}
            if with_pesq:
                figures["pesq"] = pesq_wb(heard, clean)
            scores.append(figures)
        return _mean(scores)

    def _music_clips(self, n: int, seconds: float) -> list[Sound]:
        """Pieces of the test recordings, every recording that is long enough in turn, the longest first."""
        rate = self._music.sample_rate
        frames = round(seconds * rate)
        clips = sorted(self._parts["test"], key=lambda clip: -int(self._music.length[clip]))
        places = [
            (begin, clip) for clip in clips for begin in range(0, int(self._music.length[clip]) - frames, 2 * frames)
        ]
        places.sort(key=lambda place: place[0])  # the first piece of each before the second of any
        return [0.5 * self._music.read(clip, begin, frames) for begin, clip in places[:n]]

    def _speech_clips(self, n: int, seconds: float) -> list[Sound]:
        speech = VALIDATION / "speech"
        if not speech.is_dir():
            self._job.say(f"no figures of speech: {speech} is absent")
            return []
        voices = open_cache(speech, self._job.path("cache"), RATE)
        frames = round(seconds * RATE)
        long = [clip for clip in range(len(voices)) if voices.length[clip] >= frames]
        chosen = np.random.default_rng(0).permutation(long)[:n]
        return [0.5 * voices.read(int(clip), 0, frames) for clip in chosen]

    def conceal_denoised(self) -> dict[str, Scores]:
        """Fill missed blocks of the shipped denoiser, where the dry sound is at hand too; PESQ against clean speech."""
        if not (VALIDATION / "speech").is_dir():
            return {}
        n, snrs = (1, SNRS_DB[1:2]) if self._job.quick else (8, SNRS_DB)
        found: dict[str, Scores] = {}
        for snr in snrs:
            for share in (0.0, 0.05, 0.2):
                for method in self._denoised_methods if share else self._denoised_methods[:1]:
                    name = f"{method.name}, {100 * share:.0f} %" if share else "nothing missed"
                    found.setdefault(f"{snr:g} dB", {})[name] = self._job.part(
                        f"misses of the denoiser, {snr:g} dB, {name}",
                        lambda snr=snr, share=share, method=method: self._fill_denoised(snr, share, method, n),
                        {"n": n, "snr": snr, "share": share},
                    )
        return found

    _denoised_methods = (Method("dry", "dry"), Method("silence", "silence"), classical_methods()[-1])

    def _fill_denoised(self, snr_db: float, share: float, method: Method, n: int) -> dict[str, float]:
        mixtures = make_validation_set(
            VALIDATION / "speech", VALIDATION / "noise", self._job.path("cache"), _HOST_RATE, n, 5.0, (snr_db, snr_db)
        )
        block = _HOST_RATE // 100
        scores = []
        for seed, (clean, noisy) in enumerate(zip(mixtures.clean, mixtures.noisy, strict=True)):
            missed = draw_misses(len(noisy) // block, share, seed)
            processor = load("denoise")
            heard = heard_with_misses(method, processor, noisy, _HOST_RATE, block, missed)
            late = processor.latency_samples
            scores.append({"pesq": pesq_wb(_at_16k(heard[late:]), _at_16k(clean[: len(heard) - late]))})
        return _mean(scores)


def _mean(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: float(np.nanmean([row[name] for row in rows])) for name in rows[0]}


def _at_16k(sound: Sound) -> Sound:
    import soxr

    converted: Sound = soxr.resample(sound, _HOST_RATE, RATE).astype(np.float32)
    return converted
