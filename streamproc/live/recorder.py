"""Record a live stream without disturbing it, in files that play whatever happens."""

from __future__ import annotations

from io import FileIO
from os import PathLike
from pathlib import Path
from struct import Struct
from threading import Event, Thread
from types import TracebackType

import numpy as np

from ..errors import AudioFileError
from ..spec import Block
from .ring import Ring


class WavWriter:
    """A WAV file of 32-bit floats that is valid after every write.

    Parameters
    ----------
    path : Path
        Must not exist.
    sample_rate, n_channels : int

    Notes
    -----
    Sound is written first and the sizes in the header after it. Whoever looks in between, or finds the file after a
    crash, sees a shorter recording and some bytes behind its end. Room is left for the sizes of RF64 [1]_, to which the
    header turns when four gigabytes are full: three hours of two channels at 48 kHz.

    References
    ----------
    .. [1] EBU Tech 3306, "RF64: an extended file format for audio", 2009.
    """

    _HEADER = Struct("<4sI4s 4sIQQQI 4sIHHIIHH 4sII 4sI")
    _SAMPLE = np.dtype("<f4")
    _FLOAT_FORMAT = 3
    _FULL = 0xFFFFFFFF

    def __init__(self, path: Path, sample_rate: int, n_channels: int) -> None:
        self.path = path
        self._sample_rate = sample_rate
        self._n_channels = n_channels
        self.n_frames = 0
        self._file = FileIO(path, "xb")
        self._write_header()

    def write(self, x: Block) -> None:
        """Append samples ``[channels, n]``."""
        self._file.seek(0, 2)
        self._write_all(x.T.astype(self._SAMPLE).tobytes())
        self.n_frames += x.shape[1]
        self._write_header()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write_header(self) -> None:
        self._file.seek(0)
        self._write_all(self._header())

    def _write_all(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) :]

    def _header(self) -> bytes:
        frame_bytes = self._SAMPLE.itemsize * self._n_channels
        data_bytes = self.n_frames * frame_bytes
        riff_bytes = self._HEADER.size - 8 + data_bytes
        is_large = riff_bytes >= self._FULL
        sizes = (riff_bytes, data_bytes, self.n_frames)
        return self._HEADER.pack(
            *(b"RF64" if is_large else b"RIFF", self._FULL if is_large else riff_bytes, b"WAVE"),
            *(b"ds64" if is_large else b"JUNK", 28, *(sizes if is_large else (0, 0, 0)), 0),
            *(b"fmt ", 16, self._FLOAT_FORMAT, self._n_channels, self._sample_rate),
            *(self._sample_rate * frame_bytes, frame_bytes, 8 * self._SAMPLE.itemsize),
            *(b"fact", 4, self._FULL if is_large else self.n_frames),
            *(b"data", self._FULL if is_large else data_bytes),
        )


class _Track:
    """One signal on its way from the audio thread to its file."""

    def __init__(self, writer: WavWriter, ring: Ring, chunk: int, n_channels: int) -> None:
        self.writer = writer
        self.dropped = 0
        self._ring = ring
        self._chunk: Block = np.zeros((n_channels, chunk), np.float32)

    def drain(self) -> None:
        """Write what has come in. Thread: recorder."""
        while (waiting := self._ring.written - self.writer.n_frames) > 0:
            chunk = self._chunk[:, : min(waiting, self._chunk.shape[1])]
            if not self._ring.read(self.writer.n_frames, chunk):
                # Overtaken by the audio: silence in the place of what is gone keeps the file in step with the stream.
                chunk.fill(0.0)
                self.dropped += chunk.shape[1]
            self.writer.write(chunk)


class Recorder:
    """Write the input and the output of a live stream to two WAV files (32-bit float) from a thread of its own.

    Parameters
    ----------
    folder : path
        Made when absent. Files: ``input.wav`` and ``output.wav``, or ``input-2.wav`` and ``output-2.wav`` where one
        of them exists, and so on.
    sample_rate, n_channels : int
    max_block : int
        Largest block that `write` is given.
    buffer_s : float
        Sound that waits in memory while the disk is slow; beyond it samples are dropped, counted, and silent in the
        files, so that both stay in step with the stream.
    flush_s : float
        Time between two writes: what a crash takes away at most.
    """

    def __init__(
        self,
        folder: str | PathLike[str],
        sample_rate: int,
        n_channels: int = 1,
        max_block: int = 8192,
        buffer_s: float = 4.0,
        flush_s: float = 0.25,
    ) -> None:
        self.folder = Path(folder)
        self.paths = _free_paths(self.folder)
        """Files of input and output. Thread: any."""
        self.failure: Exception | None = None
        """What ended the recording early, a full disk for example. Thread: any."""
        self._sample_rate = sample_rate
        self._n_channels = n_channels
        self._flush_s = flush_s
        capacity = max(round(buffer_s * sample_rate), 2 * max_block)
        self._chunk = capacity // 4
        self._input, self._output = (Ring(n_channels, capacity, max_block) for _ in range(2))
        self._tracks: tuple[_Track, ...] = ()
        self._ending = Event()
        self._thread = Thread(target=self._run, name="streamproc recorder", daemon=True)

    def write(self, x: Block, out: Block) -> None:
        """Hand over one block of input and output. Thread: audio. Waits for nothing."""
        self._input.append(x)
        self._output.append(out)

    def start(self) -> None:
        """Make the files and begin writing. Thread: control. Once.

        Raises
        ------
        AudioFileError
            If the files cannot be made.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            writers = [WavWriter(path, self._sample_rate, self._n_channels) for path in self.paths]
        except OSError as error:
            raise AudioFileError(f"cannot record to {self.folder}: {error.strerror or error}") from error
        self._tracks = tuple(
            _Track(writer, ring, self._chunk, self._n_channels)
            for writer, ring in zip(writers, (self._input, self._output), strict=True)
        )
        self._thread.start()

    def stop(self, timeout_s: float = 5.0) -> bool:
        """Write what is left and close the files. Thread: control, when no audio runs any more.

        Returns
        -------
        bool
            False if the disk did not finish in time.
        """
        self._ending.set()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def __enter__(self) -> Recorder:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _run(self) -> None:
        try:
            while not self._ending.wait(self._flush_s):
                self._drain()
            self._drain()
        except Exception as error:
            self.failure = error
        finally:
            for track in self._tracks:
                track.writer.close()

    def _drain(self) -> None:
        for track in self._tracks:
            track.drain()

    @property
    def dropped_samples(self) -> int:
        """Samples that the disk was too slow for. Thread: any."""
        return max((track.dropped for track in self._tracks), default=0)


def _free_paths(folder: Path) -> tuple[Path, Path]:
    number = 1
    while True:
        suffix = "" if number == 1 else f"-{number}"
        paths = folder / f"input{suffix}.wav", folder / f"output{suffix}.wav"
        if not any(path.exists() for path in paths):
            return paths
        number += 1
