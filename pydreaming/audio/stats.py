"""Mean and deviation of each mel band over a corpus."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Annotated, Any

import msgspec
import numpy as np
import numpy.typing as npt

MIN_STD = 0.1  # nats; a band that hardly varies (silence, a band-limited corpus) must not turn rounding into signal


class FeatureStats(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Statistics of the natural log-mel, per band; `std` is at least MIN_STD."""

    mean: list[float]
    std: list[float]
    frames: int


# Far beyond a year of audio, and far below where float64 sums of sums would overflow.
Sum = Annotated[float, msgspec.Meta(ge=-1e18, le=1e18)]


class StatsSums(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Sums over frames, for messages: number of frames, sum and sum of squares per band (float64)."""

    count: Annotated[int, msgspec.Meta(ge=0, le=10**15)]
    total: list[Sum]
    square: list[Sum]


class StatsAccumulator:
    """Sums of log-mel frames in float64.

    Merging in another order changes the result by float64 rounding only (relative 1e-15 per merge); merge in a fixed order (by lease) where
    bits matter.
    """

    def __init__(self, n_mels: int) -> None:
        self._count = 0
        self._total = np.zeros(n_mels, dtype=np.float64)
        self._square = np.zeros(n_mels, dtype=np.float64)

    def add(self, frames: npt.NDArray[Any]) -> None:
        """Add log-mel frames (F, n_mels), not normalised. Raises ValueError on another shape or values that are not finite."""
        if frames.ndim != 2 or frames.shape[1] != len(self._total):
            raise ValueError(f"frames must be (F, {len(self._total)}), got {frames.shape}")
        wide = frames.astype(np.float64)
        self._merge(len(wide), wide.sum(axis=0), np.square(wide).sum(axis=0))

    def merge(self, sums: StatsSums) -> None:
        """Add another accumulator's sums. Raises ValueError when they cannot be sums of frames of this width."""
        _check_width(sums, len(self._total))
        self._merge(sums.count, np.asarray(sums.total, dtype=np.float64), np.asarray(sums.square, dtype=np.float64))

    def sums(self) -> StatsSums:
        """What was added so far, to send or store."""
        return StatsSums(self._count, self._total.tolist(), self._square.tolist())

    def finish(self) -> FeatureStats:
        """Mean and deviation. Raises ValueError when no frame was added."""
        if not self._count:
            raise ValueError("no frames were added: every recording is shorter than one window, or none could be read")
        mean = self._total / self._count
        variance = np.maximum(self._square / self._count - np.square(mean), 0.0)
        return FeatureStats(mean.tolist(), np.maximum(np.sqrt(variance), MIN_STD).tolist(), self._count)

    def _merge(self, count: int, total: npt.NDArray[np.float64], square: npt.NDArray[np.float64]) -> None:
        if not (np.isfinite(total).all() and np.isfinite(square).all()):
            raise ValueError("frames must be finite numbers")
        self._count += count
        self._total += total
        self._square += square


def merge_stats(parts: Iterable[StatsSums], n_mels: int) -> FeatureStats:
    """Statistics of all parts, exactly rounded per band, so that the order of the parts does not matter at all. Raises ValueError."""
    every = list(parts)
    accumulator = StatsAccumulator(n_mels)
    for part in every:
        _check_width(part, n_mels)
    accumulator.merge(
        StatsSums(
            sum(part.count for part in every),
            [math.fsum(part.total[band] for part in every) for band in range(n_mels)],
            [math.fsum(part.square[band] for part in every) for band in range(n_mels)],
        )
    )
    return accumulator.finish()


def _check_width(sums: StatsSums, n_mels: int) -> None:
    if sums.count < 0 or len(sums.total) != n_mels or len(sums.square) != n_mels:
        raise ValueError(f"sums must be of >= 0 frames of {n_mels} bands, got {sums.count} of {len(sums.total)} and {len(sums.square)}")
