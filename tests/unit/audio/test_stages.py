"""Streams that are pushed give what streams that are pulled give."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from pydreaming.audio.features import FrontEnd
from pydreaming.audio.stages import Chain, run
from pydreaming.config import load_config

BASE = load_config(["defaults"]).features
LAYOUTS = [(4, 4), (4, 2), (5, 2), (2, 5), (1, 1)]  # token frames and hop


class Pairs:
    """Sums of two successive numbers; one that is left over comes at the end."""

    def __init__(self) -> None:
        self.held: list[int] = []

    def push(self, part: int) -> Iterator[int]:
        self.held.append(part)
        if len(self.held) == 2:
            yield self.held.pop() + self.held.pop()

    def finish(self) -> Iterator[int]:
        yield from self.held


def test_a_chain_passes_on_what_is_complete_and_the_rest_at_the_end() -> None:
    chain: Chain[int, int] = Chain(Pairs(), Pairs())
    assert [list(chain.push(n)) for n in (1, 2, 4, 8, 16)] == [[], [], [], [15], []]
    assert list(chain.finish()) == [16]
    assert list(run(Chain(Pairs(), Pairs()), [1, 2, 4, 8, 16, 32])) == [15, 48]
    assert list(run(Chain(), [1, 2])) == [1, 2]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("rate", [16_000, 44_100, 8_000, 16_001])
@pytest.mark.parametrize("together", [1, 7])
def test_small_blocks_give_the_tokens_of_large_ones(layout: tuple[int, int], rate: int, together: int) -> None:
    front_end = FrontEnd(replace(BASE, token_frames=layout[0], token_hop=layout[1]))
    samples = (0.1 * np.random.default_rng(rate).standard_normal(rate + 37)).astype(np.float32)
    whole = front_end.tokens_of(samples, rate)
    parts = list(run(front_end.stages(rate, together), np.split(samples, [1, 5, 5000])))
    small = np.concatenate(parts)
    assert len(parts) > len(whole) // (together + 2)
    np.testing.assert_allclose(small, whole, atol=1e-4)
    if platform.machine() == "x86_64":  # where LEAST_ROWS was measured
        assert np.array_equal(small, whole)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("rate", "together"), [(16_000, 1), (16_000, 3), (44_100, 1), (8_000, 5)])
def test_a_token_comes_within_the_delay_that_is_told(layout: tuple[int, int], rate: int, together: int) -> None:
    front_end = FrontEnd(replace(BASE, token_frames=layout[0], token_hop=layout[1]))
    features, stages = front_end.features, front_end.stages(rate, together)
    delay_s, step, seen, worst = front_end.delay_s(rate, together), rate // 500, 0, 0.0
    for arrived in range(step, rate, step):
        fresh = sum(map(len, stages.push(np.zeros(step, np.float32))))
        ends = (np.arange(seen, seen + fresh) * features.token_stride_samples + features.token_span_samples) / features.sample_rate
        seen += fresh
        worst = max([worst, *(arrived / rate - ends)])
    assert seen > 10
    assert worst <= delay_s + 2 / 500
    assert delay_s < 0.06 + together * features.token_stride_samples / 16_000 * 2


def test_a_stream_shorter_than_a_token_is_padded_and_nothing_gives_nothing() -> None:
    front_end = FrontEnd(BASE)
    samples = np.full(100, 0.1, np.float32)
    assert np.array_equal(np.concatenate(list(run(front_end.stages(16_000), [samples]))), front_end.tokens_of(samples, 16_000))
    assert list(run(front_end.stages(16_000), [])) == []
