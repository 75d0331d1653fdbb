"""A window on a stream of samples, so that blocks can be cut on a grid of their own from chunks of any size."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Samples = npt.NDArray[np.float32]

# A matrix product of few rows takes another kernel, whose sums differ in the last bit. With rows added that nobody reads, blocks of any
# size give the same bits (measured with MKL on AVX2: from 4 to 8 rows on, by the shape); elsewhere they may differ by rounding.
LEAST_ROWS = 8


class SampleBuffer:
    """Samples [start, end) of a stream; positions are absolute. Whole blocks out of large chunks are views, not copies."""

    def __init__(self) -> None:
        self.start = 0
        self.end = 0
        self._pieces: list[Samples] = []

    def push(self, chunk: Samples) -> None:
        """Append a chunk (num_samples,); integers are not taken, because their scale is not known. Raises ValueError."""
        if chunk.ndim != 1 or chunk.dtype.kind != "f":
            raise ValueError(f"chunks must be (num_samples,) of floats in [-1, 1], got {chunk.dtype} of shape {chunk.shape}")
        self._pieces.append(chunk.astype(np.float32, copy=not chunk.flags.writeable))  # torch refuses read-only memory
        self.end += len(chunk)

    def view(self, begin: int, end: int) -> Samples:
        """Samples [begin, end), zeros where the stream has none yet or no longer; at or after `start` unless negative."""
        if len(self._pieces) != 1:
            self._pieces = [np.concatenate(self._pieces) if self._pieces else np.empty(0, np.float32)]
        inside = self._pieces[0][max(begin - self.start, 0) : max(end - self.start, 0)]
        if len(inside) == end - begin:
            return inside
        return np.pad(inside, (min(max(self.start - begin, 0), end - begin), max(end - max(self.end, begin), 0)))

    def drop(self, before: int) -> None:
        """Forget samples before a position; nothing happens when it lies at or before `start`."""
        if before > self.start:
            kept = self.view(before, self.end) if before < self.end else np.empty(0, np.float32)
            self._pieces = [kept]
            self.start = min(before, self.end)
