"""Resampling with replacement, in memory that does not grow with the number of resamples.

Source: Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), section 13.3 (percentile intervals).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

RESAMPLES, AT_ONCE = 1000, 50
LEVEL = 0.95
TAILS = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)  # quantiles at the ends of an interval

Values = npt.NDArray[np.float64]


def draws(count: int, random: np.random.Generator) -> Iterator[Values]:
    """How often each of `count` units is drawn, (AT_ONCE, count) whole numbers at a time, RESAMPLES rows in all."""
    for _ in range(RESAMPLES // AT_ONCE):
        yield random.multinomial(count, np.full(count, 1 / count), AT_ONCE).astype(np.float64)


def resampled_sums(columns: npt.ArrayLike, random: np.random.Generator) -> Values:
    """Sums of the columns (U, K) of U units over each resample of them: (RESAMPLES, K)."""
    values = np.asarray(columns, dtype=np.float64)
    return np.concatenate([drawn @ values for drawn in draws(len(values), random)])
