"""Windows put into N units by k-means: an even sample of a stream of any length, the centres of its clusters, and the nearest of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt
from sklearn.cluster import MiniBatchKMeans

from pydreaming.evaluation.pooling import Array

BATCH = 4096  # windows in one step of k-means
RESTARTS = 3  # of k-means, of which the best beginning is taken
LEAST_STD = 1e-6  # of a feature; one below is constant

Ids = npt.NDArray[np.int32]


class Reservoir:
    """An even sample of the rows of a stream, of at most `capacity` rows: each row seen has the same chance to be in it.

    The same rows in the same order give the same sample, in whatever chunks they come.

    Source: Vitter, "Random sampling with a reservoir" (1985), algorithm R.
    """

    def __init__(self, capacity: int, seed: int) -> None:
        self.seen = 0
        self._capacity = capacity
        self._random = np.random.default_rng(seed)
        self._held: list[Array] = []  # until it is full
        self._rows: Array | None = None

    def add(self, rows: Array) -> None:
        """Offer rows (n, D)."""
        places = self._places(len(rows))
        kept = places < self._capacity
        if self._rows is not None:
            self._rows[places[kept]] = rows[kept]  # of two rows for one place the later is taken, as one by one
            return
        split = min(len(rows), self._capacity - (self.seen - len(rows)))
        self._held.append(rows[:split].copy())
        if self.seen >= self._capacity:
            self._rows, self._held = np.concatenate(self._held), []
            later = np.flatnonzero(kept[split:]) + split
            self._rows[places[later]] = rows[later]

    def sample(self) -> Array:
        """The rows (n, D) in the sample. Raises ValueError when none was offered."""
        return self._rows if self._rows is not None else np.concatenate(self._held)

    def _places(self, count: int) -> npt.NDArray[np.int64]:
        """Where each of the next `count` rows goes; nowhere from `capacity` on."""
        numbers = np.arange(self.seen, self.seen + count)
        self.seen += count
        drawn = (self._random.random(count) * (numbers + 1)).astype(np.int64)
        return np.where(numbers < self._capacity, numbers, drawn)


@dataclass(frozen=True)
class Clusters:
    """Clusters of standardised features.

    Attributes:
      mean, std: (D,) float32 that features are standardised with; std is infinite where a feature was constant: it counts for nothing.
      centres: (N, D) float32, standardised; cluster 0 holds the most rows of those that they were fitted on.
    """

    mean: Array
    std: Array
    centres: Array

    def nearest(self, rows: Array) -> tuple[Ids, Array]:
        """The cluster of each row (n, D), and the squared distance to its centre: (n,) each."""
        scaled = (rows - self.mean) / self.std
        distance = np.square(self.centres).sum(1) - 2 * scaled @ self.centres.T
        ids = distance.argmin(1)
        squared = distance[np.arange(len(rows)), ids] + np.square(scaled).sum(1)
        return ids.astype(np.int32), cast(Array, np.maximum(squared, 0.0))


def fit_clusters(rows: Array, count: int, seed: int) -> Clusters:
    """k-means of standardised rows (n, D) float32 into `count` clusters. Raises ValueError for fewer rows than clusters.

    Source: Sculley, "Web-scale k-means clustering" (2010), as in scikit-learn.
    """
    if len(rows) < count:
        raise ValueError(f"{len(rows)} rows for {count} clusters")
    mean, std = rows.mean(0), rows.std(0)
    std = np.where(std < LEAST_STD, np.inf, std)  # or it would outweigh all others in a window in which it does vary
    scaled = ((rows - mean) / std).astype(np.float32)
    means = MiniBatchKMeans(count, batch_size=BATCH, n_init=RESTARTS, random_state=seed).fit(scaled)
    order = np.argsort(-np.bincount(means.labels_, minlength=count), kind="stable")
    return Clusters(mean.astype(np.float32), std.astype(np.float32), means.cluster_centers_[order].astype(np.float32))
