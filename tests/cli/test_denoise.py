"""`streamproc denoise`: files in, clean files out, whatever goes wrong with some of them."""

from __future__ import annotations

import json
import os
import resource
from pathlib import Path

import numpy as np
import pytest
import soundfile
from commands import Run, start, tree
from helpers import noise

from streamproc.audio_files import AudioReader

HIGH_PASS = ("--model", "none", "--highpass", "100")


def test_one_file(run: Run, sounds: Path, model: Path, tmp_path: Path) -> None:
    result = run("denoise", sounds / "a.wav", tmp_path / "out.wav", "--model", model)
    assert (result.exit_code, result.stderr) == (0, "")
    info = soundfile.info(tmp_path / "out.wav")
    assert (info.samplerate, info.channels, info.frames, info.subtype) == (16_000, 1, 16_000, "PCM_24")
    for words in ("out.wav", "1 s", "0.4 ms", "noise floor", "1 file", "times real time"):
        assert words in result.stdout


def test_a_folder_in_several_processes(run: Run, sounds: Path, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = run("denoise", sounds, "--out", out, "--model", model, "--jobs", 2, "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    assert tree(out) == ["a.wav", "b.flac", "deep/c.wav"]
    document = json.loads(result.stdout)
    assert (document["done"], document["failed"], document["skipped"], document["not_done"]) == (3, 0, 0, 0)
    fields = {Path(entry["source"]).name: entry for entry in document["files"]}
    assert fields["b.flac"]["n_channels"] == 2
    assert fields["c.mp3"]["n_frames"] == 22_050
    assert all(entry["status"] == "done" and entry["latency_samples"] >= 0 for entry in fields.values())
    one_process = tmp_path / "again"
    assert run("denoise", sounds, "--out", one_process, "--model", model).exit_code == 0
    for name in tree(out):
        assert (out / name).read_bytes() == (one_process / name).read_bytes()


@pytest.mark.parametrize("jobs", [1, 2])
def test_one_bad_file_does_not_stop_the_others(run: Run, sounds: Path, model: Path, tmp_path: Path, jobs: int) -> None:
    (sounds / "aa.wav").touch()
    (sounds / "ab.flac").write_bytes((sounds / "b.flac").read_bytes()[:9000])
    result = run("denoise", sounds, "--out", tmp_path / "out", "--model", model, "--jobs", jobs)
    assert result.exit_code == 1
    assert tree(tmp_path / "out") == ["a.wav", "b.flac", "deep/c.wav"]
    assert "3 files" in result.stdout
    assert "2 failed" in result.stdout
    assert "aa.wav is empty" in result.stderr
    assert "ab.flac is damaged or cut off" in result.stderr


def test_existing_files(run: Run, sounds: Path, tmp_path: Path) -> None:
    target = tmp_path / "out" / "a.wav"
    target.parent.mkdir()
    target.write_text("older")
    result = run("denoise", sounds, "--out", target.parent, *HIGH_PASS, "--skip-existing", "--json")
    assert result.exit_code == 0
    assert target.read_text() == "older"
    assert json.loads(result.stdout)["skipped"] == 1
    assert run("denoise", sounds, "--out", target.parent, *HIGH_PASS).exit_code == 0
    assert soundfile.info(target).frames == 16_000
    assert "3 skipped" in run("denoise", sounds, "--out", target.parent, *HIGH_PASS, "--skip-existing").stdout


def test_pictures(run: Run, sounds: Path, tmp_path: Path) -> None:
    result = run("denoise", sounds / "a.wav", tmp_path / "out.wav", *HIGH_PASS, "--plot")
    assert result.exit_code == 0
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")


def test_a_picture_that_is_missing_is_not_done(run: Run, sounds: Path, tmp_path: Path) -> None:
    arguments = ("denoise", sounds / "a.wav", tmp_path / "out.wav", *HIGH_PASS, "--skip-existing")
    assert run(*arguments).exit_code == 0
    assert "1 skipped" in run(*arguments).stdout
    assert "skipped" not in run(*arguments, "--plot").stdout
    assert (tmp_path / "out.png").exists()
    assert "1 skipped" in run(*arguments, "--plot").stdout


def test_links_in_a_circle_are_files_that_cannot_be_read(run: Run, sounds: Path, tmp_path: Path) -> None:
    (sounds / "loop.wav").symlink_to("loop.wav")
    result = run("denoise", sounds, "--out", tmp_path / "out", *HIGH_PASS)
    assert result.exit_code == 1
    assert "loop.wav cannot be read: Too many levels of symbolic links" in result.stderr
    assert tree(tmp_path / "out") == ["a.wav", "b.flac", "deep/c.wav"]


def test_quiet_says_nothing(run: Run, sounds: Path, tmp_path: Path) -> None:
    assert run("denoise", sounds, "--out", tmp_path / "out", *HIGH_PASS, "--quiet").output == ""


def test_messages_say_which_file(run: Run, tmp_path: Path) -> None:
    for name, rate in (("low", 4_000), ("high", 48_000)):
        soundfile.write(tmp_path / f"{name}.wav", noise(1, 1000).T, rate)
    result = run("denoise", tmp_path, "--out", tmp_path / "out", "--model", "none", "--highpass", 3000)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"error: {tmp_path / 'low.wav'}: ")
    assert tree(tmp_path / "out") == ["high.wav"]


def test_names_that_no_terminal_can_spell(sounds: Path, tmp_path: Path) -> None:
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff \xe2\x99\xab.wav"))
    process = start("denoise", sounds / "a.wav", odd, *HIGH_PASS, env={**os.environ, "PYTHONIOENCODING": "latin-1"})
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    assert "? ?.wav" in output
    with AudioReader(odd) as reader:
        assert reader.info.n_frames == 16_000


# --- what is done to the sound --------------------------------------------------------------------------------------


def test_mix_and_attenuation_limit(run: Run, sounds: Path, model: Path, tmp_path: Path) -> None:
    def difference(*options: object) -> float:
        out = tmp_path / "out.wav"
        result = run("denoise", sounds / "a.wav", out, "--model", model, *options)
        assert result.exit_code == 0, result.stderr
        return float(np.abs(soundfile.read(out)[0] - soundfile.read(sounds / "a.wav")[0]).max())

    whole = difference()
    assert difference("--mix", 0) == difference("--attenuation-limit", 0) == 0.0
    assert difference("--mix", 0.5) == pytest.approx(whole / 2, rel=1e-3)
    assert difference("--attenuation-limit", 6.0206) == pytest.approx(whole / 2, rel=1e-3)
    assert difference("--attenuation-limit", 200) == difference("--attenuation-limit", "inf") == whole


def test_a_high_pass_without_a_model(run: Run, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "in.wav", np.full(48_000, 0.5), 48_000)
    result = run("denoise", tmp_path / "in.wav", tmp_path / "out.wav", *HIGH_PASS)
    assert "high-pass 100 Hz" in result.stdout
    assert np.abs(soundfile.read(tmp_path / "out.wav")[0][-1000:]).max() < 1e-3


def test_a_chain(run: Run, sounds: Path, model: Path, tmp_path: Path) -> None:
    chain = tmp_path / "chain.toml"
    chain.write_text(
        f'[[processor]]\ntype = "model"\nmodel = "{model}"\n\n[[processor]]\ntype = "gain"\ngain_db = -100\n'
    )
    assert run("denoise", sounds / "a.wav", tmp_path / "out.wav", "--chain", chain).exit_code == 0
    assert np.abs(soundfile.read(tmp_path / "out.wav")[0]).max() < 1e-4


def test_a_channel_mode_needs_a_model_in_the_chain_that_takes_it(
    run: Run, sounds: Path, model: Path, tmp_path: Path
) -> None:
    chain = tmp_path / "chain.toml"
    arguments = ("denoise", sounds / "b.flac", tmp_path / "out.wav", "--chain", chain, "--channel-mode", "mono")
    table = f'[[processor]]\ntype = "model"\nmodel = "{model}"\n'
    chain.write_text(table)
    assert run(*arguments).exit_code == 0
    for text in ('[[processor]]\ntype = "gain"\n', f'{table}channel_mode = "independent"\n'):
        chain.write_text(text)
        result = run(*arguments)
        assert result.exit_code == 2
        assert "--channel-mode has no effect" in result.stderr


def test_channel_modes(run: Run, tmp_path: Path, model: Path) -> None:
    soundfile.write(tmp_path / "in.wav", noise(2, 4000).T, 16_000)
    result = run("denoise", tmp_path / "in.wav", tmp_path / "out.wav", "--model", model, "--channel-mode", "mono")
    assert result.exit_code == 0
    left, right = soundfile.read(tmp_path / "out.wav")[0].T
    np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--model", "nonsense"), "nonsense"),
        (("--model", "missing.onnx"), "no such file"),
        (("--model", ""), "--model is empty"),
        (("--model", "none"), "nothing to do"),
        ((*HIGH_PASS, "--channel-mode", "quadro"), "independent, linked, mono; found 'quadro'"),
        ((*HIGH_PASS, "--channel-mode", "mono"), "--channel-mode says how channels share a model"),
        (("--model", "none", "--highpass", "100", "--mix", "0.5"), "there is none"),
        (("--chain", "missing.toml"), "missing.toml"),
        (("--chain", "chain.toml", "--model", "x.onnx"), "takes the place of --model"),
        (("--highpass", "500000", "--model", "none"), "cutoff"),
    ],
)
def test_options_that_cannot_work_start_nothing(
    run: Run, sounds: Path, tmp_path: Path, options: tuple[str, ...], words: str
) -> None:
    result = run("denoise", sounds / "a.wav", tmp_path / "out.wav", *options)
    assert result.exit_code == 2
    assert words in result.stderr
    assert not (tmp_path / "out.wav").exists()


