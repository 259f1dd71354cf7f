"""Host streams of one rate around a processor that works at another, with a delay known to the sample.

Both rates are seen from one grid, the rate that both divide: ``grid = up * host_rate = down * inner_rate`` with ``up``
and ``down`` in lowest terms. Every delay here is an integer on that grid, so none of the arithmetic rounds::

    host     |     .     .     |     .     .     |          a host sample every ``up`` grid steps
    inner    |  .  |  .  |  .  |  .  |  .  |  .  |          an inner sample every ``down`` grid steps
    grid     |..|..|..|..|..|..|..|..|..|..|..|..|
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from math import ceil, gcd

import numpy as np
import numpy.typing as npt

from .errors import ConfigError
from .processor import BaseProcessor, Processor, latency_of
from .spec import Block, LatencyBreakdown, StreamConfig

PASS_EDGE = 0.45
"""Upper edge of the flat band, relative to the lower of the two rates: 7.2 kHz at 16 kHz."""

STOP_EDGE = 0.546875
"""Lower edge of the stop band, relative to the lower of the two rates: 8.75 kHz at 16 kHz.

Above one half on purpose. What folds lands between ``1 - STOP_EDGE`` and one half, just outside the flat band, and the
filter is shorter for it.
"""

ATTENUATION_DB = 65.0
"""Stop-band attenuation, and ripple below the signal, of one filter. Two of them leave a round trip above 50 dB."""

_LARGEST_TILE = 8192
"""Matrix elements of one tile: 32 KiB, as much as a first-level cache holds. Larger ones gain little, and must not come
near 2**18 products, where BLAS wakes its thread pool: waiting for a thread has no place in an audio callback."""


@lru_cache(maxsize=16)
def design_lowpass(up: int, down: int) -> npt.NDArray[np.float64]:
    """Design the filter between two rates, at the grid that both divide.

    Parameters
    ----------
    up, down : int
        Grid steps per sample of either rate, in any order: the filter serves both directions.

    Returns
    -------
    float64 [2 * half + 1]
        Symmetric taps with sum 1; `half` grid steps is the delay. Read-only: it is kept for the next caller.

    Notes
    -----
    A sinc under a Kaiser window [1]_. For ``A`` dB and a transition of ``D`` cycles per grid step Kaiser's estimate of
    the length is ``(A - 7.95) / (14.36 D)``. At 48/16 kHz that gives 1.29 ms of delay.

    References
    ----------
    .. [1] J. F. Kaiser, "Nonrecursive digital filter design using the I0-sinh window function", 1974.
    """
    lower_rate = 1.0 / max(up, down)  # in cycles per grid step
    transition = (STOP_EDGE - PASS_EDGE) * lower_rate
    half = ceil((ATTENUATION_DB - 7.95) / (14.36 * transition) / 2.0)
    beta = 0.1102 * (ATTENUATION_DB - 8.7)
    cutoff = 0.5 * (STOP_EDGE + PASS_EDGE) * lower_rate
    taps: npt.NDArray[np.float64] = np.sinc(2.0 * cutoff * np.arange(-half, half + 1)) * np.kaiser(2 * half + 1, beta)
    taps /= taps.sum()
    taps.flags.writeable = False
    return taps


def resample_delay(hop: int, up: int, down: int, fixed_block: int | None) -> int:
    """Return the least delay, in grid steps, with which a host block can always be answered in full.

    Parameters
    ----------
    hop : int
        Inner samples per call of the inner processor.
    up, down : int
        Grid steps per host sample and per inner sample, in lowest terms.
    fixed_block : int or None
        Host frames of every block; None when blocks vary.

    Returns
    -------
    int
        Shift ``c`` of the output against the grid: output sample ``i`` reads the grid at ``i * up - c``. May be
        negative, when the last inner sample of a block lies after its last host sample.

    Notes
    -----
    Inner sample ``j`` lies at grid step ``j * down`` and exists once host sample ``floor(j * down / up)`` has arrived.
    So after ``n`` host samples there are ``A = ceil(n * up / down)`` inner samples, of which the inner processor has
    returned ``Y = hop * floor(A / hop)``. They define the grid up to, but not including, step ``Y * down``. The newest
    output sample of a block that ends with ``n`` must read inside it::

        (n - 1) * up - c  <=  Y * down - 1        for every n at which a block can end

    hence ``c = 1 - up + max(n * up - Y * down)``. Write ``n * up = k * hop * down + v`` with ``0 <= v < hop * down``.
    As long as ``v <= (hop - 1) * down`` hop ``k + 1`` is not complete, and the difference is ``v``; beyond, it is
    complete and the difference is negative. With blocks of ``b`` frames ``v`` takes the multiples of
    ``g = gcd(b * up, hop * down)``, and with varying ones ``b = 1``. So the maximum is the largest multiple of ``g``
    that is not above ``(hop - 1) * down``, and ::

        c = g * floor((hop - 1) * down / g) + 1 - up

    At equal rates, ``up = down = 1``, this is ``hop - gcd(b, hop)``, the delay of `Reblock`.
    """
    g = gcd((fixed_block or 1) * up, hop * down)
    return g * ((hop - 1) * down // g) + 1 - up


@dataclass(frozen=True, slots=True)
class _Tile:
    """A run of neighbouring outputs, computed as one product: history window times `matrix`.

    Parameters
    ----------
    first : int
        Index of the first output within the cycle.
    start : int
        First input that the tile reads, counted from the first input that the cycle reads.
    matrix : float32 [inputs, outputs]
        Column ``p`` holds the taps of output ``first + p``, reversed in time, zero elsewhere.
    result : float32 [channels, outputs]
    """

    first: int
    start: int
    matrix: npt.NDArray[np.float32]
    result: Block


class PolyphaseFir:
    """Change of rate by ``up / down`` with a symmetric FIR, in a stream, from preallocated memory.

    Parameters
    ----------
    taps : float64 [n_taps]
        Filter at the grid, ``up`` times the input rate.
    up, down : int
        Coprime. For every `down` inputs there are `up` outputs.
    shift : int
        Output ``j`` reads the filtered grid at step ``j * down - shift``, where input ``i`` lies at ``i * up``.
        Inputs before the first are zero.
    n_channels : int
    max_ahead : int
        Largest number of inputs, the block just pushed included, newer than the newest one that the next output reads.

    Notes
    -----
    With ``j * down - shift = q * up + r``, ``0 <= r < up``, output ``j`` is the dot product [1]_ ::

        y[j] = sum over k of  taps[r + k * up] * x[q - k],        0 <= k < K = ceil(n_taps / up)

    so `up` short filters, the phases, take turns. Each is scaled to sum one: a constant passes unchanged whatever the
    phase, and the images of low frequencies vanish.

    Dot products of forty taps are too short for numpy. Outputs are therefore computed in *tiles*: neighbouring outputs
    read almost the same inputs, so their phases are put side by side into one banded matrix, and a tile is one
    vector-matrix product per channel. The zeros in the matrix cost about as much as the taps, and BLAS wins that back
    many times over. Phases repeat after `up` outputs; a *cycle* is the shortest run of tiles after which the
    same matrices come again with all inputs `cycle_inputs` later.

    A tile is always computed whole, wherever a block ends in it. So every output sample is the same product of the same
    shape for any split into blocks: the result is the same to the bit.

    All counters stay within one cycle or one buffer, so that nothing drifts or grows with time.

    References
    ----------
    .. [1] R. E. Crochiere and L. R. Rabiner, "Multirate Digital Signal Processing", 1983, section 3.3.
    """

    def __init__(
        self, taps: npt.NDArray[np.float64], up: int, down: int, shift: int, n_channels: int, max_ahead: int
    ) -> None:
        self._up, self._down = up, down
        self._n_reads = -(-taps.size // up)
        first_input, self._phase = divmod(-shift, up)
        self._tiles = self._build_tiles(_phases(taps, up), n_channels)
        last = self._tiles[-1]
        self._cycle_inputs = (last.first + last.result.shape[1]) * down // up
        self._widest = max(tile.matrix.shape[0] for tile in self._tiles)
        # Twice the room that is needed, so that the history moves only now and then.
        self._history: Block = np.zeros((n_channels, 2 * (2 * self._widest + max_ahead)), np.float32)
        # Output 0 reads the first columns; all that it reads before input 0 is silence.
        self._silence: int = self._n_reads - 1 - first_input
        self._tile = self._lane = self._cycle_start = 0
        self._filled = self._silence

    def _build_tiles(self, phases: npt.NDArray[np.float32], n_channels: int) -> tuple[_Tile, ...]:
        up, down, n_reads = self._up, self._down, self._n_reads
        size = 1
        while (size + 1) * (n_reads + size * down // up + 1) <= _LARGEST_TILE:
            size += 1
        cycle = up * max(1, size // up)
        size = ceil(cycle / ceil(cycle / size))  # as even as the cycle allows
        tiles = []
        for first in range(0, cycle, size):
            outputs = range(first, min(first + size, cycle))
            reads = [divmod(j * down + self._phase, up) for j in outputs]
            start = reads[0][0]
            matrix = np.zeros((reads[-1][0] - start + n_reads, len(outputs)), np.float32)
            for column, (newest, phase) in enumerate(reads):
                matrix[newest - start : newest - start + n_reads, column] = phases[phase]
            tiles.append(_Tile(first, start, matrix, np.zeros((n_channels, len(outputs)), np.float32)))
        return tuple(tiles)

    @property
    def n_ready(self) -> int:
        """Outputs that can be pulled: all that they read has been pushed."""
        newest = self._filled - self._cycle_start - self._n_reads
        in_cycle = -((self._phase - (newest + 1) * self._up) // self._down)
        return in_cycle - self._tiles[self._tile].first - self._lane

    def push(self, x: Block) -> None:
        """Append inputs ``[channels, n]``."""
        stop = self._filled + x.shape[1]
        if stop + self._widest > self._history.shape[1]:
            self._discard_read()
            stop = self._filled + x.shape[1]
        self._history[:, self._filled : stop] = x
        self._filled = stop

    def _discard_read(self) -> None:
        """Move the history to the front of its buffer, without what no output will read any more."""
        start = self._cycle_start + self._tiles[self._tile].start
        kept = self._filled - start
        self._history[:, :kept] = self._history[:, start : self._filled]
        self._cycle_start -= start
        self._filled = kept

    def pull(self, out: Block) -> None:
        """Fill ``out [channels, n]`` with the next outputs; ``n <= n_ready``."""
        n, done = out.shape[1], 0
        while done < n:
            tile = self._tiles[self._tile]
            n_inputs, n_outputs = tile.matrix.shape
            count = min(n - done, n_outputs - self._lane)
            start = self._cycle_start + tile.start
            # Behind the newest input lie old ones. They meet zeros of the matrix in every output that is taken.
            np.matmul(self._history[:, start : start + n_inputs], tile.matrix, out=tile.result)
            out[:, done : done + count] = tile.result[:, self._lane : self._lane + count]
            done += count
            self._lane += count
            if self._lane == n_outputs:
                self._lane = 0
                self._tile += 1
                if self._tile == len(self._tiles):
                    self._tile = 0
                    self._cycle_start += self._cycle_inputs

    def reset(self) -> None:
        """Forget all audio."""
        self._history.fill(0.0)
        self._tile = self._lane = self._cycle_start = 0
        self._filled = self._silence


def _phases(taps: npt.NDArray[np.float64], up: int) -> npt.NDArray[np.float32]:
    """Return the `up` phases of a filter, ``[up, ceil(n_taps / up)]``, reversed in time, each with sum one."""
    padded = np.pad(taps, (0, -taps.size % up))
    phases = padded.reshape(-1, up).T[:, ::-1]
    phases /= phases.sum(axis=1, keepdims=True)
    return phases.astype(np.float32)


class Resample(BaseProcessor):
    """Run `inner`, which eats exactly `hop` samples per call at its own rate, on a stream of any other rate.

    Parameters
    ----------
    inner : Processor
        Called with blocks of `hop` frames only, with one array for input and output.
    hop : int
    sample_rate : int
        Rate of `inner` in Hz. Where the host has the same rate, use `Reblock`.

    Notes
    -----
    Host samples pass a low-pass to the inner rate, gather into hops, and pass a second one back to the host rate. Delay
    on the grid, ``up`` steps of which are a host sample, is ::

        half + half + a * down + c

    with `half` from `design_lowpass`, ``a`` the inner latency in inner samples, and ``c`` the shift of the second
    filter. ``c`` is the least that `resample_delay` allows, raised to the next value that makes the sum a multiple of
    ``up``. That is the only rounding: the fraction of a host sample is taken by the phase of the second filter, which
    has every phase there is at no cost.

    At 48/16 kHz one filter delays by 1.29 ms. It is flat within 0.01 dB to 7.2 kHz and below -65 dB from 8.75 kHz.
    """

    def __init__(self, inner: Processor, hop: int, sample_rate: int) -> None:
        if hop < 1:
            raise ConfigError(f"hop must be at least 1, found {hop}")
        self.inner = inner
        self.hop = hop
        self.sample_rate = sample_rate
        self._latency = LatencyBreakdown()
        self._filter_tail = Fraction(0)
        self._inner_ratio = Fraction(1)
        self._frame: Block = np.zeros((1, hop), np.float32)
        self._fill = 0
        self._to_inner: PolyphaseFir | None = None
        self._to_host: PolyphaseFir | None = None

    def prepare(self, config: StreamConfig) -> None:
        """Prepare `inner` at its rate, design both filters and fix the latency.

        Raises
        ------
        ConfigError
            If the host rate is the inner rate.
        """
        if config.sample_rate == self.sample_rate:
            raise ConfigError(f"host and inner rate are both {self.sample_rate} Hz; use Reblock, which is exact")
        self.inner.prepare(StreamConfig(self.sample_rate, config.n_channels, self.hop, self.hop))
        up, down = Fraction(self.sample_rate, config.sample_rate).as_integer_ratio()
        taps = design_lowpass(up, down)
        half = taps.size // 2
        fixed = 2 * half + self.inner.latency_samples * down
        shift = resample_delay(self.hop, up, down, config.fixed_block)
        shift += -(fixed + shift) % up

        self._inner_ratio = Fraction(down, up)
        self._filter_tail = Fraction(2 * half, up)
        inner_parts = latency_of(self.inner).parts()
        parts = {name: value * self._inner_ratio for name, value in inner_parts.items()}
        parts["resample"] += Fraction(2 * half, up)
        parts["reblock"] += Fraction(shift, up)
        self._latency = LatencyBreakdown(**parts)

        self._to_inner = PolyphaseFir(taps, up, down, 0, config.n_channels, config.max_block)
        # Of n host samples at most ceil(n * up / down) come back; the shift is how far the output stays behind them.
        max_ahead = ceil(Fraction(config.max_block * up + max(0, shift), down)) + 1
        self._to_host = PolyphaseFir(taps, down, up, shift, config.n_channels, max_ahead)
        self._frame = np.zeros((config.n_channels, self.hop), np.float32)
        self._fill = 0

    @property
    def latency(self) -> LatencyBreakdown:
        """The inner latency at the host rate, both filters, and the gathering of hops; known once prepared."""
        return self._latency

    @property
    def tail_samples(self) -> int:
        """The inner tail at the host rate, and the half of both filters that rings after its centre."""
        return ceil(self.inner.tail_samples * self._inner_ratio + self._filter_tail)

    def process(self, x: Block, out: Block) -> None:
        """Process one block of any size."""
        to_inner, to_host = self._to_inner, self._to_host
        assert to_inner is not None, "prepare comes before process"
        assert to_host is not None
        to_inner.push(x)
        left = to_inner.n_ready
        while left:
            stop = min(self.hop, self._fill + left)
            to_inner.pull(self._frame[:, self._fill : stop])
            left -= stop - self._fill
            self._fill = stop
            if stop == self.hop:
                self.inner.process(self._frame, self._frame)
                to_host.push(self._frame)
                self._fill = 0
        to_host.pull(out)

    def reset(self) -> None:
        """Forget all audio."""
        self.inner.reset()
        for converter in (self._to_inner, self._to_host):
            if converter is not None:
                converter.reset()
        self._fill = 0
