"""One vector for a clip: the thirds, their overlap, and what they keep of the order in time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pydreaming.evaluation.pooling import mean_and_std, pool_clips, thirds_and_std

D = 3


def steps(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, D)).astype(np.float32)


@pytest.mark.parametrize(
    ("count", "bounds"),
    [
        (1, [(0, 1), (0, 1), (0, 1)]),
        (2, [(0, 1), (0, 2), (1, 2)]),
        (3, [(0, 1), (1, 2), (2, 3)]),
        (4, [(0, 2), (1, 3), (2, 4)]),
        (6, [(0, 2), (2, 4), (4, 6)]),
    ],
)
def test_thirds_overlap_only_where_the_length_is_no_multiple_of_three(count: int, bounds: list[tuple[int, int]]) -> None:
    x = steps(count)
    expected = np.concatenate([*(x[a:b].mean(0) for a, b in bounds), x.std(0)])
    np.testing.assert_allclose(thirds_and_std(x), expected, atol=1e-6)


@given(st.integers(1, 50), st.integers(0, 100))
def test_a_clip_played_backwards_swaps_the_outer_thirds(count: int, seed: int) -> None:
    x = steps(count, seed)
    forth, back = thirds_and_std(x).reshape(4, D), thirds_and_std(x[::-1]).reshape(4, D)
    assert forth.dtype == np.float32
    np.testing.assert_allclose(back, forth[[2, 1, 0, 3]], atol=1e-5)
    if count > 1:
        assert not np.allclose(forth[0], forth[2])  # so that a word and its reverse differ


def test_order_within_a_third_is_forgotten_and_order_between_thirds_is_kept() -> None:
    x = steps(9)
    within, between = x[[2, 1, 0, *range(3, 9)]], x[[3, 1, 2, 0, *range(4, 9)]]
    np.testing.assert_allclose(thirds_and_std(within), thirds_and_std(x), atol=1e-6)
    assert not np.allclose(thirds_and_std(between), thirds_and_std(x))


def test_clips_are_pooled_one_by_one() -> None:
    clips = [steps(5, 1), steps(1, 2), steps(8, 3)]
    pooled = pool_clips(clips)
    assert pooled.shape == (3, 4 * D)
    assert np.array_equal(pooled[1], thirds_and_std(clips[1]))


def test_other_poolings_are_moments_over_all_steps() -> None:
    clips = [steps(5), steps(1)]
    np.testing.assert_allclose(pool_clips(clips, "mean")[0], clips[0].mean(0), atol=1e-6)
    np.testing.assert_allclose(pool_clips(clips, "mean_std")[0], mean_and_std(clips[0]), atol=1e-6)
    assert not pool_clips(clips, "mean_std")[1, D:].any()
