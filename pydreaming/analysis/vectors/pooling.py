"""One vector from the windows of a recording that arrive chunk by chunk, without keeping them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from pydreaming.evaluation.pooling import third_bounds

Vectors = npt.NDArray[np.float32]

IN_THIRDS = ("thirds", "evaluation")  # of names.POOLINGS: those that must know beforehand how many windows there are


def pool(chunks: Iterable[Vectors], pooling: str, windows: int | None = None) -> tuple[Vectors, int]:
    """Chunks (t, D) to one vector, and the number of windows in it.

    Args:
      pooling: of `names.POOLINGS`; `evaluation` is that of one view here, the same as `thirds`.
      windows: how many there will be in all; without it `thirds` and `evaluation` hold the chunks until they are counted.
    """
    if pooling in IN_THIRDS and windows is None:
        chunks = list(chunks)
        windows = sum(map(len, chunks))
    whole, thirds = Moments(), [Moments() for _ in range(3)]
    for chunk in chunks:
        begin = whole.count
        whole.add(chunk)
        if pooling in IN_THIRDS:
            for third, (first, last) in zip(thirds, third_bounds(windows or 0), strict=True):
                third.add(chunk[max(first - begin, 0) : max(last - begin, 0)])
    if pooling in IN_THIRDS:
        parts = [*(third.mean for third in thirds), whole.std]
    else:
        parts = [whole.mean] if pooling == "mean" else [whole.mean, whole.std, whole.largest]
    return np.concatenate(parts).astype(np.float32), whole.count


@dataclass
class Moments:
    """Running mean, spread and maximum over rows, in float64 (Chan's update: no cancellation, whatever the mean)."""

    count: int = 0
    mean: npt.NDArray[Any] = field(default_factory=lambda: np.zeros(1))
    square: npt.NDArray[Any] = field(default_factory=lambda: np.zeros(1))  # sum of squared distances from the mean
    largest: npt.NDArray[Any] = field(default_factory=lambda: np.full(1, -np.inf))

    @property
    def std(self) -> npt.NDArray[Any]:
        """(D,) deviation, of the rows themselves (not of a larger population)."""
        deviation: npt.NDArray[Any] = np.sqrt(self.square / max(1, self.count))
        return deviation

    def add(self, rows: npt.NDArray[Any]) -> None:
        """More rows (n, D), or none."""
        if not len(rows):
            return
        wide = rows.astype(np.float64)
        n, mean = len(wide), wide.mean(0)
        shift, total = mean - self.mean, self.count + n
        self.square = self.square + np.square(wide - mean).sum(0) + shift * shift * (self.count * n / total)
        self.mean = self.mean + shift * (n / total)
        self.largest = np.maximum(self.largest, wide.max(0))
        self.count = total
