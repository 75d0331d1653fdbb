"""How many threads a learner's steps take: one or several, whichever is quicker where it runs, and as things are now.

What a second thread gives depends on the host more than on the model: 1.2 to 1.5 times the steps where it has a processor to itself, a
sixth of them beside another program, and on one virtual machine half of them if waiting threads sleep (docs/performance.md). None of it
can be read anywhere, so the steps themselves are timed: by turns in a short trial, again when they have become slow, and now and then.
"""

from __future__ import annotations

import logging
import os
import statistics
import time
from collections import deque
from collections.abc import Callable, Sequence

import torch

log = logging.getLogger("learner")

TURN = 4  # steps of a trial before the other number has its turn; the first of them still wakes or parks threads, and is not counted
TURNS = 6  # of a trial
HOPELESS = 2.0  # one number's steps take so many times as long as the other's: the rest of the trial would cost more than it tells
KEPT = 16  # steps that the present choice is judged by
SOONEST_S, PAUSE_S, LONGEST_S = 10.0, 30.0, 480.0  # between trials: when steps have become slow; after a change; after many without one


def default_threads(processes: int = 1) -> int:
    """Half of the processors that this process may use, but two where there are two, over the learner's processes.

    The others are for workers and evaluation. Those wait for the learner most of the time and are nicer than it is, so that a second thread
    may pay even on two processors.
    """
    mine = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, max(min(2, mine), mine // 2) // processes)


class ThreadChoice:
    """Chooses between two numbers of threads by what steps take.

    Args:
      numbers: one, or two to choose from; the last is begun with. clock: seconds, for pauses. use: makes torch use so many.
    """

    def __init__(
        self, numbers: Sequence[int], clock: Callable[[], float] = time.monotonic, use: Callable[[int], None] = torch.set_num_threads
    ) -> None:
        self._numbers, self._clock, self._use = tuple(numbers), clock, use
        self._pause, self.now = PAUSE_S, self._numbers[-1]
        use(self.now)
        self._begin_trial()

    def stepped(self, seconds: float) -> None:
        """A step has taken so long; the next may take another number of threads."""
        if len(self._numbers) == 1:
            return
        self._step += 1
        if self._step == 1:
            return
        self._taken[self.now].append(seconds)
        if not self._turns:
            now = self._clock()
            if now >= self._due or (now >= self._begun + SOONEST_S and self._became_slow()):
                self._begin_trial()
        elif self._step == TURN:
            self._turns -= 1
            if not self._turns or self._hopeless():
                self._choose()
            else:
                self._go_on_with(self._other)

    @property
    def _other(self) -> int:
        return self._numbers[self.now == self._numbers[0]]

    def _begin_trial(self) -> None:
        self._taken = {number: deque[float](maxlen=KEPT) for number in self._numbers}
        self._turns, self._step, self._begun, self._before = TURNS, 0, self._clock(), self.now

    def _go_on_with(self, number: int) -> None:
        self._use(number)
        self.now, self._step = number, 0

    def _hopeless(self) -> bool:
        if not all(self._taken.values()):
            return False
        one, other = (statistics.median(taken) for taken in self._taken.values())
        return max(one, other) > HOPELESS * min(one, other)

    def _became_slow(self) -> bool:
        mine, other = self._taken[self.now], self._taken[self._other]
        return len(mine) == KEPT and statistics.median(mine) > statistics.median(other)

    def _choose(self) -> None:
        """The end of a trial."""
        medians = {number: statistics.median(taken) for number, taken in self._taken.items()}
        best = min(medians, key=medians.__getitem__)
        changed, self._turns = best != self._before, 0
        self._pause = PAUSE_S if changed else min(2 * self._pause, LONGEST_S)
        self._due = self._clock() + self._pause
        self._taken[best].clear()
        self._go_on_with(best)
        times = " and ".join(f"{1e3 * median:.0f} ms with {number}" for number, median in medians.items())
        log.log(logging.INFO if changed else logging.DEBUG, "threads for a step: %d (a step takes %s)", best, times)


def choose_threads(asked: int, processes: int, on_cpu: bool, live: bool) -> ThreadChoice:
    """For the steps of a learner that was asked for `asked` threads; 0: whatever is best.

    Args:
      processes: that train together, or on_cpu False: nothing is tried, as a step waits for the others, or for the GPU.
      live: workers collect meanwhile. From a finished store a run can be repeated bit for bit, which takes the same threads at each step.
    """
    most = asked or default_threads(processes)
    tried = not asked and most > 1 and processes == 1 and on_cpu and live
    return ThreadChoice([1, most] if tried else [most])
