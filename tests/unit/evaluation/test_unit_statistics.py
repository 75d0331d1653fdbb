"""Figures of unit sequences whose values are known."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import normalized_mutual_info_score

from pydreaming.evaluation.unit_statistics import Runs, UnitNgrams, agreement, repeated, sequence_statistics


def runs(*units: int) -> Runs:
    return Runs.of(np.array(units, np.int32))


def test_runs() -> None:
    found = runs(7, 7, 7, 2, 7)
    assert found.units.tolist() == [7, 2, 7]
    assert found.windows.tolist() == [3, 1, 1]


def test_known_bitrates() -> None:
    # four units, each for two windows, all alike often
    found = sequence_statistics([runs(*np.repeat(np.tile(np.arange(4), 25), 2))] * 2, 4, 0.04, seed=0)
    assert found.used == 4
    assert found.perplexity == pytest.approx(4)
    assert found.bitrate == pytest.approx(2 / 0.04)
    assert found.bitrate_deduplicated == pytest.approx(2 / 0.08)
    assert found.run_s == pytest.approx(0.08)


def test_what_follows_for_certain_costs_nothing_and_chance_costs_all() -> None:
    random = np.random.default_rng(0)
    certain = [runs(*np.tile(np.arange(8), 40)) for _ in range(4)]
    zero, one, two = sequence_statistics(certain, 8, 0.04, 0).next_bits or (0, 0, 0)
    assert zero == pytest.approx(3, abs=0.02)
    assert max(one, two) < 0.15
    chance = [Runs(random.integers(0, 8, 800).astype(np.int32), np.ones(800, np.int32)) for _ in range(4)]
    zero, one, two = sequence_statistics(chance, 8, 0.04, 0).next_bits or (0, 0, 0)
    # a plug-in estimate of the trigram would be far below
    assert min(zero, one, two) > 2.98
    assert sequence_statistics(certain[:1], 8, 0.04, 0).next_bits is None


def test_units_that_are_never_met_again_cost_what_they_are() -> None:
    """Of a hundred units, half in one recording and half in the other: no code knows which comes next in less than what is even."""
    apart = [Runs(np.arange(start, start + 50, dtype=np.int32), np.ones(50, np.int32)) for start in (0, 50)]
    zero, one, two = sequence_statistics(apart, 100, 0.04, 0).next_bits or (0, 0, 0)
    assert min(zero, one, two) > np.log2(100)


def test_probabilities_of_the_back_off_sum_to_one() -> None:
    ngrams = UnitNgrams([[0, 1, 2, 0, 1], [1, 1, 2]], 7)
    for history in ([], [0], [0, 1], [2, 2]):
        before = ngrams.cost(history)
        after = [np.exp(-(ngrams.cost([*history, unit]) - before)) for unit in range(7)]  # 3 to 6 were never seen
        assert np.allclose(np.sum(after, 0), 1)


def test_agreement_is_that_of_scikit_learn_and_of_counting() -> None:
    random = np.random.default_rng(1)
    labels = [str(i % 3) for i in range(60)]
    units = [np.where(random.random(20) < 0.7, int(label), random.integers(0, 6, 20)) for label in labels]
    found = agreement([runs(*row) for row in units], labels, seed=0)
    assert found is not None
    flat, names = np.concatenate(units), np.repeat(labels, 20)
    assert found.nmi == pytest.approx(normalized_mutual_info_score(names, flat))
    assert found.nmi_shuffled < 0.1 * found.nmi
    assert found.purity == pytest.approx(sum(np.unique(names[flat == u], return_counts=True)[1].max() for u in range(6)) / 1200)
    assert found.purity_least == found.vote_least == pytest.approx(1 / 3)
    assert found.vote == 1.0


def test_a_vote_is_not_counted_on_the_recording_itself() -> None:
    # Every recording has a unit of its own: in hindsight each would be named rightly.
    found = agreement([runs(i) for i in range(20)], ["a", "b"] * 10, seed=0)
    assert found is not None
    assert found.purity == 1.0
    assert found.vote == 0.0


def test_labels_are_needed() -> None:
    assert agreement([runs(1), runs(2)], ["a", ""], 0) is None


def test_what_repeats() -> None:
    found = repeated([runs(1, 2, 3, 1, 2), runs(9, 1, 2)], 2, 5)
    assert [(r.units, r.count, r.recordings, r.first) for r in found] == [((1, 2), 3, 2, (0, 0))]
    assert repeated([runs(1, 2)], 3, 5) == []
