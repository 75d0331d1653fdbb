"""Ends a process whose work loop no longer goes round: in a decoder that hangs, say.

A supervisor does the same from outside (and first); this is for workers that have none, in containers and jobs that are started again.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import sys
import threading

log = logging.getLogger(__name__)

TICK_S = 0.5


class Watchdog:
    """Expects `progress` to be called within `limit_s` seconds each time; otherwise the process ends with exit code 1.

    It counts its own ticks and not the time, so that a process that was stopped, or a host that slept, is not taken for one that hangs.
    """

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self._ticks = 0
        self._ended = threading.Event()
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def progress(self) -> None:
        """A sign of life from the work loop."""
        self._ticks = 0

    def close(self) -> None:
        """Expect no more."""
        self._ended.set()

    def _watch(self) -> None:
        while not self._ended.wait(TICK_S):
            self._ticks += 1
            if self._ticks * TICK_S > self.limit_s:
                faulthandler.dump_traceback(file=sys.stderr, all_threads=True)
                log.error("error: no progress for %.0f s: the process ends itself (above: where it hung)", self.limit_s)
                os._exit(1)  # the thread that hangs would hold up any other end
