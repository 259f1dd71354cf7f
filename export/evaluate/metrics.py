"""What is measured on one clip, float32 ``[frames]``; PESQ, STOI and DNSMOS want 16 kHz."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from streamproc.backends.onnx import open_session

from .mixtures import SHARED, Signal, rms

RATE = 16_000
"""Rate in Hz at which everything is scored: PESQ and DNSMOS know no other."""

DNSMOS_FILE = SHARED / "models" / "dnsmos_sig_bak_ovr.onnx"

_DNSMOS_FRAMES = 144_160  # 9.01 s
_DNSMOS_STEP = 16_000
_DNSMOS_CALIBRATION = {
    "sig": (-0.08397278, 1.22083953, 0.0052439),
    "bak": (-0.13166888, 1.60915514, -0.39604546),
    "ovrl": (-0.06766283, 1.11546468, 0.04602535),
}
_LIMIT_DB = 100.0


@dataclass(frozen=True)
class Metric:
    """One column of the tables: its key in the scores, its heading, and how many digits mean something."""

    key: str
    label: str
    digits: int
    unit: str = ""


METRICS = (
    Metric("pesq", "PESQ", 2),
    Metric("stoi", "STOI", 3),
    Metric("estoi", "ESTOI", 3),
    Metric("si_sdr", "SI-SDR", 1, "dB"),
    Metric("sig", "SIG", 2),
    Metric("bak", "BAK", 2),
    Metric("ovrl", "OVRL", 2),
)
"""Quality of a processed mixture; more is better throughout."""

PROBES = (
    Metric("clean_pesq", "PESQ of clean speech", 2),
    Metric("noise_removed", "noise alone removed", 1, "dB"),
    Metric("cold_start", "SI-SDR cold less warm", 1, "dB"),
)
"""What a mixture cannot show."""


def si_sdr_db(estimate: Signal, reference: Signal) -> float:
    """Scale-invariant signal-to-distortion ratio in dB [1]_, means removed, held within ±100 dB.

    Parameters
    ----------
    estimate, reference : float32 [frames]

    Returns
    -------
    float
        NaN where the reference is silent; -100 where the estimate holds nothing of it.

    References
    ----------
    .. [1] J. Le Roux, S. Wisdom, H. Erdogan and J. R. Hershey, "SDR - half-baked or well done?", ICASSP 2019.
    """
    x = np.asarray(estimate, np.float64)
    s = np.asarray(reference, np.float64)
    x, s = x - x.mean(), s - s.mean()
    energy = float(s @ s)
    if energy == 0.0:
        return math.nan
    target = (x @ s) / energy * s
    noise = x - target
    kept, lost = float(target @ target), float(noise @ noise)
    if kept == 0.0:
        return -_LIMIT_DB
    return float(np.clip(10 * np.log10(kept / max(lost, kept * 1e-30)), -_LIMIT_DB, _LIMIT_DB))


def course_db(estimate: Signal, reference: Signal, piece: int) -> list[float]:
    """How far what is wrong lies below the speech, piece by piece: a system that adapts gets better as it goes on.

    Parameters
    ----------
    estimate, reference : float32 [frames]
    piece : int
        Samples; a rest that is shorter is left out.

    Returns
    -------
    list of float
        Power of the reference, scaled to fit the whole clip, over the power of what remains in each piece, in dB, held
        within ±100 dB. Over the mean of what remains in all pieces it would be the SI-SDR of the clip, but for the
        means that are removed there. NaN where the reference is silent.
    """
    x, s = np.asarray(estimate, np.float64), np.asarray(reference, np.float64)
    n_pieces = len(s) // piece
    energy = float(s @ s)
    if energy == 0.0:
        return [math.nan] * n_pieces
    target = (x @ s) / energy * s
    kept = max(float(target @ target) / len(s), 1e-30)
    wrong = np.square((x - target)[: n_pieces * piece]).reshape(n_pieces, piece).mean(axis=1)
    levels = 10 * np.log10(kept / np.maximum(wrong, 1e-30))
    return [float(level) for level in np.clip(levels, -_LIMIT_DB, _LIMIT_DB)]


def pesq_wb(estimate: Signal, reference: Signal) -> float:
    """Wide-band PESQ (ITU-T P.862.2), 1.04 to 4.64.

    Returns
    -------
    float
        NaN where PESQ finds no speech in the reference; 1 where the estimate is silent.
    """
    from pesq import PesqError, pesq

    if not np.any(reference):
        return math.nan
    if not np.any(estimate):
        return 1.0
    score = pesq(RATE, reference, estimate, "wb", on_error=PesqError.RETURN_VALUES)
    return float(score) if score > 0 else math.nan


def stoi(estimate: Signal, reference: Signal, extended: bool = False) -> float:
    """Short-time objective intelligibility [1]_, or its extended form [2]_; about 0 to 1.

    References
    ----------
    .. [1] C. H. Taal, R. C. Hendriks, R. Heusdens and J. Jensen, "An algorithm for intelligibility prediction of
       time-frequency weighted noisy speech", IEEE TASLP 19(7), 2011.
    .. [2] J. Jensen and C. H. Taal, "An algorithm for predicting the intelligibility of speech masked by modulated
       noise maskers", IEEE/ACM TASLP 24(11), 2016.
    """
    from pystoi import stoi as measure

    with warnings.catch_warnings():
        warnings.simplefilter(
            "error", RuntimeWarning
        )  # pystoi warns, and returns 1e-5, where there is too little speech
        try:
            return float(measure(reference, estimate, RATE, extended=extended))
        except RuntimeWarning:
            return math.nan


class Dnsmos:
    """DNSMOS P.835 [1]_: what listeners would say of speech (SIG), background (BAK) and the whole (OVRL), 1 to 5.

    Parameters
    ----------
    path : path
        ``sig_bak_ovr.onnx`` of the non-personalised model.

    Notes
    -----
    As in the published script: shorter clips are doubled until they last 9.01 s, longer ones are scored in windows one
    second apart, and each raw score goes through the published polynomial before the windows are averaged.

    References
    ----------
    .. [1] C. K. A. Reddy, V. Gopal and R. Cutler, "DNSMOS P.835: a non-intrusive perceptual objective speech quality
       metric to evaluate noise suppressors", ICASSP 2022.
    """

    def __init__(self, path: Path = DNSMOS_FILE) -> None:
        self._session: Any = open_session(str(path))
        self._input = self._session.get_inputs()[0].name

    def __call__(self, samples: Signal) -> dict[str, float]:
        """Return ``sig``, ``bak`` and ``ovrl`` of float32 ``[frames]`` at 16 kHz."""
        while len(samples) < _DNSMOS_FRAMES:
            samples = np.concatenate([samples, samples])
        n_windows = int(len(samples) // RATE - _DNSMOS_FRAMES / RATE) + 1
        windows = np.stack([samples[k * _DNSMOS_STEP :][:_DNSMOS_FRAMES] for k in range(n_windows)])
        raw = self._session.run(None, {self._input: windows.astype(np.float32)})[0]
        return {
            name: float(np.polyval(polynomial, raw[:, column]).mean())
            for column, (name, polynomial) in enumerate(_DNSMOS_CALIBRATION.items())
        }


def attenuation_db(processed: Signal, original: Signal) -> float:
    """By how much the level of `processed` lies below that of `original`, in dB; at most 100."""
    return float(min(_LIMIT_DB, 20 * np.log10(rms(original) / max(rms(processed), 1e-12))))


def score(estimate: Signal, reference: Signal, dnsmos: Dnsmos | None = None) -> dict[str, float]:
    """Return every figure of `METRICS` for one clip; DNSMOS only where its scorer is given."""
    scores = {
        "pesq": pesq_wb(estimate, reference),
        "stoi": stoi(estimate, reference),
        "estoi": stoi(estimate, reference, extended=True),
        "si_sdr": si_sdr_db(estimate, reference),
    }
    return scores | (dnsmos(estimate) if dnsmos else {})
