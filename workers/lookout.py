"""The learner's eye on the replay store: looks now and then, and does without while the store does not answer."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from pydreaming.config import Config
from pydreaming.errors import UnreachableError
from pydreaming.replay.index import ReplayIndex
from workers.layout import RunDir

log = logging.getLogger("learner")

REFRESH_S = 1.0  # between two looks


class Stopping(Exception):  # noqa: N818 - no error: the process was asked to end while it waited for the store
    """SIGINT or SIGTERM."""


class Lookout:
    """Keeps `index` up to date.

    Args:
      run, config: of the run. stopping: whether the process was asked to end; whatever waits for the store then raises Stopping.
    """

    def __init__(self, run: RunDir, config: Config, stopping: Callable[[], bool]) -> None:
        self._stopping = stopping
        self.index = ReplayIndex(run.open_replay(config, self._end_wait))
        self._looked, self._answers = -REFRESH_S, True

    def look(self) -> None:
        """Refresh the index if that is due. A store that does not answer is no reason to stop: copies of what was read are on this host."""
        now = time.monotonic()
        if now - self._looked <= REFRESH_S:
            return
        self._looked = now
        try:
            self.refresh()
        except UnreachableError as e:
            if self._answers:
                log.warning("%s; the learner goes on with what is on this host", e)
            self._answers = False
        else:
            self._answers = True

    def refresh(self) -> None:
        """Look at the store, and name each file that cannot be used, once. Raises ReplayError, UnreachableError."""
        known = set(self.index.damaged)
        self.index.refresh()
        for name in sorted(self.index.damaged.keys() - known):
            log.warning("left aside in %s: %s: %s", self.index.location, name, self.index.damaged[name])

    def damage(self) -> str:
        """The end of a message: how many files are damaged, and the first of them; nothing where none is."""
        if not self.index.damaged:
            return ""
        name, cause = min(self.index.damaged.items())
        return f"; {len(self.index.damaged)} files are damaged, the first: {name}: {cause}"

    def _end_wait(self) -> None:
        if self._stopping():
            raise Stopping
