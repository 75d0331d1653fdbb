"""What a learner shows of itself while it trains: rates, and lines for people."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from pydreaming.replay.index import ReplayIndex
from pydreaming.training.diagnostics import verdict
from workers.protocol import Status

_LOGGED = (("learning", "loss"), ("machine", "steps_per_s"), ("machine", "tokens_per_s"), ("busy", "data_wait"))
_SPENT = ("data_wait", "step", "log", "save")


class Meter:
    """Rates since the last log line, and what the training thread has spent its time on."""

    def __init__(self) -> None:
        self._begin_anew()
        self.said_waiting = 0.0
        self.append_s = 0.0  # that writing the last metrics has taken

    @property
    def has_steps(self) -> bool:
        """Whether there were any."""
        return self._steps > 0

    @contextmanager
    def spend(self, what: str) -> Iterator[None]:
        """Time on `data_wait` (for a batch on the device), `step`, `log` or `save`."""
        begin = time.monotonic()
        try:
            yield
        finally:
            self._spent[what] += time.monotonic() - begin

    def stepped(self, tokens: int) -> None:
        """One gradient step, on so many tokens, of all processes of this learner together."""
        self._steps += 1
        self._tokens += tokens

    def take(self) -> dict[str, float]:
        """Rates by metric name; then begin anew."""
        elapsed = max(1e-9, time.monotonic() - self._begin)
        metrics = {
            "machine/steps_per_s": self._steps / elapsed,
            "machine/tokens_per_s": self._tokens / elapsed,
            **{f"busy/{what}": seconds / elapsed for what, seconds in self._spent.items()},
            "busy/append_us": 1e6 * self.append_s,
        }
        self._begin_anew()
        return metrics

    def _begin_anew(self) -> None:
        self._begin, self._steps, self._tokens, self._spent = time.monotonic(), 0, 0, dict.fromkeys(_SPENT, 0.0)


def store_metrics(index: ReplayIndex, capacity: int, trained: int, status: Status | None) -> dict[str, float]:
    """What is collected, by metric name: `capacity` tokens may be stored, `trained` were trained on, `status` is the coordinator's word."""
    metrics = {
        "replay/tokens": float(index.tokens),
        "replay/fill": index.tokens / capacity,
        "replay/damaged_files": float(len(index.damaged)),
        "machine/trained_tokens": float(trained),
    }
    if status is not None:
        metrics |= {
            "workers/count": float(status.crew.count),
            "workers/clips_per_s": status.crew.clips_per_s,
            "workers/audio_s_per_s": status.crew.audio_per_s,
            "workers/silent_s_max": status.crew.silent_s,
            "workers/leases": float(status.leases),
            "workers/passes": status.passes_done + status.pass_share,
            "workers/unreadable_files": float(status.unreadable),
            "workers/dropped_messages": float(status.dropped_messages),
            "replay/files": float(status.files),
            "replay/written_tokens": float(status.written_tokens),
            "replay/ratio": trained / max(1, status.written_tokens),
        }
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
