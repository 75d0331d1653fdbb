from __future__ import annotations

import pytest

from workers.ratio import RatioGate

GATE = RatioGate(ratio=4.0, prefill=100, slack=50)


@pytest.mark.parametrize(("written", "trained", "may"), [(100, 0, True), (101, 0, False), (101, 204, True), (101, 203, False)])
def test_workers_wait_for_the_learner_beyond_prefill_and_slack(written: int, trained: int, may: bool) -> None:
    assert GATE.may_write(written, trained) is may


@pytest.mark.parametrize(("trained", "exhausted", "may"), [(600, False, True), (604, False, False), (604, True, True)])
def test_the_learner_waits_for_workers_until_there_is_no_more(trained: int, exhausted: bool, may: bool) -> None:
    assert GATE.may_train(100, trained, exhausted) is may


def test_prefill_is_waited_for_unless_a_pass_holds_less() -> None:
    assert not GATE.may_start(99, passes_done=0)
    assert GATE.may_start(100, passes_done=0)
    assert GATE.may_start(7, passes_done=1)
    assert not GATE.may_start(0, passes_done=1)


def test_ratio_zero_lets_both_sides_go() -> None:
    free = RatioGate(0.0, 100, 50)
    assert free.may_write(10**9, 0)
    assert free.may_train(0, 10**9, exhausted=False)


@pytest.mark.parametrize("ratio", [0.5, 1.0, 16.0])
@pytest.mark.parametrize(("prefill", "slack"), [(1, 1), (100, 1), (1, 1000)])
def test_both_sides_never_wait_at_once(ratio: float, prefill: int, slack: int) -> None:
    gate = RatioGate(ratio, prefill, slack)
    for written in range(0, 3000, 7):
        for trained in range(0, 6000, 97):
            learner = gate.may_start(written, 0) and gate.may_train(written, trained, exhausted=False)
            assert learner or gate.may_write(written, trained)
