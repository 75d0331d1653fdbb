"""What sequences of discrete units are worth: how many bits they cost, what repeats in them, and what they say about labels.

A recording is a sequence of *runs*: a unit, and for how many windows it lasts. Sequences of runs (deduplicated, as in arXiv 2102.01192) are
what n-grams are counted on; they never cross from one recording into the next. Entropies are in bits.

An entropy counted and judged on the same few runs is far too low where units are many. That of the next unit given those before it is
therefore a cross-entropy: counted on one half of the recordings, judged on the other, and the reverse. It is at least the true one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pydreaming.evaluation.clustering import Ids
from pydreaming.evaluation.codes import entropy

BEGIN = -1  # what stands before the first unit of a recording
Gram = tuple[int, ...]


@dataclass(frozen=True)
class Runs:
    """One recording's units without repetitions: units (R,), no two adjacent ones alike, and windows (R,) that each lasts."""

    units: Ids
    windows: Ids

    @staticmethod
    def of(ids: Ids) -> Runs:
        """Of the units (T,) of all windows, T >= 1."""
        begins = np.flatnonzero(np.diff(ids, prepend=BEGIN))
        return Runs(ids[begins].astype(np.int32), np.diff(begins, append=len(ids)).astype(np.int32))


@dataclass(frozen=True)
class SequenceStatistics:
    """Figures of the units of a corpus.

    Attributes:
      used: units that occur. perplexity: of the units of windows; with N units at most N.
      bitrate: bits/s, every window sent. bitrate_deduplicated: bits/s, each run sent once; how long it lasts is not counted.
      run_s: mean length of a run in seconds.
      next_bits: bits of the next run's unit given 0, 1 and 2 runs before it; None with fewer than two recordings.
    """

    used: int
    perplexity: float
    bitrate: float
    bitrate_deduplicated: float
    run_s: float
    next_bits: tuple[float, float, float] | None


@dataclass(frozen=True)
class Agreement:
    """How units of windows agree with labels of recordings.

    Attributes:
      nmi: normalised mutual information of a window's unit and its recording's label, 2 I / (H(unit) + H(label)); 0 to 1.
      nmi_shuffled: the same with labels dealt to other recordings: what many units share with labels by accident.
      purity: share of windows whose label is the commonest of their unit. purity_least: share of the commonest label.
      vote: share of recordings named rightly when each window votes for the commonest label of its unit, counted on the other half of the
        recordings. vote_least: share of recordings with the commonest label.
      classes, recordings: how many labels and labelled recordings there are.
    """

    nmi: float
    nmi_shuffled: float
    purity: float
    purity_least: float
    vote: float
    vote_least: float
    classes: int
    recordings: int


@dataclass(frozen=True)
class Repeated:
    """A sequence of units that occurs `count` times, in `recordings` recordings; `first`: recording, and run in it, of the first time."""

    units: Gram
    count: int
    recordings: int
    first: tuple[int, int]


def sequence_statistics(sequences: Sequence[Runs], inventory: int, token_s: float, seed: int) -> SequenceStatistics:
    """Figures of the recordings' sequences. Raises ValueError without a sequence.

    Args:
      inventory: units that there are, used or not. token_s: seconds from one window to the next.
    """
    units, windows = (np.concatenate([getattr(runs, name) for runs in sequences]) for name in ("units", "windows"))
    heard = np.bincount(units, windows)
    window_bits, run_bits = entropy(heard), entropy(np.bincount(units))
    seconds = float(windows.sum()) * token_s
    return SequenceStatistics(
        used=int(np.count_nonzero(heard)),
        perplexity=2.0**window_bits,
        bitrate=window_bits / token_s,
        bitrate_deduplicated=len(units) * run_bits / seconds,
        run_s=seconds / len(units),
        next_bits=_next_bits(sequences, inventory, seed) if len(sequences) > 1 else None,
    )


def agreement(sequences: Sequence[Runs], labels: Sequence[str], seed: int) -> Agreement | None:
    """Agreement over the recordings that have a label ('' where there is none); None with fewer than two labels."""
    kept = [i for i, label in enumerate(labels) if label]
    classes, ids = np.unique([labels[i] for i in kept], return_inverse=True)
    if len(classes) < 2:
        return None
    random = np.random.default_rng(seed)
    size = 1 + max(int(sequences[i].units.max()) for i in kept)
    # (R, 3) rows of a recording, a unit and its windows in it
    rows = [np.stack([np.full(len(sequences[i].units), n), sequences[i].units, sequences[i].windows], 1) for n, i in enumerate(kept)]
    recording, unit, windows = np.concatenate(rows).T
    table = _table(unit, ids[recording], windows, (size, len(classes)))
    total = table.sum()
    return Agreement(
        nmi=_nmi(table),
        nmi_shuffled=_nmi(_table(unit, random.permutation(ids)[recording], windows, table.shape)),
        purity=float(table.max(1).sum() / total),
        purity_least=float(table.sum(0).max() / total),
        vote=_vote(recording, unit, windows, ids, random.permutation(len(kept)) % 2, table.shape),
        vote_least=float(np.bincount(ids).max() / len(ids)),
        classes=len(classes),
        recordings=len(kept),
    )


