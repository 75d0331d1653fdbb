"""The replay store under random clips, cuts, failures and draws."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from places import Bucket, Folder, Place
from s3_server import S3Server

from pydreaming.audio.stats import FeatureStats
from pydreaming.config import load_config
from pydreaming.replay.builder import ClipInfo, EpisodeBuilder
from pydreaming.replay.index import ReplayIndex
from pydreaming.replay.sampler import ReplaySampler
from pydreaming.replay.schema import ID_STEPS, MAX_START_SAMPLE, Episode, StoreMeta
from pydreaming.replay.writer import ShardWriter

CONFIG = load_config(["defaults"], ["--features.n_mels", "1", "--features.token_frames", "2"])
META = StoreMeta.of(CONFIG.features, FeatureStats([0.0], [1.0], 1), CONFIG.action)
STRIDE = 640  # samples between adjacent tokens, as the defaults have it

# a clip: lengths of the pieces in which its tokens arrive, the first of them not empty
CLIP = st.builds(lambda head, tail: [head, *tail], st.integers(1, 12), st.lists(st.integers(0, 12), max_size=4))
CLIPS = st.lists(CLIP, max_size=12)


def piece(item: int, begin: int, steps: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokens [item, step], action [step] and start samples."""
    number = np.arange(begin, begin + steps)
    return np.stack([np.full(steps, item), number], 1).astype(np.float16), number[:, None].astype(np.float32), number * STRIDE


def build(group: str, clips: list[list[int]], size: int, first_item: int = 0) -> list[Episode]:
    builder, episodes = EpisodeBuilder(group, size), []
    for item, pieces in enumerate(clips, first_item):
        begin = 0
        for number, steps in enumerate(pieces):
            episodes += builder.add_tokens(*piece(item, begin, steps), number == 0, ClipInfo(item, f"{item}.wav"))
            begin += steps
    return episodes + builder.finish()


def steps_of(clips: list[list[int]], first_item: int = 0) -> list[tuple[int, int]]:
    return [(item, step) for item, pieces in enumerate(clips, first_item) for step in range(sum(pieces))]


@settings(deadline=None, derandomize=True)
@given(clips=CLIPS, size=st.integers(2, 20))
def test_builder_neither_loses_nor_repeats_nor_reorders(clips, size):
    episodes = build("g", clips, size)
    tokens = np.concatenate([np.zeros((0, 2)), *(e.tokens for e in episodes)])
    assert [tuple(row) for row in tokens.astype(int).tolist()] == steps_of(clips)
    for e in episodes:
        assert e.start_sample.tolist() == (e.tokens[:, 1].astype(int) * STRIDE).tolist()
        assert e.action[:, 0].tolist() == e.tokens[:, 1].tolist()
        assert e.group == "g"


@settings(deadline=None, derandomize=True)
@given(clips=CLIPS, size=st.integers(2, 20))
def test_builder_marks_every_beginning(clips, size):
    episodes = build("g", clips, size)
    total = sum(map(sum, clips))
    assert [len(e) for e in episodes[:-1]] == [size] * (len(episodes) - 1)
    assert all(2 <= len(e) <= size + 1 for e in episodes[-1:]) or total == 1
    for e in episodes:
        item, step = e.tokens[:, 0].astype(int), e.tokens[:, 1].astype(int)
        expected = (step == 0) | (np.arange(len(e)) == 0)
        assert e.is_first.tolist() == expected.tolist()
        assert [c.start for c in e.clips] == np.flatnonzero(expected).tolist()
        assert [(c.item, c.path, c.start_sample) for c in e.clips] == [
            (item[c.start], f"{item[c.start]}.wav", step[c.start] * STRIDE) for c in e.clips
        ]


ROLLED_BACK = given(
    items=st.lists(st.tuples(CLIP, st.booleans()), max_size=15),
    size=st.integers(2, 12),
    shard=st.integers(1, 4),
)


@contextmanager
def new_place(server: S3Server | None) -> Iterator[Place]:
    """An empty store: in a folder, or on the server."""
    with tempfile.TemporaryDirectory() as name:
        yield Folder(Path(name) / "store") if server is None else Bucket(server, Path(name) / "copies")


@settings(max_examples=60, deadline=None, derandomize=True)
@ROLLED_BACK
def test_what_is_rolled_back_leaves_nothing_and_costs_no_other_token(items, size, shard):
    check_rollback(None, items, size, shard)


@settings(max_examples=5, deadline=None, derandomize=True)
@ROLLED_BACK
def test_what_is_rolled_back_leaves_nothing_on_s3(s3_server, items, size, shard):
    check_rollback(s3_server, items, size, shard)


