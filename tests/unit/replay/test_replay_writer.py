"""Transactions: what is committed is there, whole and durable; what is taken back leaves nothing."""

from __future__ import annotations

import io
import os

import numpy as np
import pandas as pd
import pytest
from replay_store import assert_equal_episodes, build_group, clip_arrays, store_meta, write_lease

from pydreaming.errors import ReplayError
from pydreaming.replay.builder import ClipInfo, EpisodeBuilder
from pydreaming.replay.index import ReplayIndex
from pydreaming.replay.names import shard_age, shard_name, shard_prefix, temporary_pid
from pydreaming.replay.schema import Clip, Episode
from pydreaming.replay.writer import FileReport, ShardWriter


def listing(folder):
    return sorted(path.name for path in folder.iterdir())


def unfinished(store):
    return [name for name in listing(store.staging()) if temporary_pid(name) == os.getpid()]


def test_committed_episodes_come_back_bit_for_bit(place):
    meta = store_meta()
    episodes = build_group("speaker:a", [(0, 40), (1, 3), (2, 5), (3, 1)], meta)
    reports = write_lease(place.open(), 7, episodes, meta, shard_episodes=2)
    index = ReplayIndex(place.open())
    assert index.refresh() == ([r.name for r in reports], [])
    assert index.episodes == len(episodes)
    assert index.tokens == 49 == sum(r.tokens for r in reports)
    for number, episode in enumerate(episodes):
        assert_equal_episodes(index.episode(number), episode)


def test_pandas_reads_a_file_in_one_line(place):
    meta = store_meta()
    (episode,) = build_group("speaker:a", [(4, 5), (9, 6)], meta)
    (report,) = write_lease(place.open(), 0, [episode], meta)
    df = pd.read_parquet(io.BytesIO(place.read(report.name)))
    assert list(df.columns) == [
        "episode", "step", "is_first", "group", "source", "label", "speaker", "item", "start_sample", "action", "obs",
    ]  # fmt: skip
    assert df.source.tolist() == ["speaker:a/4.wav"] * 5 + ["speaker:a/9.wav"] * 6
    assert df.label.tolist() == ["label 1"] * 5 + ["label 0"] * 6
    assert df.item.tolist() == [4] * 5 + [9] * 6
    assert df.is_first.tolist() == episode.is_first.tolist()
    assert df.step.tolist() == list(range(11))
    assert set(df.group) == {"speaker:a"} == set(df.speaker)
    assert np.array_equal(np.frombuffer(b"".join(df.obs), "<f2").reshape(11, -1), episode.tokens)
    assert np.array_equal(np.frombuffer(b"".join(df.action), "<f4").reshape(11, -1), episode.action)


def test_report_states_what_is_on_disk(place):
    meta = store_meta()
    episodes = build_group("g", [(0, 100)], meta)
    reports = write_lease(place.open(), 3, episodes, meta, shard_episodes=4, epoch=2)
    assert [r.name for r in reports] == ["e00002-000003-000.parquet", "e00002-000003-001.parquet"]
    assert reports[0] == FileReport(reports[0].name, 4, 64, len(place.read(reports[0].name)))
    assert sum(r.episodes for r in reports) == len(episodes)


def test_nothing_is_visible_before_commit_and_nothing_remains_after_abort(place):
    meta, store = store_meta(), place.open()
    with ShardWriter(store, "e00000-000000", meta, 2) as writer:
        for episode in build_group("g", [(0, 100)], meta):
            writer.add(episode)
        assert unfinished(store)  # flushed parts, under temporary names
        assert not [name for name in place.names() if temporary_pid(name) is None]
        index = ReplayIndex(place.open())
        assert index.refresh() == ([], [])
    assert place.names() == unfinished(store) == []
    with pytest.raises(ValueError, match="already"):
        writer.commit()


def test_failing_long_item_loses_no_other_episode(place):
    meta = store_meta()
    good, more, store = build_group("a", [(0, 50)], meta), build_group("c", [(2, 70)], meta), place.open()
    with ShardWriter(store, "e00000-000000", meta, 2) as writer:
        for episode in good:
            writer.add(episode)
        mark = writer.mark()
        for episode in build_group("b", [(1, 1000)], meta):
            writer.add(episode)
        assert len(unfinished(store)) > 20
        writer.rollback_to(mark)
        assert len(unfinished(store)) == 2  # three good episodes: one full file, and the rest that made way for the long item
        writer.mark()
        for episode in more:
            writer.add(episode)
        reports = writer.commit()
    assert place.names() == [r.name for r in reports]
    index = ReplayIndex(place.open())
    index.refresh()
    assert not index.damaged
    for number, episode in enumerate(good + more):
        assert_equal_episodes(index.episode(number), episode)
    assert index.episodes == len(good + more)


