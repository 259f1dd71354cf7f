"""Record a live stream without disturbing it."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from types import TracebackType

from ..spec import Block


class Recorder:
    """Write the input and the output of a live stream to two WAV files (32-bit float) from a thread of its own.

    The header is valid at any moment: after a crash the files play up to the last flush.

    Parameters
    ----------
    folder : path
        Made when absent. Files: ``input.wav``, ``output.wav``; a number is appended where they exist.
    sample_rate, n_channels : int
    buffer_s : float
        Sound that waits in memory while the disk is slow; beyond it samples are dropped, counted, and silent in the
        files, so that both stay in step with the stream.
    flush_s : float
        Time between two writes.
    """

    def __init__(
        self,
        folder: str | PathLike[str],
        sample_rate: int,
        n_channels: int = 1,
        buffer_s: float = 4.0,
        flush_s: float = 0.25,
    ) -> None:
        raise NotImplementedError

    @property
    def paths(self) -> tuple[Path, Path]:
        """Files of input and output."""
        raise NotImplementedError

    def write(self, x: Block, out: Block) -> None:
        """Hand over one block of input and output. Thread: audio. Waits for nothing."""

    def start(self) -> None:
        """Open the files and begin writing. Thread: control."""

    def stop(self, timeout_s: float = 5.0) -> bool:
        """Write what is left and close the files. Thread: control. False if the disk did not finish in time."""
        return True

    def __enter__(self) -> Recorder:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def dropped_samples(self) -> int:
        """Samples that the disk was too slow for. Thread: any."""
        return 0

    @property
    def failure(self) -> Exception | None:
        """What ended the recording early, a full disk for example. Thread: any."""
        return None
