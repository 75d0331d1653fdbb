"""A fitted detector, and the file it is kept in (see `tensor_file`)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import numpy as np
import numpy.typing as npt

from pydreaming.analysis.anomaly.pieces import Cutting
from pydreaming.analysis.requirements import require_same_model
from pydreaming.analysis.tensor_file import Tensors, read_tensors, write_tensors
from pydreaming.evaluation.detector import FOLDS, LEAST_NORMAL, Normal, Pieces

if TYPE_CHECKING:
    from pydreaming.analysis.world_model import WorldModel

WHAT, FORMAT = "detector", 1
# name -> kind of number, number of axes
_TENSORS = {
    "fitted.statistics": ("f8", 2), "fitted.lengths": ("i8", 1), "fitted.vectors": ("f2", 2), "fitted_clip": ("i8", 1),
    "fold": ("i8", 1), "keys": ("i8", 1), "yardstick": ("f8", 3), "yardstick_clip": ("i8", 1),
}  # fmt: skip

Positive = Annotated[int, msgspec.Meta(ge=1)]


@dataclass(frozen=True)
class FittedDetector:
    """A detector, and what it was made with.

    Attributes:
      normal: see `evaluation.detector`. cutting: of recordings into clips and pieces. by: column of the condition, or empty.
      model: fingerprint of the model. unigram: (S, P) float32 marginal of its codes; None for a model without surprise.
    """

    normal: Normal
    cutting: Cutting
    by: str
    model: str
    unigram: npt.NDArray[np.float32] | None

    def check(self, model: WorldModel, where: str = "the detector") -> FittedDetector:
        """Itself. Raises UsageError when another model made it."""
        require_same_model(model, self.model, where)
        return self

    def save(self, path: Path) -> None:
        """Write the file, whole or not at all. Raises UsageError: another ending. PydreamingError: it cannot be written."""
        n = self.normal
        arrays: Tensors = {f"fitted.{name}": getattr(n.fitted, name) for name in ("statistics", "lengths", "vectors")}
        arrays |= {name: getattr(n, name) for name in ("fitted_clip", "fold", "keys", "yardstick", "yardstick_clip")}
        if self.unigram is not None:
            arrays["unigram"] = self.unigram
        write_tensors(path, WHAT, FORMAT, _About(self.model, self.by, n.condition, self.cutting.size, self.cutting.clip), arrays)


class _About(msgspec.Struct, forbid_unknown_fields=True):
    """What is no array."""

    model: str
    by: str
    condition: list[str]
    piece_windows: Positive
    clip_windows: Annotated[int, msgspec.Meta(ge=0)]


def load_detector(path: str | Path) -> FittedDetector:
    """Read a detector's file. Raises PydreamingError: it is missing, none, damaged or of another format."""
    return read_tensors(path, WHAT, FORMAT, _About, _fitted)


def _fitted(about: _About, arrays: Tensors) -> FittedDetector:
    """Raises ValueError for arrays that do not fit together."""
    cutting = Cutting(about.piece_windows, about.clip_windows)
    return FittedDetector(_normal(arrays, about.condition), cutting, about.by, about.model, arrays.get("unigram"))


def _normal(arrays: Tensors, condition: list[str]) -> Normal:
    """Raises ValueError for arrays that do not fit together."""
    for name, (kind, axes) in _TENSORS.items():
        array = arrays.get(name)
        if array is None or array.dtype != np.dtype(kind) or array.ndim != axes:
            found = "missing" if array is None else f"{array.dtype} of shape {array.shape}"
            raise ValueError(f"{name} must be {np.dtype(kind)} with {axes} axes, and is {found}")
    pieces = Pieces(arrays["fitted.statistics"], arrays["fitted.lengths"], arrays["fitted.vectors"])
    n = Normal(pieces, arrays["fitted_clip"], arrays["fold"], condition, arrays["keys"], arrays["yardstick"], arrays["yardstick_clip"])
    N = len(condition)
    columns = 1 + (pieces.statistics.shape[1] > 0)
    whole = (
        N >= LEAST_NORMAL
        and len(n.fold) == len(n.keys) == N
        and len(pieces.statistics) == len(pieces.lengths) == len(pieces.vectors) == len(n.fitted_clip)
        and n.yardstick.shape == (len(n.yardstick_clip), 2, columns)
        and set(n.fold.tolist()) == set(range(FOLDS))
        and set(n.yardstick_clip.tolist()) == set(range(N))
        and set(n.fitted_clip.tolist()) <= set(range(N))
        and np.isfinite(n.yardstick).all()
        and np.isfinite(pieces.vectors).all()
        and (pieces.lengths > 0).all()
    )
    if not whole:
        raise ValueError("its parts do not fit together")
    return n