def check_rollback(server: S3Server | None, items: list[tuple[list[int], bool]], size: int, shard: int) -> None:
    with new_place(server) as place:
        builder = EpisodeBuilder("g", size)
        with ShardWriter(place.open(), "e00000-000000", META, shard) as writer:
            for item, (pieces, fails) in enumerate(items):
                marks, begin = (writer.mark(), builder.mark()), 0
                for number, steps in enumerate(pieces):
                    for episode in builder.add_tokens(*piece(item, begin, steps), number == 0, ClipInfo(item, f"{item}.wav")):
                        writer.add(episode)
                    begin += steps
                if fails:
                    writer.rollback_to(marks[0])
                    builder.rollback_to(marks[1])
            for episode in builder.finish():
                writer.add(episode)
            reports = writer.commit()
        assert place.names() == [r.name for r in reports]
        assert all(1 <= r.episodes <= shard for r in reports)
        index = ReplayIndex(place.open())
        index.refresh()
        found = [tuple(row) for e in range(index.episodes) for row in index.episode(e).tokens.astype(int).tolist()]
        assert found == [(item, step) for item, (pieces, fails) in enumerate(items) if not fails for step in range(sum(pieces))]


SAMPLED = given(
    groups=st.lists(st.lists(CLIP, min_size=1, max_size=8), min_size=1, max_size=4),
    size=st.integers(2, 20),
    batch=st.tuples(st.integers(1, 9), st.integers(1, 16)),
    shares=st.tuples(st.sampled_from([0.0, 0.5, 1.0]), st.sampled_from([0.0, 0.5, 1.0])),
    seed=st.integers(0, 2**64),
)


@settings(max_examples=60, deadline=None, derandomize=True)
@SAMPLED
def test_round_trip_and_sampling(groups, size, batch, shares, seed):
    check_round_trip(None, groups, size, batch, shares, seed)


@settings(max_examples=5, deadline=None, derandomize=True)
@SAMPLED
def test_round_trip_and_sampling_on_s3(s3_server, groups, size, batch, shares, seed):
    check_round_trip(s3_server, groups, size, batch, shares, seed)


def check_round_trip(server, groups, size, batch, shares, seed):
    """What is written comes back exactly, and every sequence is a contiguous part of one episode with the right marks."""
    episodes: list[Episode] = []
    for g, clips in enumerate(groups):
        episodes += build(f"g{g}", clips, size, first_item=20 * g)
    with new_place(server) as store:
        with ShardWriter(store.open(), "e00000-000000", META, 3) as writer:
            for episode in episodes:
                writer.add(episode)
            writer.commit()
        index = ReplayIndex(store.open())
        index.refresh()
        if server is not None:  # as long as the files are there
            for number in range(index.episodes):
                index.read(number, 0, 1)
    assert index.tokens == sum(map(len, episodes))
    for number, episode in enumerate(episodes):
        stored = index.episode(number)
        assert all(np.array_equal(getattr(stored, f), getattr(episode, f)) for f in ("tokens", "is_first", "action", "start_sample"))
        assert (stored.clips, stored.group) == (episode.clips, episode.group)

    # (item, step) -> where it stands
    place = {tuple(row): (n, t) for n, e in enumerate(episodes) for t, row in enumerate(e.tokens.astype(int).tolist())}
    sampler = ReplaySampler(index, *batch, *shares, seed)
    for _ in range(3):
        drawn = sampler.sample()
        spans = []
        for row in range(batch[0]):
            valid = int(drawn.mask[row].sum())
            assert drawn.mask[row].tolist() == [True] * valid + [False] * (batch[1] - valid)
            where = [place[tuple(token)] for token in drawn.tokens[row, :valid].astype(int).tolist()]
            number, start = where[0]
            episode = episodes[number]
            assert where == [(number, start + k) for k in range(valid)]
            assert valid == min(batch[1], len(episode))
            first = episode.is_first[start : start + valid].copy()
            first[0] = True
            assert drawn.is_first[row].tolist() == first.tolist() + [False] * (batch[1] - valid)
            ids = [item * MAX_START_SAMPLE + step * ID_STEPS for item, step in drawn.tokens[row, :valid].astype(int).tolist()]
            assert drawn.token_id[row].tolist() == ids + [-1] * (batch[1] - valid)
            assert index.groups[drawn.group[row]] == episode.group
            assert np.array_equal(drawn.action[row, :valid], episode.action[start : start + valid])
            spans.append((number, start, start + valid))
        room = {g: sum(max(1, len(e) // batch[1]) for e in episodes if e.group == g) for g in index.groups}
        if sum(room.values()) >= batch[0]:
            spans.sort()
            assert all(a[0] != b[0] or a[2] <= b[1] for a, b in itertools.pairwise(spans))
        if shares[0] == 1.0 and min(room.values()) >= batch[0]:
            assert len(set(drawn.group.tolist())) == 1
