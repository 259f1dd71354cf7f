"""Many independent streams through one model, in one batched call.

A recurrent step on one frame reads all weights to do one product per weight; on sixty-four frames it reads them once.
So a machine serves several times as many streams from a pool as from as many engines, for the same sound::

    pool = StreamPool(load_model("denoise"), max_streams=64)
    alice, bob = pool.open(), pool.open()

    clean = pool.process({alice: x, bob: y})  # any number of frames each, and as many come back

    alice.push(x)  # or in three steps, where sound comes and goes at its own pace
    pool.step()
    clean = alice.pull(128)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fractions import Fraction
from types import TracebackType

import numpy as np
import numpy.typing as npt

from .errors import ConfigError
from .fourier import real_transforms
from .guard import Guard, all_finite
from .model import Frame, FrameModel, State
from .reblock import reblock_delay
from .spec import Block, LatencyBreakdown, ModelSpec, StreamConfig, positive_integer
from .windows import window_pair

Rows = npt.NDArray[np.intp]
"""Which streams a batch is made of: the row of each in the arrays that hold what streams carry."""


class StreamPool:
    """Streams of one channel at the model's rate, which share a model and nothing else.

    Parameters
    ----------
    model : FrameModel
        Its controls hold for all streams.
    max_streams : int
        Streams that can be open at a time; memory for all of them is allocated here.
    fixed_block : int, optional
        Promise that every push has this many frames, in exchange for less latency.
    max_block : int
        Most frames that a stream can hold back, pushed and not yet stepped, or stepped and not yet pulled.

    Notes
    -----
    Output equals that of an `Engine` of its own around the same model, but for the order in which a batched product
    adds up. Everything that a stream carries is a row of an array. A step gathers the rows of all streams that have a
    hop, runs the model on exactly these, and puts the rows back, so that it costs what its streams cost, and streams
    that join, leave, pause or run ahead do not touch the rows of others.

    A model whose graph is fixed to one channel works too, without the gain: its backend runs it once per stream.

    Thread: any, one at a time.
    """

    def __init__(
        self, model: FrameModel, max_streams: int, fixed_block: int | None = None, max_block: int = 8192
    ) -> None:
        spec = model.spec
        max_streams = positive_integer("max_streams", max_streams)
        config = StreamConfig(spec.sample_rate, 1, max_block, fixed_block)
        max_block, fixed_block = config.max_block, config.fixed_block
        self.model = model
        self.max_streams = max_streams
        self.fixed_block = fixed_block
        self.max_block = max_block
        self._frames = _SpectrumRows(spec, max_streams) if spec.io == "spectrum" else _WaveformRows(spec, max_streams)
        self._initial = model.init_state(1)
        self._carried = model.init_state(max_streams)
        self._state, self._next_state = model.init_state(max_streams), model.init_state(max_streams)
        self._hops: Block = np.zeros((max_streams, spec.hop), np.float32)
        self._steps = [self._bind(n) for n in range(1, max_streams + 1)]
        self._guard = Guard(1, max_block + spec.hop)
        self._room = 2 * (max_block + spec.hop)
        self._delay = reblock_delay(spec.hop, fixed_block)
        self._streams: dict[int, PooledStream] = {}
        self._free = list(range(max_streams - 1, -1, -1))
        self._inboxes, self._outboxes = (np.zeros((max_streams, self._room), np.float32) for _ in range(2))
        self.recoveries = 0

    def _bind(self, n: int) -> Callable[[], None]:
        """Return the step of the first `n` rows, warmed up: backends plan anew for each batch size."""

        def first(state: State) -> State:
            return tuple(array[:n] for array in state)

        step = self.model.bind(
            self._frames.frame[:n], first(self._state), self._frames.result[:n], first(self._next_state)
        )
        step()
        return step

    # --- streams ----------------------------------------------------------------------------------------------------

    @property
    def latency(self) -> LatencyBreakdown:
        """Of every stream, in samples at the model's rate."""
        return LatencyBreakdown(reblock=Fraction(self._delay), algorithmic=Fraction(self.model.spec.latency))

    @property
    def latency_samples(self) -> int:
        """``pulled[t]`` describes ``pushed[t - latency_samples]``."""
        return self.latency.total

    @property
    def n_streams(self) -> int:
        """Streams that are open."""
        return len(self._streams)

    def open(self) -> PooledStream:
        """Return a new stream, which begins with silence and the model's initial state.

        Raises
        ------
        ConfigError
            If `max_streams` are open.
        """
        if not self._free:
            raise ConfigError(
                f"the pool has room for {self.max_streams} streams and all are open; close one, or make a larger pool"
            )
        row = self._free.pop()
        stream = PooledStream(self, row, self._inboxes[row], self._outboxes[row])
        self._streams[row] = stream
        self.rewind(stream)
        return stream

    def close(self, stream: PooledStream) -> None:
        """End a stream and give its room back. What it has not pulled is lost. A second time does nothing."""
        if self._streams.get(stream.row) is stream:
            del self._streams[stream.row]
            self._free.append(stream.row)
            stream.end()

    def rewind(self, stream: PooledStream) -> None:
        """Return a stream to silence and the model's initial state.

        Raises
        ------
        ConfigError
            If it is not an open stream of this pool.
        """
        self._require_own(stream)
        self._forget(stream.row)
        stream.clear(self._delay)

    def _require_own(self, stream: PooledStream) -> None:
        if self._streams.get(stream.row) is not stream:  # its row may belong to another by now
            raise ConfigError("this stream was closed, or belongs to another pool; open a new one")

    def _forget(self, row: int) -> None:
        self._frames.forget(row)
        for array, initial in zip(self._carried, self._initial, strict=True):
            array[row] = initial[0]

    # --- sound ------------------------------------------------------------------------------------------------------

    def step(self) -> int:
        """Process every hop that is complete, in as few calls of the model as possible.

        Returns
        -------
        int
            Hops processed, over all streams.
        """
        hop, n_hops = self.model.spec.hop, 0
        while ready := [stream for stream in self._streams.values() if stream.n_waiting >= hop]:
            for hop_row, stream in zip(self._hops, ready, strict=False):
                stream.take(hop_row)
            rows = np.array([stream.row for stream in ready], np.intp)
            self._step_rows(rows)
            for hop_row, stream in zip(self._hops, ready, strict=False):
                stream.give(hop_row)
            n_hops += len(ready)
        return n_hops

    def _step_rows(self, rows: Rows) -> None:
        """Replace the first hops of `_hops`, one for each row, by what the model makes of them."""
        n = rows.size
        hops = self._hops[:n]
        self._frames.load(rows, hops)
        for carried, batch in zip(self._carried, self._state, strict=True):
            np.take(carried, rows, axis=0, out=batch[:n], mode="clip")
        self._steps[n - 1]()
        for carried, batch in zip(self._carried, self._next_state, strict=True):
            carried[rows] = batch[:n]
        self._frames.unload(rows, hops)
        if not all_finite(hops):
            for hop, row in zip(hops, rows, strict=True):
                if not all_finite(hop):
                    hop.fill(0.0)
                    self._forget(int(row))
                    self.recoveries += 1
        self._guard.clamp(hops)

    def process(self, blocks: Mapping[PooledStream, npt.NDArray[np.float32]]) -> dict[PooledStream, Block]:
        """Push a block into each of some streams, step, and pull as many frames from each.

        Parameters
        ----------
        blocks : dict of PooledStream to float32 [n] or [1, n]
            `n` may differ from stream to stream and from call to call.

        Returns
        -------
        dict of PooledStream to float32, in the shape of the block

        Raises
        ------
        ConfigError
            If one of them is not an open stream of this pool, or its block is nothing to push. Nothing has happened to
            any stream then.
        """
        for stream, x in blocks.items():
            self._require_own(stream)
            stream.check(x)  # all of them, before anything has happened to any
        for stream, x in blocks.items():
            stream.push(x)
        self.step()
        return {stream: stream.pull(x.shape[-1]).reshape(x.shape) for stream, x in blocks.items()}

    def clean(self, x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return one channel of input with silence in the place of bad samples; valid until the next call."""
        clean: npt.NDArray[np.float32] = self._guard.clean(x.reshape(1, -1))[0]
        return clean


class PooledStream:
    """One stream of a `StreamPool`; made by `StreamPool.open`.

    Pulled are exactly the frames pushed, `StreamPool.latency_samples` later, at any pace and in pieces of any size.
    """

    def __init__(
        self, pool: StreamPool, row: int, inbox: npt.NDArray[np.float32], outbox: npt.NDArray[np.float32]
    ) -> None:
        self.row = row
        self._pool = pool
        self._hop = pool.model.spec.hop
        self._in, self._out = _Fifo(inbox), _Fifo(outbox)
        self._open = True

    def push(self, x: npt.NDArray[np.float32]) -> None:
        """Append frames.

        Parameters
        ----------
        x : float32 [n] or [1, n]
            Nominal range [-1, 1]. Samples that are not finite count as silence.

        Raises
        ------
        ConfigError
            If `x` has the wrong type, shape or size, or there is no room for it: step, and pull, first.
        """
        self.check(x)
        self._in.write(self._pool.clean(x))

    def check(self, x: npt.NDArray[np.float32]) -> None:
        """Raise what `push` would raise."""
        self._check_open()
        if x.dtype != np.float32 or not (x.ndim == 1 or (x.ndim == 2 and x.shape[0] == 1)):
            raise ConfigError(f"a pooled stream is float32 [n] or [1, n], found {x.dtype} {list(x.shape)}")
        n, pool = x.shape[-1], self._pool
        if pool.fixed_block is not None and n != pool.fixed_block:
            raise ConfigError(f"this pool was promised blocks of exactly {pool.fixed_block} frames, found {n}")
        if self.n_waiting + self.n_ready + n > pool.max_block + self._hop:
            raise ConfigError(
                f"{n} frames pushed on top of {self.n_waiting} that wait for a step and {self.n_ready} that wait to be "
                f"pulled; the pool was made for max_block = {pool.max_block}"
            )

    def pull(self, n: int) -> npt.NDArray[np.float32]:
        """Return the next `n` frames, float32 ``[n]``.

        Raises
        ------
        ConfigError
            If more are asked for than `n_ready`. After `StreamPool.step` there are at least as many as were pushed.
        """
        self._check_open()
        if not 0 <= n <= self.n_ready:
            raise ConfigError(f"{n} frames asked for and {self.n_ready} ready; push, and step the pool, first")
        out = np.empty(n, np.float32)
        self._out.read(out)
        return out

    @property
    def n_waiting(self) -> int:
        """Frames that were pushed and not yet processed."""
        return self._in.size

    @property
    def n_ready(self) -> int:
        """Frames that can be pulled."""
        return self._out.size

    def reset(self) -> None:
        """Forget all audio and begin anew."""
        self._pool.rewind(self)

    def close(self) -> None:
        """Leave the pool. A second time does nothing."""
        self._pool.close(self)

    def __enter__(self) -> PooledStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check_open(self) -> None:
        if not self._open:
            raise ConfigError("this stream was closed; open a new one")

    # --- for the pool -----------------------------------------------------------------------------------------------

    def end(self) -> None:
        """Take nothing more. Thread: the pool's."""
        self._open = False

    def clear(self, delay: int) -> None:
        """Begin with nothing pushed, and `delay` silent frames ready. Thread: the pool's."""
        self._in.clear()
        self._out.clear()
        self._out.write_silence(delay)

    def take(self, hop: npt.NDArray[np.float32]) -> None:
        """Move the oldest frames that wait into `hop`."""
        self._in.read(hop)

    def give(self, hop: npt.NDArray[np.float32]) -> None:
        """Append a processed hop."""
        self._out.write(hop)


class _Fifo:
    """Frames on their way, in one piece: what is left moves to the front when the end is reached.

    Parameters
    ----------
    memory : float32 [room]
        At least twice what is ever held, so that every frame moves once at most.
    """

    def __init__(self, memory: npt.NDArray[np.float32]) -> None:
        self._memory = memory
        self._start = self._stop = 0

    @property
    def size(self) -> int:
        return self._stop - self._start

    def _make_room(self, n: int) -> None:
        if self._stop + n > self._memory.size:
            kept = self.size
            self._memory[:kept] = self._memory[self._start : self._stop]
            self._start, self._stop = 0, kept

    def write(self, x: npt.NDArray[np.float32]) -> None:
        self._make_room(x.size)
        self._memory[self._stop : self._stop + x.size] = x
        self._stop += x.size

    def write_silence(self, n: int) -> None:
        self._make_room(n)
        self._memory[self._stop : self._stop + n] = 0.0
        self._stop += n

    def read(self, out: npt.NDArray[np.float32]) -> None:
        out[:] = self._memory[self._start : self._start + out.size]
        self._start += out.size

    def clear(self) -> None:
        self._start = self._stop = 0


class _WaveformRows:
    """Hops of any streams as frames of a waveform model: they are the same."""

    def __init__(self, spec: ModelSpec, max_streams: int) -> None:
        self.frame: Frame = np.zeros((max_streams, *spec.frame_shape), np.float32)
        self.result: Frame = np.zeros((max_streams, *spec.frame_shape), np.float32)

    def load(self, rows: Rows, hops: Block) -> None:
        np.copyto(self.frame[: rows.size], hops)

    def unload(self, rows: Rows, hops: Block) -> None:
        np.copyto(hops, self.result[: rows.size])

    def forget(self, row: int) -> None:
        """Nothing is carried from hop to hop."""


class _SpectrumRows:
    """Short-time transform and inverse of any streams, a batch at a time.

    What `streamproc.stft.StreamingStft` does for channels that always run together, for rows that run as they please:
    what a stream has heard, and what it has not finished, is carried in rows and gathered for each batch.
    """

    def __init__(self, spec: ModelSpec, max_streams: int) -> None:
        assert spec.window_kind is not None
        analysis, synthesis = window_pair(spec.window_kind, spec.fft_size, spec.window, spec.hop)
        self._hop, self._size, self._latency = spec.hop, spec.fft_size, spec.window - spec.hop
        self._analysis, self._synthesis = analysis.astype(np.float32), synthesis.astype(np.float32)
        self._fft = real_transforms(spec.fft_size)
        self.frame: Frame = np.zeros((max_streams, *spec.frame_shape), np.float32)
        self.result: Frame = np.zeros((max_streams, *spec.frame_shape), np.float32)
        self._spectrum = self.frame.view(np.complex64)[..., 0]
        self._processed = self.result.view(np.complex64)[..., 0]
        self._past = np.zeros((max_streams, self._size - self._hop), np.float32)
        self._unfinished = np.zeros((max_streams, self._latency), np.float32)
        # Working memory of one batch.
        self._gathered = np.zeros((max_streams, self._size - self._hop), np.float32)
        self._overlap = np.zeros((max_streams, self._latency), np.float32)
        self._heard = np.zeros((max_streams, self._size), np.float32)
        self._time = np.zeros((max_streams, self._size), np.float32)
        self._segment = np.zeros((max_streams, spec.window), np.float32)

    def load(self, rows: Rows, hops: Block) -> None:
        """Analyse a hop of each row into `frame`."""
        n, kept = rows.size, self._size - self._hop
        heard, time = self._heard[:n], self._time[:n]
        np.take(self._past, rows, axis=0, out=self._gathered[:n], mode="clip")
        heard[:, :kept] = self._gathered[:n]
        heard[:, kept:] = hops
        self._past[rows] = heard[:, self._hop :]
        np.multiply(heard, self._analysis, out=time)
        self._fft.forward(time, self._fft.unit, self._spectrum[:n])

    def unload(self, rows: Rows, hops: Block) -> None:
        """Synthesise `result` into the hop that it completes in each row."""
        n = rows.size
        time, segment, overlap = self._time[:n], self._segment[:n], self._overlap[:n]
        self._fft.inverse(self._processed[:n], self._fft.scale, time)
        np.multiply(time[:, -segment.shape[1] :], self._synthesis, out=segment)
        np.take(self._unfinished, rows, axis=0, out=overlap, mode="clip")
        segment[:, : self._latency] += overlap
        hops[:] = segment[:, : self._hop]
        self._unfinished[rows] = segment[:, self._hop :]

    def forget(self, row: int) -> None:
        """Let a row begin with silence."""
        self._past[row] = 0.0
        self._unfinished[row] = 0.0
