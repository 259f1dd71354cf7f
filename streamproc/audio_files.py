"""Sound files in and out, block by block: the only file that imports soundfile.

What a written file keeps of the one it came from: sample rate, channels, length to the frame, tags, and the sample
type wherever the container can hold it (16 bits stay 16 bits, floats stay floats). Where it cannot, 24 bits stand in
for what is finer, and 16 bits for sources that have no sample type of their own, like mp3.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from .atomic import replacing
from .errors import AudioFileError
from .pcm import quantise
from .spec import Block

READABLE = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc", ".au", ".snd", ".caf", ".w64")
"""Extensions that are looked for in folders. A file that is named is tried whatever it is called."""

_PCM_BITS = {"PCM_S8": 8, "PCM_U8": 8, "PCM_16": 16, "PCM_24": 24, "PCM_32": 32}
_NEAREST = {"PCM_S8": "PCM_U8", "PCM_U8": "PCM_S8", "PCM_32": "PCM_24", "FLOAT": "PCM_24", "DOUBLE": "PCM_24"}
_NO_TYPE_OF_ITS_OWN = "PCM_16"
_SYSTEM_ERROR = 2
"""What libsndfile says for whatever the operating system said."""
_SAMPLE_BYTES = {subtype: bits // 8 for subtype, bits in _PCM_BITS.items()}
_SAMPLE_BYTES |= {"ULAW": 1, "ALAW": 1, "FLOAT": 4, "DOUBLE": 8}
_STATED_SIZE = re.compile(r"\s*(?:data|SSND|Data [Ss]ize)\s*:\s*(\d+)")
"""The line of libsndfile's log of a file that has the bytes of sound which the header states."""
_OFFSET = re.compile(r"\s*Offset\s*:\s*(\d+)")
"""The line of bytes before the first sample of an AIFF, which count as sound there."""
_SIZE_OVERHEAD = {"WAV": 0, "WAVEX": 0, "RF64": 0, "AU": 0, "AIFF": 8, "W64": 24, "CAF": 4}
"""Bytes of it that are no sound, for the containers whose logs have that line."""
_SIZE_PADDING = {"W64": 7}
"""Most bytes by which it may be more than there is: libsndfile pads chunks of W64 to 8 bytes and states them padded."""
_UNKNOWN_SIZE = 0x7FFF0000
"""From here on a 32-bit size says that the writer did not know: it wrote into a pipe."""
_UNKNOWN_LENGTH = 2**62
"""From here on libsndfile's number of frames says the same of a FLAC."""
_COUNTING_FRAMES = 65_536
_WAV_LIMIT = (1 << 32) - (1 << 20)
"""Bytes of sound that a WAV file holds, with room for its header and tags: sizes are 32-bit numbers."""


@dataclass(frozen=True)
class Container:
    """A kind of file that can be written, and what fits into it."""

    name: str
    subtypes: tuple[str, ...]
    max_channels: int = 1024
    max_rate: int = 2**31 - 1
    rates: tuple[int, ...] = ()

    def subtype_for(self, source: str) -> str:
        """Return the sample type that keeps what a source of type `source` holds, as far as possible."""
        for subtype in (source, _NEAREST.get(source), _NO_TYPE_OF_ITS_OWN):
            if subtype in self.subtypes:
                return subtype
        return self.subtypes[0]

    def objection(self, sample_rate: int, n_channels: int) -> str | None:
        """Say why a stream does not fit, or None. libsndfile only crashes at some of these."""
        if n_channels > self.max_channels:
            return f"holds at most {self.max_channels} channels, the sound has {n_channels}"
        if sample_rate > self.max_rate:
            return f"holds at most {self.max_rate} Hz, the sound has {sample_rate}"
        if self.rates and sample_rate not in self.rates:
            return f"holds {', '.join(map(str, self.rates))} Hz only, the sound has {sample_rate}"
        return None


_PCM = ("PCM_16", "PCM_24", "PCM_32", "PCM_U8", "FLOAT", "DOUBLE", "ULAW", "ALAW")
_OPUS_RATES = (8000, 12000, 16000, 24000, 48000)
_WAV = Container("WAV", _PCM)
_AIFF = Container("AIFF", (*_PCM, "PCM_S8"))
_OGG = Container("OGG", ("VORBIS", "OPUS"), max_channels=255, max_rate=200_000)
_OPUS = Container("OGG", ("OPUS",), max_channels=255, rates=_OPUS_RATES)

WRITABLE: Mapping[str, Container] = {
    ".wav": _WAV,
    ".flac": Container("FLAC", ("PCM_16", "PCM_24", "PCM_S8"), max_channels=8, max_rate=655_350),
    ".ogg": _OGG,
    ".oga": _OGG,
    ".opus": _OPUS,
    ".aif": _AIFF,
    ".aiff": _AIFF,
}
"""What each extension means when a file is written."""


