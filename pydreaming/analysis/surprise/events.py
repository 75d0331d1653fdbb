"""Events: stretches of a curve that stand out, found with hysteresis as it comes.

    p      .4  .03 .0004 .01 .2  .04  .3  .6         offset .05, onset .001, gaps of one window are bridged
    event       |------ ^ ------------|              begins and ends below the offset, and has been below the onset

An event needs one window below `onset` and takes in the windows around it that lie below `offset`. What is low is either a p-value
(see `calibration`) or, where there is none, the share of the recording's own windows that lie higher: then the thresholds are relative,
and the highest window of any recording lies in an event, however dull it is.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pydreaming.analysis.files import replacing
from pydreaming.analysis.surprise.calibration import BANDS
from pydreaming.config import FeatureConfig
from pydreaming.errors import UsageError
from pydreaming.replay.tables import write_table


@dataclass(frozen=True)
class Hysteresis:
    """What counts as an event.

    Attributes:
      onset, offset: p-values or shares of the own windows; 0 < onset <= offset <= 1.
      minimum_s: shorter events are dropped. gap_s: windows above the offset that an event goes on over, in seconds.
    Raises:
      UsageError: thresholds or durations that make no sense.
    """

    onset: float = 0.001
    offset: float = 0.05
    minimum_s: float = 0.0
    gap_s: float = 0.1

    def __post_init__(self) -> None:
        if not 0 < self.onset <= self.offset <= 1:
            raise UsageError(f"onset and offset must be 0 < onset <= offset <= 1, not {self.onset:g} and {self.offset:g}")
        if not (0 <= self.minimum_s < math.inf and 0 <= self.gap_s < math.inf):
            raise UsageError(f"minimum and gap must be seconds from 0 on, not {self.minimum_s:g} and {self.gap_s:g}")


RELATIVE = Hysteresis(onset=0.01, offset=0.1)  # where the own windows are the measure


@dataclass(frozen=True)
class Event:
    """One event: times in seconds from the start of the recording, `peak_bits` at `peak_s` (the centre of its window).

    `min_p` is the lowest p-value (or share), `area_bit_s` the integral of the curve over the event in bit seconds.
    """

    start_s: float
    end_s: float
    peak_s: float
    peak_bits: float
    min_p: float
    area_bit_s: float


class EventFinder:
    """Finds the events of one recording, window by window, in constant memory."""

    def __init__(self, features: FeatureConfig, rule: Hysteresis) -> None:
        self._features = features
        self._stride_s = features.token_stride_samples / features.sample_rate
        self._rule = rule
        self._gap = rule.gap_s / self._stride_s
        self._window = 0  # the next one
        self._event: Event | None = None  # under way, perhaps never to reach the onset
        self._last = 0  # its last window below the offset

    def push(self, bits: npt.NDArray[Any], p: npt.NDArray[Any]) -> tuple[npt.NDArray[np.bool_], list[Event]]:
        """The next windows (t,), in bits and as p-values or shares.

        Returns:
          marks (t,): windows below the offset in an event that has reached its onset (what came before its onset cannot be marked any
          more), and the events that have ended.
        """
        marks, ended = np.zeros(len(bits), dtype=np.bool_), []
        for i, (value, share) in enumerate(zip(bits.tolist(), p.tolist(), strict=True)):
            if share < self._rule.offset:
                self._take(value, share)
                marks[i] = self._event is not None and self._event.min_p < self._rule.onset
            elif self._event is not None and self._window - self._last > self._gap:
                ended += self.finish()
            self._window += 1
        return marks, ended

    def finish(self) -> list[Event]:
        """The event under way when the recording ends, if there is one."""
        event, self._event = self._event, None
        if event is None or not event.min_p < self._rule.onset or event.end_s - event.start_s < self._rule.minimum_s:
            return []
        return [event]

    def _take(self, bits: float, share: float) -> None:
        start = self._window * self._features.token_stride_samples  # whole samples: times then are what the windows' own rows say
        span, rate = self._features.token_span_samples, self._features.sample_rate
        start_s, centre_s, end_s = start / rate, (start + span / 2) / rate, (start + span) / rate
        area = bits * self._stride_s
        self._last = self._window
        if self._event is None:
            self._event = Event(start_s, end_s, centre_s, bits, share, area)
            return
        event = replace(self._event, end_s=end_s, min_p=min(share, self._event.min_p), area_bit_s=self._event.area_bit_s + area)
        self._event = replace(event, peak_s=centre_s, peak_bits=bits) if bits > event.peak_bits else event


def find_events(bits: npt.NDArray[Any], p: npt.NDArray[Any] | None, features: FeatureConfig, rule: Hysteresis) -> list[Event]:
    """Events of a whole curve (T,) in bits.

    Args:
      p: (T,) p-values; None: `own_shares`.
    """
    finder = EventFinder(features, rule)
    return finder.push(bits, own_shares(bits) if p is None else p)[1] + finder.finish()


def own_shares(bits: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Share of a recording's own windows that lie above each: (T,). 1 near its beginning, where high values mean no more than no past."""
    shares = np.ones(len(bits))
    rest = bits[BANDS[-1] :]
    if len(rest):
        shares[BANDS[-1] :] = 1 - np.searchsorted(np.sort(rest), rest, "right") / len(rest)
    return shares


def write_events(path: Path, results: Iterable[tuple[str, Sequence[Event]]], calibrated: bool, about: dict[str, Any] | None = None) -> None:
    """One row an event: source, start_s, end_s, peak_s, peak_bits, min_p (only where calibrated), area_bit_s. Raises UsageError."""
    rows = [(name, event) for name, events in results for event in events]
    names = ["start_s", "end_s", "peak_s", "peak_bits", *(["min_p"] if calibrated else []), "area_bit_s"]
    columns: dict[str, Any] = {"source": np.array([name for name, _ in rows], dtype=np.str_)}
    columns |= {key: np.array([getattr(event, key) for _, event in rows], dtype=np.float64) for key in names}
    write_table(path, columns, {"what": "pydreaming surprise, one row per event", **(about or {})})


def event_label(event: Event, calibrated: bool) -> str:
    """What an event is called in a label track."""
    return f"{event.peak_bits:.1f} bits" + (f" p={event.min_p:.1g}" if calibrated else "")


def write_labels(path: Path, labels: Iterable[tuple[float, float, str]]) -> None:
    """A label track for Audacity (File > Import > Labels): start and end in seconds, and a text, a line each. Raises PydreamingError."""
    with replacing(path) as temporary:
        temporary.write_text("".join(label_line(*label) for label in labels), encoding="utf-8")


def label_line(start_s: float, end_s: float, text: str) -> str:
    """One line of a label track."""
    return f"{start_s:.6f}\t{end_s:.6f}\t{' '.join(text.split())}\n"