def test_an_unknown_channel_mode_is_refused(run: Run, sounds: Path, model: Path, tmp_path: Path) -> None:
    result = run("denoise", sounds / "a.wav", tmp_path / "o.wav", "--model", model, "--channel-mode", "quadro")
    assert result.exit_code == 2
    assert "independent" in result.stderr


# --- bad input ------------------------------------------------------------------------------------------------------


def test_single_files_that_cannot_be_read(run: Run, tmp_path: Path) -> None:
    (tmp_path / "empty.wav").touch()
    soundfile.write(tmp_path / "nothing.wav", np.zeros(0), 48_000)
    for name, code, words in (
        ("empty.wav", 1, "is empty (0 bytes)"),
        ("nothing.wav", 1, "0 frames"),
        ("missing.wav", 1, "does not exist"),
        ("", 2, "is a folder"),
    ):
        result = run("denoise", tmp_path / name, tmp_path / "out.wav", *HIGH_PASS)
        assert (name, result.exit_code) == (name, code)
        assert words in result.stderr
    assert tree(tmp_path) == ["empty.wav", "nothing.wav"]


def test_samples_that_are_no_numbers(run: Run, tmp_path: Path, model: Path) -> None:
    x = noise(2, 16_000)
    x[0, 100], x[1, 200:300] = np.nan, np.inf
    soundfile.write(tmp_path / "in.wav", x.T, 16_000, subtype="FLOAT")
    result = run("denoise", tmp_path / "in.wav", tmp_path / "out.wav", "--model", model)
    assert result.exit_code == 0
    assert "out.wav: 101 samples not finite, silenced" in result.stdout
    assert np.isfinite(soundfile.read(tmp_path / "out.wav")[0]).all()


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW"])
@pytest.mark.parametrize(("sample_rate", "n_channels"), [(4_000, 1), (48_000, 7)])
def test_every_sample_type_rate_and_channel_count(
    run: Run, tmp_path: Path, model: Path, subtype: str, sample_rate: int, n_channels: int
) -> None:
    soundfile.write(tmp_path / "in.wav", noise(n_channels, 3001).T, sample_rate, subtype=subtype)
    result = run("denoise", tmp_path / "in.wav", tmp_path / "out.wav", "--model", model)
    assert result.exit_code == 0, result.output
    info = soundfile.info(tmp_path / "out.wav")
    assert (info.frames, info.samplerate, info.channels, info.subtype) == (3001, sample_rate, n_channels, subtype)


def test_a_target_that_cannot_be_written(run: Run, sounds: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for target, words in (
        (tmp_path / "file" / "out.wav", "Not a directory"),
        (tmp_path / "missing" / "out.wav", "No such file or directory"),
    ):
        result = run("denoise", sounds / "a.wav", target, *HIGH_PASS)
        assert result.exit_code == 1
        assert words in result.stderr
    result = run("denoise", sounds / "a.wav", "/dev/full", *HIGH_PASS)
    assert result.exit_code == 2
    assert not (tmp_path / "missing").exists()


def test_a_full_disk(sounds: Path, tmp_path: Path) -> None:
    def full_disk() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))

    soundfile.write(sounds / "big.wav", noise(1, 48_000).T, 48_000)
    process = start("denoise", sounds, "--out", tmp_path / "out", *HIGH_PASS, preexec_fn=full_disk)
    _, errors = process.communicate()
    assert process.returncode == 1
    assert "big.wav cannot be written" in errors
    assert "is the disk full" in errors
    assert "Traceback" not in errors
    written = tree(tmp_path / "out")
    assert "b.flac" in written
    assert "big.wav" not in written
    assert not any(name.endswith(".part") for name in written)