@dataclass(frozen=True)
class AudioInfo:
    """What a sound file holds.

    Parameters
    ----------
    sample_rate : int
        In Hz.
    n_channels : int
    n_frames : int
        As the header says; an estimate for mp3.
    subtype : str
        Sample type in the words of libsndfile, like ``PCM_16``.
    container : str
        Container in the words of libsndfile, like ``WAV``.
    tags : dict
        Title, artist and the like.
    """

    sample_rate: int
    n_channels: int
    n_frames: int
    subtype: str = "FLOAT"
    container: str = "WAV"
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """Length in seconds."""
        return self.n_frames / self.sample_rate


class _OfUnknownLength(soundfile.SoundFile):  # type: ignore[misc]
    """A file that soundfile must not move in: it would, to behind the end, and fail."""

    def seekable(self) -> bool:
        """Say no."""
        return False


def _open(path: Path) -> tuple[soundfile.SoundFile, int]:
    """Return an open file and the frames that its header states, counted if it states none."""
    file = soundfile.SoundFile(_native(path))
    if file.frames < _UNKNOWN_LENGTH:
        return file, max(file.frames, _stated_frames(file))
    file.close()
    with _OfUnknownLength(_native(path)) as counted:
        n_frames = 0
        while n_read := len(counted.read(_COUNTING_FRAMES, dtype="int16")):
            n_frames += n_read
    return _OfUnknownLength(_native(path)), n_frames


def _stated_frames(file: soundfile.SoundFile) -> int:
    """Return how many frames the header promises, or 0: libsndfile shortens `frames` to what a cut file still has."""
    frame_bytes: int = _SAMPLE_BYTES.get(file.subtype, 0) * file.channels
    if not frame_bytes or file.format not in _SIZE_OVERHEAD:
        return 0
    # The log has the tags too, and a comment of several lines may say anything.
    of_tags = {line for text in file.copy_metadata().values() for line in text.splitlines()[1:]}
    lines = [line for line in file.extra_info.splitlines() if line not in of_tags]
    size = _largest(_STATED_SIZE, lines)
    if size >= _UNKNOWN_SIZE:
        return 0
    size -= _SIZE_OVERHEAD[file.format] + _largest(_OFFSET, lines)
    if size - file.frames * frame_bytes <= _SIZE_PADDING.get(file.format, 0):
        return 0
    return size // frame_bytes


def _largest(pattern: re.Pattern[str], lines: list[str]) -> int:
    return max((int(found[1]) for found in map(pattern.match, lines) if found), default=0)


