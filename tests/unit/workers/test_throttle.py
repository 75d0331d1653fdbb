from __future__ import annotations

import logging

import pytest

from workers.throttle import ThrottledLog

log = logging.getLogger("throttled")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_each_matter_has_a_line_in_a_while_and_its_repetitions_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    say = ThrottledLog(log, every_s=10.0, clock=clock)
    for _ in range(5):
        say(logging.WARNING, "a", "refused %s", "a")
    say(logging.WARNING, "b", "refused %s", "b")
    clock.now = 10.0
    say(logging.WARNING, "a", "refused %s", "a")
    say(logging.WARNING, "b", "refused %s", "b")
    assert caplog.messages == ["refused a", "refused b", "refused a (and 4 times more since the last line)", "refused b"]


def test_a_flood_of_names_is_as_bounded_as_one_name(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    say = ThrottledLog(log, every_s=10.0, lines=3, clock=clock)
    for i in range(10_000):
        say(logging.WARNING, i, "refused %d", i)
    assert caplog.messages == ["refused 0", "refused 1", "refused 2"]
    clock.now = 11.0
    say(logging.WARNING, "x", "refused %s", "x")
    assert caplog.messages[3:] == ["9997 more lines such as this one were held back", "refused x"]
    assert len(say._unsaid) + len(say._before) <= 4
