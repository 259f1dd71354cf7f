"""Mixtures are what their rows say, and the same every time."""

from __future__ import annotations

import csv
from collections import Counter

import numpy as np
import pytest

from export.data.cache import active_rms
from export.evaluate.mixtures import SNRS_DB, VARIED_LEVELS_DBFS, MixtureSet, resample, rms


class TestMixtures:
    def test_are_always_the_same(self, val_dir, small_set, tmp_path):
        again = MixtureSet(8, varied=True, val_dir=val_dir, cache_dir=tmp_path / "other", seconds=3.0)
        assert again.rows == small_set.rows
        for first, second in zip(small_set, again, strict=True):
            np.testing.assert_array_equal(first.noisy, second.noisy)
            np.testing.assert_array_equal(first.clean, second.clean)

    def test_a_longer_plan_begins_with_the_shorter(self, val_dir, small_set, tmp_path):
        longer = MixtureSet(20, varied=True, val_dir=val_dir, cache_dir=tmp_path, seconds=3.0)
        assert longer.rows[:8] == small_set.rows

    def test_another_seed_is_another_set(self, val_dir, small_set, tmp_path):
        other = MixtureSet(8, varied=True, val_dir=val_dir, cache_dir=tmp_path, seconds=3.0, seed=1)
        assert [row.speech for row in other.rows] != [row.speech for row in small_set.rows]

    def test_have_the_snr_level_rate_and_length_of_their_row(self, small_set):
        for mixture in small_set:
            rate = mixture.row.sample_rate
            speech = mixture.noisy - mixture.noise
            snr_db = 20 * np.log10(active_rms(speech, rate) / rms(mixture.noise))
            assert snr_db == pytest.approx(mixture.row.snr_db, abs=0.01)
            assert 20 * np.log10(active_rms(speech, rate)) == pytest.approx(mixture.level_dbfs, abs=0.01)
            assert mixture.level_dbfs <= mixture.row.level_dbfs + 1e-6
            assert np.abs(mixture.noisy).max() <= 0.9901
            assert len(mixture.noisy) == len(mixture.clean) == len(mixture.noise) == 3 * rate
            assert mixture.noisy.dtype == np.float32

    def test_the_reference_is_the_speech_less_its_late_reflections(self, small_set):
        for mixture in small_set:
            late = mixture.noisy - mixture.noise - mixture.clean
            if mixture.row.room is None:
                assert rms(late) < 1e-6 * rms(mixture.clean) + 1e-7
            else:
                assert 1e-3 < rms(late) / rms(mixture.clean) < 2.0

    def test_both_rates_and_rooms_occur(self, small_set):
        assert {row.sample_rate for row in small_set.rows} == {16000, 48000}
        assert [row.index for row in small_set.rows if row.room is not None] == [0, 4]

    def test_a_speaker_is_never_part_of_their_own_babble(self, small_set):
        for row in small_set.rows:
            assert all(f"/{row.speaker}/" not in name for name in row.noise)

    def test_what_is_shorter_goes_round(self, val_dir, tmp_path):
        long = MixtureSet(4, val_dir=val_dir, cache_dir=tmp_path, seconds=12.0)
        for mixture in long:  # a speaker has 3.4 s
            seconds = mixture.clean.reshape(12, -1)
            assert min(rms(second) for second in seconds) > 0.2 * rms(mixture.clean)

    def test_resampling_keeps_the_place(self):
        pulse = np.zeros(4800, np.float32)
        pulse[2400] = 1.0
        assert int(resample(pulse, 48000, 16000).argmax()) == 800
        assert int(resample(resample(pulse, 48000, 16000), 16000, 48000).argmax()) == 2400
        assert len(resample(np.zeros(4801, np.float32), 48000, 16000)) == 1600

    @pytest.mark.parametrize("rate", [44100, 48000])
    @pytest.mark.parametrize("n", [16000, 16001])
    def test_up_and_down_again_is_the_identity(self, rate, n):
        there = np.random.default_rng(0).normal(size=n).astype(np.float32)
        back = resample(resample(there, 16000, rate), rate, 16000)
        assert len(back) == n
        # With a rest, the end is cut in the middle of a sample, and rings round to the beginning.
        inside = slice(2000, -2000) if n % 2 else slice(None)
        np.testing.assert_allclose(back[inside], there[inside], atol=5e-3 if n % 2 else 1e-5)

    def test_resampling_does_not_stretch_time(self):
        tone = np.sin(2 * np.pi * 1000 * np.arange(44_101) / 44_100).astype(np.float32)
        expected = np.sin(2 * np.pi * 1000 * np.arange(16_000) / 16_000)
        np.testing.assert_allclose(resample(tone, 44100, 16000)[500:-500], expected[500:-500], atol=1e-3)


class TestValidationFolder:
    """The set that figures are published for."""

    @pytest.fixture
    def rows(self, shared_dir, tmp_path):
        return MixtureSet(120, varied=True, val_dir=shared_dir / "data" / "val", cache_dir=tmp_path).rows

    def test_every_condition_meets_every_other(self, rows):
        kinds = sorted({row.kind for row in rows})
        assert len(kinds) == 7
        pairs = Counter((row.snr_db, row.kind) for row in rows)
        assert set(pairs) == {(snr, kind) for snr in SNRS_DB for kind in kinds}
        assert max(pairs.values()) - min(pairs.values()) <= 1
        assert Counter(row.level_dbfs for row in rows) == dict.fromkeys(VARIED_LEVELS_DBFS, 40)
        assert sum(row.room is not None for row in rows) == 30
        assert len({(row.speaker, row.snr_db) for row in rows}) > 60

    def test_shares_no_speaker_and_no_file_with_training(self, rows, shared_dir):
        data = shared_dir / "data"
        with (data / "train" / "speech" / "index.csv").open(newline="") as lines:
            trained = {(row["source"], row["speaker"]) for row in csv.DictReader(lines)}
        with (data / "val" / "speech" / "index.csv").open(newline="") as lines:
            origin = {f"speech/{row['file']}": (row["source"], row["speaker"]) for row in csv.DictReader(lines)}
        used = {name for row in rows for name in (*row.speech, *row.noise)}
        assert not trained & {origin[name] for name in used if name in origin}
        training_files = {path.name for path in (data / "train").rglob("*.*")}
        assert not training_files & {name.split("/")[1] for name in used}
        assert all((data / "val" / name).is_file() for name in used)
