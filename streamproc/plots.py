"""Pictures of sound: samples, envelope and spectrogram of files of any length, in constant memory.

Needs matplotlib (``pip install 'streamproc[plot]'``), which is imported when the first picture is drawn. No window is
ever opened.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from .atomic import replacing
from .errors import AudioFileError, BackendUnavailable, ConfigError
from .guard import Guard
from .levels import decibels
from .spec import Block
from .text import clock, counted
from .windows import periodic_hann

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

MAX_COLUMNS = 2048
"""Most columns of a picture; each of a longer file stands for several frames."""

RANGE_DB = 90.0
"""From the loudest to the darkest colour of a spectrogram."""

_WINDOW_MS = 32.0
_N_ROWS = 480
_BLOCK = 1 << 16
_INK, _SHADE = "#1f4e79", "#9dbcd8"
_HEIGHTS = (2, 2, 4)
"""Of samples, envelope and spectrogram."""

Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Overview:
    """A sound file reduced to the columns of a picture.

    Parameters
    ----------
    name : str
    sample_rate, n_channels, n_frames : int
    column_s : float
        Seconds per column.
    lowest, highest : float64 [columns]
        Extremes of the samples over all channels.
    power : float64 [columns]
        Mean square of the samples over all channels.
    spectrum : float64 [columns, bins]
        Mean power per bin over all channels; 1 for a sine at full scale.
    """

    name: str
    sample_rate: int
    n_channels: int
    n_frames: int
    column_s: float
    lowest: Values
    highest: Values
    power: Values
    spectrum: Values

    @property
    def seconds(self) -> float:
        """Length of the sound."""
        return self.n_frames / self.sample_rate

    @property
    def times_s(self) -> Values:
        """Middle of each column in seconds."""
        return np.arange(0.5, len(self.power), dtype=np.float64) * self.column_s


def require_png(picture: Path) -> None:
    """Refuse a picture of another kind.

    Raises
    ------
    ConfigError
        If its extension is not ``.png``.
    """
    if picture.suffix.lower() != ".png":
        raise ConfigError(f"{picture} has the extension {picture.suffix!r}; pictures are written as .png")


def overview(path: Path) -> Overview:
    """Reduce a sound file to an overview, in one pass and constant memory.

    Raises
    ------
    AudioFileError
        If the file cannot be read.
    """
    from .audio_files import AudioReader

    with AudioReader(path) as reader:
        info = reader.info
        size = 1 << max(4, round(np.log2(info.sample_rate * _WINDOW_MS / 1000.0)))
        hop = size // 2
        while hop > max(1, size // 64) and info.n_frames < hop * MAX_COLUMNS // 2:
            hop //= 2
        window = periodic_hann(size).astype(np.float32)
        # Half of the window's sum is the height of the peak that a sine at full scale makes.
        columns = _Columns(size // 2 + 1, scale=(2.0 / float(window.sum())) ** 2)
        guard = Guard(info.n_channels, _BLOCK)
        n_frames = 0

        def blocks() -> Iterator[Block]:
            nonlocal n_frames
            for block in reader.blocks(_BLOCK):
                n_frames += block.shape[1]
                yield guard.clean(block)

        lead = (size - hop) // 2
        for frames in _overlapping(blocks(), size, hop, lead):
            middle = frames[:, :, lead : lead + hop]
            columns.add(
                middle.min(axis=(0, 2)),
                middle.max(axis=(0, 2)),
                np.mean(np.square(middle, dtype=np.float64), axis=(0, 2)),
                np.mean(np.abs(np.fft.rfft(frames * window)) ** 2, axis=0),
            )
    return Overview(
        os.fsencode(path.name).decode(errors="replace"),
        info.sample_rate,
        info.n_channels,
        n_frames,
        columns.span * hop / info.sample_rate,
        *columns.values(),
    )


def _overlapping(blocks: Iterator[Block], size: int, hop: int, lead: int) -> Iterator[npt.NDArray[np.float32]]:
    """Cut a stream into overlapping frames ``[channels, frames, size]``.

    The first begins `lead` samples before the stream; silence surrounds it.
    """
    pending: Block | None = None

    def complete(block: Block) -> npt.NDArray[np.float32]:
        return np.lib.stride_tricks.sliding_window_view(block, size, axis=1)[:, ::hop]

    for block in blocks:
        before = np.zeros((len(block), lead), np.float32) if pending is None else pending
        pending = np.concatenate([before, block], axis=1)
        if pending.shape[1] >= size:
            frames = complete(pending)
            yield frames
            pending = pending[:, frames.shape[1] * hop :]
    if pending is not None and pending.shape[1] > lead:
        n_left = -(-(pending.shape[1] - lead) // hop)
        yield complete(np.pad(pending, ((0, 0), (0, (n_left - 1) * hop + size - pending.shape[1]))))


class _Columns:
    """Extremes and means over spans of frames. When there are too many columns, each two become one.

    So the length of a file need not be known, which is only guessed for some.
    """

    def __init__(self, n_bins: int, scale: float) -> None:
        self.span = 1
        """Frames per column."""
        self._n_frames = 0
        self._scale = scale
        self._lowest = np.full(MAX_COLUMNS, np.inf)
        self._highest = np.full(MAX_COLUMNS, -np.inf)
        self._power = np.zeros(MAX_COLUMNS)
        self._spectrum = np.zeros((MAX_COLUMNS, n_bins))

    def add(self, lowest: npt.ArrayLike, highest: npt.ArrayLike, power: Values, spectrum: npt.ArrayLike) -> None:
        """Take in the next frames, one value (or row) each."""
        while self._n_frames + len(power) > MAX_COLUMNS * self.span:
            self._halve()
        column = (self._n_frames + np.arange(len(power))) // self.span
        first_of_column = np.flatnonzero(np.diff(column, prepend=-1))
        here = slice(column[0], column[-1] + 1)
        np.minimum(self._lowest[here], np.minimum.reduceat(lowest, first_of_column), out=self._lowest[here])
        np.maximum(self._highest[here], np.maximum.reduceat(highest, first_of_column), out=self._highest[here])
        self._power[here] += np.add.reduceat(power, first_of_column)
        self._spectrum[here] += np.add.reduceat(spectrum, first_of_column, axis=0)
        self._n_frames += len(power)

    def _halve(self) -> None:
        half = MAX_COLUMNS // 2
        for values, join, nothing in (
            (self._lowest, np.minimum, np.inf),
            (self._highest, np.maximum, -np.inf),
            (self._power, np.add, 0.0),
            (self._spectrum, np.add, 0.0),
        ):
            values[:half] = join(values[::2], values[1::2])
            values[half:] = nothing
        self.span *= 2

    def values(self) -> tuple[Values, Values, Values, Values]:
        """Return lowest, highest, power and spectrum of the columns that are in use."""
        n = -(-self._n_frames // self.span)
        counts = np.minimum(self.span, self._n_frames - self.span * np.arange(n))
        spectrum = self._spectrum[:n] * (self._scale / counts[:, np.newaxis])
        return self._lowest[:n], self._highest[:n], self._power[:n] / counts, spectrum


# --- pictures -------------------------------------------------------------------------------------------------------


def require_matplotlib() -> None:
    """Raise `BackendUnavailable` where matplotlib is missing; without importing it."""
    if find_spec("matplotlib") is None:
        raise BackendUnavailable("pictures need matplotlib; install it with `pip install 'streamproc[plot]'`")


def save_view(source: Path, picture: Path) -> None:
    """Draw samples, envelope and spectrogram of a sound file.

    Parameters
    ----------
    source : Path
    picture : Path
        A PNG file; appears when it is complete.

    Raises
    ------
    AudioFileError
        If the sound cannot be read or the picture not be written.
    BackendUnavailable
        If matplotlib is missing.
    """
    sound = overview(source)
    figure = _figure(8.0)
    axes = figure.subplots(3, 1, sharex=True, height_ratios=_HEIGHTS)
    image = _draw_views(axes, sound)
    figure.colorbar(image, ax=axes[-1], label="dB", pad=0.01, aspect=30)
    axes[0].set_title(_caption(sound), loc="left", parse_math=False)
    _finish(figure, axes[-1], sound.seconds, picture)


def save_comparison(before: Path, after: Path, picture: Path) -> None:
    """Draw samples, envelope and spectrogram of a file before and after processing, side by side on the same scales.

    Parameters
    ----------
    before, after, picture : Path

    Raises
    ------
    AudioFileError
        If a sound cannot be read or the picture not be written.
    BackendUnavailable
        If matplotlib is missing.
    """
    sounds = overview(before), overview(after)
    loudest = max(float(decibels(sound.spectrum).max()) for sound in sounds)
    figure = _figure(9.0)
    axes = figure.subplots(3, 2, sharex=True, sharey="row", height_ratios=_HEIGHTS)
    # Rows share their scale, and the last one drawn sets it: the louder of the two.
    for column in sorted(range(2), key=lambda column: _reach(sounds[column])):
        image = _draw_views(axes[:, column], sounds[column], loudest)
        axes[0, column].set_title(
            f"{('before', 'after')[column]}: {_caption(sounds[column])}", loc="left", fontsize=9, parse_math=False
        )
    for axis in axes[:, 1]:
        axis.set_ylabel("")
    figure.colorbar(image, ax=axes[-1, 1], label="dB", pad=0.01, aspect=30)
    _finish(figure, axes[-1, 0], sounds[0].seconds, picture)


def _draw_views(axes: Sequence[Axes], sound: Overview, loudest_db: float | None = None) -> AxesImage:
    """Draw the three views of a sound, from top to bottom."""
    samples, envelope, spectrogram = axes
    draw_samples(samples, sound)
    draw_envelope(envelope, sound)
    return draw_spectrogram(spectrogram, sound, loudest_db)


def draw_samples(axes: Axes, sound: Overview) -> None:
    """Draw the samples themselves: their extremes in every column."""
    axes.fill_between(sound.times_s, sound.lowest, sound.highest, color=_INK, linewidth=0.4)
    reach = _reach(sound)
    axes.set_ylim(-reach, reach)
    axes.set_ylabel("samples")


def draw_envelope(axes: Axes, sound: Overview) -> None:
    """Draw how loud it is: peak and root mean square in dB relative to full scale."""
    peak = decibels(np.maximum(-sound.lowest, sound.highest) ** 2)
    bottom = max(-100.0, min(float(decibels(sound.power).min()) - 3.0, -30.0))
    axes.fill_between(sound.times_s, bottom, peak, color=_SHADE, linewidth=0.0, label="peak")
    axes.fill_between(sound.times_s, bottom, decibels(sound.power), color=_INK, linewidth=0.0, label="RMS")
    axes.set_ylim(bottom, max(1.0, float(peak.max())))
    axes.set_ylabel("envelope, dB")
    axes.legend(loc="lower right", ncols=2)


def draw_spectrogram(axes: Axes, sound: Overview, loudest_db: float | None = None) -> AxesImage:
    """Draw the power over time and frequency, on an axis that is linear in mel.

    Parameters
    ----------
    axes : Axes
    sound : Overview
    loudest_db : float, optional
        Level of the brightest colour; the loudest of this sound unless given.
    """
    nyquist = sound.sample_rate / 2
    rows_hz = 700.0 * np.expm1(np.linspace(0.0, np.log1p(nyquist / 700.0), _N_ROWS))
    levels = _rows(decibels(sound.spectrum), rows_hz / nyquist)
    loudest_db = float(levels.max()) if loudest_db is None else loudest_db
    image = axes.imshow(
        levels.T,
        origin="lower",
        aspect="auto",
        cmap="magma",
        vmin=loudest_db - RANGE_DB,
        vmax=loudest_db,
        extent=(0.0, len(sound.power) * sound.column_s, 0.0, 1.0),
    )
    ticks_hz = [f for f in (0, 250, 500, 1000, 2000, 4000, 8000, 16000, 32000) if f <= nyquist]
    axes.set_yticks(np.log1p(np.divide(ticks_hz, 700.0)) / np.log1p(nyquist / 700.0))
    axes.set_yticklabels([f"{f / 1000:g}" for f in ticks_hz])
    axes.set_ylabel("kHz")
    return image


def _reach(sound: Overview) -> float:
    """Return the largest magnitude, and a little room; never nothing."""
    return max(1e-3, 1.05 * float(np.maximum(-sound.lowest, sound.highest).max()))


def _rows(levels: Values, positions: Values) -> Values:
    """Read columns of bins at positions between 0 and 1, with a straight line between neighbours."""
    place = positions * (levels.shape[1] - 1)
    below = np.minimum(place.astype(int), levels.shape[1] - 2)
    share = place - below
    rows: Values = levels[:, below] * (1.0 - share) + levels[:, below + 1] * share
    return rows


def _figure(height: float) -> Figure:
    require_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # Without pyplot there is no global state, and no window system is looked for.
    figure = Figure(figsize=(12.0, height), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _caption(sound: Overview) -> str:
    channels = {1: "mono", 2: "stereo"}.get(sound.n_channels, counted(sound.n_channels, "channel"))
    return f"{sound.name}   ·   {sound.sample_rate:,} Hz, {channels}, {clock(sound.seconds)}"


def _finish(figure: Figure, lowest: Axes, seconds: float, picture: Path) -> None:
    """Set the time axis, and write the picture."""
    from matplotlib.ticker import FuncFormatter

    lowest.set_xlim(0.0, seconds)
    lowest.xaxis.set_major_formatter(FuncFormatter(lambda seconds, _: clock(seconds)))
    try:
        with replacing(picture) as temporary, warnings.catch_warnings():
            # A name in a script that the font lacks is drawn as boxes; that is no reason to speak up.
            warnings.filterwarnings("ignore", message="Glyph .* missing")
            figure.savefig(temporary, format="png")
    except OSError as error:
        raise AudioFileError(f"{picture} cannot be written: {error.strerror or error}") from error
