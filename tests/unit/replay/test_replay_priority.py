"""Drawing by priority: the sums, the rule, what the sampler does with both, and what a checkpoint keeps of it."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from replay_store import build_group, small_store, store_meta, write_lease

from pydreaming.config import load_config
from pydreaming.errors import ReplayError
from pydreaming.replay.index import ReplayIndex
from pydreaming.replay.priority import Curiosity, Layout, Priorities, Sums
from pydreaming.replay.sampler import Batch, ReplaySampler
from pydreaming.replay.schema import MAX_START_SAMPLE

RULE = Curiosity(share=0.5, visits=1e4, decay=0.7, power=0.7, cap=1e5)
BY_LOSS = replace(RULE, visits=0.0, power=1.0)
WEIGHTS = arrays.arrays(np.float32, st.integers(1, 400), elements=st.floats(0.125, 1e4, width=32))


def sampler_of(index: ReplayIndex, curiosity: Curiosity | None = RULE, group_share: float = 0.5, seed: int = 0) -> ReplaySampler:
    return ReplaySampler(index, 8, 5, group_share, 0.3, seed, curiosity)


def same(a: Batch, b: Batch) -> bool:
    return np.array_equal(a.token_id, b.token_id) and np.array_equal(a.tokens, b.tokens)


def items(batch: Batch) -> np.ndarray:
    """(B,) item of the token in the middle of each sequence."""
    return batch.token_id[:, 2] // MAX_START_SAMPLE


def teach(sampler: ReplaySampler, batches: int, loss: dict[int, float], refuse: float = 0.0) -> list[np.ndarray]:
    """Batches, each answered with the losses of its items (0.1 where not named); the items drawn."""
    drawn = []
    for _ in range(batches):
        batch = sampler.sample()
        drawn.append(items(batch))
        sampler.learn(np.array([loss.get(int(item), 0.1) for item in drawn[-1]], np.float32))
    return drawn


@given(WEIGHTS, st.data())
def test_places_are_drawn_where_a_running_sum_says(weights, data):
    low = data.draw(st.integers(0, len(weights) - 1))
    high = data.draw(st.integers(low + 1, len(weights)))
    chance = np.linspace(0, 1, 33, endpoint=False) + 1 / 67
    places = Sums(weights).draw(low, high, chance)
    assert ((low <= places) & (places < high)).all()
    edges = np.concatenate([[0], np.cumsum(weights[low:high], dtype=np.float64)])
    mass, slack = chance * edges[-1], 1e-5 * edges[-1]
    assert (edges[places - low] <= mass + slack).all()
    assert (mass <= edges[places - low + 1] + slack).all()


@given(WEIGHTS, st.data())
def test_changed_weights_give_the_sums_of_new_ones(weights, data):
    sums, changed = Sums(weights), weights.copy()
    for _ in range(3):
        places = np.array(data.draw(st.lists(st.integers(0, len(weights) - 1), min_size=1, max_size=9)), np.int64)
        values = np.linspace(0.5, 9, len(places)).astype(np.float32)
        sums.change(places, values)
        changed[places] = values
    chance = np.linspace(0, 1, 50, endpoint=False)
    assert np.array_equal(sums.draw(0, len(weights), chance), Sums(changed).draw(0, len(weights), chance))


def test_draws_follow_the_weights():
    weights = np.random.default_rng(0).uniform(0.1, 5, 300).astype(np.float32)
    weights[17] = 400
    count = 60_000
    drawn = np.bincount(Sums(weights).draw(0, 300, np.random.default_rng(1).random(count)), minlength=300)
    expected = count * weights / weights.sum()
    assert ((drawn - expected) ** 2 / expected).sum() < 299 + 5 * np.sqrt(2 * 299)  # chi-square, five deviations above its mean


def test_the_rule_is_that_of_the_paper():
    visits, loss = np.array([0, 1, 20, 0], np.float32), np.array([0, 2, -2, 1e9], np.float32)
    tail = 2.01**0.7
    expected = [1e4 + 0.01**0.7, 7e3 + tail, 1e4 * 0.7**20 + tail, 1e5]
    assert np.allclose(RULE.priority(visits, loss), expected, rtol=1e-5)


def test_the_configuration_chooses():
    assert Curiosity.of(load_config(["defaults"]).replay) is None
    assert Curiosity.of(load_config(["defaults"], ["--replay.priority", "curious"]).replay) == RULE


def test_without_it_batches_are_as_before(tmp_path):
    index = small_store(tmp_path)
    plain, off = ReplaySampler(index, 8, 5, 0.5, 0.3, 0), sampler_of(index, None)
    assert all(same(plain.sample(), off.sample()) for _ in range(10))
    assert set(off.state_dict()) == {"state", "inc", "has_uint32", "uinteger"}
    off.learn(np.zeros(8, np.float32))  # nothing to tell anybody


def test_a_share_goes_to_what_is_badly_predicted_and_half_stays_uniform(tmp_path):
    index = small_store(tmp_path, groups=4, clips=50)
    sampler = sampler_of(index, BY_LOSS, group_share=0.0)
    hard = {7: 1000.0, 111: 1000.0}
    teach(sampler, 60, hard)
    drawn = np.concatenate(teach(sampler, 300, hard))
    share = np.isin(drawn, list(hard)).mean()
    # Two of 200 items have .01 of uniform draws. Each batch has at most one sequence of a stretch, so half a batch cannot all be of two.
    assert 0.15 < share <= 0.3
    assert len(set(drawn.tolist())) > 190


def test_what_was_seldom_heard_comes_first(tmp_path):
    index = small_store(tmp_path, groups=4, clips=50)
    unheard = []
    for share in (0.5, 0.0):  # at 0 visits are counted, and nothing else
        sampler = sampler_of(index, replace(RULE, decay=0.1, share=share), group_share=0.0)
        teach(sampler, 60, {})
        assert sampler._priorities is not None
        unheard.append(int((sampler._priorities.visits == 0).sum()))
    assert unheard[0] < 0.5 * unheard[1]


def test_no_priority_takes_more_than_half_of_a_batch(tmp_path):
    index = small_store(tmp_path, groups=2, clips=60)
    sampler = sampler_of(index, replace(BY_LOSS, cap=1e9), group_share=0.0)
    first = set(range(30))  # of the group 0; the rest is worth nothing
    teach(sampler, 40, dict.fromkeys(first, 1e9))
    shares = [np.isin(found, list(first)).mean() for found in teach(sampler, 200, dict.fromkeys(first, 1e9))]
    # Half by priority, and a quarter of the uniform half.
    assert np.mean(shares) == pytest.approx(0.5 + 0.5 * 0.25, abs=0.06)


@pytest.mark.parametrize("group_share", [0.0, 1.0])
def test_batches_keep_what_uniform_ones_promise(tmp_path, group_share):
    index = small_store(tmp_path, groups=5, clips=40)
    sampler = sampler_of(index, group_share=group_share)
    for _ in range(50):
        batch = sampler.sample()
        tokens = batch.token_id[batch.mask].tolist()
        assert len(set(tokens)) == len(tokens)  # nothing overlaps
        assert group_share == 0 or len(set(batch.group.tolist())) == 1
        sampler.learn(None)


def test_every_stretch_that_is_drawn_is_also_counted(tmp_path):
    """A stretch that no sequence's middle falls into would keep the highest priority for ever."""
    index = small_store(tmp_path, groups=4, clips=50, steps=9)
    sampler = sampler_of(index, replace(RULE, decay=0.5), group_share=0.0)
    teach(sampler, 400, {})
    assert sampler._priorities is not None
    assert sampler._priorities.visits.min() >= 2


