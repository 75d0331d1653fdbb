"""From scores to false-alarm rates: how often would a normal clip score so high?

The scores of N normal clips that the scorer was not fitted on are the yardstick. The p-value of a new score is (1 + how many of them are at
least as high) / (N + 1): for exchangeable clips, P(p <= a) <= a whatever the scores are. Of pieces of clips, each clip counts as one, its
pieces sharing its weight: pieces of a clip are alike, and only clips are exchangeable.

What is an approximation: the yardstick comes from K scorers, each fitted without a fold (as in cross-conformal prediction), and a new clip
is scored by the mean over all K.

Source: Vovk, Gammerman and Shafer, "Algorithmic Learning in a Random World" (2005), section 4; Vovk, "Cross-conformal predictors" (2015);
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
        self._values, self._rows = values, rows

    def of(self, values: npt.ArrayLike) -> Scores:
        """Values of new clips, in deviations from the mean."""
        n = len(self._first)
        return _standardised(np.asarray(values, np.float64), self._first.sum() / n, self._second.sum() / n)

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
        self._above = np.append(np.cumsum(self._weights[::-1])[::-1], 0.0)  # weight of this score and of all above it

    @property
    def least(self) -> float:
        """The smallest p-value that there is."""
        return 1.0 / (self.clips + 1)

    def p_values(self, scores: npt.ArrayLike, clip: int | None = None) -> Scores:
        """(P,) of new scores; of a clip that is among the normal ones when `clip` says which: it is then compared with the others."""
        asked: Scores = np.asarray(scores, np.float64)
        higher: Scores = self._above[np.searchsorted(self._scores, asked, "left")]
        if clip is None:
            return np.clip((1.0 + higher) / (self.clips + 1), 0.0, 1.0)
        own = self._owners == clip
        mine = (self._scores[own] >= asked[..., None]) @ self._weights[own]
        among: Scores = np.clip((1.0 + higher - mine) / self.clips, 0.0, 1.0)
        return among

    def threshold(self, rate: float) -> float:
        """The score above which p-values are at most `rate`; infinity where so few clips can say so of no score."""
        allowed = rate * (self.clips + 1) - 1 + 1e-9
        if allowed < 0:
            return float("inf")
        refused = np.flatnonzero(self._above[:-1] > allowed)
        return float(self._scores[refused[-1]]) if len(refused) else float("-inf")
