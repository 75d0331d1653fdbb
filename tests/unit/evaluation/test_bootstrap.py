"""Resampling against what is known of means."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from pydreaming.evaluation.bootstrap import RESAMPLES, TAILS, draws, resampled_sums


def test_each_resample_draws_as_many_units_as_there_are() -> None:
    rows = np.concatenate(list(draws(7, np.random.default_rng(0))))
    assert rows.shape == (RESAMPLES, 7)
    assert (rows.sum(1) == 7).all()
    assert rows.mean(0) == pytest.approx(np.ones(7), abs=0.15)


def test_sums_are_those_of_the_units_drawn() -> None:
    columns = np.random.default_rng(1).standard_normal((9, 3))
    drawn = np.concatenate(list(draws(9, np.random.default_rng(0))))
    np.testing.assert_allclose(resampled_sums(columns, np.random.default_rng(0)), drawn @ columns)


def test_intervals_of_means_cover_as_often_as_they_say() -> None:
    random, covered = np.random.default_rng(0), 0
    for _ in range(200):
        values = random.exponential(1.0, 60)
        low, high = np.quantile(resampled_sums(values[:, None], random)[:, 0] / 60, TAILS)
        covered += low <= 1.0 <= high
    assert covered >= 0.88 * 200


def test_memory_is_that_of_a_few_resamples() -> None:
    values = np.ones((50_000, 2))
    tracemalloc.start()
    resampled_sums(values, np.random.default_rng(0))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100e6  # 1000 resamples at once are 400 MB, and as much again as floats