def test_losses_that_are_not_known_leave_what_was(tmp_path):
    index = small_store(tmp_path)
    sampler = sampler_of(index)
    sampler.sample()
    sampler.learn(np.array([5, np.nan, np.inf, 5, 5, 5, 5, 5], np.float32))
    assert sampler._priorities is not None
    assert sorted(sampler._priorities.loss[sampler._priorities.visits > 0].tolist()) == [0, 0, *[5] * 6]


@pytest.mark.parametrize("steps", [0, 1, 7])
def test_a_checkpoint_gives_the_same_next_batches(tmp_path, steps):
    index = small_store(tmp_path)
    sampler = sampler_of(index)
    teach(sampler, steps, {3: 40.0})
    sampler.sample()  # drawn, not answered yet
    state = json.loads(json.dumps(sampler.state_dict()))
    before = json.loads(json.dumps(sampler.state_dict(before_last=True)))
    again, repeated = sampler_of(index, seed=5), sampler_of(index, seed=6)
    again.load_state_dict(state)
    repeated.load_state_dict(before)
    repeated.sample()
    for _ in range(5):
        for other in (sampler, again, repeated):
            other.learn(np.arange(8, dtype=np.float32))
        batches = [other.sample() for other in (sampler, again, repeated)]
        assert same(batches[0], batches[1])
        assert same(batches[0], batches[2])


