"""The operating state of a machine as the model is told it: control columns of the metadata, normalised."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt


class ControlScale(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Mean and deviation of each control column over the training items; empty where there are none, or where they were not kept."""

    mean: list[float] = []
    std: list[float] = []

    def row(self, values: Sequence[float]) -> npt.NDArray[np.float32]:
        """Values of the columns as the action of each step: (C,) float32. Raises ValueError for another number of values than columns."""
        if not len(values) == len(self.mean) == len(self.std):
            raise ValueError(f"{len(values)} control values, {len(self.mean)} columns")
        return ((np.asarray(values, np.float64) - self.mean) / self.std).astype(np.float32)


NO_CONTROLS = ControlScale()