def test_rollback_with_the_builder_keeps_the_clips_before_in_a_shared_episode(place):
    meta = store_meta()
    builder, infos = EpisodeBuilder("a", 8), [ClipInfo(i, f"{i}.wav") for i in range(3)]
    with ShardWriter(place.open(), "e00000-000000", meta, 1) as writer:
        for item, steps, fails in [(0, 5, False), (1, 30, True), (2, 4, False)]:
            marks = writer.mark(), builder.mark()
            for episode in builder.add_tokens(*clip_arrays(item, steps, meta), True, infos[item]):
                writer.add(episode)
            if fails:
                writer.rollback_to(marks[0])
                builder.rollback_to(marks[1])
        for episode in builder.finish():
            writer.add(episode)
        writer.commit()
    index = ReplayIndex(place.open())
    index.refresh()
    assert [clip.item for clip in index.episode(0).clips] == [0, 2]
    expected = np.concatenate([clip_arrays(0, 5, meta)[0], clip_arrays(2, 4, meta)[0]])
    assert np.array_equal(index.episode(0).tokens, expected)
    assert index.tokens == 9


def test_only_the_latest_mark_is_valid(tmp_path):
    writer = ShardWriter(tmp_path, "e00000-000000", store_meta(), 2)
    old = writer.mark()
    writer.mark()
    with pytest.raises(ValueError, match="latest"):
        writer.rollback_to(old)


def test_memory_holds_two_files_of_episodes_at_most(tmp_path):
    meta = store_meta()
    writer = ShardWriter(tmp_path, "e00000-000000", meta, 3)
    for episode in build_group("a", [(0, 16 * 40)], meta):
        writer.mark()
        writer.add(episode)
        assert len(writer._pending) <= 6
    assert [r.episodes for r in writer.commit()] == [3] * 13 + [1]


def test_a_lease_done_twice_gives_identical_files(place):
    meta = store_meta()
    episodes = build_group("a", [(0, 50), (1, 3)], meta)
    first = write_lease(place.open(), 1, episodes, meta)
    content = [place.read(r.name) for r in first]
    assert write_lease(place.open(), 1, episodes, meta) == first
    assert [place.read(r.name) for r in first] == content


def test_empty_lease_commits_to_no_file(place):
    assert write_lease(place.open(), 0, [], store_meta()) == []
    assert place.names() == []


def test_disk_that_refuses_is_a_clear_error_and_leaves_nothing(tmp_path, monkeypatch):
    meta = store_meta()

    def full(handle):
        raise OSError(28, "No space left on device")

    writer = ShardWriter(tmp_path, "e00000-000000", meta, 2)
    for episode in build_group("a", [(0, 50)], meta):
        writer.add(episode)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ReplayError, match="No space left"):
        writer.commit()
    assert listing(tmp_path) == []


def test_files_and_folder_are_synced(tmp_path, monkeypatch):
    synced, real = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: (synced.append(os.fstat(handle).st_ino), real(handle)))
    meta = store_meta()
    (report,) = write_lease(tmp_path, 0, build_group("a", [(0, 5)], meta), meta)
    assert synced == [(tmp_path / report.name).stat().st_ino, tmp_path.stat().st_ino]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokens": np.zeros((4, 5), np.float16)}, "tokens must be"),
        ({"tokens": np.zeros((4, 6), np.float32)}, "float16"),
        ({"action": np.zeros((3, 2), np.float32)}, "action must be"),
        ({"is_first": np.array([False, False, False, False])}, "is_first"),
        ({"is_first": np.array([True, False, True, False])}, "is_first"),
        ({"clips": []}, "is_first"),
        ({"clips": [Clip(0, -1, "", 0)]}, "items"),
        ({"start_sample": np.array([0, 1, 2, 2**36])}, "start_sample"),
        ({"start_sample": np.array([-1, 1, 2, 3])}, "start_sample"),
    ],
)
def test_contradictory_episode_is_refused(tmp_path, change, message):
    tokens, action, start = clip_arrays(0, 4, store_meta())
    fields = {"tokens": tokens, "is_first": np.arange(4) == 0, "action": action, "start_sample": start, "clips": [Clip(0, 0, "", 0)]}
    writer = ShardWriter(tmp_path, "e00000-000000", store_meta(), 2)
    writer.add(Episode(**fields, group="g"))
    with pytest.raises(ValueError, match=message):
        writer.add(Episode(**(fields | change), group="g"))


def test_names_sort_by_age():
    assert shard_name(shard_prefix(3, 12), 1) == "e00003-000012-001.parquet"
    assert shard_age("e00003-000012-001.parquet") == (3, 12, 1)
    assert shard_age("other.parquet") == (-1, -1, -1)
    assert temporary_pid("e00003-000012-001.parquet.tmp-77") == 77
    assert temporary_pid("e00003-000012-001.parquet") is None
