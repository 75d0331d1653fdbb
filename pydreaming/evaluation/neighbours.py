"""How far a vector lies from the nearest of the normal ones, however many kinds of normal there are."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pydreaming.evaluation.pooling import Array

FLOOR = 1e-6  # least deviation of a dimension: one that never varies among normal vectors must not turn rounding into distance
_ROWS = 1024  # scored at a time

Scores = npt.NDArray[np.float64]


class Neighbours:
    """Distance from the nearest normal vector: 1 - cosine, after each dimension was brought to mean 0 and deviation 1 over the normal ones.

    Args:
      normal: (N, D). Raises ValueError for none.
    """

    def __init__(self, normal: npt.NDArray[np.floating]) -> None:
        if not len(normal):
            raise ValueError("no normal vector to be near to")
        wide = normal.astype(np.float64)
        self._mean, self._scale = wide.mean(0), np.maximum(wide.std(0), FLOOR)
        self._known = self._unit(normal)

    def score(self, vectors: npt.NDArray[np.floating]) -> Scores:
        """(P, D) -> (P,), from 0 (the same direction) to 2."""
        blocks = [self._unit(vectors[i : i + _ROWS]) @ self._known.T for i in range(0, len(vectors), _ROWS)]
        nearest = np.concatenate([block.max(1) for block in blocks]) if blocks else np.empty(0)
        return np.maximum(1.0 - nearest.astype(np.float64), 0.0)

    def _unit(self, vectors: npt.NDArray[np.floating]) -> Array:
        z = (vectors - self._mean) / self._scale
        unit: Array = (z / np.maximum(np.linalg.norm(z, axis=1, keepdims=True), FLOOR)).astype(np.float32)
        return unit
