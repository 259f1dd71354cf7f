"""Two clocks: the drift is found, the latency is kept, nothing runs over or dry. All in virtual time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
from helpers import band_noise

from streamproc.errors import ConfigError
from streamproc.live import ClockBridge, LiveConfig, LiveEngine
from streamproc.live.drift import Interpolator, RatioLoop
from streamproc.processor import Passthrough
from streamproc.spec import Block
from streamproc.testing import FakeStatus, ManualClock

Signal = Callable[[np.ndarray], np.ndarray]


def echo(indata: Block, outdata: Block, frames: int, time_info: object = None, status: object = None) -> None:
    outdata[:] = indata


@dataclass
class TwoDevices:
    """A capture and a playback device with true rates of their own, on one clock, with late callbacks."""

    nominal: tuple[int, int]
    true: tuple[float, float]
    blocks: tuple[int, int]
    jitter_s: float = 0.0
    signal: Signal = field(default=lambda seconds: seconds)
    callback: object = echo

    def __post_init__(self) -> None:
        self.clock = ManualClock()
        self.bridge = ClockBridge(
            self.callback,  # type: ignore[arg-type]
            *self.nominal,
            1,
            *self.blocks,
            clock=self.clock,
        )
        self._random = np.random.default_rng(1)
        self._captured = self._played = 0
        self._outdata = np.zeros((self.blocks[1], 1), np.float32)
        self.moments: list[float] = []
        self.answers: list[Block] = []

    def run(self, until_s: float, capturing: bool = True, keep: bool = False) -> None:
        """Go on; `moments` and the first sample of each answer are kept, or all samples where asked for."""
        block_in, block_out = self.blocks
        while True:
            captured_s = (self._captured + block_in) / self.true[0]
            played_s = self._played / self.true[1] + 0.0031
            if min(captured_s, played_s) > until_s:
                return
            if captured_s <= played_s:
                seconds = np.arange(self._captured, self._captured + block_in) / self.true[0]
                self._at(captured_s)
                if capturing:
                    self.bridge.capture(self.signal(seconds).astype(np.float32)[:, None], block_in)
                self._captured += block_in
            else:
                self._at(played_s)
                self.bridge.playback(self._outdata, block_out)
                self.moments.append(played_s)
                self.answers.append(self._outdata.copy() if keep else self._outdata[:1].copy())
                self._played += block_out

    def _at(self, moment_s: float) -> None:
        self.clock.now_s = moment_s + self.jitter_s * abs(self._random.standard_normal())

    @property
    def true_ppm(self) -> float:
        return 1e6 * (self.true[0] / self.nominal[0] / (self.true[1] / self.nominal[1]) - 1)

    def latency_errors_ms(self, after_s: float) -> np.ndarray:
        """Distance from the declared latency, from a signal that says when it was captured."""
        moments = np.array(self.moments)
        heard = np.array([answer[0, 0] for answer in self.answers], np.float64)
        errors = 1000 * (moments - heard - self.bridge.latency.total / self.nominal[1])
        return errors[moments > after_s]


@pytest.mark.parametrize(
    ("nominal", "true", "blocks", "jitter_s", "minutes"),
    [
        ((48_000, 48_000), (48_000, 48_010), (2048, 2048), 0.0005, 10),
        ((48_000, 48_000), (48_010, 48_000), (128, 480), 0.0, 1.5),
        ((44_100, 48_000), (44_097, 48_000), (512, 512), 0.001, 2),
        ((16_000, 48_000), (16_001, 48_000), (160, 256), 0.0005, 1.5),
    ],
)
def test_the_drift_is_found_and_the_latency_kept(
    nominal: tuple[int, int], true: tuple[float, float], blocks: tuple[int, int], jitter_s: float, minutes: float
) -> None:
    devices = TwoDevices(nominal, true, blocks, jitter_s)
    devices.run(60.0 * minutes)
    snapshot = devices.bridge.snapshot()
    assert devices.bridge.failure is None
    assert snapshot.ppm == pytest.approx(devices.true_ppm, abs=5.0)
    assert snapshot.settled
    assert (snapshot.underflow_samples, snapshot.resyncs) == (0, 0)
    errors = devices.latency_errors_ms(after_s=0.5)
    assert np.abs(errors).max() < 1.0
    assert np.abs(errors[-errors.size // 5 :]).mean() < 0.5


def test_capture_that_stops_and_comes_back_is_found_again() -> None:
    devices = TwoDevices((48_000, 48_000), (48_000, 48_003), (128, 128))
    devices.run(5.0)
    devices.run(7.0, capturing=False)
    assert devices.bridge.snapshot().underflow_samples == pytest.approx(2.0 * 48_000, rel=0.01)
    assert devices.answers[-1][0, 0] == 0.0
    devices.run(20.0)
    snapshot = devices.bridge.snapshot()
    assert snapshot.resyncs == 1
    assert np.abs(devices.latency_errors_ms(after_s=8.0)).max() < 1.0


def test_captured_sound_that_got_lost_is_skipped_and_not_waited_for() -> None:
    devices = TwoDevices((48_000, 48_000), (48_000, 48_000), (128, 128))
    devices.run(10.0)
    devices.run(10.002, capturing=False)
    devices.run(10.004, capturing=False)
    devices.run(30.0)
    assert 1 <= devices.bridge.snapshot().resyncs <= 3
    assert np.abs(devices.latency_errors_ms(after_s=12.0)).max() < 1.0


def test_different_rates_sound_the_same() -> None:
    signal = lambda seconds: 0.5 * np.sin(2 * np.pi * 1000 * seconds)  # noqa: E731
    devices = TwoDevices((44_100, 48_000), (44_100, 48_000), (256, 256), signal=signal)
    devices.run(2.0, keep=True)
    heard = np.concatenate(devices.answers)[:, 0]
    start = devices.moments[0]
    late = devices.bridge.latency.total / 48_000
    expected = signal(start + np.arange(heard.size) / 48_000 - late)
    settled = slice(48_000, None)
    assert np.abs(heard[settled] - expected[settled]).max() < 0.01


def test_the_engine_behind_a_bridge_sees_both_devices() -> None:
    engine = LiveEngine(Passthrough(), LiveConfig(48_000, fixed_block=128, mode="inline"))
    engine.start()
    devices = TwoDevices((48_000, 48_000), (48_000, 48_000), (128, 128), callback=engine.callback)
    engine.bridge = devices.bridge
    devices.bridge.capture(np.zeros((128, 1), np.float32), 128, None, FakeStatus(input_overflow=True))
    devices.run(1.0)
    snapshot = engine.snapshot()
    assert snapshot.input_xruns == 1
    assert snapshot.drift is not None
    assert snapshot.drift.target_samples == devices.bridge.latency.total
    assert snapshot.callbacks > 300


def test_errors_in_the_bridge_reach_the_control_thread() -> None:
    engine = LiveEngine(Passthrough(), LiveConfig(48_000, fixed_block=128, mode="inline"))
    engine.start()
    bridge = ClockBridge(engine.callback, 48_000, 48_000, 2, 128, 128)
    engine.bridge = bridge
    bridge.capture(np.zeros((128, 3), np.float32), 128)
    with pytest.raises(Exception, match="ValueError"):
        engine.raise_if_failed()
    outdata = np.full((128, 1), np.nan, np.float32)
    bridge.playback(outdata, 128)
    np.testing.assert_array_equal(outdata, 0.0)


def test_larger_blocks_than_announced_are_worked_off_in_pieces() -> None:
    clock = ManualClock()
    bridge = ClockBridge(echo, 48_000, 48_000, 1, 64, 64, clock=clock)
    outdata = np.zeros((160, 1), np.float32)
    for _ in range(50):
        clock.advance(160 / 48_000)
        bridge.capture(np.full((160, 1), 0.25, np.float32), 160)
        bridge.playback(outdata, 160)
    assert bridge.failure is None
    np.testing.assert_allclose(outdata, 0.25, atol=1e-6)


def test_blocks_must_have_a_size() -> None:
    with pytest.raises(ConfigError, match="capture_block"):
        ClockBridge(echo, 48_000, 48_000, 1, 0, 128)


# --- its parts ------------------------------------------------------------------------------------------------------


def interpolated(x: Block, ratio: float, start: float, n: int) -> Block:
    interpolator = Interpolator(x.shape[0], n, ratio)
    out = np.full((x.shape[0], n), np.nan, np.float32)
    whole = int(start)
    assert interpolator.n_inputs(start - whole, ratio, n) <= interpolator.room
    interpolator.read(x[:, whole - interpolator.half + 1 :], start - whole, ratio, out)
    return out


@pytest.mark.parametrize("fraction", [0.0, 0.25, 1 / 3, 0.999])
def test_interpolation_in_the_pass_band(fraction: float) -> None:
    rate, n = 48_000, 4800
    x = band_noise(rate // 4, rate, (0, 0.41 * rate))
    spectrum = np.fft.rfft(x[0].astype(np.float64))
    exact = np.fft.irfft(spectrum * np.exp(2j * np.pi * np.arange(spectrum.size) * fraction / x.shape[1]), x.shape[1])
    out = interpolated(x, 1.0, 1000 + fraction, n)[0]
    expected = exact[1000 : 1000 + n]
    snr_db = 10 * np.log10(np.sum(expected**2) / np.sum((out - expected) ** 2))
    assert snr_db > 70


def test_what_would_fold_is_removed_on_the_way_down() -> None:
    x = band_noise(48_000, 48_000, (10_500, 20_000))
    out = interpolated(x, 3.0, 5000.0, 10_000)
    assert np.sqrt(np.mean(out**2)) < 1e-3 * np.sqrt(np.mean(x**2))


def test_a_constant_stays_a_constant() -> None:
    out = interpolated(np.full((2, 3000), 0.7, np.float32), 1.000208, 100.3, 2000)
    np.testing.assert_allclose(out, 0.7, atol=1e-6)


def test_the_loop_holds_still_when_there_is_nothing_to_follow() -> None:
    loop = RatioLoop(48_000)
    for _ in range(1000):
        assert loop.update(0.0, 0.01) == 0.0
    assert loop.drift == 0.0
