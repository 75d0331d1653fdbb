"""What clips of a like scene (a voice, a microphone, a room) have in common, found without any label and taken out.

Who speaks moves all features of a clip: two speakers' sevens lie further apart than one speaker's seven and five. Taking out what the
clips of a group have in common leaves what happens in them. It is centring by speaker, the mean normalisation of speech recognition,
with groups in the place of speakers whom nobody names. How many there are nobody says either: the mean over 2 to MOST_GROUPS groups is
taken, which is better than most single numbers and has no number to choose (docs/experiments.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits

from pydreaming.evaluation.pooling import Array

MOST_GROUPS = 12
CLIPS_A_GROUP = 30  # on average, at least: the mean of fewer is as much of what happens in them
RESTARTS = 10  # of k-means, of which the best beginning is taken


@dataclass(frozen=True)
class SceneGroups:
    """Centres of groups of scenes, (K, E) for each number K of groups; found by `find_groups`."""

    centres: Sequence[Array]

    def taken_out(self, content: Array, scenes: Array, known: npt.NDArray[np.intp]) -> Array:
        """Features without what the clips of a group have in common, on average over the numbers of groups.

        Args:
          content: (N, D) and scenes: (N, E) of the same clips. known: those whose means are taken out of all.
        """
        common = np.zeros_like(content)
        for centres in self.centres:
            group = (_directions(scenes) @ centres.T - (centres**2).sum(1) / 2).argmax(1)
            for number in np.unique(group):
                members = known[group[known] == number]
                common[group == number] += content[members if len(members) else known].mean(0) / len(self.centres)
        return np.asarray(content - common, np.float32)


def find_groups(scenes: Array, seed: int = 0) -> SceneGroups | None:
    """k-means over the directions of the scenes (N, E); None where there are too few clips for two groups, or all are alike."""
    x = _directions(scenes)
    most = min(MOST_GROUPS, len(x) // CLIPS_A_GROUP, len(np.unique(x, axis=0)))
    if most < 2:
        return None
    with threadpool_limits(1):
        found = [KMeans(count, n_init=RESTARTS, random_state=seed).fit(x) for count in range(2, most + 1)]
    return SceneGroups([groups.cluster_centers_.astype(np.float32) for groups in found])


def _directions(scenes: Array) -> Array:
    lengths = np.linalg.norm(scenes, axis=1, keepdims=True)
    return np.asarray(scenes / np.maximum(lengths, np.finfo(np.float32).tiny), np.float32)
