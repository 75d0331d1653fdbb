"""Surprise of a sound that is still being made: samples in, rows out, in constant memory.

The rows are those of `curves.surprise` on the whole recording. However the samples are cut into pieces, they are the same to the bit.
With another `chunk` than the 512 windows of `surprise` they are computed in blocks of other sizes: with a recurrent core (`model.core:
gru`) on an x86 CPU the bits are still the same (measured, see LEAST_ROWS in `audio.buffer`); elsewhere, and with `model.core: transformer`,
they agree to 1e-3 bits, save where two codes are equally likely and rounding decides which is taken for `nll`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pydreaming.analysis.names import CURVES
from pydreaming.analysis.rollout import CHUNK_TOKENS, Rechunk
from pydreaming.analysis.surprise.calibration import Calibration
from pydreaming.analysis.surprise.curves import Surprise, Values, check_calibration, numbers_of, surprise_of
from pydreaming.analysis.surprise.events import Event, EventFinder, Hysteresis
from pydreaming.analysis.world_model import WorldModel
from pydreaming.audio.decode import MAX_RATE, MIN_RATE
from pydreaming.audio.stages import Chain
from pydreaming.audio.tokens import Frames
from pydreaming.errors import UsageError


@dataclass(frozen=True)
class StreamRows:
    """Windows that became complete.

    Attributes:
      surprise: their curves, with p-values where there is a calibration. events: that ended with them.
      event: (t,) bool, whether a window belongs to an event that has reached its onset; None without a calibration.
    """

    surprise: Surprise
    event: npt.NDArray[np.bool_] | None
    events: list[Event]

    def __len__(self) -> int:
        return len(self.surprise)

    def columns(self) -> dict[str, npt.NDArray[Any]]:
        """The columns of a table; those of `Surprise.columns`, and with a calibration `event` (0 or 1)."""
        marks = {} if self.event is None else {"event": self.event.astype(np.int64)}
        return self.surprise.columns() | marks


class SurpriseStream:
    """Listens to one mono stream. `push` samples as they come, `finish` once at the end.

    Args:
      sample_rate: of the samples, Hz; another one than the model's is converted.
      calibration: of this model and `seed`; without one there are neither p-values nor events, since what is unusual is not known yet.
      rule, curve: what counts as an event, and in which of CURVES.
      chunk: windows that are computed together: more of them take less time each, and come later (see `latency_s`).
      action: (A,) all along, see `WorldModel.told`: a stream has no metadata, but who opens it may know the state of the machine.
    Raises:
      UsageError: settings out of range, a model without latents, another model's calibration.
    """

    def __init__(
        self,
        model: WorldModel,
        sample_rate: int,
        calibration: Calibration | None = None,
        rule: Hysteresis | None = None,
        curve: str = "kl",
        chunk: int = 1,
        seed: int | None = None,
        action: npt.NDArray[np.float32] | None = None,
    ) -> None:
        if not MIN_RATE <= sample_rate <= MAX_RATE:
            raise UsageError(f"a sample rate of {sample_rate} Hz is outside {MIN_RATE}..{MAX_RATE} Hz")
        if not 1 <= chunk <= CHUNK_TOKENS:
            raise UsageError(f"a chunk has 1 to {CHUNK_TOKENS} windows, not {chunk}")
        if curve not in CURVES:
            raise UsageError(f"there is no curve '{curve}'; there are {', '.join(CURVES)}")
        check_calibration(model, calibration, seed)
        self._model, self._calibration, self._curve = model, calibration, curve
        self._tokens: Chain[Values, Frames] = Chain(model.front_end.stages(sample_rate, chunk), Rechunk(chunk))
        self._listening, self._action = model.listening(seed), action
        self._finder = EventFinder(model.features, rule or Hysteresis())
        self._delay_s = model.front_end.delay_s(sample_rate, chunk)
        self.windows = 0

    @property
    def latency_s(self) -> float:
        """Seconds from a window's last sample to its row, at most, without the time that computing takes."""
        return self._delay_s

    def push(self, samples: npt.NDArray[Any]) -> StreamRows:
        """The next samples (num_samples,), floats in [-1, 1], any number of them; gives the rows of windows that are complete with them.

        Raises UsageError for integers (whose scale is not known), other shapes, and samples that are no finite numbers.
        """
        if samples.ndim != 1 or samples.dtype.kind != "f" or not np.isfinite(samples).all():
            raise UsageError(f"samples must be (num_samples,) finite floats in [-1, 1], got {samples.dtype} of shape {samples.shape}")
        return self._rows(self._tokens.push(samples))

    def finish(self) -> StreamRows:
        """The sound has ended: the remaining rows, and the event that was under way. A sound shorter than a window is padded to one."""
        rows = self._rows(self._tokens.finish())
        return StreamRows(rows.surprise, rows.event, rows.events + self._finder.finish())

    def _rows(self, chunks: Iterable[Frames]) -> StreamRows:
        heard = [numbers_of(self._listening.hear(values, self._action)) for values in chunks]
        curves = {name: np.concatenate([np.empty(0, np.float32), *(part[name] for part in heard)]) for name in CURVES}
        result = surprise_of(curves, self._model.features, self._calibration, self.windows)
        self.windows += len(result)
        if self._calibration is None:
            return StreamRows(result, None, [])
        return StreamRows(result, *self._finder.push(curves[self._curve], result.p[self._curve]))
