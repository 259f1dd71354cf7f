"""Sound files: what is kept, what is refused, and that nothing half-written is left."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import soundfile
from helpers import noise

from streamproc import audio_files
from streamproc.audio_files import WRITABLE, AudioInfo, AudioReader, create, format_for
from streamproc.errors import AudioFileError
from streamproc.spec import Block


def read(path: Path, size: int = 1000) -> tuple[AudioInfo, Block]:
    with AudioReader(path) as reader:
        return reader.info, np.concatenate(list(reader.blocks(size)), axis=1)


def write(path: Path, block: Block, info: AudioInfo) -> None:
    with create(path, info) as writer:
        for start in range(0, block.shape[1], 777):
            writer.write(block[:, start : start + 777])


@contextmanager
def full_disk(n_bytes: int) -> Iterator[None]:
    """Let no file grow beyond `n_bytes`, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# --- what is kept ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("suffix", "subtype"),
    [(suffix, subtype) for suffix in (".wav", ".flac", ".aiff") for subtype in WRITABLE[suffix].subtypes],
)
def test_what_is_not_changed_is_written_bit_for_bit(tmp_path: Path, suffix: str, subtype: str) -> None:
    source, target = tmp_path / f"in{suffix}", tmp_path / f"out{suffix}"
    ramp = np.linspace(-1.0, 1.0, 6001)[:, None] * [1.0, -0.5]
    container = {".wav": "WAV", ".flac": "FLAC", ".aiff": "AIFF"}[suffix]
    soundfile.write(source, ramp, 22_050, format=container, subtype=subtype)
    info, block = read(source)
    write(target, block, info)
    assert read(target)[0] == info
    assert (info.n_channels, info.n_frames, info.subtype) == (2, 6001, subtype)
    if subtype in ("PCM_32", "DOUBLE"):  # a float32 holds 24 bits
        np.testing.assert_allclose(soundfile.read(target)[0], soundfile.read(source)[0], atol=2**-24)
    else:
        np.testing.assert_array_equal(soundfile.read(target)[0], soundfile.read(source)[0])


@pytest.mark.parametrize("n_channels", [1, 2, 7])
@pytest.mark.parametrize("suffix", list(WRITABLE))
def test_length_rate_and_channels_are_kept_by_every_format(tmp_path: Path, suffix: str, n_channels: int) -> None:
    block = noise(n_channels, 12_345)
    write(tmp_path / f"a{suffix}", block, AudioInfo(16_000, n_channels, 12_345))
    info, found = read(tmp_path / f"a{suffix}")
    assert (info.sample_rate, info.n_channels) == (16_000, n_channels)
    assert found.shape == block.shape


@pytest.mark.parametrize(
    ("target", "source_subtype", "expected"),
    [
        ("a.wav", "PCM_24", ("WAV", "PCM_24")),
        ("a.WAV", "DOUBLE", ("WAV", "DOUBLE")),
        ("a.wav", "PCM_S8", ("WAV", "PCM_U8")),
        ("a.wav", "ULAW", ("WAV", "ULAW")),
        ("a.wav", "IMA_ADPCM", ("WAV", "PCM_16")),  # padded to whole packets: would not keep the length
        ("a.wav", "MPEG_LAYER_III", ("WAV", "PCM_16")),
        ("a.flac", "FLOAT", ("FLAC", "PCM_24")),
        ("a.flac", "PCM_32", ("FLAC", "PCM_24")),
        ("a.flac", "PCM_U8", ("FLAC", "PCM_S8")),
        ("a.flac", "VORBIS", ("FLAC", "PCM_16")),
        ("a.ogg", "PCM_16", ("OGG", "VORBIS")),
        ("a.ogg", "OPUS", ("OGG", "OPUS")),
        ("a.opus", "PCM_16", ("OGG", "OPUS")),
    ],
)
def test_the_sample_type_is_kept_where_it_fits(target: str, source_subtype: str, expected: tuple[str, str]) -> None:
    assert format_for(Path(target), AudioInfo(48_000, 2, 100, source_subtype)) == expected


