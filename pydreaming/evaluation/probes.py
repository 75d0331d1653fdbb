"""Probes: how much of a label a simple classifier finds in frozen features.

Protocols, chosen by what is known of the clips:
- `leave-one-speaker-out`: trained on all speakers but one, tested on that one; mean over speakers. The world model may have heard the
  speaker's clips, without labels.
- `grouped folds`: five folds that never share a recording, where speakers are not known.
- `official split`: trained on the clips that were trained on, tested on the held-out ones, where the data set has a split.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler
from threadpoolctl import threadpool_limits

from pydreaming.evaluation.pooling import Array

Labels = npt.NDArray[np.str_]
Split = tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]

FOLDS = 5
MAX_SPEAKERS = 10  # folds of leave-one-speaker-out at most
LEAST_PER_CLASS = 2
REGULARISATION = 0.01  # C of the logistic regression; chosen on log-mel features of FSDD's official training split, not on a test split
NEIGHBOURS = 5


@dataclass(frozen=True)
class Protocol:
    """A named set of (train, test) index pairs for one label.

    Attributes:
      label: what is predicted. name: as in this module's text. splits: index arrays into the clips. targets: (N,) labels.
      chance: accuracy of always answering the commonest class.
    """

    label: str
    name: str
    splits: list[Split]
    targets: Labels
    chance: float

    @property
    def test_clips(self) -> int:
        """Clips that are tested on in some split."""
        return len({int(i) for _, test in self.splits for i in test})


@dataclass(frozen=True)
class ProbeResult:
    """Accuracies of one protocol: mean over splits and a 95 % interval over clips (normal approximation, +-)."""

    linear: float
    knn: float
    interval: float


def plan_protocols(labels: Labels, speakers: Labels, groups: Labels, held_out: npt.NDArray[np.bool_]) -> tuple[list[Protocol], list[str]]:
    """The protocols that these clips allow, and a sentence for each one left out.

    Args:
      labels, speakers, groups: (N,) strings, empty where unknown. held_out: (N,) clips that were not trained on.
    """
    protocols: list[Protocol] = []
    notes: list[str] = []
    for name, targets in (("label", labels), ("speaker", speakers)):
        usable = _usable(targets)
        classes = len(set(targets[usable].tolist()))
        if classes < 2:
            found = "no" if classes == 0 else "only one"
            notes.append(f"No {name} probe: {found} {name} is known with at least {LEAST_PER_CLASS} clips.")
            continue
        protocols += _protocols_for(name, targets, usable, speakers, groups, held_out)
    return protocols, notes


def run_probe(features: Array, protocol: Protocol) -> ProbeResult:
    """Linear and k-nearest-neighbour accuracy of features (N, D) under a protocol."""
    linear, knn, clips = [], [], 0
    # One thread each: the matrices are small, and waiting threads that spin beside a busy core made this a hundred times slower.
    with threadpool_limits(1):
        for train, test in protocol.splits:
            x, y, u, v = features[train], protocol.targets[train], features[test], protocol.targets[test]
            linear.append(_accuracy(_linear(), x, y, u, v))
            near = KNeighborsClassifier(n_neighbors=min(NEIGHBOURS, len(train)))
            knn.append(_accuracy(make_pipeline(StandardScaler(), Normalizer(), near), x, y, u, v))
            clips += len(test)
    mean = float(np.mean(linear))
    return ProbeResult(mean, float(np.mean(knn)), float(1.96 * np.sqrt(max(mean * (1 - mean), 1e-9) / max(clips, 1))))


def _protocols_for(
    name: str, targets: Labels, usable: npt.NDArray[np.bool_], speakers: Labels, groups: Labels, held_out: npt.NDArray[np.bool_]
) -> Iterator[Protocol]:
    rows = np.flatnonzero(usable)
    counts = Counter(targets[rows].tolist())
    chance = max(counts.values()) / len(rows)
    known = usable & (speakers != "")
    if name == "label" and len(set(speakers[known].tolist())) >= 2:
        splits = _leave_one_out(targets, speakers, np.flatnonzero(known))
        protocol = "leave-one-speaker-out"
    else:
        splits = _folds(targets, rows, None if name == "speaker" else groups)
        protocol = "grouped folds" if name == "label" else "folds"
    if splits:
        yield Protocol(name, protocol, splits, targets, chance)
    train, test = rows[~held_out[rows]], rows[held_out[rows]]
    if len(test) and set(targets[test].tolist()) <= set(targets[train].tolist()) and len(set(targets[train].tolist())) > 1:
        yield Protocol(name, "held-out clips", [(train, test)], targets, chance)


def _leave_one_out(targets: Labels, speakers: Labels, rows: npt.NDArray[np.intp]) -> list[Split]:
    """One split for each of the speakers with most clips; test clips of classes that training lacks are left out."""
    splits = []
    for speaker, _ in Counter(speakers[rows].tolist()).most_common(MAX_SPEAKERS):
        train, test = rows[speakers[rows] != speaker], rows[speakers[rows] == speaker]
        test = test[np.isin(targets[test], targets[train])]
        if len(test) and len(set(targets[train].tolist())) > 1:
            splits.append((train, test))
    return splits


def _folds(targets: Labels, rows: npt.NDArray[np.intp], groups: Labels | None) -> list[Split]:
    """Up to five stratified folds; clips of one group stay together where groups are given."""
    least = min(Counter(targets[rows].tolist()).values())
    folds = min(FOLDS, least, len(set(groups[rows].tolist())) if groups is not None else len(rows))
    if folds < 2:
        return []
    if groups is None:
        parts = StratifiedKFold(folds, shuffle=True, random_state=0).split(rows, targets[rows])
    else:
        parts = StratifiedGroupKFold(folds, shuffle=True, random_state=0).split(rows, targets[rows], groups[rows])
    pairs = [(rows[a], rows[b]) for a, b in parts]
    return [(a, b) for a, b in pairs if len(b) and len(set(targets[a].tolist())) > 1]


def _usable(targets: Labels) -> npt.NDArray[np.bool_]:
    counts = Counter(targets.tolist())
    return np.array([bool(t) and counts[t] >= LEAST_PER_CLASS for t in targets.tolist()], dtype=np.bool_)


def _linear() -> object:
    return make_pipeline(StandardScaler(), LogisticRegression(C=REGULARISATION, max_iter=300))


def _accuracy(classifier: object, x: Array, y: Labels, u: Array, v: Labels) -> float:
    with warnings.catch_warnings():
        # An unconverged probe is a slightly worse probe, for every row of the table alike.
        warnings.simplefilter("ignore", ConvergenceWarning)
        classifier.fit(x, y)  # type: ignore[attr-defined]
    return float(classifier.score(u, v))  # type: ignore[attr-defined]
