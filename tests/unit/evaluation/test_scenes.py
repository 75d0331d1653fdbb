"""What scenes have in common is taken out, whoever they are of and however many there are."""

from __future__ import annotations

import numpy as np
import pytest

from pydreaming.evaluation.pooling import Array
from pydreaming.evaluation.scenes import CLIPS_A_GROUP, MOST_GROUPS, clip_statistics, scene_groups

BANDS = 12


def places(count: int, clips: int, seed: int = 0) -> tuple[list[Array], np.ndarray]:
    """Clips of 5 tokens of 3 frames at `count` places, and where each was recorded: bands have a level of their own at each."""
    rng = np.random.default_rng(seed)
    levels = 2 * rng.standard_normal((count, 1, BANDS))
    where = np.tile(np.arange(count), clips)
    return [(levels[place] + rng.standard_normal((15, BANDS))).astype(np.float32).reshape(5, -1) for place in where], where


def test_statistics_are_level_and_spread_of_bands() -> None:
    clips, _ = places(1, 2)
    frames = clips[1].reshape(-1, BANDS)
    np.testing.assert_allclose(clip_statistics(clips, BANDS)[1], np.concatenate([frames.mean(0), frames.std(0)]), atol=1e-5)


@pytest.mark.parametrize("count", [2, 4, 7])
def test_where_is_taken_out_and_what_stays(count: int) -> None:
    """Features of two things that happen, moved by where; of clips, too, that the groups were not found among."""
    clips, where = places(count, 60)
    rng = np.random.default_rng(1)
    what = rng.integers(0, 2, len(where))
    happens = np.outer(2.0 * what, np.ones(5)) + 0.3 * rng.standard_normal((len(where), 5))
    content = (happens + 6 * rng.standard_normal((count, 5))[where]).astype(np.float32)
    before = content.copy()
    known = np.flatnonzero(np.arange(len(where)) < len(where) * 2 // 3)
    groups = scene_groups(clip_statistics(clips, BANDS), known)
    assert groups is not None
    left = groups.taken_out(content)
    new = np.setdiff1d(np.arange(len(where)), known)

    def apart(x: Array, by: np.ndarray) -> float:
        """How far the means of the new clips of each kind lie from each other."""
        return float(np.stack([x[new][by[new] == kind].mean(0) for kind in np.unique(by)]).std(0).mean())

    assert apart(left, where) < 0.5 * apart(content, where)  # seven are not wholly told apart by two to six groups
    assert apart(left, what) == pytest.approx(1.0, abs=0.2)
    np.testing.assert_allclose(left[known].mean(0), 0, atol=1e-4)
    np.testing.assert_array_equal(content, before)


def test_clips_that_are_not_known_change_nothing() -> None:
    """Groups are found among the known ones, scaled by them, and what is taken out is their means."""
    clips, _ = places(3, 60)
    statistics, known = clip_statistics(clips, BANDS), np.arange(0, 180, 2)
    content = np.random.default_rng(2).standard_normal((180, 4)).astype(np.float32)
    others = np.setdiff1d(np.arange(180), known)
    changed_statistics, changed = statistics.copy(), content.copy()
    changed_statistics[others], changed[others] = 100.0, -7.0
    one, two = scene_groups(statistics, known), scene_groups(changed_statistics, known)
    assert one is not None
    assert two is not None
    assert len(one.group) == min(MOST_GROUPS, len(known) // CLIPS_A_GROUP) - 1
    np.testing.assert_array_equal(one.taken_out(content)[known], two.taken_out(changed)[known])


def test_few_clips_have_no_groups() -> None:
    statistics = clip_statistics(places(2, CLIPS_A_GROUP)[0], BANDS)
    assert scene_groups(statistics, np.arange(2 * CLIPS_A_GROUP)) is not None
    assert scene_groups(statistics, np.arange(2 * CLIPS_A_GROUP - 1)) is None
    assert scene_groups(statistics, np.arange(0)) is None


def test_clips_that_are_all_alike_have_none() -> None:
    """Silence only."""
    assert scene_groups(np.ones((200, 8), np.float32), np.arange(200)) is None
