"""Areas under ROC curves against scikit-learn's, and what cannot be ranked."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from pydreaming.evaluation.ranking import auc, harmonic_mean, partial_auc


@pytest.mark.parametrize("decimals", [9, 0])  # without and with ties
def test_the_area_is_scikit_learns(decimals: int) -> None:
    rng = np.random.default_rng(0)
    normal, unusual = rng.standard_normal(40).round(decimals), (rng.standard_normal(23) + 0.5).round(decimals)
    expected = roc_auc_score(np.r_[np.zeros(40), np.ones(23)], np.r_[normal, unusual])
    assert auc(normal, unusual) == pytest.approx(expected)
    assert auc(unusual, normal) == pytest.approx(1 - expected)


def test_constant_scores_are_chance() -> None:
    assert auc([1.0] * 5, [1.0] * 3) == 0.5


def test_the_partial_area_counts_the_highest_normal_scores_alone() -> None:
    normal = np.arange(20.0)  # the highest two count at p = 0.1
    assert partial_auc(normal, [18.5]) == 0.5
    assert partial_auc(normal, [17.5, 30.0]) == 0.5
    assert partial_auc([1.0, 2.0], [1.5]) == 0.0  # at least one counts


def test_harmonic_mean() -> None:
    assert harmonic_mean([0.5, 1.0]) == pytest.approx(2 / 3)
    assert harmonic_mean([0.0, 1.0]) == 0.0
    assert harmonic_mean([]) == 0.0


@pytest.mark.parametrize(("normal", "unusual"), [([], [1.0]), ([1.0], []), ([np.nan], [1.0])])
def test_what_cannot_be_ranked_is_refused(normal: list[float], unusual: list[float]) -> None:
    with pytest.raises(ValueError, match="scores"):
        auc(normal, unusual)
