"""How many threads a learner takes that was not told."""

from __future__ import annotations

import os

import pytest

from workers.learner import default_threads


@pytest.mark.parametrize(
    ("processors", "processes", "threads"), [(1, 1, 1), (2, 1, 2), (3, 1, 2), (4, 1, 2), (16, 1, 8), (16, 4, 2), (2, 2, 1), (2, 8, 1)]
)
def test_half_of_the_processors_but_two_where_there_are_two(
    monkeypatch: pytest.MonkeyPatch, processors: int, processes: int, threads: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(processors)))
    assert default_threads(processes) == threads
