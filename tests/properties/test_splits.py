"""What the adapters promise for any split into blocks: same output, reset equals fresh, causality, nothing shared."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from helpers import (
    IdentityWaveform,
    RecurrentSpectrum,
    RecurrentWaveform,
    assert_causal,
    assert_independent,
    assert_inplace_ok,
    assert_processor_properties,
    assert_reset_equals_fresh,
    block_splits,
    equal_blocks,
    noise,
    prepared,
    run_blocks,
    seeds,
    varying_blocks,
)
from hypothesis import given
from hypothesis import strategies as st

from streamproc.channels import Mono
from streamproc.errors import ConfigError
from streamproc.model_processor import CHANNEL_MODES, ModelProcessor
from streamproc.parameters import Parameter, Smoothed
from streamproc.processor import BaseProcessor, Passthrough
from streamproc.reblock import Reblock
from streamproc.resample import Resample
from streamproc.spec import Block, StreamConfig

rates = st.sampled_from([8000, 11025, 16000, 22050, 32000, 44100, 48000, 96000, 192000])
n_frames = st.sampled_from([1, 97, 1500, 8500])


@dataclass(frozen=True)
class Case:
    """A model processor in one of its arrangements."""

    kind: str
    channel_mode: str
    model_rate: int
    hop: int

    def __call__(self) -> ModelProcessor:
        model = {"spectrum": RecurrentSpectrum, "waveform": RecurrentWaveform}[self.kind](self.model_rate, self.hop)
        return ModelProcessor(model, self.channel_mode)


cases = st.builds(
    Case,
    st.just("spectrum"),
    st.sampled_from(CHANNEL_MODES),
    st.sampled_from([16000, 48000]),
    st.sampled_from([16, 90]),
) | st.builds(
    Case,
    st.just("waveform"),
    st.sampled_from(["independent", "mono"]),
    st.sampled_from([16000, 48000]),
    st.sampled_from([5, 90]),
)


class RememberLargest(BaseProcessor):
    """The whole hop times its own peak: as acausal inside a hop as can be."""

    def process(self, x: Block, out: Block) -> None:
        np.multiply(x, np.abs(x).max(axis=1, keepdims=True), out=out)


@given(data=st.data(), n=n_frames, hop=st.integers(1, 600), n_channels=st.integers(1, 3), seed=seeds)
def test_reblock(data: st.DataObject, n: int, hop: int, n_channels: int, seed: int) -> None:
    blocks = data.draw(block_splits(n))
    assert_processor_properties(
        lambda: Reblock(RememberLargest(), hop),
        StreamConfig(48000, n_channels),
        noise(n_channels, n, seed),
        blocks,
        tolerance=0.0,
    )


@given(data=st.data(), n=n_frames, hop=st.integers(1, 600), host=rates, inner=rates, seed=seeds)
def test_resample(data: st.DataObject, n: int, hop: int, host: int, inner: int, seed: int) -> None:
    if host == inner:
        inner = 24000
    # What costs time is the number of calls; long streams need not have tiny hops too.
    hop = max(hop, n * inner // host // 500)
    blocks = data.draw(block_splits(n))
    assert_processor_properties(
        lambda: Resample(RememberLargest(), hop, inner), StreamConfig(host, 2), noise(2, n, seed), blocks, tolerance=0.0
    )


@given(data=st.data(), n=n_frames, case=cases, host=st.sampled_from([16000, 44100, 48000]), seed=seeds)
def test_model_processor(data: st.DataObject, n: int, case: Case, host: int, seed: int) -> None:
    blocks = data.draw(block_splits(n))
    assert_processor_properties(case, StreamConfig(host, 2), noise(2, n, seed), blocks, tolerance=0.0)


@given(data=st.data(), n=n_frames, n_channels=st.integers(1, 7), seed=seeds)
def test_mono(data: st.DataObject, n: int, n_channels: int, seed: int) -> None:
    blocks = data.draw(block_splits(n))
    x = noise(n_channels, n, seed)
    assert_processor_properties(
        lambda: Mono(Reblock(RememberLargest(), 33)), StreamConfig(48000, n_channels), x, blocks, tolerance=0.0
    )
    y = run_blocks(prepared(lambda: Mono(Passthrough()), StreamConfig(48000, n_channels, max_block=n)), x, blocks)
    np.testing.assert_allclose(y, np.broadcast_to(x.mean(axis=0), x.shape), atol=1e-6)


@given(block=st.sampled_from([1, 7, 64, 441, 480, 1021]), case=cases, host=rates, seed=seeds)
def test_fixed_blocks(block: int, case: Case, host: int, seed: int) -> None:
    """With a fixed block there is one split only; the other promises stand."""
    config = StreamConfig(host, 2, max_block=block, fixed_block=block)
    blocks = equal_blocks(max(2 * block, 600), block)
    n = sum(blocks)
    x = noise(2, n, seed)
    assert_reset_equals_fresh(case, config, x, blocks)
    assert_causal(case, config, x, blocks, change_at=n // 2)
    assert_inplace_ok(case, config, x, blocks)
    assert_independent(case, config, x, blocks)


def test_a_fixed_block_changes_the_delay_and_nothing_else() -> None:
    def run(fixed_block: int | None) -> tuple[Block, int]:
        processor = prepared(make, StreamConfig(48000, 2, max_block=480, fixed_block=fixed_block))
        return run_blocks(processor, x, equal_blocks(9600, 480)), processor.latency_samples

    make = Case("spectrum", "independent", 48000, 90)
    x = noise(2, 9600)
    (fixed, short), (varying, long) = run(480), run(None)
    assert short < long
    np.testing.assert_array_equal(fixed[:, : 9600 - (long - short)], varying[:, long - short :])


# --- the model processor's own promises ---------------------------------------------------------------------------


@pytest.mark.parametrize("channel_mode", CHANNEL_MODES)
@pytest.mark.parametrize("host", [16000, 48000])
def test_one_channel_sounds_alike_in_every_mode(channel_mode: str, host: int) -> None:
    x = noise(1, 4000)
    config = StreamConfig(host, 1)
    expected = run_blocks(prepared(Case("spectrum", "independent", 16000, 64), config), x, [4000])
    actual = run_blocks(prepared(Case("spectrum", channel_mode, 16000, 64), config), x, [4000])
    np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("kind", ["spectrum", "waveform"])
def test_independent_channels_do_not_hear_each_other(kind: str) -> None:
    x = noise(3, 4000)
    together = run_blocks(prepared(Case(kind, "independent", 16000, 64), StreamConfig(48000, 3)), x, [4000])
    for channel in range(3):
        one = x[channel : channel + 1]
        alone = run_blocks(prepared(Case(kind, "independent", 16000, 64), StreamConfig(48000, 1)), one, [4000])
        np.testing.assert_allclose(together[channel : channel + 1], alone, atol=1e-6)


def test_linked_channels_keep_the_stereo_image() -> None:
    """A source panned to one side stays where it is, exactly as loud against the other side as before."""
    source = noise(1, 8000)
    x = np.concatenate([source, 0.25 * source])
    y = run_blocks(prepared(Case("spectrum", "linked", 48000, 64), StreamConfig(48000, 2)), x, varying_blocks(8000))
    np.testing.assert_allclose(y[1], 0.25 * y[0], atol=1e-6)
    free = run_blocks(prepared(Case("spectrum", "independent", 48000, 64), StreamConfig(48000, 2)), x, [8000])
    assert np.abs(free[1] - 0.25 * free[0]).max() > 1e-3


@pytest.mark.parametrize("host", [16000, 48000])
def test_mono_runs_the_model_once(host: int) -> None:
    processor = prepared(Case("waveform", "mono", 16000, 64), StreamConfig(host, 5))
    assert all(array.shape[0] == 1 for array in processor.state)


@pytest.mark.parametrize("host", [16000, 48000])
@given(data=st.data(), seed=seeds)
def test_a_moving_control_does_not_depend_on_the_split(host: int, data: st.DataObject, seed: int) -> None:
    x = noise(2, 6000, seed)

    def run(before: list[int], after: list[int]) -> Block:
        processor = prepared(Case("spectrum", "independent", 16000, 32), StreamConfig(host, 2))
        first = run_blocks(processor, x[:, :3000], before)
        processor.parameters["strength"].set(0.25)
        return np.concatenate([first, run_blocks(processor, x[:, 3000:], after)], axis=1)

    whole = run([3000], [3000])
    np.testing.assert_array_equal(run(data.draw(block_splits(3000)), data.draw(block_splits(3000))), whole)


def test_controls_are_parameters() -> None:
    processor = prepared(Case("waveform", "independent", 48000, 64), StreamConfig(48000, 1))
    strength = processor.parameters["strength"]
    assert isinstance(strength, Smoothed)
    assert strength.parameter == Parameter("strength", "", 0.0, 1.0, 1.0, strength.parameter.description)
    with pytest.raises(ConfigError, match="strength"):
        strength.set(1.5)

    strength.set(0.0)
    seen = []
    for _ in range(20):
        run_blocks(processor, noise(1, 64), [64])
        seen.append(float(processor.model.controls["strength"][0]))
    steps = np.diff([1.0, *seen])
    assert steps.min() >= -64 / 960 - 1e-6  # 20 ms from end to end, hop by hop
    assert seen[-1] == 0.0

    strength.set(1.0)
    processor.reset()
    assert strength.value == 1.0
    run_blocks(processor, noise(1, 64), [64])
    assert processor.model.controls["strength"][0] == 1.0


def test_processors_that_share_a_model_share_neither_state_nor_controls() -> None:
    model = RecurrentSpectrum(48000, 64)
    x = noise(1, 4000)
    one, two = (prepared(lambda: ModelProcessor(model), StreamConfig(48000)) for _ in range(2))
    two.parameters["strength"].set(0.0)
    two.reset()
    parts = [
        (run_blocks(one, x[:, t : t + 100], [100]), run_blocks(two, x[:, t : t + 100], [100]))
        for t in range(0, 4000, 100)
    ]
    gated, plain = (np.concatenate(part, axis=1) for part in zip(*parts, strict=True))

    alone = run_blocks(prepared(lambda: ModelProcessor(RecurrentSpectrum(48000, 64)), StreamConfig(48000)), x, [4000])
    np.testing.assert_array_equal(gated, alone)
    delay = two.latency_samples
    np.testing.assert_allclose(plain[:, delay:], x[:, :-delay], atol=1e-5)


@pytest.mark.parametrize("host", [16000, 48000])
def test_prepare_again_for_another_stream(host: int) -> None:
    """One processor serves streams of different rates, channels and blocks one after another."""
    case = Case("spectrum", "linked", 16000, 64)
    used = prepared(case, StreamConfig(96000, 1, max_block=64, fixed_block=64))
    run_blocks(used, noise(1, 640), equal_blocks(640, 64))
    config = StreamConfig(host, 2)
    used.prepare(config)
    fresh = prepared(case, config)
    assert used.latency == fresh.latency
    assert used.tail_samples == fresh.tail_samples
    x = noise(2, 3000)
    np.testing.assert_array_equal(run_blocks(used, x, [3000]), run_blocks(fresh, x, [3000]))


@pytest.mark.parametrize("host", [16000, 44100, 48000])
def test_nothing_sounds_after_the_tail(host: int) -> None:
    make = lambda: ModelProcessor(IdentityWaveform(16000, hop=64, lookahead=2))  # noqa: E731
    processor = prepared(make, StreamConfig(host))
    n, rest = 2000, processor.latency_samples + processor.tail_samples
    y = run_blocks(processor, np.pad(noise(1, n), ((0, 0), (0, rest + 1000))), varying_blocks(n + rest + 1000))
    assert np.abs(y[:, n + processor.latency_samples - 50 : n + processor.latency_samples]).max() > 0
    assert not y[:, n + rest :].any()


def test_linked_waveform_models_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"waveform model .* has no bins"):
        ModelProcessor(IdentityWaveform(), "linked")


def test_unknown_modes_are_refused() -> None:
    with pytest.raises(ConfigError, match="independent, linked, mono"):
        ModelProcessor(IdentityWaveform(), "surround")


def test_latency_is_known_before_prepare_at_the_models_rate() -> None:
    processor = ModelProcessor(IdentityWaveform(48000, hop=128, lookahead=1))
    assert processor.latency_samples == 127 + 128