def test_a_wav_file_over_four_gigabytes_becomes_rf64(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hours = 3600 * 48_000
    assert format_for(Path("a.wav"), AudioInfo(48_000, 2, 6 * hours, "PCM_16")) == ("WAV", "PCM_16")
    assert format_for(Path("a.wav"), AudioInfo(48_000, 2, 7 * hours, "PCM_16")) == ("RF64", "PCM_16")
    assert format_for(Path("a.flac"), AudioInfo(48_000, 2, 70 * hours, "PCM_16")) == ("FLAC", "PCM_16")
    monkeypatch.setattr(audio_files, "_WAV_LIMIT", 1000)
    block = noise(2, 2000)
    write(tmp_path / "long.wav", block, AudioInfo(48_000, 2, 2000, "FLOAT"))
    assert soundfile.info(tmp_path / "long.wav").format == "RF64"
    np.testing.assert_array_equal(read(tmp_path / "long.wav")[1], block)


def test_mp3_is_read_at_its_decoded_length(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.mp3", noise(2, 44_100).T, 44_100, format="MP3")
    info, block = read(tmp_path / "a.mp3")
    assert info.subtype == "MPEG_LAYER_III"
    assert block.shape == (2, 44_100)


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".opus", ".aiff"])
def test_tags_are_carried_over(tmp_path: Path, suffix: str) -> None:
    tags = {"title": "Räume", "artist": "Nobody", "comment": "take 2"}
    write(tmp_path / f"a{suffix}", noise(1, 4800), AudioInfo(48_000, 1, 4800, tags=tags))
    assert read(tmp_path / f"a{suffix}")[0].tags == tags


def test_integers_of_every_width_have_the_same_full_scale(tmp_path: Path) -> None:
    for subtype, bits in (("PCM_U8", 8), ("PCM_16", 16), ("PCM_24", 24), ("PCM_32", 32)):
        soundfile.write(tmp_path / "a.wav", np.array([-(2**31), 0, 2**30], np.int32), 8000, subtype=subtype)
        np.testing.assert_array_equal(read(tmp_path / "a.wav")[1], [[-1.0, 0.0, 0.5]], err_msg=f"{bits} bits")


# --- what is refused ------------------------------------------------------------------------------------------------


def test_sources_that_are_no_sound_are_refused_in_plain_words(tmp_path: Path) -> None:
    (tmp_path / "empty.wav").touch()
    (tmp_path / "text.wav").write_text("hello " * 100)
    (tmp_path / "samples.raw").write_bytes(bytes(100))
    soundfile.write(tmp_path / "nothing.wav", np.zeros(0), 48_000)
    for name, words in (
        ("empty.wav", "is empty"),
        ("text.wav", "Readable are .wav, .flac"),
        ("samples.raw", "streamproc pipe"),
        ("nothing.wav", "0 frames"),
        ("missing.wav", "does not exist"),
        ("text.wav/a.wav", "Not a directory"),
        ("x" * 300, "too long"),
        (".", "is a folder"),
    ):
        with pytest.raises(AudioFileError, match=words) as caught:
            AudioReader(tmp_path / name)
        assert str(tmp_path) in str(caught.value)
    with pytest.raises(AudioFileError, match="not a regular file"):
        AudioReader(Path("/dev/null"))


