"""When something is due."""

from __future__ import annotations

from workers.due import Due


class Clock:
    """Stands still until it is set."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_is_due_every_so_many_seconds_and_once() -> None:
    clock = Clock()
    due = Due(5.0, clock=clock)
    assert not due.now()
    clock.now = 105.0
    assert due.now()
    assert not due.now()


def test_the_first_time_can_be_sooner() -> None:
    clock = Clock()
    due = Due(60.0, first_s=2.0, clock=clock)
    clock.now = 102.0
    assert due.now()
    clock.now = 161.0
    assert not due.now()
    clock.now = 162.0
    assert due.now()


def test_a_late_one_moves_the_next() -> None:
    clock = Clock()
    due = Due(5.0, clock=clock)
    clock.now = 113.0
    assert due.now()
    clock.now = 117.0
    assert not due.now()
    clock.now = 118.0
    assert due.now()


def test_zero_is_never() -> None:
    clock = Clock()
    due = Due(0.0, clock=clock)
    clock.now = 1e9
    assert not due.now()