class AudioReader:
    """A sound file that is open for reading; close it or use it in a ``with`` statement.

    Parameters
    ----------
    path : Path

    Raises
    ------
    AudioFileError
        If it is missing, is not a sound file, or holds no sound.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        _check_readable(path)
        try:
            self._file, n_frames = _open(path)
        except soundfile.LibsndfileError as error:
            raise AudioFileError(
                f"{path} cannot be read as sound: {_words(error)} "
                f"Readable are {', '.join(READABLE)}; convert other files first, for example with ffmpeg."
            ) from error
        file = self._file
        tags = {name: text for name, text in file.copy_metadata().items() if name != "software"}
        self.info = AudioInfo(file.samplerate, file.channels, n_frames, file.subtype, file.format, tags)
        if n_frames == 0:
            self.close()
            raise AudioFileError(f"{path} holds no sound: its length is 0 frames")

    def blocks(self, size: int) -> Iterator[Block]:
        """Yield the sound from where reading stands to the end in blocks of at most `size` frames.

        Yields
        ------
        float32 [channels, n]
            ``1 <= n <= size``; a new array each time. Integers are scaled to [-1, 1).

        Raises
        ------
        AudioFileError
            If the data is damaged, or ends before the length that the header states.
        """
        n_read = 0
        while True:
            try:
                frames = self._file.read(size, dtype="float32", always_2d=True)
            except soundfile.LibsndfileError as error:
                raise self._damaged(n_read, _words(error)) from error
            if not len(frames):
                break
            n_read += len(frames)
            yield np.ascontiguousarray(frames.T)
        estimated = self.info.subtype.startswith("MPEG")
        if n_read == 0 or (n_read < self.info.n_frames and not estimated):
            raise self._damaged(n_read, "The data ends before that.")

    def _damaged(self, n_read: int, reason: str) -> AudioFileError:
        rate = self.info.sample_rate
        return AudioFileError(
            f"{self.path} is damaged or cut off: it should hold {self.info.seconds:.2f} s, reading stopped after "
            f"{n_read / rate:.2f} s. {reason} Repair it first, for example with `ffmpeg -i IN OUT.wav`."
        )

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> AudioReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _check_readable(path: Path) -> None:
    """Refuse early, and in plain words, what libsndfile would call an unknown format."""
    try:
        size = path.stat().st_size
    except FileNotFoundError as error:
        raise AudioFileError(f"{path} does not exist") from error
    except OSError as error:
        raise AudioFileError(f"{path} cannot be read: {error.strerror}") from error
    if path.is_dir():
        raise AudioFileError(f"{path} is a folder, not a sound file")
    if not path.is_file():
        raise AudioFileError(f"{path} is not a regular file; for streams there is `streamproc pipe`")
    if not os.access(path, os.R_OK):
        raise AudioFileError(f"{path} may not be read: permission denied")
    if size == 0:
        raise AudioFileError(f"{path} is empty (0 bytes)")
    if path.suffix.lower() == ".raw":
        raise AudioFileError(f"{path} holds raw samples without a header; `streamproc pipe` reads those")


class AudioWriter:
    """Takes blocks for a file that `create` made."""

    def __init__(self, file: soundfile.SoundFile) -> None:
        self._file = file
        self._bits = _PCM_BITS.get(file.subtype)
        self.n_frames = 0
        """Frames written so far."""

    def write(self, block: Block) -> None:
        """Append a block.

        Parameters
        ----------
        block : float32 [channels, n]
        """
        frames: np.ndarray[Any, Any] = np.ascontiguousarray(block.T)
        if self._bits is not None:
            frames = quantise(frames, self._bits)
        self._file.write(frames)
        self.n_frames += len(frames)


@contextmanager
def create(target: Path, info: AudioInfo) -> Iterator[AudioWriter]:
    """Open a sound file for writing; it appears under its name when the ``with`` block ends well, or not at all.

    Parameters
    ----------
    target : Path
        Its extension chooses the format, see `WRITABLE`.
    info : AudioInfo
        Rate, channels, sample type (kept where it fits), tags, and the expected length, by which a WAV file over 4 GiB
        becomes RF64.

    Yields
    ------
    AudioWriter

    Raises
    ------
    AudioFileError
        If the extension is unknown, the sound does not fit the format, or the file cannot be written.
    """
    container, subtype = format_for(target, info)
    try:
        with replacing(target) as temporary:
            with soundfile.SoundFile(
                _native(temporary), "w", info.sample_rate, info.n_channels, subtype, format=container
            ) as file:
                for name, text in info.tags.items():
                    setattr(file, name, text)
                writer = AudioWriter(file)
                yield writer
            # Some encoders write their last page when they are closed and do not tell when that fails.
            _check_written(temporary, writer.n_frames)
    except soundfile.LibsndfileError as error:
        raise AudioFileError(f"{target} cannot be written: {_words(error)}") from error
    except OSError as error:
        raise AudioFileError(f"{target} cannot be written: {error.strerror or error}") from error


def format_for(target: Path, info: AudioInfo) -> tuple[str, str]:
    """Return the container and sample type, in the words of libsndfile, with which `target` is written.

    Raises
    ------
    AudioFileError
        If the extension is unknown or the sound does not fit the format.
    """
    kind = container_of(target)
    objection = kind.objection(info.sample_rate, info.n_channels)
    if objection:
        raise AudioFileError(f"{target}: {target.suffix} {objection}; .wav takes any rate and number of channels")
    subtype = kind.subtype_for(info.subtype)
    too_long = info.n_frames * info.n_channels * _bytes_of(subtype) > _WAV_LIMIT
    return ("RF64" if kind is _WAV and too_long else kind.name), subtype


def container_of(target: Path) -> Container:
    """Return what the extension of `target` means.

    Raises
    ------
    AudioFileError
        If it is not in `WRITABLE`.
    """
    kind = WRITABLE.get(target.suffix.lower())
    if kind is None:
        found = f"the extension {target.suffix!r}" if target.suffix else "no extension"
        raise AudioFileError(f"{target} has {found}; files can be written as {', '.join(WRITABLE)}")
    return kind


def _bytes_of(subtype: str) -> int:
    return {"DOUBLE": 8, "FLOAT": 4, "PCM_32": 4, "PCM_24": 3, "PCM_16": 2}.get(subtype, 1)


def _check_written(path: Path, n_frames: int) -> None:
    with soundfile.SoundFile(_native(path)) as file:
        if file.frames != n_frames:
            raise OSError(f"only {file.frames} of {n_frames} frames arrived; is the disk full?")


def _native(path: Path) -> str | bytes:
    """Return a path as the system spells it; a name need not be valid text."""
    return os.fsencode(path) if os.name == "posix" else str(path)


def _words(error: soundfile.LibsndfileError) -> str:
    """Return what libsndfile says, as a sentence."""
    if error.code == _SYSTEM_ERROR:
        return "The system stored less than it was given; is the disk full?"
    text = error.error_string.removeprefix("Error : ").strip().rstrip(".")
    return f"{text[:1].upper()}{text[1:]}."