@pytest.mark.parametrize("damage", ["cut", "overwritten"])
def test_a_damaged_flac_is_an_error_that_says_where(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "a.flac"
    soundfile.write(path, noise(1, 96_000).T, 48_000)
    data = bytearray(path.read_bytes())
    if damage == "cut":
        data = data[: len(data) // 2]
    else:
        data[len(data) // 2 : len(data) // 2 + 4000] = bytes(4000)
    path.write_bytes(data)
    with pytest.raises(AudioFileError, match=r"should hold 2.00 s, reading stopped after [01].\d\d s"):
        read(path)


STATING_THEIR_SIZE = ["WAV", "WAVEX", "RF64", "AIFF", "AU", "W64", "CAF"]


@pytest.mark.parametrize("container", STATING_THEIR_SIZE)
@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT"])
def test_a_file_that_ends_before_its_header_says_is_an_error(tmp_path: Path, container: str, subtype: str) -> None:
    path = tmp_path / "a"
    soundfile.write(path, noise(2, 96_000).T, 48_000, subtype=subtype, format=container)
    assert read(path)[1].shape == (2, 96_000)
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    with pytest.raises(AudioFileError, match=r"should hold 2.00 s, reading stopped after [12].\d\d s. The data ends"):
        read(path)
    path.write_bytes(whole[:-96_000])
    words = r"should hold 2.00 s, reading stopped after 1.\d\d s. The data ends"
    if container == "CAF":  # of which libsndfile does not open the ones that lack much
        words = "file is malformed"
    with pytest.raises(AudioFileError, match=words):
        read(path)


@pytest.mark.parametrize("container", STATING_THEIR_SIZE)
def test_a_whole_file_of_any_length_is_not_called_damaged(tmp_path: Path, container: str) -> None:
    """Sizes that headers state hold more than sound: counters, and padding that depends on the length."""
    path = tmp_path / "a"
    for subtype in ("PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"):
        for n_channels in (1, 2, 3):
            for n_frames in (*range(1, 10), 5001, 44_100):
                soundfile.write(path, noise(n_channels, n_frames).T, 48_000, subtype=subtype, format=container)
                info, found = read(path, 8192)
                assert info.n_frames == found.shape[1] == n_frames, (subtype, n_channels)


def test_an_aiff_whose_sound_begins_at_an_offset_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.aiff"
    soundfile.write(path, noise(1, 5000)[0], 48_000, subtype="PCM_16")
    expected = read(path)[1]
    data = path.read_bytes()
    at = data.index(b"SSND") + 4  # size, offset, size of a block, and the offset's bytes before the sound
    size, offset = int.from_bytes(data[at : at + 4], "big"), 6
    chunk = (size + offset).to_bytes(4, "big") + offset.to_bytes(4, "big") + bytes(4) + bytes(offset)
    data = data[:at] + chunk + data[at + 12 :]
    path.write_bytes(data[:4] + (len(data) - 8).to_bytes(4, "big") + data[8:])
    np.testing.assert_array_equal(read(path)[1], expected)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(AudioFileError, match="is damaged or cut off"):
        read(path)


@pytest.mark.parametrize("suffix", [".wav", ".aiff", ".caf", ".flac"])
def test_what_a_tag_says_is_not_taken_for_the_size_of_the_sound(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    with soundfile.SoundFile(path, "w", 48_000, 1, "PCM_16") as file:
        file.comment = "at home\ndata : 99999999\n  Data size: 20240115"
        file.write(noise(1, 5000)[0])
    assert read(path)[1].shape == (1, 5000)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(AudioFileError, match="is damaged or cut off"):
        read(path)


def test_a_wav_file_that_was_written_into_a_pipe_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    x = noise(1, 96_000)
    soundfile.write(path, x.T, 48_000, subtype="FLOAT")
    data = bytearray(path.read_bytes())
    at = data.index(b"data") + 4
    data[at : at + 4] = data[4:8] = b"\xff" * 4
    path.write_bytes(data)
    np.testing.assert_array_equal(read(path)[1], x)


def test_a_flac_file_that_was_written_into_a_pipe_is_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    x = noise(2, 98_413)
    soundfile.write(path, x.T, 48_000, subtype="PCM_24")
    info, whole = read(path)
    data = bytearray(path.read_bytes())
    # STREAMINFO: 36 bits of the number of frames begin 13.5 bytes behind its header; zero is "unknown".
    length_at = 4 + 4 + 13
    data[length_at] &= 0xF0
    data[length_at + 1 : length_at + 5] = bytes(4)
    path.write_bytes(data)
    assert soundfile.info(path).frames > 2**62
    counted, again = read(path)
    np.testing.assert_array_equal(again, whole)
    assert counted.n_frames == info.n_frames == 98_413


@pytest.mark.parametrize(
    ("name", "rate", "n_channels", "words"),
    [
        ("a.mp3", 48_000, 2, "written as .wav, .flac"),
        ("a", 48_000, 2, "no extension"),
        ("a.flac", 48_000, 9, "at most 8 channels"),
        ("a.opus", 44_100, 2, "8000, 12000, 16000, 24000, 48000 Hz only"),
        ("a.ogg", 384_000, 2, "at most 200000 Hz"),  # libsndfile crashes
        ("a.ogg", 48_000, 256, "at most 255 channels"),  # libsndfile crashes
    ],
)
def test_targets_that_do_not_fit_are_refused(tmp_path: Path, name: str, rate: int, n_channels: int, words: str) -> None:
    with (
        pytest.raises(AudioFileError, match=words),
        create(tmp_path / name, AudioInfo(rate, n_channels, 100)) as writer,
    ):
        writer.write(noise(n_channels, 100))
    assert not list(tmp_path.iterdir())


def test_places_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    info = AudioInfo(48_000, 1, 10)
    for target, words in (
        (tmp_path / "missing" / "a.wav", "No such file or directory"),
        (tmp_path / "file" / "a.wav", "Not a directory"),
        (tmp_path / ("x" * 300 + ".wav"), "too long"),
        (Path("/proc/a.wav"), "cannot be written"),
    ):
        with pytest.raises(AudioFileError, match=words):
            write(target, noise(1, 10), info)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


# --- nothing half-written -------------------------------------------------------------------------------------------


def test_devices_and_folders_are_not_replaced(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo.wav"
    os.mkfifo(fifo)
    (tmp_path / "folder.wav").mkdir()
    for target in (fifo, tmp_path / "folder.wav"):
        with pytest.raises(AudioFileError, match="not a regular file"):
            write(target, noise(1, 10), AudioInfo(48_000, 1, 10))
    assert fifo.is_fifo()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_whatever_ends_the_writing_leaves_what_was_there(tmp_path: Path, error: type[BaseException]) -> None:
    target = tmp_path / "a.wav"
    target.write_bytes(b"older")

    def begin_and_fail() -> None:
        with create(target, AudioInfo(48_000, 1, 100)) as writer:
            writer.write(noise(1, 100))
            raise error

    with pytest.raises(error):
        begin_and_fail()
    assert [path.name for path in tmp_path.iterdir()] == ["a.wav"]
    assert target.read_bytes() == b"older"


@pytest.mark.parametrize("suffix", list(WRITABLE))
def test_a_full_disk_is_an_error_and_leaves_nothing(tmp_path: Path, suffix: str) -> None:
    block = noise(2, 60_000)
    with full_disk(20_000), pytest.raises(AudioFileError, match="is the disk full"):
        write(tmp_path / f"a{suffix}", block, AudioInfo(48_000, 2, 60_000))
    assert not list(tmp_path.iterdir())


def test_a_disk_that_fills_up_at_the_last_page_is_noticed(tmp_path: Path) -> None:
    """Some encoders lose what they write when they are closed without a word."""
    block = noise(1, 30_000)
    for suffix in (".ogg", ".opus", ".flac", ".wav"):
        whole = tmp_path / f"whole{suffix}"
        write(whole, block, AudioInfo(48_000, 1, 30_000))
        with full_disk(whole.stat().st_size - 1), pytest.raises(AudioFileError, match="is the disk full"):
            write(tmp_path / f"a{suffix}", block, AudioInfo(48_000, 1, 30_000))
        assert not (tmp_path / f"a{suffix}").exists()


def test_a_link_keeps_pointing_where_it_did(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    real, link = tmp_path / "elsewhere" / "real.wav", tmp_path / "link.wav"
    real.touch()
    link.symlink_to(real)
    write(link, noise(1, 10), AudioInfo(48_000, 1, 10))
    assert link.is_symlink()
    assert read(real)[0].n_frames == 10


def test_a_new_file_has_the_usual_mode(tmp_path: Path) -> None:
    (tmp_path / "usual").touch()
    write(tmp_path / "a.wav", noise(1, 10), AudioInfo(48_000, 1, 10))
    assert (tmp_path / "a.wav").stat().st_mode == (tmp_path / "usual").stat().st_mode
