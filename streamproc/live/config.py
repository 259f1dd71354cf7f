"""How a live stream runs: what may be chosen, and what goes together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from ..errors import ConfigError
from .statistics import Mode

OnMiss = Literal["dry", "silence", "predict"]


@dataclass(frozen=True)
class LiveConfig:
    """How a live stream runs.

    Parameters
    ----------
    sample_rate : int
        Rate of the device in Hz.
    n_channels : int
        Channels that are processed. At the device edge one channel fans out to any number, and several become their
        mean where `n_channels` is 1; any other difference is refused.
    fixed_block : int, optional
        The device promises this many frames in every callback; the processor then needs less delay.
    max_block : int
        Largest block, in frames, where it is not fixed. Larger callbacks are worked off in pieces.
    mode : {"worker", "inline"}
        ``worker``: a thread computes, the callback copies. ``inline``: the callback computes.
    on_miss : {"dry", "silence", "predict"}
        What is heard when processed sound is not there (a miss, an overload, a failure): the input at the same latency;
        nothing; or the way in which the processed sound probably goes on, which after 20 to 50 ms fades into the input
        at the same latency (worker mode only: see `streamproc.live.forecast`).
    queue : int, optional
        Delay in samples that gives the worker time: a block must be done `queue` samples after it came in. At least
        one block (the default) in worker mode, 0 in inline mode.
    tolerated_share : float
        Share of samples that may be missed for ever, in (0, 1).
    burst_ms : float
        Missed sound beyond the tolerated share that turns processing off, as one burst or spread over a longer time.
    rest_s : float or None
        Pause before processing is tried again after an overload; it doubles with every overload, up to sixteen-fold.
        None: only `LiveEngine.reset` turns it on again.
    """

    sample_rate: int
    n_channels: int = 1
    fixed_block: int | None = None
    max_block: int = 1024
    mode: Mode = "worker"
    on_miss: OnMiss = "dry"
    queue: int | None = None
    tolerated_share: float = 0.05
    burst_ms: float = 500.0
    rest_s: float | None = 5.0

    def __post_init__(self) -> None:
        for name, allowed in (("mode", get_args(Mode)), ("on_miss", get_args(OnMiss))):
            if getattr(self, name) not in allowed:
                raise ConfigError(f"{name} must be one of {', '.join(allowed)}; found {getattr(self, name)!r}")
        if self.fixed_block is not None:
            object.__setattr__(self, "max_block", self.fixed_block)
        if self.queue is None:
            object.__setattr__(self, "queue", self.max_block if self.mode == "worker" else 0)
        assert self.queue is not None
        if self.mode == "inline" and self.queue != 0:
            raise ConfigError(f"inline mode has no worker that needs time: queue must be 0, found {self.queue}")
        if self.mode == "inline" and self.on_miss == "predict":
            raise ConfigError(
                "on_miss='predict' needs a worker that predicts ahead of time: choose mode='worker', or on_miss='dry' "
                "(in inline mode no block is ever missed)"
            )
        if self.mode == "worker" and self.queue < (self.fixed_block or 1):
            raise ConfigError(
                f"queue must be at least one block, {self.fixed_block or 1} samples, in worker mode; "
                f"found {self.queue}, which could never be kept"
            )
        if not 0.0 < self.tolerated_share < 1.0:
            raise ConfigError(f"tolerated_share must lie between 0 and 1, found {self.tolerated_share!r}")
        for name in ("burst_ms", "rest_s"):
            value = getattr(self, name)
            if value is not None and not value > 0.0:
                raise ConfigError(f"{name} must be positive, found {value!r}")
