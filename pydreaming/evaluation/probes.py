"""Probes: how much of a label a simple classifier finds in frozen features.

Protocols, chosen by what is known of the clips:
- `leave-one-speaker-out`: trained on all speakers but one, tested on that one; mean over speakers. The world model may have heard the
  speaker's clips, without labels.
- `grouped folds`: five folds that never share a recording, where speakers are not known.
- `folds`: five folds over clips, for the speaker, who is the same in training and test by nature.
- `held-out clips`: trained on the clips that the model was trained on, tested on those it never heard (the official test split, where
  the data set has one).
"""

from __future__ import annotations

import warnings
from collections import Counter
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
REGULARISATION = 0.01  # C of the logistic regression: fixed beforehand, not chosen by a search; see docs/evaluation.md
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
    """Accuracies of one protocol: mean over splits, and half of the 95 % Agresti-Coull interval over clips (honest about few of them)."""

    linear: float
    knn: float
    interval: float


def plan_protocols(labels: Labels, speakers: Labels, groups: Labels, held_out: npt.NDArray[np.bool_]) -> tuple[list[Protocol], list[str]]:
    """The protocols that these clips allow, and a sentence for each one left out.

    Args:
      labels, speakers: (N,) strings, empty where unknown. groups: (N,) names of what must not be on both sides of a fold.
      held_out: (N,) clips that were not trained on.
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
        if alone := len(set(targets[targets != ""].tolist())) - classes:
            notes.append(f"{alone} {name}{'s' if alone > 1 else ''} with a single clip left out of the {name} probes.")
        for protocol in (_across(name, targets, usable, speakers, groups), _held_out(name, targets, usable, held_out)):
            if isinstance(protocol, Protocol):
                protocols.append(protocol)
            else:
                notes.append(protocol)
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
    careful = (mean * clips + 2) / (clips + 4)
    return ProbeResult(mean, float(np.mean(knn)), float(1.96 * np.sqrt(careful * (1 - careful) / (clips + 4))))


def _across(name: str, targets: Labels, usable: npt.NDArray[np.bool_], speakers: Labels, groups: Labels) -> Protocol | str:
    """The protocol that rotates over all clips, or why there is none."""
    rows = np.flatnonzero(usable)
    known = usable & (speakers != "")
    if name == "label" and len(set(speakers[known].tolist())) >= 2:
        protocol, splits = "leave-one-speaker-out", _leave_one_out(targets, speakers, np.flatnonzero(known))
    elif name == "label":
        protocol, splits = "grouped folds", _folds(targets, rows, groups)
    else:
        protocol, splits = "folds", _folds(targets, rows, None)
    if not splits:
        return f"No {name} probe by {protocol}: no split leaves two {name}s to train on and one of them to test."
    return Protocol(name, protocol, splits, targets, _chance(targets[rows]))


def _held_out(name: str, targets: Labels, usable: npt.NDArray[np.bool_], held_out: npt.NDArray[np.bool_]) -> Protocol | str:
    """The protocol that tests on held-out clips, or why there is none."""
    rows = np.flatnonzero(usable)
    train, test = rows[~held_out[rows]], rows[held_out[rows]]
    missing = sorted(set(targets[test].tolist()) - set(targets[train].tolist()))
    if not len(test):
        return f"No {name} probe on held-out clips: none of them has a known {name}."
    if missing:
        return f"No {name} probe on held-out clips: {name} '{missing[0]}' is not among the clips that were trained on."
    if len(set(targets[train].tolist())) < 2:
        return f"No {name} probe on held-out clips: the clips that were trained on have only one {name}."
    return Protocol(name, "held-out clips", [(train, test)], targets, _chance(targets[rows]))


def _chance(targets: Labels) -> float:
    return max(Counter(targets.tolist()).values()) / len(targets)


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
