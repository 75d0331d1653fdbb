"""The classifiers of the probes: one code, with one way to choose its settings, for every row of every table.

- `linear`: logistic regression on standardised features, C chosen inside the training clips (`choose_c`).
- `linear` with few labels: on features centred and brought to one length, with C fixed, since one clip of a class leaves nothing to choose
  by. Both were picked on training clips of FSDD, see docs/evaluation.md.
- `knn` (five neighbours) and `nearest_mean` (of a class), both by cosine.

Features are scaled by statistics of clips whose labels are not asked for: the training clips; with few labels also those among them that
were drawn without a label.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
from sklearn.neighbors import KNeighborsClassifier

from pydreaming.evaluation.pooling import Array

Labels = npt.NDArray[np.str_]
Rows = npt.NDArray[np.intp]
Split = tuple[Rows, Rows]

GRID = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # C of the logistic regression: its best values for wide and narrow features lie inside
DEFAULT_C = 1e-2  # where nothing can be chosen by: too few training clips, or all of one group
FEW_SHOT_C = 1.0
CHOICE_CLIPS = 600  # of the training clips, seeded, that C is chosen on: the best C depends on the features more than on their number
CHOICE_FOLDS = 3
NEIGHBOURS = 5
LEAST_STD = 1e-6  # of a feature: one that is constant stays zero


def standardised(features: Array, rows: Rows) -> Array:
    """(N, D) features with mean 0 and deviation 1 over `rows`."""
    seen = features[rows]
    scaled: Array = ((features - seen.mean(0)) / np.maximum(seen.std(0), LEAST_STD)).astype(np.float32)
    return scaled


def centred_to_length(features: Array, rows: Rows) -> Array:
    """(N, D) features with mean 0 over `rows`, each then brought to length sqrt(D), that of a standardised vector."""
    centred = features - features[rows].mean(0)
    scaled: Array = (_unit(centred) * np.sqrt(features.shape[1])).astype(np.float32)
    return scaled


def centred_by(features: Array, names: Labels) -> Array:
    """(N, D) features with mean 0 over the clips of each name: what all of a speaker's clips share is taken out, no label is used."""
    result = features.copy()
    for name in set(names.tolist()):
        result[names == name] -= result[names == name].mean(0)
    return result


def linear(x: Array, y: Labels, u: Array, c: float) -> Labels:
    """Logistic regression of (x, y) at the points u: (N, D), (N,), (M, D) -> (M,)."""
    with warnings.catch_warnings():
        # An unconverged probe is a slightly worse probe, for every row of the table alike.
        warnings.simplefilter("ignore", ConvergenceWarning)
        predicted: Labels = LogisticRegression(C=c, max_iter=300).fit(x, y).predict(u)
    return predicted


def knn(x: Array, y: Labels, u: Array, neighbours: int = NEIGHBOURS) -> Labels:
    """The commonest label among the nearest neighbours by cosine."""
    classifier = KNeighborsClassifier(n_neighbors=min(neighbours, len(x))).fit(_unit(x), y)
    predicted: Labels = classifier.predict(_unit(u))
    return predicted


def nearest_mean(x: Array, y: Labels, u: Array) -> Labels:
    """The class whose mean points most nearly the same way (cosine)."""
    classes = np.unique(y)
    means = np.stack([x[y == name].mean(0) for name in classes])
    predicted: Labels = classes[(_unit(u) @ _unit(means).T).argmax(1)]
    return predicted


def choose_c(features: Array, targets: Labels, rows: Rows, groups: Labels | None) -> float:
    """C of the logistic regression by cross-validation inside the training clips `rows`; no other clip is looked at.

    At most CHOICE_CLIPS of them, seeded, in up to CHOICE_FOLDS folds that share no group where groups are given. The best mean accuracy
    wins, among equals the smallest C; DEFAULT_C where no fold can be made.

    Args:
      features: (N, D). targets, groups: (N,) strings.
    """
    scores = accuracies(features, targets, rows, groups, GRID)
    return GRID[int(scores.argmax())] if len(scores) else DEFAULT_C


def accuracies(features: Array, targets: Labels, rows: Rows, groups: Labels | None, grid: Sequence[float]) -> npt.NDArray[np.float64]:
    """Cross-validated accuracy of the logistic regression for each C, see `choose_c`: (len(grid),), or (0,) where no fold can be made."""
    sample = np.sort(np.random.default_rng(0).permutation(rows)[:CHOICE_CLIPS])
    seen, y = features[sample], targets[sample]
    scores = []
    for train, test in stratified_folds(y, np.arange(len(y)), None if groups is None else groups[sample], CHOICE_FOLDS):
        x = standardised(seen, train)
        scores.append([float(np.mean(linear(x[train], y[train], x[test], c) == y[test])) for c in grid])
    return np.mean(scores, 0) if scores else np.empty(0)


def stratified_folds(targets: Labels, rows: Rows, groups: Labels | None, most: int) -> Iterator[Split]:
    """Up to `most` stratified folds of `rows`; clips of one group stay together where groups are given.

    A fold that leaves a single class to train on, or nothing to test, is left out.
    """
    if not len(rows):
        return
    commonest = max(Counter(targets[rows].tolist()).values())
    folds = min(most, commonest, len(rows) if groups is None else len(set(groups[rows].tolist())))
    if folds < 2:
        return
    kind = StratifiedKFold if groups is None else StratifiedGroupKFold
    with warnings.catch_warnings():
        # A class with fewer clips than folds is missing in some of them, and nothing more.
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        parts = list(kind(folds, shuffle=True, random_state=0).split(rows, targets[rows], None if groups is None else groups[rows]))
    for train, test in parts:
        if len(test) and len(set(targets[rows[train]].tolist())) > 1:
            yield rows[train], rows[test]


def _unit(x: Array) -> Array:
    """Rows of length 1; a row of zeros stays."""
    length: Array = np.linalg.norm(x, axis=1, keepdims=True).astype(np.float32)
    length[length == 0] = 1
    return x / length
