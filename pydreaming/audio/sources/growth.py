"""Which files of a growing source are complete, told from outside: nothing is read before.

    first seen            unchanged for quiet_s
    |  size, mtime  ......  the same  |  complete          what changes begins anew; what nobody has touched for OLD_S is complete at once

A writer that pauses for longer than `quiet_s` cannot be told from one that has finished; a temporary name and a rename can.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path, PurePosixPath

OLD_S = 600.0  # s without a change after which a file is complete at first sight; more than hosts' clocks differ
TEMPORARY = (".part", ".partial", ".tmp", ".temp", ".crdownload", ".download", ".filepart", ".incomplete")


class Completeness:
    """Remembers what it has seen of files that are not yet known to be complete, and of no others.

    Args:
      root: of the source. quiet_s: s. clock: s, monotonic.
    """

    def __init__(self, root: Path, quiet_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._root, self._quiet_s, self._clock = root, quiet_s, clock
        self._seen: dict[str, tuple[int, int, float]] = {}  # size, modification time in ns, and since when
        self._round: set[str] = set()

    def is_complete(self, path: str) -> bool:
        """Whether the file at a path relative to the root may be read. A missing or empty one may not."""
        if is_temporary(path):
            return False
        try:
            found = (self._root / path).stat()
        except (OSError, ValueError):
            return False
        if not found.st_size:
            return False
        if abs(time.time() - found.st_mtime) > OLD_S:  # also long ahead of this host: its clock says nothing about a writer
            return True
        now, state = self._clock(), (found.st_size, found.st_mtime_ns)
        self._round.add(path)
        *before, since = self._seen.get(path, (-1, -1, now))
        if tuple(before) != state:
            since = now
        self._seen[path] = (*state, since)
        return now - since >= self._quiet_s

    def end_round(self) -> None:
        """After each look at the whole source: forget files that were not asked for in it."""
        self._seen = {path: seen for path, seen in self._seen.items() if path in self._round}
        self._round = set()


def is_temporary(path: str) -> bool:
    """Whether a name says that its file is not finished: x.part.wav, x.wav.tmp, ~x.wav, and hidden ones."""
    name = PurePosixPath(path).name.lower()
    stem = os.path.splitext(name)[0]  # noqa: PTH122 (names, not paths)
    return name.startswith((".", "~")) or name.endswith((*TEMPORARY, "~")) or stem.endswith(TEMPORARY)
