"""What the tests of every processor share: probes, block splits, small numpy models, and the properties themselves.

Import it with ``from helpers import ...``; pytest puts this folder on the path. Each `assert_*` builds its processors
with the factory it is given, so that no state leaks from one check into the next::

    @given(blocks=block_splits(3000), seed=seeds)
    def test_splits(blocks, seed):
        x = noise(2, sum(blocks), seed)
        assert_split_invariant(lambda: Reblock(Passthrough(), 256), StreamConfig(48000, 2), x, blocks, tolerance=0.0)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile as sf
from hypothesis import strategies as st

from streamproc.model import Frame, FrameModel, State
from streamproc.processor import Processor
from streamproc.spec import Block, ControlSpec, ModelSpec, StateSpec, StreamConfig

MakeProcessor = Callable[[], Processor]

AWKWARD_BLOCKS = (0, 1, 2, 3, 7, 63, 64, 65, 127, 128, 255, 256, 257, 441, 480, 511, 512, 513, 1021, 4099, 8192, 8193)
"""Block sizes that found bugs elsewhere: nothing, one, primes, powers of two and their neighbours."""

# --- recordings ------------------------------------------------------------------------------------------------------


def write_voices_and_noises(folder: Path, n: int, seed: int = 0) -> None:
    """Write ``speech/`` and ``noise/`` with `n` made-up recordings each: chopped tones, white noise, 48 kHz."""
    rate = 48_000
    rng = np.random.default_rng(seed)
    time_s = np.arange(2 * rate) / rate
    for kind in ("speech", "noise"):
        (folder / kind).mkdir(parents=True)
    for number in range(n):
        voice = np.sin(2 * np.pi * (150 + 60 * number) * time_s) * (np.sin(2 * np.pi * 3 * time_s) > 0)
        sf.write(folder / f"speech/{number}.wav", 0.3 * voice, rate)
        sf.write(folder / f"noise/{number}.wav", 0.1 * rng.normal(size=rate), rate)


# --- signals and splits ---------------------------------------------------------------------------------------------

seeds = st.integers(0, 2**32 - 1)
"""Strategy: a seed for `noise`."""


def floats(low: float, high: float) -> st.SearchStrategy[float]:
    """Strategy: numbers in [low, high], but no subnormal ones.

    A backend turns subnormals off in the whole process, as it should for sound, and hypothesis then refuses to draw
    them.
    """
    return st.floats(low, high, allow_subnormal=False)


def noise(n_channels: int, n_frames: int, seed: int = 0, level: float = 0.2) -> Block:
    """White Gaussian noise ``[n_channels, n_frames]``, every channel different."""
    return np.random.default_rng(seed).normal(0.0, level, (n_channels, n_frames)).astype(np.float32)


def block_splits(total: int, largest: int = 8193) -> st.SearchStrategy[list[int]]:
    """Strategy: lists of block sizes, 0 and 1 and primes among them, that add up to exactly `total`."""
    size = st.sampled_from([b for b in AWKWARD_BLOCKS if b <= largest]) | st.integers(0, largest)
    return st.lists(size, min_size=1, max_size=24).map(lambda sizes: _fit(sizes, total, largest))


def _fit(sizes: Iterable[int], total: int, largest: int) -> list[int]:
    """Cut the list where it reaches `total`, or go round it again until it does."""
    pattern = list(sizes)
    if not any(pattern):
        pattern.append(largest)
    blocks: list[int] = []
    left = total
    while left:
        for size in pattern:
            blocks.append(min(size, left))
            left -= blocks[-1]
            if not left:
                break
    return blocks


def varying_blocks(total: int, seed: int = 0, largest: int = 1021) -> list[int]:
    """Block sizes drawn at random, 0 and 1 among them, that add up to `total`."""
    rng = np.random.default_rng(seed)
    return _fit([0, 1, *rng.integers(0, largest + 1, 50).tolist()], total, largest)


def equal_blocks(total: int, block: int) -> list[int]:
    """As many blocks of exactly `block` frames as fit into `total`."""
    return [block] * (total // block)


# --- running --------------------------------------------------------------------------------------------------------


def prepared(make: MakeProcessor, config: StreamConfig) -> Processor:
    """Return a fresh processor, prepared."""
    processor = make()
    processor.prepare(config)
    return processor


def run_blocks(processor: Processor, x: Block, blocks: Sequence[int], in_place: bool = False) -> Block:
    """Return the output of a prepared processor for `x` cut into `blocks`; what the blocks do not reach is dropped.

    `out` is filled with NaN before each call, so that a sample that the processor forgets does not go unnoticed.
    """
    source = np.ascontiguousarray(x[:, : sum(blocks)])
    result = np.empty_like(source)
    start = 0
    for size in blocks:
        block = source[:, start : start + size].copy()
        out = block if in_place else np.full_like(block, np.nan)
        before = block.copy()
        processor.process(block, out)
        if not in_place and not np.array_equal(block, before):
            raise AssertionError("process changed its input")
        result[:, start : start + size] = out
        start += size
    if not np.isfinite(result).all():
        raise AssertionError(f"{np.count_nonzero(~np.isfinite(result))} output samples were not filled or not finite")
    return result


def _just_enough(config: StreamConfig, blocks: Sequence[int]) -> StreamConfig:
    """Return the configuration with room for the largest block and no more, so that buffers fill up and come round."""
    return replace(config, max_block=max(*blocks, config.fixed_block or 1))


def _assert_close(actual: Block, expected: Block, tolerance: float, what: str) -> None:
    if not actual.size:
        return
    difference = np.abs(actual.astype(np.float64) - expected)
    worst = float(difference.max())
    if worst > tolerance:
        channel, frame = np.unravel_index(int(difference.argmax()), difference.shape)
        raise AssertionError(
            f"{what}: differs by {worst:.3g} (allowed {tolerance:g}) at channel {channel}, frame {frame}"
        )


# --- properties -----------------------------------------------------------------------------------------------------
# `max_block` of every configuration below is replaced by the largest block that is sent.


def assert_split_invariant(
    make: MakeProcessor, config: StreamConfig, x: Block, blocks: Sequence[int], tolerance: float = 1e-5
) -> None:
    """Any split of `x` into blocks gives the output of one single block (`config` without a fixed block)."""
    x = x[:, : sum(blocks)]
    at_once = [x.shape[1]]
    whole = run_blocks(prepared(make, _just_enough(config, at_once)), x, at_once)
    split = run_blocks(prepared(make, _just_enough(config, blocks)), x, blocks)
    _assert_close(split, whole, tolerance, f"split into {len(blocks)} blocks")


def assert_reset_equals_fresh(
    make: MakeProcessor, config: StreamConfig, x: Block, blocks: Sequence[int], tolerance: float = 0.0
) -> None:
    """After `reset`, and after a second `prepare`, a used processor does what a fresh one does."""
    config = _just_enough(config, blocks)
    expected = run_blocks(prepared(make, config), x, blocks)
    used = prepared(make, config)
    run_blocks(used, x[:, ::-1] * 0.7 + 0.01, blocks)
    used.reset()
    _assert_close(run_blocks(used, x, blocks), expected, tolerance, "after reset")
    used.prepare(config)
    _assert_close(run_blocks(used, x, blocks), expected, tolerance, "after a second prepare")


def assert_causal(
    make: MakeProcessor, config: StreamConfig, x: Block, blocks: Sequence[int], change_at: int, tolerance: float = 0.0
) -> None:
    """Changing the input from frame `change_at` on leaves all earlier output as it was.

    With a fixed block the promise holds from block to block: a block's first samples may depend on its last ones.
    """
    config = _just_enough(config, blocks)
    changed = x.copy()
    changed[:, change_at:] = 0.9 - x[:, change_at:]
    safe = change_at - change_at % config.fixed_block if config.fixed_block else change_at
    expected = run_blocks(prepared(make, config), x, blocks)
    actual = run_blocks(prepared(make, config), changed, blocks)
    _assert_close(actual[:, :safe], expected[:, :safe], tolerance, f"input changed from frame {change_at} on")


def assert_inplace_ok(
    make: MakeProcessor, config: StreamConfig, x: Block, blocks: Sequence[int], tolerance: float = 0.0
) -> None:
    """`out` may be the same array as `x`."""
    config = _just_enough(config, blocks)
    expected = run_blocks(prepared(make, config), x, blocks)
    actual = run_blocks(prepared(make, config), x, blocks, in_place=True)
    _assert_close(actual, expected, tolerance, "out is x")


def assert_independent(
    make: MakeProcessor, config: StreamConfig, x: Block, blocks: Sequence[int], tolerance: float = 0.0
) -> None:
    """Two instances that run in turns share nothing: each gives what it gives alone."""
    config = _just_enough(config, blocks)
    other = x[:, ::-1] * 0.5 + 0.02
    alone = [run_blocks(prepared(make, config), signal, blocks) for signal in (x, other)]
    pair = [prepared(make, config), prepared(make, config)]
    parts: tuple[list[Block], list[Block]] = ([], [])
    start = 0
    for size in blocks:
        for processor, signal, out in zip(pair, (x, other), parts, strict=True):
            out.append(run_blocks(processor, signal[:, start : start + size], [size]))
        start += size
    for out, expected in zip(parts, alone, strict=True):
        _assert_close(np.concatenate(out, axis=1), expected, tolerance, "two instances in turns")


def assert_processor_properties(
    make: MakeProcessor, config: StreamConfig, x: Block, blocks: Sequence[int], tolerance: float = 1e-5
) -> None:
    """All of the above for one input and one split; `tolerance` is that of the split alone."""
    n = sum(blocks)
    assert_split_invariant(make, config, x, blocks, tolerance)
    assert_reset_equals_fresh(make, config, x, blocks)
    assert_causal(make, config, x, blocks, change_at=n // 2)
    assert_inplace_ok(make, config, x, blocks)
    assert_independent(make, config, x, blocks)


# --- latency --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Alignment:
    """Where the output of a processor lies against its input.

    Parameters
    ----------
    latency : int
        Lag of the peak of the cross-correlation, in samples.
    snr_db : float
        Input power over residual power when the output is aligned by `latency`.
    neighbour_snr_db : float
        The better of the same figure one sample to either side; far below `snr_db` when `latency` is no accident.
    """

    latency: int
    snr_db: float
    neighbour_snr_db: float


def band_noise(n_frames: int, sample_rate: int, band_hz: tuple[float, float], seed: int = 0) -> Block:
    """Periodic noise of one channel with no energy at all outside `band_hz`, faded at both ends; peak near 0.5."""
    frequency = np.fft.rfftfreq(n_frames, 1.0 / sample_rate)
    spectrum = np.exp(2j * np.pi * np.random.default_rng(seed).random(frequency.size))
    spectrum[(frequency < band_hz[0]) | (frequency > band_hz[1])] = 0.0
    x = np.fft.irfft(spectrum, n_frames)
    fade = min(n_frames // 4, sample_rate // 100)
    ramp = np.sin(0.5 * np.pi * np.arange(fade) / fade) ** 2
    x[:fade] *= ramp
    x[-fade:] *= ramp[::-1]
    return (0.5 * x / np.abs(x).max()).astype(np.float32)[np.newaxis]


def measure_latency(
    make: MakeProcessor,
    config: StreamConfig,
    block: int | None,
    band_hz: tuple[float, float] | None = None,
    n_probe: int = 6000,
    reach: int | None = None,
) -> Alignment:
    """Measure the latency of a processor that is an identity (or a linear phase) inside `band_hz`.

    Parameters
    ----------
    make : callable
    config : StreamConfig
        Its `fixed_block` and `max_block` are replaced to suit `block`.
    block : int or None
        Every block has this many frames; None: blocks vary.
    band_hz : pair of float, optional
        Band of the probe; up to 0.4375 of the host rate unless given.
    n_probe : int
        Frames of the probe.
    reach : int, optional
        Longest latency looked for, in frames; ``2 * n_probe + 2 * block`` unless given.

    Returns
    -------
    Alignment
        The worst channel's figures; the latency must agree between channels.
    """
    reach = 2 * n_probe + 2 * (block or 0) if reach is None else reach
    config = replace(config, fixed_block=block, max_block=max(config.max_block, block or 1, 1021))
    x = np.zeros((config.n_channels, n_probe + reach), np.float32)
    for channel in range(config.n_channels):
        x[channel, :n_probe] = band_noise(
            n_probe, config.sample_rate, band_hz or (50.0, 0.4375 * config.sample_rate), seed=channel
        )
    n = x.shape[1]
    if block:
        x = np.pad(x, ((0, 0), (0, -n % block)))
        n = x.shape[1]
    blocks = equal_blocks(n, block) if block else varying_blocks(n)
    y = run_blocks(prepared(make, config), x, blocks)
    results = [align(x[channel], y[channel], reach) for channel in range(config.n_channels)]
    if len({result.latency for result in results}) != 1:
        raise AssertionError(f"channels differ in latency: {[result.latency for result in results]}")
    return min(results, key=lambda result: result.snr_db - result.neighbour_snr_db)


def align(x: npt.NDArray[Any], y: npt.NDArray[Any], reach: int) -> Alignment:
    """Align one channel of output with its input; lags from 0 to `reach` are tried."""
    x64, y64 = np.asarray(x, np.float64), np.asarray(y, np.float64)
    size = 1 << (x64.size + y64.size).bit_length()
    correlation = np.fft.irfft(np.fft.rfft(y64, size) * np.fft.rfft(x64, size).conj(), size)[: reach + 1]
    lag = int(correlation.argmax())

    def snr_db(shift: int) -> float:
        if shift < 0:
            return float(-np.inf)
        expected = np.concatenate([np.zeros(shift), x64])[: y64.size]
        residual = float(np.sum((y64 - expected) ** 2))
        return float(10.0 * np.log10(float(np.sum(expected**2)) / max(residual, 1e-30)))

    return Alignment(lag, snr_db(lag), max(snr_db(lag - 1), snr_db(lag + 1)))


# --- small numpy models ---------------------------------------------------------------------------------------------


class IdentitySpectrum(FrameModel):
    """Spectrum model that returns its frame, as many hops later as the specification's lookahead says."""

    def __init__(self, sample_rate: int = 48000, hop: int = 128, lookahead: int = 0, n_windows: int = 2) -> None:
        window = n_windows * hop
        states = tuple(StateSpec(f"past{k}", (window // 2 + 1, 2)) for k in range(lookahead))
        super().__init__(
            ModelSpec(
                "identity_spectrum", "1", sample_rate, hop, "spectrum", window, "CC0-1.0",
                lookahead=lookahead, window_kind="sqrt_hann", states=states,
            )
        )  # fmt: skip

    def step(self, frame: Frame, state: State, out: Frame, next_state: State) -> None:
        """Shift the frame through the states."""
        _shift(frame, state, out, next_state)


class IdentityWaveform(FrameModel):
    """Waveform model that returns its input, as many hops later as the specification's lookahead says."""

    def __init__(self, sample_rate: int = 48000, hop: int = 128, lookahead: int = 0) -> None:
        states = tuple(StateSpec(f"past{k}", (hop,)) for k in range(lookahead))
        super().__init__(
            ModelSpec(
                "identity_waveform", "1", sample_rate, hop, "waveform", hop, "CC0-1.0",
                lookahead=lookahead, states=states,
            )
        )  # fmt: skip

    def step(self, frame: Frame, state: State, out: Frame, next_state: State) -> None:
        """Shift the frame through the states."""
        _shift(frame, state, out, next_state)


def _shift(frame: Frame, state: State, out: Frame, next_state: State) -> None:
    for newer, target in zip((frame, *state), (*next_state, out), strict=True):
        np.copyto(target, newer)


_STRENGTH = ControlSpec("strength", 1.0, 0.0, 1.0, "", "0: the input; 1: the gated input")


class RecurrentSpectrum(FrameModel):
    """Spectrum model with a gain per bin that follows a recurrent level, so that wrong state is audible for long."""

    def __init__(self, sample_rate: int = 48000, hop: int = 128) -> None:
        super().__init__(
            ModelSpec(
                "recurrent_spectrum", "1", sample_rate, hop, "spectrum", 2 * hop, "CC0-1.0",
                window_kind="sqrt_hann", states=(StateSpec("level", (hop + 1,), init=0.5),), controls=(_STRENGTH,),
            )
        )  # fmt: skip

    def step(self, frame: Frame, state: State, out: Frame, next_state: State) -> None:
        """Follow the magnitude of each bin and pass what stands out of it."""
        magnitude = np.hypot(frame[..., 0], frame[..., 1])
        np.copyto(next_state[0], 0.95 * state[0] + 0.05 * magnitude)
        gain = magnitude / (magnitude + next_state[0] + 1e-3)
        gain = 1.0 + self.controls["strength"][0] * (gain - 1.0)
        np.multiply(frame, gain[..., np.newaxis], out=out)


class RecurrentWaveform(FrameModel):
    """Waveform model with a small recurrent layer and the previous hop among its states."""

    N_HIDDEN = 6

    def __init__(self, sample_rate: int = 48000, hop: int = 128) -> None:
        super().__init__(
            ModelSpec(
                "recurrent_waveform", "1", sample_rate, hop, "waveform", hop, "CC0-1.0",
                states=(StateSpec("hidden", (self.N_HIDDEN,), init=0.1), StateSpec("past", (hop,), "float64")),
                controls=(_STRENGTH,),
            )
        )  # fmt: skip
        rng = np.random.default_rng(1)
        self._from_frame = (rng.normal(size=(hop, self.N_HIDDEN)) / np.sqrt(hop)).astype(np.float32)
        self._from_hidden = (rng.normal(size=(self.N_HIDDEN, self.N_HIDDEN)) * 0.3).astype(np.float32)

    def step(self, frame: Frame, state: State, out: Frame, next_state: State) -> None:
        """Gate the mean of this hop and the last one."""
        hidden, past = state
        np.copyto(next_state[0], np.tanh(frame @ self._from_frame + hidden @ self._from_hidden))
        np.copyto(next_state[1], frame)
        gain = 0.5 + 0.5 * next_state[0].mean(axis=1, keepdims=True)
        strength = self.controls["strength"][0]
        np.copyto(out, (1.0 - strength) * frame + strength * gain * 0.5 * (frame + past), casting="same_kind")
