"""What clips of a like scene (a voice, a microphone, a room) have in common, found without any label and taken out.

Who speaks moves all features of a clip: two speakers' sevens lie further apart than one speaker's seven and five. Taking out what the
clips of a group have in common leaves what happens in them. It is centring by speaker, the mean normalisation of speech recognition,
with groups in the place of speakers whom nobody names. How many there are nobody says either: the mean over 2 to MOST_GROUPS groups is
taken, which is better than most single numbers and has no number to choose. The groups are by level and spread of the bands alone, so that
they are the same for all kinds of features; those by a trained scene (`models.scene`) do no better (docs/experiments.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits

from pydreaming.evaluation.classifiers import Rows, standardised
from pydreaming.evaluation.pooling import Array, pool_clips

MOST_GROUPS = 12
CLIPS_A_GROUP = 30  # on average, at least: the mean of fewer is as much of what happens in them
RESTARTS = 10  # of k-means, of which the best beginning is taken


@dataclass(frozen=True)
class SceneGroups:
    """Groups of N clips, of which some are known: the others are put to them.

    Attributes:
      known: (M,) the clips that the groups were found among. group: for each number of groups (N,) the group of each clip.
    """

    known: Rows
    group: Sequence[Rows]

    def taken_out(self, features: Array) -> Array:
        """(N, D) features less the mean of the known clips of the clip's group, averaged over the numbers of groups."""
        common = np.zeros_like(features)
        for group in self.group:
            for number in np.unique(group):
                members = self.known[group[self.known] == number]
                common[group == number] += features[members].mean(0) / len(self.group)
        return np.asarray(features - common, np.float32)


def scene_groups(statistics: Array, known: Rows, seed: int = 0) -> SceneGroups | None:
    """Groups by k-means over the directions of the standardised statistics; None: the known clips are too few for two, or all alike.

    Args:
      statistics: (N, E) as by `clip_statistics`. known: (M,) the clips to find groups among; each of the others goes to the nearest.
    """
    x = statistics[:0] if not len(known) else _directions(standardised(statistics, known))
    most = min(MOST_GROUPS, len(known) // CLIPS_A_GROUP, len(np.unique(x[known], axis=0)) if len(known) else 0)
    if most < 2:
        return None
    with threadpool_limits(1):
        found = [KMeans(count, n_init=RESTARTS, random_state=seed).fit(x[known]) for count in range(2, most + 1)]
        return SceneGroups(known, [groups.predict(x).astype(np.intp) for groups in found])


def clip_statistics(tokens: Sequence[Array], n_mels: int) -> Array:
    """Level and spread of the bands of each clip of tokens (T_i, D): (N, 2 n_mels)."""
    return pool_clips([clip.reshape(-1, n_mels) for clip in tokens], "mean_std")


def _directions(x: Array) -> Array:
    lengths = np.linalg.norm(x, axis=1, keepdims=True)
    return np.asarray(x / np.maximum(lengths, np.finfo(np.float32).tiny), np.float32)
