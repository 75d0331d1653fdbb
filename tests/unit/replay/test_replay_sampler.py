"""What the sampler promises: shares, groups, coverage, resuming."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
import torch
from replay_store import STRIDE, build_group, clip_arrays, small_store, store_meta, write_lease

from pydreaming.errors import ReplayError
from pydreaming.objectives.contrast import same_audio
from pydreaming.replay.builder import ClipInfo, EpisodeBuilder
from pydreaming.replay.index import ReplayIndex
from pydreaming.replay.sampler import Batch, ReplaySampler
from pydreaming.replay.schema import ID_STEPS, MAX_START_SAMPLE


def same(a: Batch, b: Batch) -> bool:
    return all(np.array_equal(getattr(a, f), getattr(b, f)) for f in ("tokens", "is_first", "action", "token_id", "group", "mask"))


def places(batch: Batch) -> list[tuple[int, int]]:
    """(item, step in the item) of every valid token."""
    ids = batch.token_id[batch.mask]
    return list(zip((ids // MAX_START_SAMPLE).tolist(), (ids % MAX_START_SAMPLE // ID_STEPS).tolist(), strict=True))


def test_shapes_and_types(tmp_path):
    batch = ReplaySampler(small_store(tmp_path), 5, 8, 0.5, 0.3, 0).sample()
    described = {name: (value.shape, value.dtype.str) for name, value in vars(batch).items()}
    assert described == {
        "tokens": ((5, 8, 6), "<f2"),
        "is_first": ((5, 8), "|b1"),
        "action": ((5, 8, 2), "<f4"),
        "token_id": ((5, 8), "<i8"),
        "group": ((5,), "<i4"),
        "mask": ((5, 8), "|b1"),
        "mixed": ((5,), "|b1"),
    }
    assert batch.mask.all()
    assert batch.is_first[:, 0].all()


def test_every_value_belongs_to_its_identity(place):
    sampler = ReplaySampler(small_store(place.open()), 6, 8, 0.5, 0.3, 0)
    for _ in range(20):
        batch = sampler.sample()
        for row in range(6):
            item, step = batch.token_id[row] // MAX_START_SAMPLE, batch.token_id[row] % MAX_START_SAMPLE // ID_STEPS
            expected = (item + step / 1000)[:, None] + np.arange(6) / 8
            assert np.array_equal(batch.tokens[row], expected.astype(np.float16))
            assert np.array_equal(batch.action[row], np.tile((step % 7 + 100 * (item % 50))[:, None], 2))
            assert len(set((item // 20).tolist())) == 1  # twenty clips a group
            new_clip = np.diff(item, prepend=-1) != 0
            assert not (new_clip & ~batch.is_first[row]).any()


def test_same_seed_same_batches_and_another_seed_others(tmp_path):
    index = small_store(tmp_path)
    a, b, c = (ReplaySampler(index, 4, 8, 0.5, 0.3, seed) for seed in (3, 3, 4))
    assert all(same(a.sample(), b.sample()) for _ in range(10))
    assert not same(a.sample(), c.sample())


def test_resumed_from_json_in_a_fresh_process_state(place):
    index = small_store(place.open())
    sampler = ReplaySampler(index, 4, 8, 0.75, 0.3, 1)
    for _ in range(7):
        sampler.sample()
    state = json.loads(json.dumps(sampler.state_dict()))
    expected = [sampler.sample() for _ in range(5)]
    again = ReplayIndex(place.open())
    again.refresh()
    resumed = ReplaySampler(again, 4, 8, 0.75, 0.3, 999)
    resumed.load_state_dict(state)
    assert all(same(batch, resumed.sample()) for batch in expected)


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"state": 1},
        {"state": "zz", "inc": "0x1", "has_uint32": 0, "uinteger": 0},
        {"state": "0x1", "inc": "0x1", "has_uint32": 0, "uinteger": -1},
    ],
)
def test_a_wrong_state_is_a_clear_error(tmp_path, state):
    with pytest.raises(ReplayError, match="sampler state"):
        ReplaySampler(small_store(tmp_path), 4, 8, 0.5, 0.3, 0).load_state_dict(state)


def test_order_of_arrival_does_not_matter(tmp_path):
    meta = store_meta()
    content = {lease: build_group(f"g{lease % 3}", [(lease, 40)], meta) for lease in range(6)}
    samplers = []
    for name, order in [("a", range(6)), ("b", (4, 1, 5, 0, 3, 2))]:
        index = ReplayIndex(tmp_path / name)
        for lease in order:
            write_lease(tmp_path / name, lease, content[lease], meta, shard_episodes=2)
            index.refresh()
        samplers.append(ReplaySampler(index, 4, 8, 0.5, 0.3, 0))
    assert all(same(*(s.sample() for s in samplers)) for _ in range(10))


def test_share_of_batches_from_one_group(tmp_path):
    index = small_store(tmp_path, groups=8, clips=40)
    for share, low, high in [(0.0, 0.0, 0.02), (0.75, 0.70, 0.80), (1.0, 1.0, 1.0)]:
        sampler = ReplaySampler(index, 6, 8, share, 0.3, 0)
        single = np.mean([len(set(sampler.sample().group.tolist())) == 1 for _ in range(1000)])
        assert low <= single <= high


def test_groups_are_drawn_in_proportion_to_their_tokens(tmp_path):
    meta = store_meta()
    for lease, steps in enumerate((160, 320, 640)):
        write_lease(tmp_path, lease, build_group(f"g{lease}", [(lease, steps)], meta), meta)
    index = ReplayIndex(tmp_path)
    index.refresh()
    for share in (0.0, 1.0):
        sampler = ReplaySampler(index, 4, 8, share, 0.3, 0)
        counts = Counter(g for _ in range(2000) for g in sampler.sample().group.tolist())
        assert np.allclose([counts[g] / 8000 for g in range(3)], [1 / 7, 2 / 7, 4 / 7], atol=0.03)


def test_sequences_do_not_overlap_while_there_is_room(tmp_path):
    """Each group has 10 episodes of 16 steps: exactly 20 sequences of 8 side by side."""
    meta = store_meta()
    for g in range(3):
        write_lease(tmp_path, g, build_group(f"g{g}", [(g, 160)], meta), meta)
    index = ReplayIndex(tmp_path)
    index.refresh()
    for size in (3, 12, 20):
        sampler = ReplaySampler(index, size, 8, 1.0, 0.5, 0)
        for _ in range(50):
            batch = sampler.sample()
            assert len(set(batch.group.tolist())) == 1
            assert len(set(places(batch))) == size * 8


def test_a_small_group_gives_all_it_has_and_others_fill_up(tmp_path):
    meta = store_meta()
    for g in range(5):
        write_lease(tmp_path, g, build_group(f"g{g}", [(g, 32)], meta), meta)  # room for 4 sequences of 8
    index = ReplayIndex(tmp_path)
    index.refresh()
    sampler = ReplaySampler(index, 10, 8, 1.0, 0.3, 0)
    for _ in range(50):
        batch = sampler.sample()
        assert sorted(Counter(batch.group.tolist()).values()) == [2, 4, 4]
        assert len(set(places(batch))) == 80
    for _ in range(50):  # shuffled within the batch: three groups side by side would change twice
        changes = np.count_nonzero(np.diff(sampler.sample().group))
        if changes > 2:
            break
    else:
        pytest.fail("sequences of one group always stand side by side")


def test_only_a_store_with_too_little_room_repeats(tmp_path):
    meta = store_meta()
    write_lease(tmp_path, 0, build_group("g", [(0, 20)], meta), meta)
    index = ReplayIndex(tmp_path)
    index.refresh()
    batch = ReplaySampler(index, 12, 8, 1.0, 0.3, 0).sample()
    assert batch.tokens.shape == (12, 8, 6)
    assert len(set(places(batch))) >= 16


def test_many_small_groups_all_take_part(tmp_path):
    """One large group hides 60 tiny ones from proportional drawing; a batch larger than the large one needs them nevertheless."""
    meta = store_meta()
    write_lease(tmp_path, 0, build_group("large", [(0, 4000)], meta), meta)
    for g in range(60):
        write_lease(tmp_path, 1 + g, build_group(f"tiny{g:02d}", [(1 + g, 1)], meta), meta)
    index = ReplayIndex(tmp_path)
    index.refresh()
    batch = ReplaySampler(index, 250 + 250 + 60, 8, 1.0, 0.0, 0).sample()
    assert Counter(Counter(batch.group.tolist()).values()) == {500: 1, 1: 60}


def test_cut_share_is_the_share_of_sequences_that_begin_inside_a_clip(tmp_path):
    """Clips of 8 steps: a random token lies inside a clip, not at its start, seven times of eight."""
    meta = store_meta()
    write_lease(tmp_path, 0, build_group("g", [(k, 8) for k in range(400)], meta, episode_tokens=3200), meta)
    index = ReplayIndex(tmp_path)
    index.refresh()
    for cut in (0.0, 0.4, 1.0):
        sampler = ReplaySampler(index, 8, 12, 0.5, cut, 0)
        inside = np.mean([(sampler.sample().token_id[:, 0] % MAX_START_SAMPLE > 0).mean() for _ in range(500)])
        assert abs(inside - cut * 7 / 8) < 0.03


def test_every_part_of_a_long_recording_is_seen_equally_often(tmp_path):
    meta = store_meta()
    write_lease(tmp_path, 0, build_group("g", [(0, 64 * 8)], meta, episode_tokens=64), meta)
    index = ReplayIndex(tmp_path)
    index.refresh()
    sampler = ReplaySampler(index, 4, 8, 1.0, 0.0, 0)
    seen = Counter(step for _ in range(3000) for _, step in places(sampler.sample()))
    counts = np.array([seen[step] for step in range(512)])
    assert counts.min() > 0.75 * counts.mean()
    assert counts.max() < 1.25 * counts.mean()


def test_short_episodes_are_padded(place):
    meta = store_meta()
    write_lease(place.open(), 0, build_group("g", [(0, 3), (1, 2)], meta), meta)
    index = ReplayIndex(place.open())
    index.refresh()
    batch = ReplaySampler(index, 2, 9, 0.5, 1.0, 0).sample()
    for row in range(2):
        assert batch.mask[row].tolist() == [True] * 5 + [False] * 4
        assert batch.is_first[row].tolist() == [True, False, False, True, False] + [False] * 4
        assert (batch.tokens[row, 5:] == 0).all()
        assert (batch.action[row, 5:] == 0).all()
        assert (batch.token_id[row, 5:] == -1).all()
        assert batch.token_id[row, :5].tolist() == [0, 16, 32, MAX_START_SAMPLE, MAX_START_SAMPLE + 16]


def test_the_same_audio_of_two_passes_has_the_same_identity(tmp_path):
    meta = store_meta()
    for epoch in range(2):
        write_lease(tmp_path, 0, build_group("g", [(3, 8)], meta), meta, epoch=epoch)
    index = ReplayIndex(tmp_path)
    index.refresh()
    batch = ReplaySampler(index, 2, 8, 1.0, 0.0, 0).sample()
    assert np.array_equal(batch.token_id[0], batch.token_id[1])
    assert len(set(batch.token_id[0].tolist())) == 8


def test_windows_of_shifted_passes_are_the_same_audio_where_they_share_more_than_half(place):
    """Passes cut a recording on shifted grids; each window is the same audio as the one of another pass that it shares most with."""
    meta = store_meta()
    tokens, action, start = clip_arrays(3, 8, meta)
    shifts = (0, STRIDE // 4, STRIDE // 2 - 1, STRIDE // 2 + 1, STRIDE - STRIDE // 4)
    for epoch, shift in enumerate(shifts):
        builder = EpisodeBuilder("g", 16)
        builder.add_tokens(tokens, action, start + shift, True, ClipInfo(3, "g/3.wav"))
        write_lease(place.open(), 0, builder.finish(), meta, epoch=epoch)
    index = ReplayIndex(place.open())
    index.refresh()
    batch = ReplaySampler(index, len(shifts), 8, 1.0, 0.0, 0).sample()
    assert sorted(batch.token_id[:, 0] % ID_STEPS) == [shift * ID_STEPS // STRIDE for shift in shifts]
    assert (np.diff(batch.token_id) == ID_STEPS).all()
    begin = np.sort(batch.token_id[:, 0] % MAX_START_SAMPLE) * STRIDE / ID_STEPS
    same = same_audio(*(torch.from_numpy(np.sort(batch.token_id, axis=0).ravel()),) * 2).numpy()
    begins = (begin[:, None] + STRIDE * np.arange(8)).ravel()
    apart = np.abs(begins[:, None] - begins)
    assert same[apart < 0.49 * STRIDE].all()
    assert not same[apart > 0.57 * STRIDE].any()


def test_a_batch_says_whether_it_is_of_all_sources(place):
    index = small_store(place.open())
    for share, mixed in ((0.0, {True}), (1.0, {False}), (0.5, {True, False})):
        sampler = ReplaySampler(index, 2, 5, share, 0.5, 0)
        batches = [sampler.sample() for _ in range(40)]
        assert {bool(value) for batch in batches for value in batch.mixed} == mixed
        assert all(len(set(batch.group.tolist())) == 1 for batch in batches if not batch.mixed.any())


def test_the_sampler_follows_the_index(place):
    meta = store_meta()
    index = ReplayIndex(place.open())
    sampler = ReplaySampler(index, 4, 8, 0.5, 0.3, 0)
    with pytest.raises(ReplayError, match="no episode yet"):
        sampler.sample()
    write_lease(place.open(), 0, build_group("a", [(0, 100)], meta), meta)
    index.refresh()
    assert {item for item, _ in places(sampler.sample())} == {0}
    place.wipe()
    write_lease(place.open(), 1, build_group("b", [(7, 100)], meta), meta)
    index.refresh()
    assert {item for item, _ in places(sampler.sample())} == {7}


def test_what_is_evicted_before_it_was_fetched_is_drawn_anew(bucket):
    index = small_store(bucket.open(), groups=6)
    sampler = ReplaySampler(index, 4, 8, 1.0, 0.3, 0)
    sampler.sample()
    gone = [name for name in bucket.names() if not name.startswith("e00000-000003")]
    for name in gone:
        bucket.remove(name)
    seen = {item // 20 for _ in range(20) for item, _ in places(sampler.sample())}
    assert 3 in seen
    while index.refresh() != ([], []):
        pass
    assert {item // 20 for _ in range(5) for item, _ in places(sampler.sample())} == {3}
    for name in bucket.names():
        bucket.remove(name)
    fresh = ReplaySampler(ReplayIndex(bucket.open()), 4, 8, 1.0, 0.3, 0)
    with pytest.raises(ReplayError, match="holds no episode"):
        fresh.sample()


@pytest.mark.parametrize("wrong", [(0, 8, 0.5, 0.5), (4, 0, 0.5, 0.5), (4, 8, 1.5, 0.5), (4, 8, 0.5, -0.1)])
def test_wrong_arguments(tmp_path, wrong):
    with pytest.raises(ValueError, match="batch_size"):
        ReplaySampler(ReplayIndex(tmp_path), *wrong, seed=0)
