"""Figures of a whole run, from events as a learner leaves them."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.whole import append_times, best_rate, shares
from pydreaming.tracking.spool import Metrics


def event(seconds: float, wait: float, step: float = 0.5) -> Metrics:
    return Metrics(int(1000 * seconds), 1, {"busy/data_wait": wait, "busy/step": step, "busy/log": 0.1, "busy/save": 0.0})


def test_shares_are_weighted_by_their_intervals_without_the_first() -> None:
    system = Metrics(0, 1, {"system/cpu_percent": 3.0})
    metrics = [system, event(10, 1.0), system, event(12, 0.5), event(18, 0.1), event(20, 0.0, 0.9)]
    assert shares(metrics) == pytest.approx({"data_wait": 0.16, "step": 0.58, "log": 0.1, "save": 0.0})
    assert shares(metrics, 0.25)["step"] == pytest.approx(0.9)


def test_the_best_second_of_collecting() -> None:
    looks = [(0.0, 0), (0.4, 500), (0.9, 600), (1.5, 700), (2.5, 2700), (2.5, 2700), (9.0, 2700)]
    assert best_rate(looks) == pytest.approx(2000)
    assert best_rate(looks[:2]) == 0


def test_each_event_is_timed(tmp_path: Path) -> None:
    found = append_times(tmp_path, {"learning/loss": 1.0}, 30)
    assert [len(times) for times in found.values()] == [30, 30]
    assert (tmp_path / "spool.jsonl").read_text().count("\n") == 30
