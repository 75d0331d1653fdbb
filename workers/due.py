"""When something is done again that is done every so many seconds."""

from __future__ import annotations

import time
from collections.abc import Callable


class Due:
    """Asked again and again, says when it is time.

    Args:
      every_s: seconds from one time to the next; 0 for never. first_s: to the first one, `every_s` for None.
      clock: seconds; a test has its own.
    """

    def __init__(self, every_s: float, first_s: float | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._every_s, self._clock = every_s, clock
        self._next = clock() + (every_s if first_s is None else first_s)

    def now(self) -> bool:
        """Whether it is time; the next time is then `every_s` from now, however late this one was."""
        now = self._clock()
        if self._every_s <= 0 or now < self._next:
            return False
        self._next = now + self._every_s
        return True
