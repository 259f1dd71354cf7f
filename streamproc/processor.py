"""The plugin contract: everything that maps audio to audio is a `Processor`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from .errors import ConfigError
from .parameters import Smoothed
from .spec import Block, LatencyBreakdown, StreamConfig


@runtime_checkable
class Processor(Protocol):
    """Block processor: four verbs and two numbers.

    The order is `prepare`, then any mix of `process` and `reset`. `prepare` may allocate, `process` and `reset` do not.
    An `Engine` keeps to that order, so `process`, which has no time to lose, need not check it.
    """

    def prepare(self, config: StreamConfig) -> None:
        """Get ready for a stream. Thread: control, no audio running."""

    @property
    def latency_samples(self) -> int:
        """``out[:, t]`` describes ``x[:, t - latency_samples]``; host rate, constant until the next `prepare`."""

    @property
    def tail_samples(self) -> int:
        """Samples, after the latency, for which output may go on when the input has ended."""

    def process(self, x: Block, out: Block) -> None:
        """Process one block. Thread: audio or worker, prepared.

        Parameters
        ----------
        x : float32 [channels, n]
            ``0 <= n <= max_block``; `n` may change at every call unless the stream has a fixed block.
        out : float32 [channels, n]
            Filled entirely. May be the same array as `x`, and may not overlap it in any other way.
        """

    def reset(self) -> None:
        """Return to the state after `prepare`. Parameters keep their values."""


class BaseProcessor(ABC):
    """What most processors share: no latency, no tail, no parameters. Deriving from it is a convenience, not a duty."""

    def prepare(self, config: StreamConfig) -> None:
        """Get ready for a stream."""
        for parameter in self.parameters.values():
            parameter.prepare(config.sample_rate, config.max_block)

    @property
    def latency_samples(self) -> int:
        """Latency at the host rate."""
        return self.latency.total

    @property
    def latency(self) -> LatencyBreakdown:
        """Where the latency comes from."""
        return LatencyBreakdown()

    @property
    def tail_samples(self) -> int:
        """Samples for which output may go on."""
        return 0

    @property
    def parameters(self) -> Mapping[str, Smoothed]:
        """Parameters by name."""
        return {}

    @abstractmethod
    def process(self, x: Block, out: Block) -> None:
        """Process one block."""

    def reset(self) -> None:
        """Return to the state after `prepare`."""
        for parameter in self.parameters.values():
            parameter.reset()


class Wrapper(BaseProcessor):
    """A processor around another one, with the other's latency, tail and parameters unless it says otherwise.

    Parameters
    ----------
    inner : Processor
        Prepared, run and reset by the wrapper alone.
    """

    def __init__(self, inner: Processor) -> None:
        self.inner = inner

    def prepare(self, config: StreamConfig) -> None:
        """Prepare `inner`."""
        self.inner.prepare(config)

    @property
    def latency(self) -> LatencyBreakdown:
        """The inner latency."""
        return latency_of(self.inner)

    @property
    def tail_samples(self) -> int:
        """The inner tail."""
        return self.inner.tail_samples

    @property
    def parameters(self) -> Mapping[str, Smoothed]:
        """The inner parameters."""
        return parameters_of(self.inner)

    def reset(self) -> None:
        """Reset `inner`."""
        self.inner.reset()


class Unprepared(Wrapper):
    """What stands in the place of a processor until `prepare`: its figures and its parameters, and nothing that runs.

    So the order of calls is checked, and costs nothing once it is kept.
    """

    def process(self, x: Block, out: Block) -> None:
        """Raise `ConfigError`."""
        raise not_prepared()

    def reset(self) -> None:
        """Raise `ConfigError`."""
        raise not_prepared()


def not_prepared() -> ConfigError:
    """Return the error for a call that comes too early."""
    return ConfigError("prepare comes before process and reset; an Engine prepares the processor that it is given")


class Passthrough(BaseProcessor):
    """The identity."""

    def process(self, x: Block, out: Block) -> None:
        """Copy `x` to `out`."""
        if out is not x:
            np.copyto(out, x)


class Chain(BaseProcessor):
    """Processors one after another. Latencies, tails and latency parts add up.

    Parameters
    ----------
    processors : sequence of Processor
        Each one instance, used once; parameters appear as ``<index>.<name>`` where a name occurs twice.
    """

    def __init__(self, processors: Sequence[Processor]) -> None:
        if len({id(processor) for processor in processors}) != len(processors):
            raise ConfigError("a chain holds the same processor twice; its state would be shared: make two instances")
        self.processors = tuple(processors)

    def prepare(self, config: StreamConfig) -> None:
        """Prepare every processor for the same stream."""
        for processor in self.processors:
            processor.prepare(config)

    @property
    def latency(self) -> LatencyBreakdown:
        """Sum over the chain, part by part."""
        return sum(map(latency_of, self.processors), LatencyBreakdown())

    @property
    def tail_samples(self) -> int:
        """Sum over the chain."""
        return sum(processor.tail_samples for processor in self.processors)

    @property
    def parameters(self) -> Mapping[str, Smoothed]:
        """Every parameter of the chain."""
        return merge_parameters({str(index): p for index, p in enumerate(self.processors)})

    def process(self, x: Block, out: Block) -> None:
        """Run the block through every processor in turn."""
        source = x
        for processor in self.processors:
            processor.process(source, out)
            source = out
        if source is x and out is not x:
            np.copyto(out, x)

    def reset(self) -> None:
        """Reset every processor."""
        for processor in self.processors:
            processor.reset()


def latency_of(processor: Processor) -> LatencyBreakdown:
    """Latency of any processor by parts; all of it is algorithmic where the processor names no parts."""
    parts = getattr(processor, "latency", None)
    if isinstance(parts, LatencyBreakdown):
        return parts
    return LatencyBreakdown(algorithmic=processor.latency_samples)  # type: ignore[arg-type]  # int becomes Fraction


def parameters_of(processor: Processor) -> Mapping[str, Smoothed]:
    """Parameters of any processor; empty where it has none."""
    return getattr(processor, "parameters", {})


def merge_parameters(processors: Mapping[str, Processor]) -> dict[str, Smoothed]:
    """Join the parameters of several processors; a name that occurs twice gains the processor's key as a prefix."""
    owned = [(key, name, value) for key, p in processors.items() for name, value in parameters_of(p).items()]
    names = [name for _, name, _ in owned]
    return {name if names.count(name) == 1 else f"{key}.{name}": value for key, name, value in owned}
