"""Rates of false alarms: what was asked for is what comes, and a clip never helps to judge itself."""

from __future__ import annotations

import numpy as np
import pytest

from pydreaming.evaluation.conformal import Ranks, Standard


def test_p_values_count_the_normal_clips_that_score_as_high() -> None:
    ranks = Ranks(np.array([3.0, 1.0, 2.0, 4.0]), np.arange(4))
    assert ranks.p_values([0.0, 2.0, 2.5, 9.0]).tolist() == [1.0, 0.8, 0.6, 0.2]
    assert ranks.least == 0.2


def test_pieces_share_the_weight_of_their_clip() -> None:
    ranks = Ranks(np.array([1.0, 1.0, 1.0, 5.0, 2.0]), np.array([0, 0, 0, 0, 1]))
    assert ranks.p_values([3.0, 1.5]).tolist() == pytest.approx([(1 + 0.25) / 3, (1 + 1.25) / 3])


def test_a_known_clip_is_compared_with_the_others() -> None:
    ranks = Ranks(np.array([3.0, 1.0, 2.0, 4.0]), np.arange(4))
    assert ranks.p_values([3.0], clip=0).tolist() == [0.5]  # itself, and 4.0
    assert ranks.p_values([4.0], clip=3).tolist() == [0.25]


@pytest.mark.parametrize("rate", [0.05, 0.1, 0.37, 0.9])
def test_threshold_and_p_values_agree(rate: float) -> None:
    random = np.random.default_rng(0)
    ranks = Ranks(random.normal(size=60).round(1), np.repeat(np.arange(30), 2))
    scores = np.arange(-3, 3, 0.05)
    assert np.array_equal(scores > ranks.threshold(rate), ranks.p_values(scores) <= rate + 1e-12)


def test_so_few_clips_give_no_rare_alarm() -> None:
    assert Ranks(np.arange(10.0), np.arange(10)).threshold(0.05) == float("inf")


def test_the_rate_is_right_for_new_clips() -> None:
    random = np.random.default_rng(1)
    found = [(Ranks(random.exponential(size=39), np.arange(39)).p_values(random.exponential(size=50)) <= 0.1).mean() for _ in range(400)]
    assert np.mean(found) == pytest.approx(0.1, abs=0.01)


def test_clips_are_standardised_by_the_others() -> None:
    values = np.array([1.0, 2.0, 4.0])
    standard = Standard(values, np.arange(3))
    assert standard.of([7 / 3]) == pytest.approx([0.0])
    for i in range(3):
        rest = np.delete(values, i)
        assert standard.leave_one_out()[i] == pytest.approx((values[i] - rest.mean()) / rest.std())
        assert standard.of([values[i]], clip=i) == pytest.approx(standard.leave_one_out()[[i]])


def test_one_clip_is_no_standard() -> None:
    with pytest.raises(ValueError, match="fewer than two"):
        Standard(np.ones(3), np.zeros(3, np.int64))
