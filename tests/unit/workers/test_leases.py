from __future__ import annotations

import itertools

import pytest

from workers.leases import LeaseTable

TTL = 10.0


def table(passes: int = 2, items: int = 7, width: int = 3, **kwargs: object) -> LeaseTable:
    def plan(epoch: int) -> list[list[int]]:
        order = [(i + epoch) % items for i in range(items)]
        return [order[i : i + width] for i in range(0, items, width)]

    return LeaseTable(plan, passes, TTL, **kwargs)  # type: ignore[arg-type]


def test_every_item_is_handed_out_once_per_pass_and_then_no_more() -> None:
    leases = table()
    seen: dict[int, list[int]] = {0: [], 1: []}
    while grant := leases.grant("a", 0.0):
        seen[grant.epoch] += grant.items
        assert leases.finish(grant.id, "a", tokens=5) is grant
    assert {epoch: sorted(items) for epoch, items in seen.items()} == {0: list(range(7)), 1: list(range(7))}
    assert leases.exhausted
    assert leases.passes_done == 2
    assert leases.last_pass_tokens == 15


def test_without_a_number_of_passes_it_never_ends() -> None:
    leases = table(passes=0)
    for _ in range(100):
        grant = leases.grant("a", 0.0)
        assert grant is not None
        leases.finish(grant.id, "a", 1)
    assert leases.passes_done == 33
    assert not leases.exhausted


def test_a_lost_lease_goes_to_another_worker_and_the_late_one_changes_nothing() -> None:
    leases = table(items=3)
    first = leases.grant("a", 0.0)
    assert first is not None
    assert leases.beat(first.id, "a", 8.0)
    assert leases.expire(TTL + 1) == []  # the beat pushed the deadline back
    (loss,) = leases.expire(8.0 + TTL + 0.1)
    assert (loss.grant, loss.split, loss.deadly) == (first, False, None)
    second = leases.grant("b", 20.0)
    assert second is not None
    assert (second.epoch, second.number, second.items) == (first.epoch, first.number, first.items)
    assert second.id != first.id
    assert leases.finish(first.id, "a", 3) is None
    assert not leases.beat(first.id, "a", 21.0)
    assert leases.finish(second.id, "a", 3) is None  # only its owner may finish it
    assert leases.finish(second.id, "b", 3) is second
    assert leases.passes_done == 1


def test_only_the_deadly_item_of_a_lease_is_given_up() -> None:
    leases = table(passes=2, items=6, width=3)
    deadly, now, lost, done, workers = 4, 0.0, [], {0: [], 1: []}, itertools.count()  # type: ignore[var-annotated]
    while (grant := leases.grant(f"w{next(workers)}", now)) is not None:
        if deadly in grant.items:
            now += TTL + 1
            lost += leases.expire(now)
            continue
        done[grant.epoch] += grant.items
        leases.finish(grant.id, grant.owner, len(grant.items))
    assert [loss.deadly for loss in lost] == [None, None, None, 4]
    assert [loss.split for loss in lost] == [False, True, False, False]
    assert leases.pass_items == (0, 0)
    assert sorted(done[0]) == [0, 1, 2, 3, 5]
    assert sorted(done[1]) == [0, 1, 2, 3, 5]
    assert leases.exhausted
    assert leases.skip == {4}


def test_numbers_of_split_leases_are_their_own() -> None:
    leases = table(passes=1, items=8, width=3)
    numbers, now = [], 0.0
    for _ in range(2):
        grants = [leases.grant("a", now) for _ in range(3)]
        assert all(grants)
        now += TTL + 1
        leases.expire(now)
    while (grant := leases.grant("a", now)) is not None:
        numbers.append((grant.number, tuple(grant.items)))
        leases.finish(grant.id, "a", 1)
    assert sorted(item for _, items in numbers for item in items) == list(range(8))
    assert len({number for number, _ in numbers}) == 8
    assert min(numbers)[0] == 3  # none repeats the number of a whole lease
    assert leases.exhausted


def test_a_worker_that_leaves_in_order_is_no_loss() -> None:
    leases = table(passes=1, items=1, width=1)
    for _ in range(5):
        grant = leases.grant("a", 0.0)
        assert grant is not None
        assert leases.give_back("a") == [grant]
    assert leases.skip == set()
    assert leases.grant("b", 0.0) is not None


def test_hasten_takes_a_replaced_workers_lease_back_sooner() -> None:
    leases = table()
    grant = leases.grant("a", 0.0)
    leases.hasten("a", 1.0)
    assert leases.expire(0.5) == []
    assert [loss.grant for loss in leases.expire(1.5)] == [grant]


def test_the_next_pass_begins_before_the_last_lease_of_this_one_is_done() -> None:
    leases = table(passes=2, items=2, width=1)
    grants = [leases.grant("a", 0.0) for _ in range(5)]
    assert [g and g.epoch for g in grants] == [0, 0, 1, 1, None]
    assert grants[2] is not None
    leases.finish(grants[2].id, "a", 1)
    assert leases.passes_done == 0


@pytest.mark.parametrize("done", range(7))
def test_a_restored_table_goes_on_where_the_old_one_was(done: int) -> None:
    old, now = table(passes=2, items=6, width=2), 0.0
    for _ in range(2):  # lease 0 is lost twice, and split
        grant = old.grant("a", now)
        assert grant is not None
        now += TTL + 1
        old.expire(now)
    assert old.pass_items == (0, 6)
    finished = []
    for _ in range(done):
        grant = old.grant("a", now)
        assert grant is not None
        finished += [(grant.epoch, i) for i in grant.items]
        old.finish(grant.id, "a", len(grant.items))
    old.grant("gone", now)  # in hand when the coordinator was killed
    new = table(passes=2, items=6, width=2, ids=itertools.count(1000))
    new.restore(old.passes_done, old.records())
    assert new.pass_items == old.pass_items == (len(finished) % 6, 6)
    while (grant := new.grant("b", 0.0)) is not None:
        assert grant.id >= 1000
        finished += [(grant.epoch, i) for i in grant.items]
        new.finish(grant.id, "b", len(grant.items))
    assert sorted(finished) == [(epoch, item) for epoch in range(2) for item in range(6)]
    assert new.exhausted
    assert new.last_pass_tokens == 6


def test_a_pass_without_leases_does_not_spin() -> None:
    leases = LeaseTable(lambda epoch: [], 0, TTL)
    assert leases.grant("a", 0.0) is None
    assert leases.passes_done == 1
