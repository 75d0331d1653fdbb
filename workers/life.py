"""Signs of life of a process whose supervisor replaces it when it hangs."""

from __future__ import annotations

import logging
import time
from pathlib import Path

log = logging.getLogger(__name__)

LIFE_S = 0.5  # s between two signs


class SignOfLife:
    """A file that is touched.

    Args:
      path: of the file; None: nobody looks for it.
    """

    def __init__(self, path: Path | None) -> None:
        self._path, self._shown, self._mute = path, -LIFE_S, False

    def show(self) -> None:
        """Give a sign, unless one was given less than LIFE_S ago. Where none can be given, one warning says so: nobody then misses it."""
        now = time.monotonic()
        if self._path is None or now - self._shown < LIFE_S:
            return
        self._shown = now
        try:
            self._path.touch()
            self._mute = False
        except OSError as e:
            if not self._mute:
                log.warning("no sign of life can be given in %s: %s", self._path, e.strerror)
            self._mute = True
