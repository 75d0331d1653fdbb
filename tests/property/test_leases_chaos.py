"""The lease table under any order of events: workers that finish, vanish, leave, answer late, and coordinators that restart."""

from __future__ import annotations

import itertools
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from workers.leases import Grant, LeaseTable

TTL = 10.0
EVENTS = st.sampled_from(["pull", "pull", "finish", "finish", "finish", "leave", "late", "restart"])


def plan(items: int, width: int):  # type: ignore[no-untyped-def]
    def leases(epoch: int) -> list[list[int]]:
        order = [(i * 7 + epoch) % items if items % 7 else (i + epoch) % items for i in range(items)]
        return [order[i : i + width] for i in range(0, items, width)]

    return leases


@settings(max_examples=200)
@given(st.integers(1, 13), st.integers(1, 5), st.integers(1, 3), st.sets(st.integers(0, 12), max_size=2), st.lists(EVENTS, max_size=60))
def test_every_item_of_every_pass_is_done_once_or_deadly(items: int, width: int, passes: int, killers: set[int], events: list[str]) -> None:
    killers = {k for k in killers if k < items}
    table, now, owners, starts = LeaseTable(plan(items, width), passes, TTL), 0.0, itertools.count(), itertools.count(1)
    hands: list[Grant] = []
    stale: list[Grant] = []
    done: Counter[tuple[int, int]] = Counter()

    def pull() -> None:
        grant = table.grant(f"w{next(owners)}", now)
        if grant is not None:
            assert not table.skip.intersection(grant.items)
            hands.append(grant)

    def lose(grant: Grant) -> None:
        nonlocal now
        for other in hands:
            if other is not grant:
                assert table.beat(other.id, other.owner, now + TTL)
        now += TTL + 1
        assert [loss.grant for loss in table.expire(now)] == [grant]
        stale.append(grant)

    def finish(grant: Grant) -> None:
        if killers.intersection(grant.items):
            lose(grant)
        else:
            assert table.finish(grant.id, grant.owner, len(grant.items)) is grant
            done.update((grant.epoch, item) for item in grant.items)

    for event in events:
        if event == "pull":
            pull()
        elif event == "restart":
            fresh = LeaseTable(plan(items, width), passes, TTL, itertools.count(next(starts) * 10**9))
            fresh.skip.update(table.skip)
            fresh.restore(table.passes_done, table.records())
            table, stale, hands = fresh, stale + hands, []
        elif event == "late" and stale:
            assert table.finish(stale[0].id, stale[0].owner, 1) is None
        elif hands and event == "finish":
            finish(hands.pop(0))
        elif hands and event == "leave":
            grant = hands.pop(0)
            assert table.give_back(grant.owner) == [grant]
    while True:  # and then they all do their work
        if not hands:
            pull()
        if not hands:
            break
        finish(hands.pop(0))
    assert table.exhausted, "nothing to do, but not done"
    assert table.grant("late", now) is None
    assert all(count == 1 for count in done.values())
    assert table.skip <= killers
    missing = {(epoch, item) for epoch in range(passes) for item in range(items)} - set(done)
    assert {item for _, item in missing} <= killers


GROWTH = st.lists(st.sampled_from(["pull", "pull", "finish", "finish", "arrive", "restart", "vanish", "return"]), max_size=60)


@settings(max_examples=200)
@given(st.integers(1, 6), st.integers(1, 3), st.integers(0, 2), GROWTH)
def test_what_arrives_is_done_once_and_before_all_else(items: int, width: int, passes: int, events: list[str]) -> None:
    """`rows` stands for the catalogue and what the coordinator remembers of passes: epoch -> rows that it covers."""
    count, rows, starts, hands = items, dict[int, range](), itertools.count(1), list[Grant]()
    done: Counter[tuple[int, int]] = Counter()
    extra: set[int] = set()

    def plan(epoch: int) -> list[list[int]]:
        covered = list(rows.setdefault(epoch, range(count)))
        return [covered[i : i + width] for i in range(0, len(covered), width)]

    table, gone = LeaseTable(plan, passes, TTL), set[int]()
    for event in events:
        assert table.passes_done <= table.next_epoch
        if event == "pull":
            ready = {e for e in extra & {*table.open_epochs} for n in table._open[e].pending if {*table._open[e].items(n)} - gone}
            grant = table.grant("w", 0.0)
            if grant is not None:
                assert not gone & {*grant.items}
                assert grant.epoch in ready or not ready
                hands.append(grant)
        elif event == "finish" and hands:
            grant = hands.pop(0)
            assert table.finish(grant.id, "w", 1) is grant
            done.update((grant.epoch, item) for item in grant.items)
        elif event == "arrive":
            count += 2
            rows[table.next_epoch] = range(max((r.stop for r in rows.values()), default=0), count)
            extra.add(table.next_epoch)
            table.add_epoch()
        elif event == "restart":
            fresh = LeaseTable(plan, passes, TTL, itertools.count(next(starts) * 10**9))
            fresh.gone |= gone
            fresh.restore(table.passes_done, table.records(), table.extras, table.closed)
            assert (fresh.next_epoch, fresh.passes_done, fresh.exhausted) == (table.next_epoch, table.passes_done, table.exhausted)
            table, hands = fresh, []
        elif event == "vanish":
            gone.add(count - 1)
            table.gone |= gone
        elif event == "return":
            gone.clear()
            table.gone.clear()
    table.gone.clear()
    if passes:
        for grant in hands:
            table.finish(grant.id, "w", 1)
            done.update((grant.epoch, item) for item in grant.items)
        while grant := table.grant("w", 0.0):
            table.finish(grant.id, "w", 1)
            done.update((grant.epoch, item) for item in grant.items)
        assert table.exhausted
        assert not table.open_epochs
        if "vanish" not in events:
            assert set(done) == {(epoch, item) for epoch in rows for item in rows[epoch]}
    assert all(times == 1 for times in done.values())
