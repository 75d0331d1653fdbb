"""The spool: an append-only file of events between the training thread and MLflow.

Writing one event is one `write` to a file opened with O_APPEND, some ten microseconds, whatever MLflow does. Several processes may
append to one spool. The tracker process (`workers.tracker`) reads it from a byte cursor and sends it on; nothing is ever removed, so a
store that was away, or wiped, can be filled again. This file knows nothing of MLflow.

Lifetime of a run, as events:  start · (metrics | image | artifact)* · end [ · start(step) ... when resumed ]
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, SupportsFloat

import msgspec

from pydreaming.errors import TrackingError

Status = Literal["FINISHED", "FAILED", "KILLED"]
SPOOL = "tracking/spool.jsonl"  # in a run's folder
NON_FINITE = "health/non_finite_metrics"
Step = Annotated[int, msgspec.Meta(ge=0, le=2**62)]  # MLflow keeps 64-bit integers
MAX_LINE = 16 * 2**20  # bytes; a longer line is damage, not an event


class Event(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="event", tag=str.lower):
    """Base of all events; `time` is ms since the epoch, taken when the event was written."""

    time: int


class Start(Event, frozen=True):
    """A session of the run begins; `step` is the one training goes on from (0: from the beginning)."""

    step: Step


class Metrics(Event, frozen=True):
    """Finite values of one step by short name, see `names`."""

    step: Step
    values: dict[str, float]


class Artifact(Event, frozen=True):
    """A file or folder to show among the artifacts, below `folder`."""

    path: str
    folder: str


class Image(Event, frozen=True):
    """A picture file of the image series `key` at `step`."""

    path: str
    key: str
    step: Step


class End(Event, frozen=True):
    """The session is over."""

    status: Status


AnyEvent = Start | Metrics | Artifact | Image | End
_DECODER = msgspec.json.Decoder(AnyEvent)


class Record(NamedTuple):
    """One line of the spool: its event (None: the line is damaged) and the byte offset just after it."""

    event: AnyEvent | None
    end: int


class Spool:
    """Appends events to the spool at `path`; safe to use from several threads and processes at once.

    Files named in `artifact` and `image` are read later by the tracker, so they must stay in place while the run lasts.

    Raises:
      TrackingError: the file cannot be opened or appended to (disk full, no permission).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._non_finite = 0
        self._encoder = msgspec.json.Encoder()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as e:
            raise TrackingError(f"{path}: cannot open the spool: {e.strerror}") from e

    def start(self, step: int = 0) -> None:
        """Begin a session that goes on from `step`; points of a step that was already drawn are then not drawn twice."""
        self._append(Start(_now_ms(), step))

    def metrics(self, step: int, values: Mapping[str, SupportsFloat], timestamp_ms: int | None = None) -> None:
        """Record values of `step` by short name such as `learning/loss`.

        A value that is not finite would make its chart vanish in MLflow: it is left out, and counted in `health/non_finite_metrics`.
        """
        finite = {name: number for name, value in values.items() if math.isfinite(number := float(value))}
        if len(finite) < len(values):
            self._non_finite += len(values) - len(finite)
            finite[NON_FINITE] = float(self._non_finite)
        if finite:
            self._append(Metrics(_now_ms() if timestamp_ms is None else timestamp_ms, step, finite))

    def artifact(self, path: Path, folder: str = "") -> None:
        """Record a file or folder to be shown among the artifacts, below `folder`."""
        self._append(Artifact(_now_ms(), str(path.resolve()), folder))

    def image(self, path: Path, key: str, step: int) -> None:
        """Record a picture of the series `key`; MLflow shows a series as a grid with a step slider."""
        self._append(Image(_now_ms(), str(path.resolve()), key, step))

    def end(self, status: Status) -> None:
        """Record how the session ended; the tracker sends what is left, sets the run's state and exits."""
        self._append(End(_now_ms(), status))

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _append(self, event: AnyEvent) -> None:
        line = self._encoder.encode(event) + b"\n"
        if len(line) > MAX_LINE:
            raise TrackingError(f"{self.path}: an event of {len(line)} bytes does not fit; log it as an artifact file")
        try:
            if self._is_torn():
                line = b"\n" + line
            written = os.write(self._fd, line)
        except OSError as e:
            raise TrackingError(f"{self.path}: cannot append to the spool: {e.strerror}") from e
        if written < len(line):
            raise TrackingError(f"{self.path}: the disk took only {written} of {len(line)} bytes of an event")

    def _is_torn(self) -> bool:
        """Whether the last line has no end: a power cut or a full disk has stopped this process in it, or another. The next event must not
        be swallowed by it."""
        size = os.fstat(self._fd).st_size
        return size > 0 and os.pread(self._fd, 1, size - 1) != b"\n"


def read_events(path: Path, offset: int = 0) -> Iterator[Record]:
    """Events from byte `offset` to the last complete line; a damaged line gives a Record without an event.

    A last line without its newline is still being written: it is left for the next call. A missing file has no events.
    """
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    with file:
        file.seek(offset)
        while (line := file.readline(MAX_LINE + 1)).endswith(b"\n"):
            offset += len(line)
            if line == b"\n":
                continue
            try:
                event: AnyEvent | None = _DECODER.decode(line)
            except msgspec.MsgspecError:
                event = None
            yield Record(event, offset)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
