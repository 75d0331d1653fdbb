"""How fast the learner is, and how long it waits."""

from __future__ import annotations

import time


class Meter:
    """Rates since the last log line."""

    def __init__(self) -> None:
        self._begin, self._steps, self._waiting = time.monotonic(), 0, 0.0
        self.said_waiting = 0.0

    @property
    def has_steps(self) -> bool:
        """Whether there was a step."""
        return self._steps > 0

    def waited(self, seconds: float) -> None:
        """Note seconds in which there was nothing to train on."""
        self._waiting += seconds

    def stepped(self) -> None:
        """Note a step."""
        self._steps += 1

    def take(self, tokens_per_step: int) -> dict[str, float]:
        """Rates by metric name; then begin anew."""
        elapsed = max(1e-9, time.monotonic() - self._begin)
        rate = self._steps / elapsed
        metrics = {
            "machine/steps_per_s": rate,
            "machine/tokens_per_s": rate * tokens_per_step,
            "machine/data_wait_share": self._waiting / elapsed,
        }
        self._begin, self._steps, self._waiting = time.monotonic(), 0, 0.0
        return metrics
