"""One recording in the catalogue, and how a row of metadata becomes one."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence

import msgspec

from pydreaming.errors import SourceError

# The names under which public data sets keep what the catalogue calls label, speaker, text.
SYNONYMS = {
    "label": ("label", "category", "class", "command"),
    "speaker": ("speaker", "speaker_id", "client_id"),
    "text": ("text", "sentence", "transcription"),
}


class AudioItem(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One recording, or one segment of it.

    Attributes:
      index: row in the catalogue; -1 before cataloguing.
      path: POSIX path relative to the source root. Not trusted: it is resolved, and refused outside the root, where it is decoded.
      group: where the sound comes from, "speaker:<id>" where known, else "recording:<path>". An episode holds one group.
      channel: -1 leaves the choice to `source.channels`; >= 0 is that channel.
      offset_s: start of the segment in seconds.
      duration_s: length of the segment in seconds; None: to the end.
      labels: "label", "speaker", "text" where known, and further metadata columns.
      controls: values of the columns `action.columns`, in that order.
      held_out: the data set's official split; None: the catalogue decides.
    """

    index: int
    path: str
    group: str
    channel: int = -1
    offset_s: float = 0.0
    duration_s: float | None = None
    labels: dict[str, str] = {}
    controls: tuple[float, ...] = ()
    held_out: bool | None = None

    @property
    def speaker(self) -> str | None:
        """The speaker that the group names; None where it is a recording."""
        kind, _, name = self.group.partition(":")
        return name if kind == "speaker" else None

    @property
    def recording(self) -> str:
        """The finest group: the group itself when it is a recording, else the recording of this path."""
        return self.group if self.group.startswith("recording:") else f"recording:{self.path}"


def make_item(
    path: str,
    row: Mapping[str, object],
    columns: Sequence[str] = (),
    where: str = "",
    *,
    group: str | None = None,
    offset_s: float = 0.0,
    duration_s: float | None = None,
    held_out: bool | None = None,
) -> AudioItem:
    """An item from a row of metadata.

    Args:
      path: POSIX path relative to the source root.
      row: metadata by column; text and numbers become labels, anything else and empty text is left out.
      columns: numeric columns to take as controls.
      where: "<file>, line <n>" for error messages; the path when empty.
      group: default is the row's speaker, else the recording.
    Raises:
      SourceError: a control column is missing or not a finite number.
    """
    labels = _labels(row)
    if group is None:
        group = f"speaker:{labels['speaker']}" if "speaker" in labels else f"recording:{path}"
    return AudioItem(
        index=-1,
        path=_encodable(path),
        group=_encodable(group),
        offset_s=offset_s,
        duration_s=duration_s,
        labels=labels,
        controls=_controls(row, columns, where or path),
        held_out=held_out,
    )


def number(value: object) -> float | None:
    """The finite number that a manifest's value stands for, or None."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        result = float(value)
    except (ValueError, OverflowError):
        return None
    return result if math.isfinite(result) else None


def _labels(row: Mapping[str, object]) -> dict[str, str]:
    texts = {name: str(value).strip() for name, value in row.items() if isinstance(value, (str, int, float))}
    labels = {_encodable(name): _encodable(text) for name, text in texts.items() if text}
    for name, synonyms in SYNONYMS.items():
        found = next((s for s in synonyms if s in labels), None)
        if found is not None and found != name:
            labels[name] = labels.pop(found)
    return labels


def _controls(row: Mapping[str, object], columns: Sequence[str], where: str) -> tuple[float, ...]:
    values = []
    for column in columns:
        value = number(row.get(column))
        if value is None:
            found = f"is '{row[column]}', not a finite number" if column in row else "is missing"
            raise SourceError(f"{where}: control column '{column}' {found}")
        values.append(value)
    return tuple(values)


def _encodable(text: str) -> str:
    """File names need not be UTF-8; what is not is spelt out (\\xff), so that the file can still be named in the quarantine list."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return os.fsencode(text).decode(errors="backslashreplace")
    return text
