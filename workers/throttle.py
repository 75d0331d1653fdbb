"""Lines in a log that others can cause: one for each matter in a while, and not many in all."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Hashable, Mapping

EVERY_S = 30.0
LINES = 50  # matters that get a line in EVERY_S; a stranger can call himself by any number of names


class ThrottledLog:
    """Writes a line about each matter once in `every_s`, and with it how many of the same matter went unsaid before.

    Args:
      log: where lines go. every_s: s of a period. lines: matters of which a period speaks; the others are counted.
      clock: seconds.
    """

    def __init__(
        self, log: logging.Logger, every_s: float = EVERY_S, lines: int = LINES, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._log, self._every_s, self._lines, self._clock = log, every_s, lines, clock
        self._begin = clock()
        self._unsaid: dict[Hashable, int] = {}  # matters of this period that have had their line: how many came after it
        self._before: dict[Hashable, int] = {}  # the same of the period before
        self._nameless = 0

    def __call__(self, level: int, matter: Hashable, text: str, *values: object, about: Mapping[str, object] | None = None) -> None:
        """Say `text % values` about `matter`, or hold it back. `about`: fields of the line for programs."""
        now = self._clock()
        if now - self._begin >= self._every_s:
            if self._nameless:
                self._log.log(level, "%d more lines such as this one were held back", self._nameless)
            self._begin, self._before, self._unsaid, self._nameless = now, self._unsaid, {}, 0
        if matter in self._unsaid:
            self._unsaid[matter] += 1
        elif len(self._unsaid) >= self._lines:
            self._nameless += 1
        else:
            held = self._before.pop(matter, 0)
            self._unsaid[matter] = 0
            self._log.log(level, f"{text} (and {held} times more since the last line)" if held else text, *values, extra=about)
