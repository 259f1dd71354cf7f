"""Which file becomes which: settled, and checked for losses, before anything is started."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..atomic import TEMPORARY_PREFIX
from ..errors import AudioFileError, ConfigError
from ..text import counted


@dataclass(frozen=True)
class Job:
    """One file to process."""

    source: Path
    target: Path
    picture: Path | None = None
    """Where the before/after spectrogram goes."""
    make_folder: bool = False
    """Whether a missing folder is made; one that was named as part of a file name may be a typing error."""

    @property
    def outputs(self) -> tuple[Path, ...]:
        """Every file that this job writes."""
        return (self.target, self.picture) if self.picture else (self.target,)

    @property
    def is_done(self) -> bool:
        """Whether all of it is there. Nothing that this program writes is empty; a link may lead nowhere."""
        return all(os.path.isfile(output) and os.path.getsize(output) for output in self.outputs)


@dataclass(frozen=True)
class Plan:
    """What is to be done, and what was done already."""

    jobs: tuple[Job, ...]
    skipped: tuple[Job, ...] = ()


def make_plan(
    paths: Sequence[Path],
    folder: Path | None = None,
    extension: str | None = None,
    pictures: bool = False,
    skip_existing: bool = False,
) -> Plan:
    """Pair sources with targets.

    Parameters
    ----------
    paths : sequence of Path
        Without `folder`: one source file and one target file. With it: files and folders; a folder's tree is mirrored.
    folder : Path, optional
        Where the targets go.
    extension : str, optional
        For targets in `folder`, like ``.flac``. By default a file keeps its own where it can be written, else ``.wav``.
    pictures : bool
        Plan a PNG beside every target.
    skip_existing : bool
        Leave out jobs whose source exists, and whose outputs all exist and are not empty. By default an output is
        replaced, once its successor is complete.

    Raises
    ------
    ConfigError
        If the arguments do not say clearly what goes where, two files would be written to one, a source would be
        overwritten, or a target has a name that no file can have.
    AudioFileError
        If a target's extension is not one that can be written.
    """
    from ..audio_files import container_of

    pairs = _one_pair(paths, extension) if folder is None else list(_pairs_in_folder(paths, folder, extension))
    for _, target in pairs:
        container_of(target)
    jobs = [
        Job(source, target, target.with_suffix(".png") if pictures else None, make_folder=folder is not None)
        for source, target in pairs
    ]
    _refuse_impossible_names(jobs)
    _refuse_collisions(jobs)
    # A source that is missing is a typing error, not something that was done.
    skipped = [job for job in jobs if skip_existing and os.path.exists(job.source) and job.is_done]
    jobs = [job for job in jobs if job not in set(skipped)]
    return Plan(tuple(jobs), tuple(skipped))


def _one_pair(paths: Sequence[Path], extension: str | None) -> list[tuple[Path, Path]]:
    if extension is not None:
        raise ConfigError("--format goes with --out DIR; a single output file says its format by its own extension")
    if len(paths) != 2:
        raise ConfigError(
            f"found {counted(len(paths), 'path')}; either name one input file and one output "
            "file, or any number of inputs and a folder for the outputs: --out DIR"
        )
    source, target = paths
    for path in paths:
        if os.path.isdir(path):
            raise ConfigError(f"{path} is a folder; say where the outputs go with --out DIR")
    return [(source, target)]


def _pairs_in_folder(paths: Sequence[Path], folder: Path, extension: str | None) -> Iterator[tuple[Path, Path]]:
    """Yield each source with its place in `folder`."""
    from ..audio_files import READABLE

    if not paths:
        raise ConfigError("nothing to do: name files or folders to read")
    if os.path.lexists(folder) and not os.path.isdir(folder):
        raise ConfigError(f"{folder} is not a folder; --out needs one, which is made where it is missing")
    for path in paths:
        if os.path.isdir(path):
            found = list(_sound_files(path, folder))
            if not found:
                raise AudioFileError(f"{path} holds no sound files; looked for {', '.join(READABLE)}")
            for source in found:
                yield source, _target(folder / source.relative_to(path), extension)
        else:
            yield path, _target(folder / path.name, extension)


def _sound_files(root: Path, folder: Path) -> Iterator[Path]:
    """Yield every sound file below `root` in a stable order, without those in the output folder."""
    from ..audio_files import READABLE

    def refuse(error: OSError) -> None:
        raise AudioFileError(f"{error.filename} cannot be read: {error.strerror}; what lies in it would be missed")

    for place, folders, names in os.walk(root, onerror=refuse):
        here = Path(place)
        folders[:] = sorted(name for name in folders if _place(here / name) != _place(folder))
        for name in sorted(names):
            # A leading dot marks unfinished files, and the copies of attributes that macOS leaves on other disks.
            if Path(name).suffix.lower() in READABLE and not name.startswith((TEMPORARY_PREFIX, "._")):
                yield here / name


def _target(path: Path, extension: str | None) -> Path:
    from ..audio_files import WRITABLE

    if extension is not None:
        return path.with_suffix(extension)
    return path if path.suffix.lower() in WRITABLE else path.with_suffix(".wav")


def _place(path: Path) -> Path:
    """Return where a path leads, links followed; other than `Path.resolve` also where they lead in a circle.

    What is wrong with one file is told when its turn comes, and does not stop the others.
    """
    return Path(os.path.realpath(path))


def _refuse_impossible_names(jobs: Sequence[Job]) -> None:
    """Refuse a plan with an output whose name the system cannot take, before time is spent on it."""
    for job in jobs:
        for output in job.outputs:
            try:
                output.stat()
            except OSError as error:
                if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
                    raise ConfigError(f"{output} cannot be written: {error.strerror}; choose another name") from error


def _refuse_collisions(jobs: Sequence[Job]) -> None:
    """Refuse a plan in which one file would destroy another."""
    writers: dict[Path, Path] = {}
    sources = {_place(job.source): job.source for job in jobs}
    for job in jobs:
        for output in job.outputs:
            place = _place(output)
            if place == _place(job.source):
                raise ConfigError(f"{job.source} would be written onto itself; choose another name or folder")
            if place in sources:
                raise ConfigError(
                    f"{job.source} would be written to {output}, which is itself to be read; choose another folder"
                )
            if place in writers:
                raise ConfigError(
                    f"{writers[place]} and {job.source} would both be written to {output}; process them into "
                    "different folders"
                )
            writers[place] = job.source
