"""Recordings that could not be read, as a list on disk."""

from __future__ import annotations

import logging
from pathlib import Path

import msgspec

from workers.protocol import one_line

log = logging.getLogger(__name__)


class Quarantine:
    """RUN/quarantine.jsonl: one line {path, cause, item, epoch} for each unreadable recording, over restarts too."""

    def __init__(self, path: Path) -> None:
        self._path = path
        text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
        self._paths = {entry.path for line in text.splitlines() if (entry := _entry(line))}
        self._torn = bool(text) and not text.endswith("\n")  # a coordinator was killed in the middle of a line

    def __len__(self) -> int:
        return len(self._paths)

    def add(self, path: str, cause: str, item: int, epoch: int) -> None:
        """Write the line, unless the path has one."""
        if path in self._paths:
            return
        shown, why = one_line(path), one_line(cause)
        log.warning("unreadable: %s: %s", shown, why, extra={"path": shown, "cause": why})
        self._paths.add(path)
        with self._path.open("ab") as file:
            line = msgspec.json.encode(QuarantineEntry(path, cause, item, epoch))
            file.write((b"\n" if self._torn else b"") + line + b"\n")
        self._torn = False


class QuarantineEntry(msgspec.Struct):
    """One line of the quarantine list. `item` is the row in the catalogue, `epoch` the pass in which it could not be read."""

    path: str
    cause: str
    item: int
    epoch: int


def _entry(line: str) -> QuarantineEntry | None:
    try:
        return msgspec.json.decode(line, type=QuarantineEntry)
    except msgspec.MsgspecError:  # a torn line; its recording will be reported again
        return None
