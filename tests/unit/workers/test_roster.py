"""Who is connected."""

from __future__ import annotations

from workers.protocol import Hello
from workers.roster import Roster


def test_a_worker_that_was_started_again_is_there_once() -> None:
    roster = Roster(forget_s=60.0)
    old, new = (Hello("worker", "w", "host", pid, session=pid) for pid in (1, 2))
    roster.greet(b"a", "", "", old, 0.0)
    (twin,) = roster.greet(b"b", "", "", new, 5.0)
    assert twin.owner == "host/w/1-1"
    assert [w.age_s for w in roster.workers(6.0)] == [1.0]
    roster.find(b"a", 7.0)  # it lives, though: two processes have one name
    assert len(roster.workers(8.0)) == 2
