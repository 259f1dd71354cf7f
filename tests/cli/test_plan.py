"""Which file becomes which."""

from __future__ import annotations

from pathlib import Path

import pytest
from commands import tree

from streamproc.cli.plan import make_plan
from streamproc.errors import AudioFileError, ConfigError


def targets(*arguments: object, **options: object) -> list[str]:
    return [str(job.target) for job in make_plan(*arguments, **options).jobs]  # type: ignore[arg-type]


def test_a_folder_is_mirrored(sounds: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert targets([sounds], out) == [str(out / name) for name in ("a.wav", "b.flac", "deep/c.wav")]
    assert targets([sounds], out, ".ogg") == [str(out / name) for name in ("a.ogg", "b.ogg", "deep/c.ogg")]
    assert targets([sounds / "deep" / "c.mp3", sounds / "a.wav"], out) == [str(out / "c.wav"), str(out / "a.wav")]


def test_an_output_folder_inside_the_input_is_not_read_again(sounds: Path) -> None:
    (sounds / "out").mkdir()
    (sounds / "out" / "a.wav").write_text("sound")
    plan = make_plan([sounds], sounds / "out", skip_existing=True)
    assert len(plan.jobs) == 2
    assert [job.source.name for job in plan.skipped] == ["a.wav"]


def test_what_is_not_sound_is_left_alone(sounds: Path, tmp_path: Path) -> None:
    for name in ("notes.txt", "._a.wav", ".streamproc-0123.part", "cover.png"):
        (sounds / name).touch()
    assert len(targets([sounds], tmp_path / "out")) == 3


def test_two_sources_never_share_a_target(sounds: Path, tmp_path: Path) -> None:
    (sounds / "a.mp3").touch()
    with pytest.raises(ConfigError, match=r"a\.mp3 and .*a\.wav would both be written to .*a\.wav"):
        make_plan([sounds], tmp_path / "out")
    with pytest.raises(ConfigError, match="would both be written"):
        make_plan([sounds / "a.wav", sounds / "a.wav"], tmp_path / "out")
    (sounds / "a.mp3").unlink()
    (sounds / "a.flac").touch()  # a.flac -> out/a.flac is fine, but not its picture
    assert len(targets([sounds], tmp_path / "out")) == 4
    with pytest.raises(ConfigError, match=r"would both be written to .*a\.png"):
        make_plan([sounds], tmp_path / "out", pictures=True)


def test_no_source_is_overwritten(sounds: Path) -> None:
    a = sounds / "a.wav"
    for paths, folder in (([a, a], None), ([sounds / "b.flac", a, a], sounds), ([sounds], sounds)):
        with pytest.raises(ConfigError, match="onto itself"):
            make_plan(paths, folder)
    (sounds / "deep" / "a.mp3").touch()
    with pytest.raises(ConfigError, match="which is itself to be read"):
        make_plan([sounds / "deep" / "a.mp3", a], sounds)


def test_existing_outputs_are_replaced_or_skipped(sounds: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "a.wav").write_text("sound")
    assert len(make_plan([sounds], out).jobs) == 3
    plan = make_plan([sounds], out, skip_existing=True)
    assert (len(plan.jobs), len(plan.skipped)) == (2, 1)


def test_only_what_is_done_is_skipped(sounds: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()

    def skipped(*sources: Path, **options: bool) -> list[str]:
        plan = make_plan(sources or [sounds], out, skip_existing=True, **options)
        return [job.target.name for job in plan.skipped]

    (out / "a.wav").symlink_to(out / "nowhere.wav")
    (out / "b.flac").touch()
    assert skipped() == []
    (out / "nowhere.wav").write_text("sound")
    (out / "b.flac").write_text("sound")
    assert skipped() == ["a.wav", "b.flac"]
    assert skipped(sounds / "missing" / "a.wav", sounds / "b.flac") == ["b.flac"]
    assert skipped(pictures=True) == []
    (out / "b.png").write_text("picture")
    assert skipped(pictures=True) == ["b.flac"]


def test_names_that_no_file_can_have(sounds: Path, tmp_path: Path) -> None:
    a, long, loop = sounds / "a.wav", 253 * "x" + ".wav", tmp_path / "loop.wav"
    loop.symlink_to(loop)
    for paths, folder in (([a, tmp_path / long], None), ([a], tmp_path / long)):
        with pytest.raises(ConfigError, match=r"xxx.* cannot be written: File name too long; choose another name"):
            make_plan(paths, folder)
    with pytest.raises(ConfigError, match=r"loop\.wav cannot be written: .*links; choose another name"):
        make_plan([a, loop])
    # As a source it fails when its turn comes, like any file that cannot be read.
    for source in (loop, tmp_path / long):
        assert targets([source, tmp_path / "out.wav"]) == [str(tmp_path / "out.wav")]
        assert targets([loop, a], tmp_path / "out") == [str(tmp_path / "out" / name) for name in ("loop.wav", "a.wav")]


def test_unclear_arguments_are_refused(sounds: Path, tmp_path: Path) -> None:
    a, empty = sounds / "a.wav", tmp_path / "empty"
    empty.mkdir()
    for paths, folder, extension, words in (
        ([a], None, None, "found 1 path; either name one input file and one output file"),
        ([a, a, a], None, None, "found 3 paths"),
        ([sounds, tmp_path / "out"], None, None, "is a folder; .*--out DIR"),
        ([a, tmp_path], None, None, "is a folder; .*--out DIR"),
        ([a, tmp_path / "b.wav"], None, ".wav", "--format goes with --out"),
        ([a], a, None, "is not a folder"),
        ([], tmp_path, None, "nothing to do"),
    ):
        with pytest.raises(ConfigError, match=words):
            make_plan(paths, folder, extension)
    with pytest.raises(AudioFileError, match="holds no sound files"):
        make_plan([empty], tmp_path / "out")
    with pytest.raises(AudioFileError, match=r"written as \.wav, \.flac"):
        make_plan([a, tmp_path / "b.xyz"])
    assert tree(tmp_path / "in") == ["a.wav", "b.flac", "deep/c.mp3"]
