"""A fitted detector as one file: safetensors, with what is no number as JSON in its header. Nothing in it is ever unpickled."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy

from pydreaming.analysis.files import replacing
from pydreaming.analysis.pieces import Cutting
from pydreaming.errors import UsageError
from pydreaming.evaluation.detector import FOLDS, LEAST_NORMAL, Normal, Pieces

FORMAT = 1
ENDING = ".safetensors"
_KEY = "pydreaming.detector"
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

    def save(self, path: Path) -> None:
        """Write the file, whole or not at all. Raises UsageError: another ending. PydreamingError: it cannot be written."""
        if path.suffix != ENDING:
            raise UsageError(f"{path}: a detector ends in {ENDING}")
        n = self.normal
        arrays: dict[str, npt.NDArray[Any]] = {f"fitted.{name}": getattr(n.fitted, name) for name in ("statistics", "lengths", "vectors")}
        arrays |= {name: getattr(n, name) for name in ("fitted_clip", "fold", "keys", "yardstick", "yardstick_clip")}
        if self.unigram is not None:
            arrays["unigram"] = self.unigram
        about = _About(FORMAT, self.model, self.by, n.condition, self.cutting.size, self.cutting.clip)
        contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        data = safetensors.numpy.save(contiguous, {_KEY: msgspec.json.encode(about).decode()})
        with replacing(path) as temporary:
            temporary.write_bytes(data)


class _About(msgspec.Struct, forbid_unknown_fields=True):
    """The JSON in the header."""

    format: int
    model: str
    by: str
    condition: list[str]
    piece_windows: Positive
    clip_windows: Annotated[int, msgspec.Meta(ge=0)]


def load_detector(path: str | Path) -> FittedDetector:
    """Read a detector's file. Raises UsageError: it is missing, none, damaged or of another version."""
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            header = (file.metadata() or {}).get(_KEY)
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dictionary)
    except FileNotFoundError as e:
        raise UsageError(f"no detector at {path}: make one with pydreaming anomaly fit") from e
    except (OSError, ValueError, safetensors.SafetensorError) as e:
        raise UsageError(f"{path} is no detector, or damaged: {' '.join(str(e).split())}") from e
    if header is None:
        raise UsageError(f"{path} is no detector: its header says nothing of one")
    try:
        about = msgspec.json.decode(header, type=_About)
        if about.format != FORMAT:
            raise UsageError(f"{path} has format {about.format}, this version reads {FORMAT}: fit it anew")
        normal = _normal(arrays, about.condition)
    except (msgspec.MsgspecError, ValueError) as e:
        raise UsageError(f"{path} is no whole detector: {e}") from e
    return FittedDetector(normal, Cutting(about.piece_windows, about.clip_windows), about.by, about.model, arrays.get("unigram"))


def _normal(arrays: dict[str, npt.NDArray[Any]], condition: list[str]) -> Normal:
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
