"""Typicality: two-sided, blind to length alone, and fitted on nothing but normal clips."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_models import TOKEN_DIM, tiny_config, tiny_model

from pydreaming.evaluation.ranking import auc
from pydreaming.evaluation.typicality import LEAST_CLIPS, SurpriseStatistics, Typicality, code_marginal, surprise_statistics
from pydreaming.objectives import make_objective


def statistics(values: np.ndarray, lengths: np.ndarray | None = None) -> SurpriseStatistics:
    lengths = np.full(len(values), 10) if lengths is None else lengths
    return SurpriseStatistics(values, lengths, values[:, 0])


def test_too_much_and_too_little_are_both_untypical() -> None:
    rng = np.random.default_rng(0)
    typicality = Typicality(statistics(rng.standard_normal((200, 4))))
    usual = typicality.score(statistics(rng.standard_normal((100, 4))))
    for shift in (-4.0, 4.0):
        assert auc(usual, typicality.score(statistics(rng.standard_normal((100, 4)) + shift))) > 0.99
    assert np.mean(usual**2) == pytest.approx(4, rel=0.2)  # a squared Mahalanobis distance of 4 dimensions


def test_an_odd_combination_of_usual_values_is_untypical() -> None:
    rng = np.random.default_rng(0)
    one = rng.standard_normal((300, 1))
    typicality = Typicality(statistics(np.concatenate([one, one + 0.1 * rng.standard_normal((300, 1))], 1)))
    agreeing, contrary = typicality.score(statistics(np.array([[1.0, 1.0], [1.0, -1.0]])))
    assert contrary > 5 * agreeing


def test_length_alone_is_not_unusual() -> None:
    rng = np.random.default_rng(0)
    lengths = rng.integers(5, 80, 300)
    values = np.log(lengths)[:, None] * np.array([1.0, -2.0]) + 0.1 * rng.standard_normal((300, 2))
    typicality = Typicality(statistics(values, lengths))
    longest, shortest = np.array([80, 80]), np.array([5, 5])
    for length in (longest, shortest):
        scores = typicality.score(statistics(np.log(length)[:, None] * np.array([1.0, -2.0]), length))
        assert scores.max() < 1


def test_lengths_beyond_those_of_normal_clips_are_not_extrapolated() -> None:
    rng = np.random.default_rng(0)
    lengths = rng.integers(20, 30, 300)
    typicality = Typicality(statistics(rng.standard_normal((300, 2)), lengths))
    assert typicality.score(statistics(np.zeros((2, 2)), np.array([1, 5000]))).max() < 2
    same = Typicality(statistics(rng.standard_normal((300, 2)), np.full(300, 25)))  # nothing to say of lengths at all
    assert same.score(statistics(np.zeros((2, 2)), np.array([1, 5000]))).max() < 2


def test_missing_statistics_count_as_typical() -> None:
    rng = np.random.default_rng(0)
    values = rng.standard_normal((100, 3))
    values[:5, 1] = np.nan
    values[:, 2] = np.nan  # no normal clip has it
    typicality = Typicality(statistics(values))
    whole, missing = typicality.score(statistics(np.array([[0.0, 0.0, np.nan], [0.0, np.nan, 7.0]])))
    assert missing == pytest.approx(whole, abs=0.5)


def test_constant_statistics_give_finite_scores() -> None:
    typicality = Typicality(statistics(np.ones((LEAST_CLIPS, 3))))
    assert np.isfinite(typicality.score(statistics(np.array([[1.0, 1.0, 1.0], [5.0, 1.0, 1.0]])))).all()


def test_too_few_clips_are_refused() -> None:
    with pytest.raises(ValueError, match="too few"):
        Typicality(statistics(np.ones((LEAST_CLIPS - 1, 3))))


@pytest.mark.parametrize(("name", "dynamics"), [("dreaming_v2", "belief"), ("dreaming_v2", "rssm"), ("barlow", "belief")])
def test_statistics_of_a_model_are_those_of_each_clip_alone(name: str, dynamics: str) -> None:
    model = tiny_model(dynamics).eval()
    objective = make_objective(tiny_config(objective__name=name, model__dynamics=dynamics).objective, model).eval()
    rng = np.random.default_rng(0)
    clips = [rng.standard_normal((n, TOKEN_DIM)).astype(np.float32) for n in (1, 2, 9, 30)]
    unigram = code_marginal(model, clips)
    torch.testing.assert_close(unigram.exp().sum(-1), torch.ones(3))
    together = surprise_statistics(model, objective, unigram, clips)
    for i, clip in enumerate(clips):
        alone = surprise_statistics(model, objective, unigram, [clip])
        np.testing.assert_allclose(together.values[i], alone.values[0], atol=1e-4)
        np.testing.assert_allclose(together.mean_kl[i], alone.mean_kl[0], rtol=1e-4)
    assert np.isfinite(together.values[2:]).all()
    assert np.isnan(together.values[0]).any()  # one window has no deviation


def test_a_marginal_needs_a_window() -> None:
    with pytest.raises(ValueError, match="window"):
        code_marginal(tiny_model(), [np.empty((0, TOKEN_DIM), np.float32)])


def test_rows() -> None:
    picked = statistics(np.arange(6.0).reshape(3, 2)).rows(np.array([2, 0]))
    assert picked.values.tolist() == [[4, 5], [0, 1]]
    assert picked.mean_kl.tolist() == [4, 0]
