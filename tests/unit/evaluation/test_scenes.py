"""What scenes have in common is taken out, whoever they are of and however many there are."""

from __future__ import annotations

import numpy as np
import pytest

from pydreaming.evaluation.pooling import Array
from pydreaming.evaluation.scenes import CLIPS_A_GROUP, MOST_GROUPS, find_groups

WIDTH = 24


def places(count: int, clips: int, seed: int = 0) -> tuple[Array, np.ndarray]:
    """Scenes of clips at `count` places, (count * clips, WIDTH), and where each was recorded."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((count, WIDTH))
    where = np.tile(np.arange(count), clips)
    loudness = rng.uniform(0.5, 2.0, (len(where), 1))  # lengths say nothing
    return (loudness * (centres[where] + 0.3 * rng.standard_normal((len(where), WIDTH)))).astype(np.float32), where


@pytest.mark.parametrize("count", [2, 4, 7])
def test_where_is_taken_out_and_what_stays(count: int) -> None:
    """Features of two things that happen, moved by where; of clips, too, that the groups were not found on."""
    scenes, where = places(count, 60)
    rng = np.random.default_rng(1)
    what = rng.integers(0, 2, len(where))
    happens = np.outer(2.0 * what, np.ones(5)) + 0.3 * rng.standard_normal((len(where), 5))
    content = (happens + 6 * rng.standard_normal((count, 5))[where]).astype(np.float32)
    before = content.copy()
    known = np.flatnonzero(np.arange(len(where)) < len(where) * 2 // 3)
    groups = find_groups(scenes[known])
    assert groups is not None
    left = groups.taken_out(content, scenes, known)
    new = np.setdiff1d(np.arange(len(where)), known)

    def apart(x: Array, by: np.ndarray) -> float:
        """How far the means of the new clips of each kind lie from each other."""
        return float(np.stack([x[new][by[new] == kind].mean(0) for kind in np.unique(by)]).std(0).mean())

    assert apart(left, where) < 0.4 * apart(content, where)
    assert apart(left, what) == pytest.approx(1.0, abs=0.2)
    np.testing.assert_allclose(left[known].mean(0), 0, atol=1e-4)
    np.testing.assert_array_equal(content, before)


def test_the_same_clips_give_the_same_groups() -> None:
    scenes, _ = places(3, 60)
    first, second = find_groups(scenes), find_groups(scenes)
    assert first is not None
    assert second is not None
    assert [len(centres) for centres in first.centres] == list(range(2, min(MOST_GROUPS, 180 // CLIPS_A_GROUP) + 1))
    assert all(np.array_equal(a, b) for a, b in zip(first.centres, second.centres, strict=True))


def test_few_clips_have_no_groups() -> None:
    scenes, _ = places(2, CLIPS_A_GROUP)
    assert find_groups(scenes) is not None
    assert find_groups(scenes[1:]) is None


def test_clips_that_are_all_alike_have_none() -> None:
    """Silence only: directions of no length, and every clip the same."""
    assert find_groups(np.zeros((200, WIDTH), np.float32)) is None
