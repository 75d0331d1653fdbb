"""The learner's threads are chosen by what its steps take."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence

import pytest
import torch

from workers.threads import HOPELESS, LONGEST_S, PAUSE_S, TURN, TURNS, ThreadChoice, choose_threads, default_threads


class Host:
    """Where a step with n threads takes `step_s(n)` seconds, and time passes with steps only."""

    def __init__(self, step_s: Callable[[int], float], numbers: Sequence[int] = (1, 2)) -> None:
        self.step_s, self.now, self.used = step_s, 0.0, [0]
        self.choice = ThreadChoice(numbers, lambda: self.now, self.used.append)

    def steps(self, count: int) -> list[int]:
        """Train; the threads that each step was done with."""
        done = []
        for _ in range(count):
            assert self.used[-1] == self.choice.now
            done.append(self.choice.now)
            taken = self.step_s(self.choice.now)
            self.now += taken
            self.choice.stepped(taken)
        return done


@pytest.mark.parametrize(("seconds", "best"), [({1: 0.12, 2: 0.09}, 2), ({1: 0.12, 2: 0.14}, 1), ({1: 0.12, 2: 0.8}, 1)])
def test_the_quicker_number_is_found(seconds: dict[int, float], best: int) -> None:
    host = Host(seconds.__getitem__)
    trial = host.steps(TURN * TURNS)
    assert set(trial) == {1, 2}
    assert host.steps(100) == [best] * 100


def test_a_hopeless_number_is_given_one_turn_only() -> None:
    host = Host({1: 0.1, 2: 1.1 * HOPELESS * 0.1}.__getitem__)
    assert host.steps(3 * TURN) == [2] * TURN + [1] * 2 * TURN


def test_a_first_step_that_takes_long_does_not_decide() -> None:
    slow = [3.0]
    host = Host(lambda n: slow.pop() if slow else {1: 0.12, 2: 0.09}[n])
    host.steps(TURN * TURNS)
    assert set(host.steps(100)) == {2}


def test_steps_that_have_become_slow_are_looked_into_long_before_the_next_trial_is_due() -> None:
    alone, company = {1: 0.12, 2: 0.09}, {1: 0.12, 2: 0.8}
    now = alone
    host = Host(lambda n: now[n])
    host.steps(150)
    assert host.choice.now == 2
    now = company
    host.steps(TURN * TURNS + 16)
    assert host.choice.now == 1


def test_company_that_has_gone_is_noticed() -> None:
    now = {1: 0.12, 2: 0.8}
    host = Host(lambda n: now[n])
    host.steps(50)
    assert host.choice.now == 1
    now = {1: 0.12, 2: 0.09}
    host.steps(round(2 * PAUSE_S / 0.12) + TURN * TURNS)
    assert host.choice.now == 2


def test_trials_become_rare_and_cost_little_where_nothing_changes() -> None:
    host = Host({1: 0.12, 2: 0.9}.__getitem__)  # 7.5 times as slow beside a busy program
    done = host.steps(30_000)  # an hour
    lost = done.count(2) * (0.9 - 0.12)
    assert done.count(2) <= TURN * (2 + math.log2(LONGEST_S / PAUSE_S) + host.now / LONGEST_S)
    assert lost < 0.02 * host.now


def test_slow_and_quick_batches_in_turn_do_not_fool_it() -> None:
    count = iter(range(10**9))
    host = Host(lambda n: {1: 0.12, 2: 0.09}[n] * (1.0, 1.3, 0.8, 1.1, 0.7)[next(count) % 5])
    host.steps(TURN * TURNS)
    done = host.steps(1000)
    assert done.count(2) > 900


def test_what_was_asked_for_is_used_and_never_changed() -> None:
    before = torch.get_num_threads()
    try:
        choice = choose_threads(2, 1, on_cpu=True, live=True)
        for _ in range(200):
            choice.stepped(1.0)
        assert choice.now == torch.get_num_threads() == 2
        assert choose_threads(0, default_threads() + 1, on_cpu=True, live=True).now == 1
    finally:
        torch.set_num_threads(before)


def test_a_default_is_tried_by_one_process_on_a_cpu_while_workers_collect(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    before, found = torch.get_num_threads(), []
    try:
        for case in ((0, 1, True, True), (0, 2, True, True), (0, 1, False, True), (0, 1, True, False), (4, 1, True, True)):
            choice = choose_threads(*case)
            for _ in range(3 * TURN):
                choice.stepped(float(choice.now))  # the more, the slower
            found.append((choice.now, torch.get_num_threads()))
    finally:
        torch.set_num_threads(before)
    assert found == [(1, 1), (2, 2), (4, 4), (4, 4), (4, 4)]


@pytest.mark.parametrize(
    ("processors", "processes", "threads"), [(1, 1, 1), (2, 1, 2), (3, 1, 2), (4, 1, 2), (16, 1, 8), (16, 4, 2), (2, 2, 1), (2, 8, 1)]
)
def test_half_of_the_processors_but_two_where_there_are_two(
    monkeypatch: pytest.MonkeyPatch, processors: int, processes: int, threads: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(processors)))
    assert default_threads(processes) == threads
