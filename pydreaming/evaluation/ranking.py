"""How well a score ranks what is unusual above what is normal."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Scores = npt.NDArray[np.float64]


def auc(normal: npt.ArrayLike, unusual: npt.ArrayLike) -> float:
    """Probability that an unusual score lies above a normal one, ties counting a half (the area under the ROC curve).

    Raises ValueError when a side is empty or a score is no number.
    """
    low, high = _checked(normal), _checked(unusual)
    low.sort()
    return float((np.searchsorted(low, high, "left") + np.searchsorted(low, high, "right")).mean() / (2 * len(low)))


def partial_auc(normal: npt.ArrayLike, unusual: npt.ArrayLike, p: float = 0.1) -> float:
    """The area under the ROC curve over false-positive rates from 0 to p, divided by p: 1 is perfect, p / 2 is chance.

    This is the form of DCASE's task 2 (the normal clips of highest score, at least one of them, against all unusual ones), not McClish's,
    in which 0.5 is chance.
    """
    low, high = _checked(normal), _checked(unusual)
    kept = max(1, int(np.floor(p * len(low))))
    return auc(np.sort(low)[-kept:], high)


def harmonic_mean(values: Sequence[float]) -> float:
    """Harmonic mean of positive values; 0 where one of them is 0."""
    return float(len(values) / sum(1 / v for v in values)) if values and min(values) > 0 else 0.0


def _checked(scores: npt.ArrayLike) -> Scores:
    array = np.array(scores, dtype=np.float64)
    if not len(array) or not np.isfinite(array).all():
        raise ValueError(
            f"{len(array)} scores, of which {int(np.isfinite(array).sum())} are finite: at least one, and all of them, must be"
        )
    return array
