"""Probes: how much of a label a simple classifier finds in frozen features. Which protocols there are is in `protocols`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from sklearn.ensemble import RandomForestClassifier
from threadpoolctl import threadpool_limits

from pydreaming.evaluation.classifiers import (
    FEW_SHOT_C,
    NEIGHBOURS,
    centred_by,
    centred_to_length,
    choose_c,
    knn,
    linear,
    nearest_mean,
    standardised,
)
from pydreaming.evaluation.clips import Clips
from pydreaming.evaluation.pooling import Array
from pydreaming.evaluation.protocols import Protocol, strict_protocol
from pydreaming.evaluation.views import Views, choose_few, choose_many

TREES = 500


@dataclass(frozen=True)
class ProbeResult:
    """Accuracies of one protocol, means over its splits.

    Attributes:
      linear, knn, nearest_mean: by classifier; `linear` is the figure.
      interval: half of the 95 % interval of `linear`. Over clips (Agresti-Coull, honest about few of them); where labels are few, over
        draws, which is what the figure then hangs on.
      c: of the logistic regression in each split.
    """

    linear: float
    knn: float
    nearest_mean: float
    interval: float
    c: list[float]


@dataclass(frozen=True)
class ProbeRow:
    """One row of the probe table: accuracies of one kind of features under one protocol, see `ProbeResult`.

    A row without features, such as a network trained on the labels, has its one accuracy as `linear`.
    """

    label: str
    protocol: str
    features: str
    linear: float
    knn: float | None
    interval: float
    chance: float
    clips: int
    nearest_mean: float | None = None
    c: list[float] = field(default_factory=list)


def run_probe(features: Array | Views, protocol: Protocol, c: Sequence[float] = ()) -> ProbeResult:
    """Accuracies of features (N, D) under a protocol.

    Args:
      features: of `Views` one is chosen inside the training clips of each split (where C is given, the content).
      c: of the logistic regression in each split, as an earlier result has it; empty: chosen inside the training clips of each split.
    """
    views = _views(features, protocol)
    # More neighbours than clips of a class would be outvoted by other classes.
    neighbours = min(NEIGHBOURS, protocol.shots or NEIGHBOURS)
    targets, found, used = protocol.targets, [], []
    # One thread each: the matrices are small, and waiting threads that spin beside a busy core made this a hundred times slower.
    with threadpool_limits(1):
        for number, (train, test) in enumerate(protocol.splits):
            if protocol.shots:
                x, chosen = choose_few(views, targets, train), FEW_SHOT_C
            else:
                view = views[0] if c else choose_many(views, targets, train, protocol.groups)
                x, chosen = standardised(view, train), c[number] if c else choose_c(view, targets, train, protocol.groups)
            known = x[train], targets[train], x[test]
            guesses = linear(*known, chosen), knn(*known, neighbours), nearest_mean(*known)
            found.append([float(np.mean(guess == targets[test])) for guess in guesses])
            used.append(chosen)
    best, near, centroid = np.mean(found, 0).tolist()
    return ProbeResult(best, near, centroid, _interval(protocol, [row[0] for row in found]), used)


def _views(features: Array | Views, protocol: Protocol) -> list[Array]:
    """What there is to choose from, ready for the protocol's splits but for standardising."""
    if isinstance(features, Views):
        told = features if protocol.centres is None else features.centred_by(protocol.centres)
        return told.to_length(protocol.unlabelled) if protocol.shots else told.as_they_are()
    own = features if protocol.centres is None else centred_by(features, protocol.centres)
    return [centred_to_length(own, protocol.unlabelled) if protocol.shots else own]


def run_forest(features: Array, protocol: Protocol, seed: int = 0) -> ProbeRow:
    """A random forest on features (N, D) in place of the logistic regression: what hand-made statistics give at their best (ESC-10)."""
    accuracies = []
    for train, test in protocol.splits:
        forest = RandomForestClassifier(TREES, random_state=seed).fit(features[train], protocol.targets[train])
        accuracies.append(float(forest.score(features[test], protocol.targets[test])))
    return accuracy_row("log-mel statistics, random forest", protocol, accuracies)


def probe_rows(
    protocols: Sequence[Protocol],
    features: Mapping[str, Array | Views],
    jobs: int = 1,
    known: Sequence[ProbeRow] = (),
    c: Mapping[tuple[str, str], Sequence[float]] | None = None,
) -> list[ProbeRow]:
    """A row for each protocol and kind of features, but for those in `known`.

    Args:
      features: (N, D) by name. jobs: threads at work at once.
      c: by label and name of a protocol, C in each of its splits; chosen for each row where there is none.
    """
    there = {(row.label, row.protocol, row.features) for row in known}
    pairs = [(p, name) for p in protocols for name in features if (p.label, p.name, name) not in there]

    def row(pair: tuple[Protocol, str]) -> ProbeRow:
        p, name = pair
        r = run_probe(features[name], p, (c or {}).get((p.label, p.name), ()))
        return ProbeRow(p.label, p.name, name, r.linear, r.knn, r.interval, p.chance, p.test_clips, r.nearest_mean, r.c)

    # Once around all rows too: the limit is the process's, and whichever row ended first would take it from those at work.
    with threadpool_limits(1), ThreadPoolExecutor(jobs) as pool:
        return list(pool.map(row, pairs))


def accuracy_row(name: str, protocol: Protocol, accuracies: Sequence[float]) -> ProbeRow:
    """The row of a classifier of its own, tested by the same protocol: `accuracies` by split."""
    value, interval = float(np.mean(accuracies)), _interval(protocol, accuracies)
    return ProbeRow(protocol.label, protocol.name, name, value, None, interval, protocol.chance, protocol.test_clips)


def loso_strict(features: Array, clips: Clips, speaker: str) -> ProbeResult | str:
    """Accuracy on the clips of a speaker whom the model, and the statistics of its input, never heard; or why there is none.

    Args:
      features: (N, D) of all clips, by a model that was trained without `speaker`.
    """
    protocol = strict_protocol(clips, speaker)
    return protocol if isinstance(protocol, str) else run_probe(features, protocol)


def _interval(protocol: Protocol, accuracies: Sequence[float]) -> float:
    if protocol.shots:
        return float(1.96 * np.std(accuracies, ddof=1) / np.sqrt(len(accuracies)))
    clips = sum(len(test) for _, test in protocol.splits)
    careful = (float(np.mean(accuracies)) * clips + 2) / (clips + 4)
    return float(1.96 * np.sqrt(careful * (1 - careful) / (clips + 4)))