def test_a_checkpoint_from_before_it_was_switched_on_or_after_is_taken_up_with_its_random_numbers(tmp_path):
    index = small_store(tmp_path)
    uniform, curious, anew = sampler_of(index, None), sampler_of(index, seed=1), sampler_of(index, seed=2)
    uniform.sample()
    before = uniform.state_dict()
    for sampler in (curious, anew):
        teach(sampler, 2, {})  # and forget it
        sampler.load_state_dict(before)
        assert sampler.state_dict() == before
    drawn = [teach(sampler, 3, {}) for sampler in (curious, anew)]
    assert np.array_equal(*drawn)
    learnt = curious.state_dict()
    assert learnt.keys() - before.keys() == {"priority"}
    uniform.load_state_dict(learnt)
    assert uniform.state_dict() == {key: learnt[key] for key in before}
    plain = sampler_of(index, None)
    plain.load_state_dict({key: learnt[key] for key in before})
    assert same(uniform.sample(), plain.sample())


def test_what_is_known_moves_with_its_file(tmp_path):
    meta = store_meta()
    for lease in (3, 5):
        write_lease(tmp_path, lease, build_group(f"speaker:{lease}", [(lease * 10 + k, 6) for k in range(10)], meta), meta)
    index = ReplayIndex(tmp_path)
    index.refresh()
    sampler = sampler_of(index, BY_LOSS, group_share=0.0)
    loss = {item: float(item) for item in range(30, 60)}
    teach(sampler, 60, loss)
    waiting = sampler.sample()
    write_lease(tmp_path, 1, build_group("speaker:9", [(10 + k, 6) for k in range(10)], meta), meta)
    write_lease(tmp_path, 4, build_group("speaker:0", [(40 + k, 6) for k in range(10)], meta), meta)
    for path in tmp_path.glob("e00000-000003*"):
        path.unlink()
    index.refresh()
    sampler.sample()
    sampler.learn(np.array([loss[int(item)] for item in items(waiting)], np.float32))
    assert sampler._priorities is not None
    layout, known = sampler._priorities._layout, sampler._priorities.loss
    assert [name[:13] for name in layout.names] == sorted(name[:13] for name in layout.names)
    for name, begin, end in zip(layout.names, layout.begins, layout.begins[1:], strict=False):
        told = known[begin:end][known[begin:end] > 0].tolist()
        assert all(50 <= value < 60 for value in told)
        assert bool(told) == name.startswith("e00000-000005")


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(1, 5)), max_size=6, unique_by=lambda file: file[0]), st.data())
def test_cells_move_with_their_files(files, data):
    """Whatever files there are before and after: what both have keeps its values, what is new begins at zero."""

    def layout(files: list[tuple[str, int]]) -> Layout:
        counts = np.array([count for _, count in files], np.int64)
        line = np.array(data.draw(st.permutations(range(int(counts.sum())))), np.int64)
        return Layout([name for name, _ in files], counts, line)

    after = sorted({**dict(data.draw(st.lists(st.sampled_from(files)) if files else st.just([]))), "g": 2}.items())
    old, new = layout(sorted(files)), layout(after)
    priorities = Priorities(RULE, old)
    priorities.visits[:] = priorities.loss[:] = 1 + np.arange(len(priorities.visits))
    before = {(name, k): old.begins[f] + k for f, (name, count) in enumerate(sorted(files)) for k in range(count)}
    (moved,) = priorities.move(new, [np.arange(len(before))])
    there = {(name, k): new.begins[f] + k for f, (name, count) in enumerate(after) for k in range(count)}
    assert moved.tolist() == [there.get(cell, -1) for cell in before]
    assert [priorities.visits[place] for place in there.values()] == [1 + before.get(cell, -1) for cell in there]


def test_a_damaged_state_is_refused(tmp_path):
    sampler = sampler_of(small_store(tmp_path))
    teach(sampler, 2, {})
    sampler.sample()
    good = sampler.state_dict()
    for change in (
        {"visits": "AAAA"}, {"loss": "?"}, {"files": {"a": -1}}, {"files": {"a": 2**30}}, {"open": [[10**6]]}, {"open": [[-2]]}, {"more": 1}
    ):  # fmt: skip
        with pytest.raises(ReplayError, match="not a sampler state"):
            sampler.load_state_dict(good | {"priority": good["priority"] | change})
