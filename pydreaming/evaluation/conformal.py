"""From scores to false-alarm rates: how often would a normal clip score so high?

The scores of N normal clips that the scorer was not fitted on are the yardstick. The p-value of a new score is (1 + how many of them are at
least as high) / (N + 1): for exchangeable clips, P(p <= a) <= a whatever the scores are. Of pieces of clips, each clip counts as one, its
pieces sharing its weight: pieces of a clip are alike, and only clips are exchangeable.

Where the scorers of K folds were each fitted without the clips of theirs, a new clip has to be dealt into a fold as well and scored by
that fold's scorer alone. A mean over all scorers, or over comparisons with each, varies less than the scores that it is compared with, and
then fewer alarms come than were asked for (on synthetic clips .15 where .20 was asked).

Source: Vovk, Gammerman and Shafer, "Algorithmic Learning in a Random World" (2005), section 4;
for pieces, Dunn, Wasserman and Ramdas, "Distribution-free prediction sets for two-layer hierarchical models" (2022).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

LEAST_DEVIATION = 1e-6

Scores = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]


class Standard:
    """Mean and deviation of values over clips, each clip counting as one.

    A clip's own values are standardised by those of the others (`leave_one_out`), as a new clip's are by those of all: else the few clips
    of a condition would look more alike than they are.

    Args:
      values: (M,). clips: (M,) the clip of each. Raises ValueError for fewer than two clips.
    """

    def __init__(self, values: Scores, clips: Indices) -> None:
        known, rows = np.unique(clips, return_inverse=True)
        if len(known) < 2:
            raise ValueError("a mean over fewer than two clips says nothing of another one")
        counts = np.bincount(rows)
        self._first = np.bincount(rows, values) / counts
        self._second = np.bincount(rows, values**2) / counts
        self._values, self._rows, self._clips = values, rows, known

    def of(self, values: npt.ArrayLike, clip: int | None = None) -> Scores:
        """Values of a new clip, in deviations from the mean; `clip` says which it is when it is one of those."""
        others = self._clips != clip if clip is not None else np.ones(len(self._clips), np.bool_)
        return _standardised(np.asarray(values, np.float64), self._first[others].mean(), self._second[others].mean())

    def leave_one_out(self) -> Scores:
        """(M,) the values it was made of, each by the other clips."""
        others = len(self._first) - 1
        first, second = (moment.sum() - moment[self._rows] for moment in (self._first, self._second))
        return _standardised(self._values, first / others, second / others)


def _standardised(values: Scores, mean: Scores | float, square: Scores | float) -> Scores:
    deviation = np.sqrt(np.maximum(square - np.square(mean), 0.0))
    result: Scores = (values - mean) / np.maximum(deviation, LEAST_DEVIATION)
    return result


class Ranks:
    """p-values among the scores of normal clips.

    Args:
      scores: (M,). clips: (M,) the clip of each; a clip's scores share the weight of one clip.
    Attributes:
      clips: N.
    """

    def __init__(self, scores: Scores, clips: Indices) -> None:
        known, rows, counts = np.unique(clips, return_inverse=True, return_counts=True)
        self.clips = len(known)
        order = np.argsort(scores)
        self._scores, self._owners = scores[order], clips[order]
        self._weights = 1.0 / counts[rows][order]
        self._from = np.append(np.cumsum(self._weights[::-1])[::-1], 0.0)  # weight of this score and of all above it

    @property
    def least(self) -> float:
        """The smallest p-value that there is."""
        return 1.0 / (self.clips + 1)

    def p_values(self, scores: npt.ArrayLike, clip: int | None = None) -> Scores:
        """(P,) of scores of a new clip, or of one that is among the normal ones, which `clip` says: it is compared with the others."""
        asked = np.asarray(scores, np.float64)
        higher, others = self._from[np.searchsorted(self._scores, asked, "left")], self.clips
        if clip is not None:
            own = self._owners == clip
            higher, others = higher - (self._scores[own] >= asked[:, None]) @ self._weights[own], others - 1
        found: Scores = np.clip((1.0 + higher) / (others + 1), 0.0, 1.0)
        return found

    def threshold(self, rate: float) -> float:
        """The score above which p-values are at most `rate`; infinity where there are too few clips for that."""
        allowed = rate * (self.clips + 1) - 1 + 1e-9
        if allowed < 0:
            return float("inf")
        refused = np.flatnonzero(self._from[:-1] > allowed)
        return float(self._scores[refused[-1]]) if len(refused) else float("-inf")
