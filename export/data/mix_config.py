"""What is drawn for every mixture, apart from the mixer that draws it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True)
class MixConfig:
    """What is drawn for every item. Probabilities are per item; ranges are uniform unless said otherwise.

    Parameters
    ----------
    sample_rate : int
        Hz.
    seconds : float
        Length of an item.
    snr_db : (low, mode, high)
        Triangular; active speech power over the power of the whole noise.
    level_db : (low, high)
        Active speech level in dBFS (of the noise, where there is no speech).
    p_noise_only, p_speech_only : float
        Items without speech (target: silence) and without noise (target: the item).
    p_more_noise : float
        Chance of a second noise, and again of a third.
    p_synthetic, p_babble : float
        Chance that a noise is synthetic, or two to six other talkers; else it is a recording.
    p_room, p_eq, p_band_limit, p_clip : float
        Chance of a room on the speech, of colouration (speech and noise apart), of a narrow band, of clipping.
    p_narrow : float
        Chance that the noise ends where the speech was cut off when it was recorded, as both do behind one microphone;
        else a noise that goes on above it gives itself away.
    p_pause : float
        Chance of starting or ending the speech inside the item: a cold start in noise.
    p_full_band : float
        Chance that the talker is one recorded at the full rate, where there are both kinds.
    p_speed : float
        Chance that a talker or a recorded noise is played at another speed, pitch and formants with it [1]_: new
        voices and new noises from few.
    speech_speed, noise_speed : (low, high)
        Range of that speed, drawn evenly in its logarithm.
    p_formants : float
        Chance that a talker's formants move while the pitch stays (`export.data.voices`).
    formants : (low, high)
        Range of the factor by which, drawn evenly in its logarithm.
    p_reverse, p_noise_room : float
        Chance that a recorded noise runs backwards, and that the noise is in a room, another one than the speech's.
    p_imprint : float
        Chance that a recorded noise sounds in the average spectrum of another one (`export.data.textures`): as many
        new noises as there are pairs.
    p_swell, p_change : float
        Chance that a noise swells and fades, and that it gives way to another one somewhere in the item.
    p_cold : float
        Chance that a batch is cut into pieces of `cold_s`, each of which starts cold.
    cold_s : float
        Seconds.
    max_speaker_weight_minutes : float
        A speaker counts by the square root of its minutes up to this many: big voices do not take over.

    References
    ----------
    .. [1] T. Ko, V. Peddinti, D. Povey and S. Khudanpur, "Audio augmentation for speech recognition",
       Interspeech 2015.
    """

    sample_rate: int = 48_000
    seconds: float = 8.0
    snr_db: tuple[float, float, float] = (-10.0, 1.0, 22.0)
    level_db: tuple[float, float] = (-43.0, -13.0)
    p_noise_only: float = 0.07
    p_speech_only: float = 0.05
    p_more_noise: float = 0.35
    p_synthetic: float = 0.2
    p_babble: float = 0.12
    p_room: float = 0.4
    p_eq: float = 0.6
    p_band_limit: float = 0.12
    p_clip: float = 0.03
    p_narrow: float = 0.8
    p_pause: float = 0.2
    p_full_band: float = 0.25
    p_speed: float = 0.7
    speech_speed: tuple[float, float] = (0.85, 1.18)
    noise_speed: tuple[float, float] = (0.65, 1.5)
    p_formants: float = 0.4
    formants: tuple[float, float] = (0.87, 1.15)
    p_reverse: float = 0.25
    p_noise_room: float = 0.25
    p_imprint: float = 0.3
    p_swell: float = 0.2
    p_change: float = 0.15
    p_cold: float = 0.3
    cold_s: float = 1.0
    max_speaker_weight_minutes: float = 25.0

    @classmethod
    def plain(cls, **changes: Any) -> MixConfig:
        """One recorded noise under an untouched talker: every chance of something else is zero, but for `changes`."""
        chances = [field.name for field in fields(cls) if field.name.startswith("p_")]
        chances.remove("p_full_band")  # which says who talks, and not what is done to it
        return cls(**{**dict.fromkeys(chances, 0.0), **changes})
