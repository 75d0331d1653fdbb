"""Detectors: false alarms come as often as asked, conditions are compared with their own kind, and no clip judges itself."""

from __future__ import annotations

import numpy as np
import pytest

from pydreaming.evaluation.detector import FOLDS, POOLED, Detector, Normal, Pieces, Score, gather
from pydreaming.evaluation.neighbours import Neighbours

D, F = 12, 4


def clip(random: np.random.Generator, pieces: int = 3, shift: float = 0.0, surprise: bool = True) -> Pieces:
    """A clip has something of its own, which its pieces share."""
    own = random.normal(size=(1, D))
    vectors = own + 0.5 * random.normal(size=(pieces, D)) + shift
    statistics = 0.7 * random.normal(size=(1, F)) + random.normal(size=(pieces, F)) + shift
    return Pieces(statistics if surprise else np.empty((pieces, 0)), np.full(pieces, 25), vectors.astype(np.float16))


def normal_of(clips: list[Pieces], condition: list[str] | None = None) -> Normal:
    N = len(clips)
    return gather(clips, condition or [POOLED] * N, np.arange(N) % FOLDS, np.arange(N) + 100)


def score_of(detector: Detector, pieces: Pieces, condition: str = POOLED, key: int = 1) -> Score:
    return detector.score(detector.distances(pieces, condition, key), condition, key)


def p_value(detector: Detector, pieces: Pieces, condition: str = POOLED) -> float:
    return score_of(detector, pieces, condition).p_value


@pytest.mark.parametrize("surprise", [True, False])
def test_false_alarms_are_as_many_as_asked_for(surprise: bool) -> None:
    random = np.random.default_rng(0)
    rates = []
    for _ in range(12):
        detector = Detector(normal_of([clip(random, surprise=surprise) for _ in range(40)]))
        rates.append(np.mean([p_value(detector, clip(random, surprise=surprise)) <= 0.2 for _ in range(40)]))
    assert np.mean(rates) == pytest.approx(0.2, abs=0.05)
    assert detector.parts == (["surprise", "embedding"] if surprise else ["embedding"])


def test_rare_conditions_and_their_own_standards_keep_the_rate() -> None:
    """Eight clips of one machine, of which five are always seen by a scorer: without leave-one-out, new ones would be alarms too often."""
    random = np.random.default_rng(3)
    rates = []
    for _ in range(12):
        clips = [clip(random, 6) for _ in range(32)] + [clip(random, 6, shift=30.0) for _ in range(8)]
        detector = Detector(normal_of(clips, ["many"] * 32 + ["few"] * 8))
        assert detector.conditions == ["few", "many"]
        rates.append(np.mean([p_value(detector, clip(random, 6, shift=30.0), "few") <= 0.2 for _ in range(20)]))
    assert np.mean(rates) == pytest.approx(0.2, abs=0.1)


def test_what_is_strange_is_found_whatever_the_side() -> None:
    random = np.random.default_rng(1)
    detector = Detector(normal_of([clip(random) for _ in range(40)]))
    assert p_value(detector, clip(random, shift=6.0)) == pytest.approx(1 / 41)
    assert p_value(detector, clip(random, shift=-6.0)) == pytest.approx(1 / 41)
    score = score_of(detector, clip(random, shift=6.0))
    assert (score.piece_p_value < 0.05).all()
    assert score.score == pytest.approx(np.mean(list(score.parts.values())))


def test_a_clip_is_compared_with_its_own_kind() -> None:
    random = np.random.default_rng(2)
    clips = [clip(random) for _ in range(20)] + [clip(random, shift=30.0) for _ in range(20)]
    by_kind = Detector(normal_of(clips, ["low"] * 20 + ["high"] * 20))
    together = Detector(normal_of(clips))
    high = [clip(random, shift=30.0) for _ in range(12)]
    assert np.mean([p_value(by_kind, one, "high") for one in high]) > 0.25
    assert np.mean([p_value(together, one) for one in high]) > 0.25
    assert max(p_value(by_kind, one, "low") for one in high) < 0.05
    assert score_of(by_kind, high[0], "never heard of").condition == POOLED


def test_a_clip_that_was_fitted_on_is_judged_without_its_fold() -> None:
    random = np.random.default_rng(4)
    clips = [clip(random) for _ in range(20)]
    detector = Detector(normal_of(clips))
    assert (detector.find(107), detector.find(5)) == (7, None)
    known = detector.distances(clips[7], POOLED, 107)
    assert known == pytest.approx(detector.normal.yardstick[detector.normal.yardstick_clip == 7][:, 0])
    assert (detector.distances(clips[7], POOLED, 5)[:, 1] < 1e-4).all()  # under another key another scorer, which has seen it
    scores = [score_of(detector, c, key=100 + i) for i, c in enumerate(clips)]
    assert all(score.fitted for score in scores)
    # The ranks of all 20 clips: each counts as one of them.
    assert sorted(score.p_value for score in scores) == pytest.approx(np.arange(1, 21) / 20)


def test_too_few_clips_or_pieces() -> None:
    random = np.random.default_rng(5)
    with pytest.raises(ValueError, match="3 normal clips are too few"):
        normal_of([clip(random) for _ in range(3)])
    with pytest.raises(ValueError, match="too few to say what is typical"):
        normal_of([clip(random, 1) for _ in range(12)])


def test_nearest_neighbours_do_not_mind_many_kinds_of_normal() -> None:
    random = np.random.default_rng(0)
    kinds = np.concatenate([20 * np.eye(6)[i] + random.normal(size=(30, 6)) for i in range(3)])
    near = Neighbours(kinds)
    assert near.score(kinds[:5]) == pytest.approx(np.zeros(5), abs=1e-6)
    between, inside = 20 * np.ones((1, 6)) / 3, 20 * np.eye(6)[:1]
    assert near.score(between)[0] > 3 * near.score(inside)[0]
    assert near.score(np.empty((0, 6))).shape == (0,)
