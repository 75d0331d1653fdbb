"""How loud a recording is, and whether it is silent or clipped, as a stream."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pydreaming.audio.buffer import Samples

FLOOR_DBFS = -120.0  # of digital silence, whose level is no number; below the noise of 16 bits
SILENT_DBFS = -60.0  # a recording whose peak lies below holds nothing to be heard
FULL_SCALE = 0.999  # of the largest sample value there is, from which one counts as clipped
CLIPPED_RUN = 3  # successive samples at full scale with the same sign, from which they are no peaks by chance

Signs = npt.NDArray[np.int8]
Lengths = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Loudness:
    """Level of a recording.

    Attributes:
      rms_dbfs: dB relative to full scale of the root mean square: 0 for a square wave of full scale, -3.01 for a sine.
      peak_dbfs: dB relative to full scale of the largest sample. Both are at least FLOOR_DBFS.
      clipped: samples in runs of at least CLIPPED_RUN at full scale. A recording made quieter after it was clipped shows none.
    """

    rms_dbfs: float
    peak_dbfs: float
    clipped: int

    @property
    def silent(self) -> bool:
        """Whether nothing in it can be heard."""
        return self.peak_dbfs < SILENT_DBFS


class LoudnessMeter:
    """Adds up blocks of samples of one recording."""

    def __init__(self) -> None:
        self._count = 0
        self._square = 0.0
        self._peak = 0.0
        self._clipped = 0
        self._tail = np.zeros(0, np.int8)  # the samples at full scale that the last block ended with, by sign

    def add(self, samples: Samples) -> None:
        """Add successive samples (n,), finite."""
        self._count += len(samples)
        self._square += float(np.dot(samples, samples))
        peak = max(float(samples.max(initial=0.0)), -float(samples.min(initial=0.0)))
        self._peak = max(self._peak, peak)
        if peak >= FULL_SCALE or len(self._tail):
            self._count_clipped(samples)

    def finish(self) -> Loudness:
        """Of all that was added. Raises ValueError when no sample was."""
        if not self._count:
            raise ValueError("no samples were added")
        clipped = self._clipped + (len(self._tail) if len(self._tail) >= CLIPPED_RUN else 0)
        return Loudness(_dbfs(math.sqrt(self._square / self._count)), _dbfs(self._peak), clipped)

    def _count_clipped(self, samples: Samples) -> None:
        full = (samples >= FULL_SCALE).astype(np.int8) - (samples <= -FULL_SCALE).astype(np.int8)
        lengths, signs = _runs(np.concatenate([self._tail, full]))
        at_end = len(signs) > 0 and signs[-1] != 0
        self._tail = np.full(lengths[-1], signs[-1], np.int8) if at_end else np.zeros(0, np.int8)
        self._clipped += _clipped(lengths[:-1], signs[:-1]) if at_end else _clipped(lengths, signs)


def _runs(values: Signs) -> tuple[Lengths, Signs]:
    """Lengths and values of runs of equal values."""
    begins = np.flatnonzero(np.diff(values, prepend=np.int8(2)))
    return np.diff(begins, append=len(values)), values[begins]


def _clipped(lengths: Lengths, signs: Signs) -> int:
    return int(lengths[(signs != 0) & (lengths >= CLIPPED_RUN)].sum())


def _dbfs(level: float) -> float:
    return max(FLOOR_DBFS, 20 * math.log10(level)) if level > 0 else FLOOR_DBFS
