"""An even sample of a stream, and clusters whose places are known."""

from __future__ import annotations

import numpy as np
import pytest

from pydreaming.evaluation.clustering import Reservoir, fit_clusters


def sample_of(rows: np.ndarray, size: int, capacity: int = 50) -> np.ndarray:
    reservoir = Reservoir(capacity, seed=3)
    for start in range(0, len(rows), size):
        reservoir.add(rows[start : start + size])
    return reservoir.sample()


def test_a_sample_does_not_depend_on_the_chunks_and_is_even() -> None:
    rows = np.arange(4000, dtype=np.float32)[:, None]
    first = sample_of(rows, 7)
    assert np.array_equal(first, sample_of(rows, 400))
    assert len(set(first[:, 0].tolist())) == 50
    assert np.mean(first) == pytest.approx(2000, abs=5 * 1155 / np.sqrt(50))  # five standard errors of an even sample
    assert first.min() < 800
    assert first.max() > 3200


def test_fewer_rows_than_it_holds_are_all_there() -> None:
    rows = np.arange(30, dtype=np.float32)[:, None]
    assert np.array_equal(sample_of(rows, 8), rows)


def test_clusters_are_found_and_numbered_by_size() -> None:
    random = np.random.default_rng(0)
    places = np.array([[0.0, 0.0], [100.0, 0.0], [0.0, 5.0]])
    truth = np.repeat([0, 1, 2], [50, 300, 150])
    rows = (places[truth] + random.normal(0, 0.1, (500, 2))).astype(np.float32)
    clusters = fit_clusters(rows, 3, seed=0)
    ids, distance = clusters.nearest(rows)
    assert np.array_equal(ids, np.array([2, 0, 1])[truth])
    centres = clusters.centres[ids] * clusters.std + clusters.mean
    assert np.allclose(centres, places[truth], atol=0.2)
    assert np.allclose(distance, np.square((rows - centres) / clusters.std).sum(1), atol=1e-3)


def test_more_clusters_than_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="2 rows for 3 clusters"):
        fit_clusters(np.zeros((2, 2), np.float32), 3, 0)


def test_a_feature_that_was_constant_counts_for_nothing() -> None:
    rows = np.zeros((40, 2), np.float32)
    rows[20:, 0] = 1.0
    clusters = fit_clusters(rows, 2, seed=0)
    strange = np.array([[0.0, 5.0], [1.0, 5.0]], np.float32)  # the second feature moves for the first time
    assert np.array_equal(clusters.nearest(strange)[0], clusters.nearest(rows[[0, -1]])[0])
    assert np.isfinite(clusters.nearest(strange)[1]).all()
