"""From options to a processor: the one place where a command decides what is done to the sound."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ConfigError

if TYPE_CHECKING:
    from ..processor import Processor

DEFAULT_MODEL = "denoise"
NO_MODEL = "none"


@dataclass(frozen=True)
class Processing:
    """What the options ask for: plain values that also travel to other processes.

    ::

        input -> [high-pass] -> model or chain, with a dry path beside it for mix and attenuation limit -> output

    Parameters
    ----------
    model : str, optional
        Name or path; ``none`` for no model. `DEFAULT_MODEL` where neither this nor `chain` is given.
    attenuation_limit_db : float, optional
    mix : float
    highpass_hz : float, optional
    chain : Path, optional
        A chain file; stands in the place of the model.
    channel_mode : str, optional
        How the channels share a model, see `streamproc.load`.
    """

    model: str | None = None
    attenuation_limit_db: float | None = None
    mix: float = 1.0
    highpass_hz: float | None = None
    chain: Path | None = None
    channel_mode: str | None = None

    def build(self) -> Processor:
        """Return a new processor.

        Raises
        ------
        ConfigError
            If the options contradict each other or a value is out of range.
        ModelFileError, BackendUnavailable
            If the model cannot be loaded.
        """
        from ..mix import Mix
        from ..processor import Chain

        self._check_words()
        stages: list[Processor] = []
        if self.highpass_hz:
            from ..dsp import HighPass

            stages.append(HighPass(self.highpass_hz))
        core = self._core()
        if core is not None:
            stages.append(Mix(core, self.mix, self.attenuation_limit_db))
        elif not stages:
            raise ConfigError("nothing to do: --model none needs --highpass or --chain")
        elif self.mix != 1.0 or self.attenuation_limit_db is not None:
            raise ConfigError("--mix and --attenuation-limit belong to a model or a chain, and there is none")
        elif self.channel_mode is not None:
            raise ConfigError("--channel-mode says how channels share a model, and there is none; leave it out")
        return stages[0] if len(stages) == 1 else Chain(stages)

    def _check_words(self) -> None:
        """Refuse what means nothing, also where it would have no effect."""
        if self.model is not None and not self.model.strip():
            raise ConfigError(f"--model is empty; name a model or its file, or leave it out for {DEFAULT_MODEL}")
        if self.channel_mode is None:
            return
        from ..model_processor import CHANNEL_MODES

        if self.channel_mode not in CHANNEL_MODES:
            raise ConfigError(f"--channel-mode must be one of {', '.join(CHANNEL_MODES)}; found {self.channel_mode!r}")

    def _core(self) -> Processor | None:
        """Return the model or the chain."""
        if self.chain is not None:
            if self.model is not None:
                raise ConfigError("--chain takes the place of --model: name the model inside the chain file")
            return self._load_chain(self.chain)
        model = self.model or DEFAULT_MODEL
        return None if model == NO_MODEL else self._load(model)

    def _load_chain(self, path: Path) -> Processor:
        from ..chainfile import load_chain

        ours_taken = False

        def load_in_chain(model: str, channel_mode: str | None = None) -> Processor:
            nonlocal ours_taken
            ours_taken |= channel_mode is None
            return self._load(model, channel_mode)

        chain = load_chain(path, load_in_chain)
        if self.channel_mode is not None and not ours_taken:
            raise ConfigError(
                f"--channel-mode has no effect: {path} holds no model that leaves its channel_mode open; leave it out"
            )
        return chain

    def _load(self, model: str, channel_mode: str | None = None) -> Processor:
        from ..loading import load

        return load(model, self.channel_mode if channel_mode is None else channel_mode)

    def __str__(self) -> str:
        parts = [f"high-pass {self.highpass_hz:g} Hz"] if self.highpass_hz else []
        core = str(self.chain or self.model or DEFAULT_MODEL)
        if core != NO_MODEL:
            from ..mix import NO_LIMIT_DB

            limit = self.attenuation_limit_db
            details = [f"at most {limit:g} dB removed"] if limit is not None and limit < NO_LIMIT_DB else []
            details += [f"{self.mix:.0%} wet"] if self.mix != 1.0 else []
            parts.append(core + (f" ({', '.join(details)})" if details else ""))
        return " → ".join(parts)
