"""Where one sound ends and the next begins.

The curve is `evaluation.boundaries.restart`: how much better the next windows are foreseen by one who begins afresh at a window than by
one who goes on, here in bits. It is a log-likelihood ratio, so 0 is where "something new begins here" becomes the better account, and
boundaries are its peaks above 0: nothing is fitted. The sensitivity moves that threshold; a calibration replaces it by the share of normal
windows that score as high.

Scoring a window needs the RESTART windows that follow: this is for recordings, not for live streams.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pydreaming.analysis.inputs import Source
from pydreaming.analysis.surprise.calibration import Calibration
from pydreaming.analysis.surprise.curves import Values, check_calibration, surprise_stream
from pydreaming.analysis.world_model import WorldModel
from pydreaming.audio.stages import run
from pydreaming.audio.tokens import token_start_samples
from pydreaming.errors import UsageError
from pydreaming.evaluation.boundaries import RESTART, Picker, restart
from pydreaming.replay.tables import TableWriter

RESTART_CURVE = "restart"  # its name in a calibration
FULL_SCALE = 30.0  # bits; the threshold at sensitivity 0, and its negative at 1
MINIMUM_S = 0.1

Scores = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Segments:
    """N segments of one recording that follow each other without gaps.

    Attributes:
      start_s, end_s: (N,) seconds; a boundary is at the start of the window that first holds the new sound, so it may be early by a window.
      strength_bits: (N,) of the boundary at the start, nan for the first. p: (N,) its p-value, likewise; None without a calibration.
    """

    start_s: Scores
    end_s: Scores
    strength_bits: Scores
    p: Scores | None = None

    def __len__(self) -> int:
        return len(self.start_s)

    def columns(self) -> dict[str, npt.NDArray[Any]]:
        """The columns of a table, a row a segment: segment (from 1), start_s, end_s, strength_bits, and with a calibration p."""
        table: dict[str, npt.NDArray[Any]] = {"segment": np.arange(1, len(self) + 1)}
        table |= {"start_s": self.start_s, "end_s": self.end_s, "strength_bits": self.strength_bits}
        return table if self.p is None else table | {"p": self.p}

    @property
    def labels(self) -> list[tuple[float, float, str]]:
        """For `events.write_labels`: numbered from 1."""
        return [(*times, str(n)) for n, times in enumerate(zip(self.start_s.tolist(), self.end_s.tolist(), strict=True), 1)]


class Restarts:
    """The curve of one recording as a stage: push tokens (t, token_dim) with their curves, get scores in bits, RESTART - 1 windows late.

    `action` (A,): that the curves were heard under, see `WorldModel.told`.
    """

    def __init__(self, model: WorldModel, action: npt.NDArray[np.float32] | None = None) -> None:
        self._model = model
        self._action = model.listening_on if action is None else action
        self._tokens: Values = np.empty((0, model.features.token_dim), dtype=np.float32)
        self._going_on: Scores = np.empty(0)

    def push(self, part: tuple[Values, dict[str, Values]]) -> Iterator[Scores]:
        """See `Stage`; parts as `surprise_stream` gives them."""
        self._tokens = np.concatenate([self._tokens, part[0]])
        self._going_on = np.concatenate([self._going_on, part[1]["kl"]])
        yield self._scored(max(0, len(self._tokens) - RESTART + 1))

    def finish(self) -> Iterator[Scores]:
        """See `Stage`."""
        yield self._scored(len(self._tokens))

    def _scored(self, count: int) -> Scores:
        nats = restart(self._model.net, self._going_on * math.log(2), self._tokens, self._action, count)
        self._tokens, self._going_on = self._tokens[count:], self._going_on[count:]
        return nats / math.log(2)


def segment(
    model: WorldModel,
    source: Source,
    sensitivity: float = 0.5,
    minimum_s: float = MINIMUM_S,
    calibration: Calibration | None = None,
    p: float = 0.01,
) -> Segments:
    """Segments of a recording of any length; memory grows by some 24 bytes a window.

    Args:
      sensitivity: from 0 (few boundaries) to 1 (many): the threshold falls from FULL_SCALE to -FULL_SCALE bits; .5 is at 0.
      minimum_s: least length of a segment but the last, rounded down to whole windows (at least one).
      calibration: of this model; boundaries then are peaks with a p-value of at most `p`, and `sensitivity` has no say.
    Raises:
      UsageError: arguments out of range, a model without latents, another model's calibration. DecodeError: see `open_source`.
    """
    if not 0 <= sensitivity <= 1 or not 0 < p <= 1:
        raise UsageError(f"the sensitivity must lie in 0..1 and p in 0..1 without 0, not {sensitivity:g} and {p:g}")
    stride_s = model.features.token_stride_samples / model.features.sample_rate
    if not 0 <= minimum_s < 3600:
        raise UsageError(f"the least length of a segment must be 0 to 3600 s, not {minimum_s:g}")
    check_calibration(model, calibration, None)
    scores = np.concatenate(list(run(Restarts(model, model.told(source)), surprise_stream(model, source))))
    peaks = Picker(max(1, math.floor(minimum_s / stride_s + 1e-9)), 1.0)(scores)
    p_values = None if calibration is None else calibration.p_values(RESTART_CURVE, scores)
    kept = scores[peaks] > (1 - 2 * sensitivity) * FULL_SCALE if p_values is None else p_values[peaks] <= p
    return _cut(model, scores, p_values, peaks[kept & (peaks > 0)])


def write_segments(path: Path, results: Sequence[tuple[str, Segments]], about: dict[str, Any] | None = None) -> None:
    """One row a segment: source, segment (from 1), start_s, end_s, strength_bits, and with a calibration p. Raises UsageError."""
    with TableWriter(path, {"what": "pydreaming segment, one row per segment", **(about or {})}) as table:
        for name, result in results:
            table.append({"source": np.full(len(result), name), **result.columns()})


def _cut(model: WorldModel, scores: Scores, p_values: Scores | None, boundaries: npt.NDArray[np.intp]) -> Segments:
    begins = np.concatenate([[0], boundaries]).astype(np.intp)
    features = model.features
    start = token_start_samples(len(scores), features)
    start_s, end_s = start / features.sample_rate, (start[-1] + features.token_span_samples) / features.sample_rate
    strength = np.concatenate([[np.nan], scores[boundaries]])
    p = None if p_values is None else np.concatenate([[np.nan], p_values[boundaries]])
    return Segments(start_s[begins], np.append(start_s[boundaries], end_s), strength, p)