def repeated(sequences: Sequence[Runs], length: int, most: int) -> list[Repeated]:
    """The commonest sequences of `length` runs, at most `most`, of those that occur more than once."""
    counts: Counter[Gram] = Counter()
    recordings: Counter[Gram] = Counter()
    first: dict[Gram, tuple[int, int]] = {}
    for number, runs in enumerate(sequences):
        grams = list(_grams(runs.units.tolist(), length))
        counts.update(grams)
        recordings.update(set(grams))
        for place, gram in enumerate(grams):
            first.setdefault(gram, (number, place))
    return [Repeated(gram, count, recordings[gram], first[gram]) for gram, count in counts.most_common(most) if count > 1]


def _grams(units: list[int], length: int) -> Iterator[Gram]:
    return zip(*(units[start:] for start in range(length)), strict=False)


def _table(rows: npt.NDArray[np.int64], columns: npt.NDArray[np.int64], weights: Ids, shape: tuple[int, ...]) -> npt.NDArray[np.float64]:
    """Sums of weights by row and column: (rows, columns)."""
    sums = np.zeros(shape)
    np.add.at(sums, (rows, columns), weights)
    return sums


def _nmi(table: npt.NDArray[np.float64]) -> float:
    a, b = entropy(table.sum(1)), entropy(table.sum(0))
    return 2 * max(0.0, a + b - entropy(table.ravel())) / (a + b)


def _vote(
    recording: npt.NDArray[np.int64],
    unit: npt.NDArray[np.int64],
    windows: Ids,
    ids: npt.NDArray[np.int64],
    half: npt.NDArray[np.int64],
    shape: tuple[int, ...],
) -> float:
    """Share of recordings that their windows' vote names rightly; see `Agreement`. A unit not counted in the other half does not vote."""
    votes = np.zeros((len(ids), shape[1]))
    for judged in (0, 1):
        here: npt.NDArray[np.bool_] = np.asarray(half[recording] == judged)
        other = ~here
        counted = _table(unit[other], ids[recording[other]], windows[other], shape)
        known = np.asarray(counted.any(1))
        voting = here & known[unit]
        np.add.at(votes, (recording[voting], counted.argmax(1)[unit[voting]]), windows[voting])
    return float(np.mean(votes.any(1) & (votes.argmax(1) == ids)))


def _next_bits(sequences: Sequence[Runs], inventory: int, seed: int) -> tuple[float, float, float]:
    """Cross-entropy of the next unit after 0, 1 and 2 others; bits."""
    half = np.random.default_rng(seed).permutation(len(sequences)) % 2
    nats, count = np.zeros(3), 0
    for judged in (0, 1):
        ngrams = UnitNgrams([runs.units.tolist() for i, runs in enumerate(sequences) if half[i] != judged], inventory)
        for i in np.flatnonzero(half == judged).tolist():
            units = sequences[i].units.tolist()
            nats += ngrams.cost(units)
            count += len(units)
    zero, one, two = (nats / np.log(2) / count).tolist()
    return zero, one, two


class UnitNgrams:
    """Counts of units after 0, 1 and 2 units of history, backed off to the shorter history.

    The form of back-off is that of `ngram` (Witten and Bell 1991, method C, interpolated); below the unigram lies an even distribution
    over an inventory of `size` units.
    """

    def __init__(self, sequences: Sequence[Sequence[int]], size: int) -> None:
        self._seen: Counter[Gram] = Counter()  # (history, unit)
        self._total: Counter[Gram] = Counter()  # history
        self._kinds: Counter[Gram] = Counter()  # different units after a history
        for units in sequences:
            for gram in _histories(units):
                self._seen[gram] += 1
                self._total[gram[:-1]] += 1
        self._kinds.update(gram[:-1] for gram in self._seen)
        self._even = 1 / size

    def cost(self, units: Sequence[int]) -> npt.NDArray[np.float64]:
        """(3,) nats of a sequence, foreseen from 0, 1 and 2 units before each."""
        nats = np.zeros(3)
        probability = self._even
        for gram in _histories(units):
            probability = self._even if len(gram) == 1 else probability  # the shorter history's, which came just before
            history = gram[:-1]
            if total := self._total[history]:
                kinds = self._kinds[history]
                probability = (self._seen[gram] + kinds * probability) / (total + kinds)
            nats[len(history)] -= np.log(probability)
        return nats


def _histories(units: Sequence[int]) -> Iterator[Gram]:
    """Each unit after 0, 1 and 2 others, the shortest history first."""
    padded = (BEGIN, BEGIN, *units)
    for end in range(3, len(padded) + 1):
        for length in (1, 2, 3):
            yield padded[end - length : end]
