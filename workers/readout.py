"""What a learner shows of itself while it trains: rates, and lines for people."""

from __future__ import annotations

import time
from collections.abc import Mapping

from pydreaming.training.diagnostics import verdict
from workers.protocol import Status

_LOGGED = (("learning", "loss"), ("machine", "steps_per_s"), ("machine", "tokens_per_s"), ("machine", "data_wait_share"))


class Meter:
    """Rates since the last log line."""

    def __init__(self) -> None:
        self._begin, self._steps, self._waiting = time.monotonic(), 0, 0.0
        self.said_waiting = 0.0

    @property
    def has_steps(self) -> bool:
        """Whether there were any."""
        return self._steps > 0

    def waited(self, seconds: float) -> None:
        """For data."""
        self._waiting += seconds

    def stepped(self) -> None:
        """One gradient step."""
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


def figures(metrics: Mapping[str, float]) -> dict[str, float]:
    """What a program may want of the metrics, beside the console's line."""
    return {name: round(metrics[f"{section}/{name}"], 4) for section, name in _LOGGED}


def console_line(step: int, progress: float, metrics: dict[str, float], width: int) -> str:
    """One line that a newcomer can read: progress, prediction beside chance, and the verdict."""
    gain, found = metrics.get("world_model/open_loop_gain_k1"), ""
    if "learning/nce_accuracy_k1" in metrics:  # not every objective contrasts the next token
        found = f" | next token found {metrics['learning/nce_accuracy_k1']:.0%} (chance {metrics['learning/chance']:.1%})"
    return (
        f"step {step} ({progress:4.0%}) {metrics['machine/steps_per_s']:.1f}/s | loss {metrics['learning/loss']:.2f}{found}"
        f" | gain {'-' if gain is None else f'{gain:.1f}'} nat | {verdict(metrics, width)}"
    )


def collection_line(status: Status | None, prefill: int) -> str:
    """What collecting has come to, before there is enough to train on."""
    if status is None:
        return "the coordinator is reading the list of recordings"
    if status.phase == "measure":
        return f"measuring loudness statistics, {status.crew.count} workers"
    return f"{status.written_tokens} of {prefill} tokens, {status.crew.count} workers, {status.unreadable} unreadable files"
