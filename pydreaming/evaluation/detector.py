"""A detector of unusual sounds that was shown normal ones only.

A clip is heard in pieces of about a second. Each piece has two distances from the normal pieces: the typicality of its surprise (see
`typicality`; where the objective trains latents), and the distance of its vector from the nearest normal one (see `neighbours`). A clip's
distance is the mean over its pieces. Logarithms of distances are standardised over normal clips, and their mean is the score.

Normal clips are dealt into FOLDS folds, and there is a scorer without each fold. What is normal is learnt from the scores of clips by the
scorer that never saw them (see `conformal`). A new clip is dealt into a fold as well, by its key, and scored in the same way. A clip
that the detector was fitted on is known by its key when it is met again, and scored without its fold: no score is low for having been seen.

    condition     clips of one machine or operating state: with LEAST_IN_CONDITION normal clips it has scorers and a standard of its own, so
                  that a loud machine is not unusual for being loud. Others are compared with all clips ("pooled").

p-values are over all conditions together: a few clips for each machine say little of rare events in any one of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from pydreaming.evaluation.conformal import Ranks, Standard
from pydreaming.evaluation.neighbours import Neighbours
from pydreaming.evaluation.typicality import LEAST_CLIPS, SurpriseStatistics, Typicality

FOLDS = 5
LEAST_NORMAL = 10  # clips below which nothing is fitted
LEAST_IN_CONDITION = 8  # normal clips of a condition below which it is compared with all of them
MAX_FITTED = 2000  # pieces that scorers are fitted on
POOLED = ""  # name of the condition of those that have none of their own
LEAST_DISTANCE = 1e-6  # before the logarithm

Scores = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Pieces:
    """P pieces.

    Attributes:
      statistics: (P, F) of their surprise (see `SurpriseStatistics`), nan where too short; F = 0 without latents.
      lengths: (P,) int64 windows. vectors: (P, D) float16.
    """

    statistics: Scores
    lengths: Indices
    vectors: npt.NDArray[np.float16]

    def __len__(self) -> int:
        return len(self.lengths)

    def rows(self, index: npt.NDArray[np.intp]) -> Pieces:
        """The pieces at `index`."""
        return Pieces(self.statistics[index], self.lengths[index], self.vectors[index])

    @staticmethod
    def join(parts: list[Pieces]) -> Pieces:
        """Pieces of successive parts as one."""
        return Pieces(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("statistics", "lengths", "vectors")))


@dataclass(frozen=True)
class Score:
    """Scores of a clip of P pieces, in deviations from what is normal (higher is more unusual), and p-values.

    Attributes:
      score, p_value: of the clip. parts: the standardised distances by name that the score is the mean of.
      piece_score, piece_p_value: (P,).
      condition: that it was compared with; POOLED for all. fitted: whether the detector was fitted on it.
    """

    score: float
    p_value: float
    parts: dict[str, float]
    piece_score: Scores
    piece_p_value: Scores
    condition: str
    fitted: bool


class Scorer:
    """Distances from normal pieces: columns surprise (where there are statistics) and embedding. Raises ValueError for too few pieces."""

    def __init__(self, normal: Pieces) -> None:
        has_surprise = normal.statistics.shape[1] > 0
        self._typicality = Typicality(_statistics(normal)) if has_surprise else None
        self._neighbours = Neighbours(normal.vectors)

    def distances(self, pieces: Pieces) -> Scores:
        """(P, 2), or (P, 1) without surprise."""
        near = self._neighbours.score(pieces.vectors)
        columns = [near] if self._typicality is None else [self._typicality.score(_statistics(pieces)), near]
        return np.stack(columns, 1)


def _statistics(pieces: Pieces) -> SurpriseStatistics:
    return SurpriseStatistics(pieces.statistics, pieces.lengths, np.zeros(len(pieces)))


@dataclass(frozen=True)
class Normal:
    """What a detector is made of, and all that its file holds.

    Attributes:
      fitted: the pieces that scorers are fitted on, with fitted_clip (P,) the number of their clip.
      fold: (N,) fold of each clip. condition: N names. keys: (N,) int64, equal for equal clips.
      yardstick: (Q, 2, C) distances of pieces of all clips from the scorers of their own condition and of all, without their fold, with
        yardstick_clip (Q,).
    """

    fitted: Pieces
    fitted_clip: Indices
    fold: Indices
    condition: list[str]
    keys: Indices
    yardstick: Scores
    yardstick_clip: Indices

    @cached_property
    def conditions(self) -> list[str]:
        """Those with scorers of their own, in order."""
        names, counts = np.unique(np.array(self.condition, dtype=np.str_), return_counts=True)
        return [str(name) for name, count in zip(names, counts, strict=True) if count >= LEAST_IN_CONDITION and name != POOLED]


def gather(clips: list[Pieces], condition: list[str], fold: Indices, keys: Indices, seed: int = 0) -> Normal:
    """Fit on the pieces of N normal clips.

    Args:
      condition: N names, POOLED where unknown. fold: (N,), each of 0 .. FOLDS - 1 at least once; what must not be on both sides of a
        split, e.g. clips of one recording, has one fold. keys: (N,).
    Raises:
      ValueError: fewer than LEAST_NORMAL clips, or too few pieces for scorers; the message says what is needed.
    """
    if len(clips) < LEAST_NORMAL:
        raise ValueError(f"{len(clips)} normal clips are too few (at least {LEAST_NORMAL})")
    owner = np.repeat(np.arange(len(clips)), [len(clip) for clip in clips])
    pieces = Pieces.join(clips)
    normal = Normal(pieces, owner, fold, condition, keys, np.empty((0, 2, 0)), np.empty(0, np.int64))
    if len(pieces) > MAX_FITTED:
        kept = np.sort(np.random.default_rng(seed).choice(len(pieces), MAX_FITTED, replace=False))
        normal = Normal(pieces.rows(kept), owner[kept], fold, condition, keys, normal.yardstick, normal.yardstick_clip)
    scorers = fit_scorers(normal)
    columns = 1 + (pieces.statistics.shape[1] > 0)
    yardstick = np.empty((len(pieces), 2, columns))
    for k in range(FOLDS):
        for name in np.unique(np.array(condition, dtype=np.str_)):
            rows = np.flatnonzero((fold[owner] == k) & (np.array(condition, dtype=np.str_)[owner] == name))
            if len(rows):
                pooled = scorers[POOLED][k].distances(pieces.rows(rows))
                own = scorers[str(name)][k].distances(pieces.rows(rows)) if str(name) in scorers else pooled
                yardstick[rows] = np.stack([own, pooled], 1)
    return Normal(normal.fitted, normal.fitted_clip, fold, condition, keys, yardstick, owner)


def fit_scorers(normal: Normal) -> dict[str, list[Scorer]]:
    """Scorers by condition, one without each fold; of conditions that have too few pieces left, none. Raises ValueError: of all."""
    names = np.array(normal.condition, dtype=np.str_)[normal.fitted_clip]
    folds = normal.fold[normal.fitted_clip]
    scorers: dict[str, list[Scorer]] = {}
    for condition in (POOLED, *normal.conditions):
        among = np.ones(len(names), np.bool_) if condition == POOLED else names == condition
        rows = [np.flatnonzero(among & (folds != k)) for k in range(FOLDS)]
        least = min(map(len, rows))
        if least >= LEAST_CLIPS:
            scorers[condition] = [Scorer(normal.fitted.rows(part)) for part in rows]
        elif condition == POOLED:
            raise ValueError(f"{least} pieces of normal clips outside a fold are too few to say what is typical (at least {LEAST_CLIPS})")
    return scorers


class Detector:
    """Scores clips by what normal ones are like; see the head of this file.

    Attributes:
      normal: what it was made of. conditions: those with scorers of their own. clip_ranks, piece_ranks: yardsticks of the two levels.
    """

    def __init__(self, normal: Normal) -> None:
        self.normal = normal
        self._scorers = fit_scorers(normal)
        self.conditions = [name for name in self._scorers if name != POOLED]
        names = np.array(normal.condition, dtype=np.str_)
        N = len(names)
        clip_distance = _clip_means(normal.yardstick, normal.yardstick_clip, N)
        clips, owner = np.arange(N), normal.yardstick_clip
        self._clip_standard, clip_scores = self._standards(np.log(clip_distance), clips, names)
        self._piece_standard, piece_scores = self._standards(_log(normal.yardstick), owner, names)
        self.clip_ranks, self.piece_ranks = Ranks(clip_scores, clips), Ranks(piece_scores, owner)

    @property
    def parts(self) -> list[str]:
        """Names of the distances."""
        return ["surprise", "embedding"] if self.normal.yardstick.shape[2] == 2 else ["embedding"]

    @property
    def clips(self) -> int:
        """Normal clips it was fitted on."""
        return len(self.normal.fold)

    def find(self, key: int) -> int | None:
        """The number of the clip with this key among those it was fitted on."""
        found = np.flatnonzero(self.normal.keys == key)
        return int(found[0]) if len(found) else None

    def distances(self, pieces: Pieces, condition: str, key: int) -> Scores:
        """(P, C) distances of pieces of one clip from normal ones."""
        known = self.find(key)
        fold = key % FOLDS if known is None else int(self.normal.fold[known])
        return self._scorers.get(condition, self._scorers[POOLED])[fold].distances(pieces)

    def score(self, distances: Scores, condition: str, key: int) -> Score:
        """Of all pieces of a clip, from their `distances` (P, C)."""
        group, known = condition if condition in self._scorers else POOLED, self.find(key)
        of_clip = np.log(np.maximum(distances.mean(0, keepdims=True), LEAST_DISTANCE))
        parts = _standardise(of_clip, self._clip_standard[group], known)[0]
        pieces = _standardise(_log(distances), self._piece_standard[group], known).mean(-1)
        score = float(parts.mean())
        p_value = float(self.clip_ranks.p_values([score], known)[0])
        named = dict(zip(self.parts, map(float, parts), strict=True))
        return Score(score, p_value, named, pieces, self.piece_ranks.p_values(pieces, known), group, known is not None)

    def _standards(self, log_distance: Scores, clips: Indices, names: npt.NDArray[np.str_]) -> tuple[dict[str, list[Standard]], Scores]:
        """Standards of each condition and column, and the scores of the normal clips: (M, 2, C) of own and pooled -> (M,)."""
        columns = log_distance.shape[2]
        result: dict[str, list[Standard]] = {}
        scores = np.empty((len(log_distance), columns))
        own_names = names[clips]
        for name in (POOLED, *self.conditions):
            own = np.isin(own_names, self.conditions, invert=True) if name == POOLED else own_names == name
            used, view = (np.ones(len(own), np.bool_), 1) if name == POOLED else (own, 0)
            result[name] = [Standard(log_distance[used, view, c], clips[used]) for c in range(columns)]
            for c, standard in enumerate(result[name]):
                scores[own, c] = standard.leave_one_out()[own[used]]
        return result, scores.mean(1)


def _clip_means(values: Scores, clips: Indices, count: int) -> Scores:
    """Mean over the pieces of each clip: (Q, ...) -> (count, ...), at least LEAST_DISTANCE."""
    sums = np.zeros((count, *values.shape[1:]))
    np.add.at(sums, clips, values)
    return np.maximum(sums / np.bincount(clips, minlength=count).reshape(-1, *[1] * (values.ndim - 1)), LEAST_DISTANCE)


def _log(distances: Scores) -> Scores:
    logs: Scores = np.log(np.maximum(distances, LEAST_DISTANCE))
    return logs


def _standardise(values: Scores, standards: list[Standard], clip: int | None) -> Scores:
    """(..., C), a standard for each column."""
    return np.stack([standard.of(values[..., c], clip) for c, standard in enumerate(standards)], -1)
