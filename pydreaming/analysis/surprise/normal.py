"""Calibrating a model: listening to normal recordings to learn how much surprise is normal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from pydreaming.analysis.inputs import Failed, Source, attempt
from pydreaming.analysis.names import CURVES
from pydreaming.analysis.surprise.calibration import Calibration, ModelMark, Values, fit_calibration
from pydreaming.analysis.surprise.curves import check_latents, surprise_stream
from pydreaming.analysis.surprise.segment import RESTART_CURVE, Restarts
from pydreaming.analysis.world_model import WorldModel


def calibrate(model: WorldModel, sources: Iterable[Source], seed: int | None = None, failed: Failed | None = None) -> Calibration:
    """What the curves of normal recordings are, for p-values of this model: those of `surprise`, and the one that `segment` goes by.

    Args:
      sources: normal recordings that the model was *not* trained on, if there are any: it is less surprised by what it knows.
      seed: as for the `surprise` that is to be calibrated.
      failed: told of each unreadable recording, which is then left out whole; None raises its DecodeError.
    Raises:
      UsageError: too few windows (see `calibration`), or a model without latents.
    """
    check_latents(model)
    mark = ModelMark(model.fingerprint, int(model.state.counters["step"]), seed)
    return fit_calibration(mark, _readable(model, sources, seed, failed))


def _readable(
    model: WorldModel, sources: Iterable[Source], seed: int | None, failed: Failed | None
) -> Iterator[dict[str, npt.NDArray[Any]]]:
    for source in sources:
        curves = attempt(partial(_curves, model, source, seed), failed)
        if curves is not None:
            yield curves


def _curves(model: WorldModel, source: Source, seed: int | None) -> dict[str, npt.NDArray[Any]]:
    restarts = Restarts(model, model.told(source))
    parts: list[dict[str, npt.NDArray[np.float32]]] = []
    restart: list[Values] = []
    for part in surprise_stream(model, source, seed):
        parts.append(part[1])
        restart += restarts.push(part)
    restart += restarts.finish()
    return {name: np.concatenate([part[name] for part in parts]) for name in CURVES} | {RESTART_CURVE: np.concatenate(restart)}
