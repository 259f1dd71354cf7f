"""Mixing: deterministic, finite, at the level, ratio and bandwidth that was asked for."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from threading import Barrier

import numpy as np
import pytest
import soundfile as sf

from export.data.cache import SoundCache, active_rms, list_clips, open_cache
from export.data.mix_config import MixConfig
from export.data.mixing import Mixer, _play_at
from export.data.prefetch import prefetch
from export.data.rooms import open_rooms
from export.data.synthetic import KINDS, open_synthetic
from export.data.validation import make_validation_set, measure
from streamproc.errors import ConfigError

RATE = 48_000
PLAIN = MixConfig.plain(seconds=0.5)
"""One recorded noise under untouched speech: what is drawn can be checked."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Speech at 48 and 16 kHz by three talkers, two noises; all made of numbers."""
    root = tmp_path_factory.mktemp("sounds")
    rng = np.random.default_rng(0)
    for kind in ("speech/wide", "speech/narrow", "noise"):
        (root / kind).mkdir(parents=True)
    for number, rate, folder in ((0, RATE, "wide"), (1, 16_000, "narrow"), (2, 16_000, "narrow")):
        swell = 0.3 + np.sin(2 * np.pi * 2 * np.arange(2 * rate) / rate) ** 2
        sf.write(root / f"speech/{folder}/{number}.wav", 0.1 * swell * rng.normal(size=2 * rate), rate)
    sf.write(root / "noise/0.flac", 0.1 * rng.normal(size=(RATE, 2)), RATE)
    sf.write(root / "noise/1.wav", 0.1 * rng.normal(size=RATE // 4), RATE)
    return root


@pytest.fixture(scope="module")
def caches(folders: Path) -> tuple[SoundCache, SoundCache]:
    return open_cache(folders / "speech", folders / "cache"), open_cache(folders / "noise", folders / "cache")


def spectrum_db(samples: np.ndarray, low_hz: float, high_hz: float) -> float:
    power = np.abs(np.fft.rfft(samples * np.hanning(len(samples)))) ** 2
    frequency = np.fft.rfftfreq(len(samples), 1 / RATE)
    return float(10 * np.log10(power[(frequency >= low_hz) & (frequency < high_hz)].mean() + 1e-20))


def test_two_that_need_a_cache_at_once_get_the_same_one(folders: Path, tmp_path: Path) -> None:
    both_inside = Barrier(2, timeout=30)

    def open_together(_: int) -> SoundCache:
        both_inside.wait()
        return open_cache(folders / "speech", tmp_path)

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(open_together, range(2))
    np.testing.assert_array_equal(first.samples[0], second.samples[0])
    assert len(first.samples[0]) == first.length.sum()
    assert len(list(tmp_path.iterdir())) == 1, "nothing unfinished stays behind"


def test_cache_converts_rates_and_remembers_bandwidth_and_speaker(caches: tuple[SoundCache, SoundCache]) -> None:
    speech, noise = caches
    assert sorted(speech.bandwidth_hz) == [8000, 8000, 24000]
    assert sorted(speech.speaker) == ["narrow", "narrow", "wide"]
    assert (speech.length == 2 * RATE).all()
    assert len(noise) == 2
    clip = speech.read(0)
    assert np.abs(clip).max() == pytest.approx(0.95, abs=1e-3)
    assert active_rms(clip, RATE) == pytest.approx(float(speech.active_rms[0]), rel=1e-3)
    np.testing.assert_array_equal(clip[100:300], speech.read(0, 100, 200))


def test_cache_is_reused_until_the_folder_changes(folders: Path, tmp_path: Path) -> None:
    sounds = tmp_path / "sounds"
    sounds.mkdir()
    sf.write(sounds / "a.wav", np.ones(1000) * 0.5, RATE)
    first = open_cache(sounds, tmp_path / "cache")
    assert len(open_cache(sounds, tmp_path / "cache")) == len(first) == 1
    assert len(list((tmp_path / "cache").iterdir())) == 1
    sf.write(sounds / "b.wav", np.ones(1000) * 0.5, RATE)
    assert len(open_cache(sounds, tmp_path / "cache")) == 2


@pytest.mark.parametrize(
    ("column", "label"), [("sample_rate", "24000"), ("source", "them"), ("speaker", "bob"), ("category", "hum")]
)
def test_a_corrected_index_is_believed(tmp_path: Path, column: str, label: str) -> None:
    sf.write(tmp_path / "all.wav", np.linspace(-0.5, 0.5, 1000), RATE)
    row = {"file": "all.wav", "start": "0", "length": "400", "sample_rate": f"{RATE}", "source": "us",
           "speaker": "ann", "category": "hiss"}  # fmt: skip

    def opened() -> SoundCache:
        (tmp_path / "index.csv").write_text(",".join(row) + "\n" + ",".join(row.values()) + "\n")
        return open_cache(tmp_path, tmp_path / "cache")

    assert (opened().speaker, opened().length[0]) == (["ann"], 400)
    row[column] = label
    again = opened()
    told = {"source": again.source, "speaker": again.speaker, "category": again.category}
    assert again.length[0] == 800 if column == "sample_rate" else told[column] == [label]


def test_several_folders_are_drawn_from_as_one(folders: Path, caches: tuple[SoundCache, SoundCache]) -> None:
    speech, noise = caches
    both = open_cache([folders / "speech", folders / "noise"], folders / "cache")
    assert len(both) == len(speech) + len(noise)
    assert both.hours == pytest.approx(speech.hours + noise.hours)
    assert both.speaker == speech.speaker + noise.speaker
    for clip in range(len(speech)):
        np.testing.assert_array_equal(both.read(clip, 10, 50), speech.read(clip, 10, 50))
    for clip in range(len(noise)):
        np.testing.assert_array_equal(both.read(len(speech) + clip), noise.read(clip))


def test_folders_decoded_at_different_rates_are_not_joined(folders: Path, tmp_path: Path) -> None:
    for rate in (RATE, 16_000):
        open_cache(folders / "noise", tmp_path, rate)
    with pytest.raises(ValueError, match=r"several rates.*\[16000, 48000\]"):
        SoundCache(*tmp_path.iterdir())


def test_index_cuts_clips_out_of_files(tmp_path: Path) -> None:
    sf.write(tmp_path / "all.wav", np.concatenate([np.full(600, 0.1), np.full(400, -0.2)]), RATE)
    (tmp_path / "index.csv").write_text(
        "file,start,length,sample_rate,source,speaker,category,licence\n"
        f"all.wav,0,600,{RATE},us,ann,,MIT\nall.wav,600,400,{RATE},us,bob,hum,MIT\n"
    )
    cache = open_cache(tmp_path, tmp_path / "cache")
    assert cache.speaker == ["ann", "bob"]
    assert cache.category == ["", "hum"]
    assert list(cache.length) == [600, 400]
    assert cache.read(0).min() > 0 > cache.read(1).max()


def test_folders_without_sound_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no sound"):
        list_clips(tmp_path)
    with pytest.raises(FileNotFoundError, match="not a folder"):
        list_clips(tmp_path / "nowhere")
    sf.write(tmp_path / "silence.wav", np.zeros(100), RATE)
    with pytest.raises(ValueError, match="silent"):
        open_cache(tmp_path, tmp_path / "cache")


def test_same_seed_and_index_give_the_same_batch(caches: tuple[SoundCache, SoundCache], tmp_path: Path) -> None:
    pool = open_synthetic(tmp_path, RATE, n_clips=4, seconds=1.0)
    rooms = open_rooms(tmp_path, RATE, n_simulated=2)
    config = MixConfig(seconds=0.5)
    one, two = (Mixer(*caches, config, seed=5, synthetic=pool, rooms=rooms) for _ in range(2))
    other = Mixer(*caches, config, seed=6, synthetic=pool, rooms=rooms)
    a, b, c, d = one.batch(3, 4), two.batch(3, 4), one.batch(4, 4), other.batch(3, 4)
    np.testing.assert_array_equal(a.noisy, b.noisy)
    np.testing.assert_array_equal(a.clean, b.clean)
    assert not np.array_equal(a.noisy, c.noisy)
    assert not np.array_equal(a.noisy, d.noisy)


def test_prefetch_hands_over_the_batches_in_order(caches: tuple[SoundCache, SoundCache]) -> None:
    mixer = Mixer(*caches, PLAIN)
    with closing(prefetch(mixer, 7, 2)) as batches:
        for index, batch in zip(range(7, 10), itertools.islice(batches, 3), strict=True):
            np.testing.assert_array_equal(batch.noisy, mixer.batch(index, 2).noisy)


def test_prefetch_raises_what_mixing_raises(caches: tuple[SoundCache, SoundCache]) -> None:
    mixer = Mixer(*caches, PLAIN)
    mixer.frames = -1
    with closing(prefetch(mixer, 0, 2)) as batches, pytest.raises(ValueError, match="negative"):
        next(batches)


def test_everything_at_once_is_finite_and_within_full_scale(
    caches: tuple[SoundCache, SoundCache], tmp_path: Path
) -> None:
    busy = MixConfig(
        seconds=0.5, p_noise_only=0.2, p_speech_only=0.2, p_more_noise=1, p_babble=0.3, p_room=1, p_eq=1,
        p_band_limit=0.5, p_clip=0.5, p_pause=0.5,
    )  # fmt: skip
    pool = open_synthetic(tmp_path, RATE, n_clips=6, seconds=1.0)
    mixer = Mixer(*caches, busy, synthetic=pool, rooms=open_rooms(tmp_path, RATE, n_simulated=3))
    for index in range(6):
        batch = mixer.batch(index, 8)
        for audio in (batch.noisy, batch.clean):
            assert audio.dtype == np.float32
            assert np.isfinite(audio).all()
        assert np.abs(batch.noisy).max() <= 1.0


def test_ratio_and_level_are_what_was_drawn(caches: tuple[SoundCache, SoundCache]) -> None:
    config = replace(PLAIN, snr_db=(-5.0, 5.0, 15.0), level_db=(-45.0, -35.0))
    batch = Mixer(*caches, config).batch(0, 16)
    for noisy, clean, snr_db in zip(batch.noisy, batch.clean, batch.snr_db, strict=True):
        noise = noisy - clean
        speech_rms = active_rms(clean, RATE)
        assert 20 * np.log10(speech_rms / np.sqrt(np.mean(noise**2))) == pytest.approx(snr_db, abs=0.2)
        assert -45.2 <= 20 * np.log10(speech_rms) <= -34.8


def test_items_without_speech_or_without_noise_are_well_defined(caches: tuple[SoundCache, SoundCache]) -> None:
    noise_only = Mixer(*caches, replace(PLAIN, p_noise_only=1.0)).batch(0, 3)
    assert not noise_only.has_speech.any()
    assert not noise_only.clean.any()
    assert noise_only.noisy.any(axis=1).all()
    speech_only = Mixer(*caches, replace(PLAIN, p_speech_only=1.0)).batch(0, 3)
    np.testing.assert_array_equal(speech_only.noisy, speech_only.clean)
    assert np.isnan(speech_only.snr_db).all()


def test_narrow_speech_is_empty_above_its_band_and_says_so(caches: tuple[SoundCache, SoundCache]) -> None:
    batch = Mixer(*caches, replace(PLAIN, p_full_band=0.5)).batch(1, 24)
    in_band = [spectrum_db(clean, 500, 7000) for clean in batch.clean]
    above = [spectrum_db(clean, 9000, 20_000) for clean in batch.clean]
    excess = np.array(in_band) - np.array(above)
    narrow = batch.bandwidth_hz == 8000
    assert narrow.any()
    assert (excess[narrow] > 50).all()
    # An item marked as whole is either wide speech, or nothing is above its band, noise included.
    noise_above = np.array([spectrum_db(noisy, 9000, 20_000) for noisy in batch.noisy])
    whole_but_empty = ~narrow & (excess > 50)
    assert (noise_above[whole_but_empty] < np.array(in_band)[whole_but_empty] - 40).all()


def test_babble_and_cold_starts_are_drawn(caches: tuple[SoundCache, SoundCache]) -> None:
    babble = Mixer(*caches, replace(PLAIN, p_babble=1.0, p_pause=1.0)).batch(0, 4)
    assert np.isfinite(babble.noisy).all()
    assert ((np.abs(babble.clean) < 1e-6).mean(axis=1) > 0.05).all()


def test_every_synthetic_noise_is_finite_and_alive() -> None:
    rng = np.random.default_rng(1)
    for name, (maker, _) in KINDS.items():
        samples = maker(rng, RATE // 2, RATE)
        assert samples.shape == (RATE // 2,), name
        assert np.isfinite(samples).all(), name
        assert np.sqrt(np.mean(samples**2)) == pytest.approx(1.0), name


def test_rooms_start_with_the_direct_sound_and_end_in_silence(folders: Path, tmp_path: Path) -> None:
    measured = tmp_path / "measured"
    measured.mkdir()
    tail = np.random.default_rng(0).normal(size=RATE) * np.exp(-np.arange(RATE) / 9000)
    tail[100] = 8.0
    sf.write(measured / "hall.wav", tail / 10, RATE)
    pool = open_rooms(tmp_path, RATE, n_simulated=2, measured=measured)
    assert len(pool) == 2 + 3
    for full, early in zip(pool.full, pool.early, strict=True):
        assert full[0] == early[0] == 1.0
        assert np.isfinite(full).all()
        assert np.abs(full[-100:]).max() < 2e-3
        assert not early[RATE * 31 // 1000 :].any()
        assert np.square(full).sum() >= np.square(early).sum()
    again = open_rooms(tmp_path, RATE, n_simulated=2, measured=measured)
    np.testing.assert_array_equal(pool.full, again.full)


@pytest.mark.parametrize("names", [[], ["readme.txt"]])
def test_a_folder_without_measured_rooms_is_refused(names: list[str], tmp_path: Path) -> None:
    (tmp_path / "measured").mkdir()
    for name in names:
        (tmp_path / "measured" / name).touch()
    with pytest.raises(ConfigError, match=r"measured holds no measured responses; it should hold \.wav, \.flac"):
        open_rooms(tmp_path, RATE, n_simulated=2, measured=tmp_path / "measured")
    with pytest.raises(ConfigError, match="missing holds no measured responses"):
        open_rooms(tmp_path, RATE, n_simulated=2, measured=tmp_path / "missing")


def test_validation_mixtures_are_fixed_and_measured_at_16_khz(folders: Path) -> None:
    sets = [
        make_validation_set(folders / "speech", folders / "noise", folders / "cache", RATE, n_items=4, seconds=1.0)
        for _ in range(2)
    ]
    np.testing.assert_array_equal(sets[0].noisy, sets[1].noisy)
    for noisy, clean, snr_db in zip(sets[0].noisy, sets[0].clean, sets[0].snr_db, strict=True):
        found = 20 * np.log10(active_rms(clean, RATE) / np.sqrt(np.mean((noisy - clean) ** 2)))
        assert found == pytest.approx(snr_db, abs=0.2)
    perfect = measure(sets[0].clean, sets[0].clean * 0.5, RATE, n_pesq=0)
    assert perfect["si_sdr"] > 60


def test_the_training_recordings_open(shared_dir: Path) -> None:
    clips = list_clips(shared_dir / "data/val/speech")
    assert len(clips) == 55
    assert {clip.sample_rate for clip in clips} <= {16_000, 22_050, 24_000, 44_100, 48_000}


@pytest.mark.parametrize("speed", [0.8, 1.25])
def test_another_speed_moves_every_frequency_and_keeps_the_length(
    caches: tuple[SoundCache, SoundCache], speed: float
) -> None:
    tone = np.sin(2 * np.pi * 1000.0 * np.arange(RATE) / RATE).astype(np.float32)
    played = _play_at(tone, speed, RATE // 2)
    assert played.shape == (RATE // 2,)
    assert int(np.abs(np.fft.rfft(played)).argmax()) * 2 == 1000 * speed  # bins are 2 Hz apart
    config = replace(PLAIN, p_speech_only=1.0, p_speed=1.0, speech_speed=(speed, speed), p_full_band=0.0)
    batch = Mixer(*caches, config).batch(0, 12)
    moved = batch.bandwidth_hz == np.float32(8000 * speed)  # the others were cut to what a narrow call sounds like
    assert moved.any()
    for clean in batch.clean[moved]:
        edge_hz = 8000 * speed
        assert spectrum_db(clean, 0.8 * edge_hz, 0.9 * edge_hz) > spectrum_db(clean, 1.1 * edge_hz, 1.2 * edge_hz) + 50


def test_a_cold_batch_is_the_same_sound_in_pieces(caches: tuple[SoundCache, SoundCache]) -> None:
    whole, cut = (Mixer(*caches, replace(PLAIN, p_cold=p, cold_s=0.125)).batch(0, 3) for p in (0.0, 1.0))
    assert cut.noisy.shape == (12, RATE // 8)
    np.testing.assert_array_equal(cut.noisy.reshape(3, -1), whole.noisy)
    np.testing.assert_array_equal(cut.clean.reshape(3, -1), whole.clean)
    np.testing.assert_array_equal(cut.bandwidth_hz, np.repeat(whole.bandwidth_hz, 4))
    np.testing.assert_array_equal(cut.snr_db, np.repeat(whole.snr_db, 4))
    assert (cut.has_speech | (np.square(cut.clean).mean(axis=1) < 0.01 * np.square(whole.clean).mean())).all()


@pytest.mark.parametrize("chance", ["p_swell", "p_change"])
def test_noises_that_swell_or_give_way_do_not_stay_as_loud_as_they_are(
    caches: tuple[SoundCache, SoundCache], chance: str
) -> None:
    def steadiness_db(config: MixConfig) -> float:
        batch = Mixer(*caches, config, seed=3).batch(0, 8)
        levels_db = 20 * np.log10(np.sqrt(np.square(batch.noisy).reshape(8, 10, -1).mean(-1)))
        return float((levels_db.max(axis=1) - levels_db.min(axis=1)).max())

    noise_only = replace(PLAIN, p_noise_only=1.0)
    assert steadiness_db(noise_only) < 1.0
    assert steadiness_db(replace(noise_only, **{chance: 1.0})) > 3.0
