"""The index follows the folder, survives what it finds there, and reads without copies where the layout allows it."""

from __future__ import annotations

import io
import os
from pathlib import Path

import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from places import Place
from replay_store import assert_equal_episodes, build_group, evict, small_store, store_meta, write_lease

from pydreaming.errors import ReplayError
from pydreaming.replay import shard
from pydreaming.replay.index import ReplayIndex
from pydreaming.replay.names import CHECK_KEY, META_KEY, TABLE_KEY
from pydreaming.replay.sampler import ReplaySampler
from pydreaming.replay.schema import ID_STEPS, decode_metadata, encode_metadata
from pydreaming.replay.writer import episode_table


def test_missing_folder_is_an_empty_store(tmp_path):
    index = ReplayIndex(tmp_path / "none")
    assert index.refresh() == ([], [])
    assert (index.episodes, index.tokens, index.groups, index.meta) == (0, 0, [], None)


def test_refresh_reports_what_came_and_went(place):
    meta = store_meta()
    index = ReplayIndex(place.open())
    first = [r.name for r in write_lease(place.open(), 0, build_group("b", [(0, 60)], meta), meta, shard_episodes=2)]
    assert index.refresh() == (first, [])
    assert index.version == 1
    assert index.refresh() == ([], [])
    assert index.version == 1
    second = [r.name for r in write_lease(place.open(), 1, build_group("a", [(1, 20)], meta), meta)]
    place.remove(first[0])
    assert index.refresh() == (second, first[:1])
    assert index.groups == ["a", "b"]
    assert index.group_ids.tolist() == [1, 1, 0, 0][: index.episodes]
    assert index.tokens == 60 - 32 + 20


def test_flat_arrays_describe_the_episodes(place):
    index = small_store(place.open())
    assert index.clip_offsets[-1] == len(index.clip_start) == len(index.clip_item)
    for e in range(index.episodes):
        episode = index.episode(e)
        clips = slice(index.clip_offsets[e], index.clip_offsets[e + 1])
        assert index.lengths[e] == len(episode)
        assert index.groups[index.group_ids[e]] == episode.group
        assert index.clip_start[clips].tolist() == [clip.start for clip in episode.clips] == np.flatnonzero(episode.is_first).tolist()
        assert index.clip_item[clips].tolist() == [clip.item for clip in episode.clips]
        assert np.array_equal(index.read(e, 2, 5), episode.tokens[2:7])


def test_reading_outside_an_episode_is_an_error(place):
    index = small_store(place.open())
    steps = int(index.lengths[0])
    for start, length in [(-1, 2), (steps - 1, 2), (0, steps + 1), (3, -1)]:
        with pytest.raises(IndexError):
            index.read(0, start, length)


def test_our_files_are_read_from_the_mapping_without_a_descriptor(tmp_path):
    index = small_store(tmp_path, groups=6, shard_episodes=1)
    for e in range(index.episodes):
        index.read(e, 0, 1)
    assert (index._positions > 0).all()
    assert index._checked.all()
    folder = Path("/proc/self/fd")
    descriptors = [os.path.realpath(path) for path in folder.iterdir()] if folder.is_dir() else []
    assert not any(name.startswith(str(tmp_path)) for name in descriptors)


def test_where_episodes_lie_is_found_once_a_file_and_not_before_it_is_drawn_from(tmp_path, monkeypatch):
    small_store(tmp_path, groups=3, shard_episodes=100)
    looked, find = [], shard._positions
    monkeypatch.setattr(shard, "_positions", lambda *what: looked.append(1) or find(*what))
    index = ReplayIndex(tmp_path)
    index.refresh()
    assert len(index.names) == 3
    assert not looked
    index.read(0, 0, 1)
    assert len(looked) == 1
    (tmp_path / index.names[-1]).unlink()
    write_lease(tmp_path, 9, build_group("new", [(9, 16)], store_meta()), store_meta())
    assert index.refresh() != ([], [])  # what was found is kept where the tables are joined anew
    for _ in range(2):
        for episode in range(index.episodes):
            index.read(episode, 0, 1)
    assert len(looked) == len(index.names)


def test_an_evicted_file_stays_readable_until_the_next_refresh(place):
    index = small_store(place.open())
    expected = [index.read(e, 0, int(index.lengths[e])) for e in range(index.episodes)]
    place.wipe()
    for e, tokens in enumerate(expected):
        assert np.array_equal(index.read(e, 0, len(tokens)), tokens)
    assert len(index.refresh()[1]) > 0
    assert index.episodes == 0


def test_a_replaced_file_is_read_anew(place):
    meta = store_meta()
    (report,) = write_lease(place.open(), 0, build_group("a", [(0, 10)], meta), meta)
    index = ReplayIndex(place.open())
    index.refresh()
    write_lease(place.open(), 0, build_group("a", [(5, 12)], meta), meta)
    assert index.refresh() == ([report.name], [report.name])
    assert index.episode(0).clips[0].item == 5


@pytest.mark.parametrize(
    ("overrides", "mean", "message"),
    [
        (["--features.hop_length", "128"], 0.0, r"features.hop_length is (\d+) there and (\d+) here"),
        (["--features.n_mels", "5"], 0.0, r"features.n_mels is 3 there and 5 here"),
        ([], 0.5, r"stats.mean is \[0.0, 0.0, 0.0\] there and \[0.5, 0.5, 0.5\] here"),
        (["--action.strides", "[1,3]"], 0.0, r"action.strides is \[1, 2\] there and \[1, 3\] here"),
    ],
)
def test_files_made_with_other_settings_are_refused_with_both_sides(place, overrides, mean, message):
    index = small_store(place.open(), groups=1)
    before = index.episodes, index.version
    other = store_meta(*overrides, mean=mean)
    write_lease(place.open(), 9, build_group("x", [(0, 9)], other), other)
    with pytest.raises(ReplayError, match=message) as error:
        index.refresh()
    assert "e00000-000009-000.parquet" in str(error.value)
    assert "e00000-000000-000.parquet" in str(error.value)
    assert "\n" not in str(error.value)
    assert (index.episodes, index.version) == before


def test_another_seed_is_no_difference(place):
    index, other = small_store(place.open(), groups=1), store_meta(seed=7)
    write_lease(place.open(), 9, build_group("x", [(0, 9)], other), other)
    assert index.refresh() == (["e00000-000009-000.parquet"], [])


def corrupt(place: Place, name: str, how: str) -> None:
    data = place.read(name)
    footer = int.from_bytes(data[-8:-4], "little")
    changed = {
        "empty": b"",
        "four bytes": data[:4],
        "half": data[: len(data) // 2],
        "without the last byte": data[:-1],
        "text": b"not parquet at all\n" * 40,
        "footer of zeros": data[: -8 - footer] + bytes(footer) + data[-8:],
        "long footer": data[:-8] + (2**31 - 1).to_bytes(4, "little") + data[-4:],
        "table": data.replace(b'"lengths":[', b'"lengths":[9', 1),
        "checksum": data.replace(b"pydreaming.crc32", b"pydreaming.crc33", 1),
    }
    place.write(name, changed[how])


@pytest.mark.parametrize(
    "how", ["empty", "four bytes", "half", "without the last byte", "text", "footer of zeros", "long footer", "table", "checksum"]
)
def test_damaged_file_is_reported_and_skipped(place, how):
    index = small_store(place.open())
    name = place.names()[1]
    healthy = index.tokens
    corrupt(place, name, how)
    again = ReplayIndex(place.open())
    again.refresh()
    assert list(again.damaged) == [name]
    assert again.damaged[name]
    assert "\n" not in again.damaged[name]
    assert 0 < again.tokens < healthy
    ReplaySampler(again, 4, 8, 0.5, 0.5, 0).sample()
    assert again.refresh() == ([], [])
    place.remove(name)
    again.refresh()
    assert again.damaged == {}


def test_a_damaged_file_that_is_written_again_is_taken(place):
    meta = store_meta()
    (report,) = write_lease(place.open(), 0, build_group("a", [(0, 10)], meta), meta)
    place.write(report.name, b"torn")
    index = ReplayIndex(place.open())
    index.refresh()
    assert index.damaged
    write_lease(place.open(), 0, build_group("a", [(0, 10)], meta), meta)
    assert index.refresh() == ([report.name], [])
    assert not index.damaged


def test_a_foreign_parquet_file_is_not_a_replay_file(place):
    place.write("mine.parquet", pd.DataFrame({"a": [1, 2]}).to_parquet())
    index = ReplayIndex(place.open())
    index.refresh()
    assert "not a replay file" in index.damaged["mine.parquet"]


def test_what_is_no_file_is_damage_and_left_alone(tmp_path):
    index = small_store(tmp_path, groups=2)
    os.mkfifo(tmp_path / "e00000-000000-900.parquet")  # reading it would hang
    (tmp_path / "e00000-000000-901.parquet").mkdir()
    assert index.refresh() == ([], [])
    assert index.damaged == {f"e00000-000000-90{n}.parquet": "not a regular file" for n in (0, 1)}
    assert len(evict(tmp_path, 1)) > 0
    assert (tmp_path / "e00000-000000-900.parquet").is_fifo()


def test_any_flipped_bit_of_the_footer_is_survived(tmp_path):
    """Whatever bit of a footer flips, the index goes on, and what it still serves are the right bytes."""
    meta = store_meta()
    (report,) = write_lease(tmp_path, 0, build_group("a", [(0, 10), (1, 25)], meta), meta)
    path = tmp_path / report.name
    data = path.read_bytes()
    index = ReplayIndex(tmp_path)
    index.refresh()
    expected = [index.episode(e) for e in range(index.episodes)]
    begin = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    rng = np.random.default_rng(0)
    outcomes = {"damaged": 0, "decoded": 0, "mapped": 0}
    for place in rng.choice(np.arange(begin, len(data)), 400, replace=False).tolist():
        flipped = bytearray(data)
        flipped[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(flipped)
        again = ReplayIndex(tmp_path)
        again.refresh()
        if again.damaged:
            outcomes["damaged"] += 1
            continue
        for e in range(again.episodes):
            try:
                assert np.array_equal(again.read(e, 0, len(expected[e])), expected[e].tokens)
            except ReplayError:
                assert again._positions[e, 0] <= 0
            mapped = bool(again._positions[e, 0] > 0)
            outcomes["mapped" if mapped else "decoded"] += 1
    assert min(outcomes.values()) > 0


def rewrite(place: Place, name: str, table: pa.Table, metadata: dict[bytes, bytes], **options: object) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata(metadata), sink, **options)
    place.write(name, sink.getvalue().to_pybytes())


@pytest.mark.parametrize(
    ("by_pandas", "options"),
    [
        (True, {"compression": "zstd"}),
        (True, {"compression": "none"}),
        (False, {"compression": "zstd", "use_dictionary": False}),
        (False, {"compression": "none", "use_dictionary": ["obs"]}),
        (False, {"compression": "none", "use_dictionary": False, "data_page_size": 32, "write_batch_size": 4}),
        (False, {"compression": "none", "use_dictionary": False, "data_page_version": "2.0", "write_statistics": True}),
    ],
)
def test_a_rewritten_file_is_decoded_with_the_same_result(place, by_pandas, options):
    """Compressed, nullable, variable-size, with dictionaries, several pages: everything that forbids reading from the mapping."""
    meta = store_meta()
    episodes = [e for g in "abc" for e in build_group(g, [(0, 16)], meta)]
    (report,) = write_lease(place.open(), 0, episodes, meta)
    data = io.BytesIO(place.read(report.name))
    table = pa.Table.from_pandas(pd.read_parquet(data)) if by_pandas else pq.read_table(data)
    keys = {k: v for k, v in pq.read_metadata(data).metadata.items() if k in (META_KEY, TABLE_KEY, CHECK_KEY)}
    rewrite(place, report.name, table, keys, row_group_size=16, **options)
    write_lease(place.open(), 1, episodes, meta)
    index = ReplayIndex(place.open())
    index.refresh()
    assert not index.damaged
    for e in range(6):
        assert_equal_episodes(index.episode(e), episodes[e % 3])
        assert np.array_equal(index.read(e, 3, 9), episodes[e % 3].tokens[3:12])
    assert index._positions[:3].tolist() == [[-1] * 3] * 3
    assert (index._positions[3:] > 0).all()
    sampler, plain = ReplaySampler(index, 6, 8, 0.0, 1.0, 0), {"a", "b", "c"}
    batch = sampler.sample()
    assert {index.groups[g] for g in batch.group} <= plain
    for row in range(6):
        where = batch.token_id[row, 0] // ID_STEPS % 100
        assert np.array_equal(batch.tokens[row], episodes[0].tokens[where : where + 8])


def test_another_encoding_of_the_same_size_is_told_by_the_checksum(place):
    """The footer's sizes cannot tell it from plain values."""
    meta = store_meta()
    episodes = [e for g in "abc" for e in build_group(g, [(0, 16)], meta)]
    (report,) = write_lease(place.open(), 0, episodes, meta)
    data = io.BytesIO(place.read(report.name))
    keys = {k: v for k, v in pq.read_metadata(data).metadata.items() if k in (META_KEY, TABLE_KEY, CHECK_KEY)}
    split = {"use_dictionary": False, "use_byte_stream_split": ["obs", "start_sample"], "compression": "none", "write_statistics": False}
    rewrite(place, report.name, pq.read_table(data), keys, row_group_size=16, **split)
    index = ReplayIndex(place.open())
    index.refresh()
    for _ in range(2):
        for e in range(3):
            assert_equal_episodes(index.episode(e), episodes[e])
            assert np.array_equal(index.read(e, 3, 9), episodes[e].tokens[3:12])
    assert (index._positions > 0).all()
    assert not index._checked.any()
    assert np.isin(ReplaySampler(index, 3, 8, 0.0, 1.0, 0).sample().tokens, episodes[0].tokens).all()


def test_rows_that_contradict_the_table_are_damage(place):
    meta = store_meta()
    episodes = build_group("a", [(0, 32)], meta)
    (report,) = write_lease(place.open(), 0, episodes, meta)
    table = pq.read_table(io.BytesIO(place.read(report.name)))
    for wrong, options in [(episodes[:1], {}), (episodes, {"row_group_size": 8}), (episodes, {"row_group_size": 20})]:
        rewrite(place, report.name, table, encode_metadata(meta, episode_table(wrong)), **options)
        index = ReplayIndex(place.open())
        index.refresh()
        assert "row group" in index.damaged[report.name]
    rewrite(place, report.name, table.drop_columns(["obs"]), encode_metadata(meta, episode_table(episodes)), row_group_size=16)
    index.refresh()
    assert "no column 'obs'" in index.damaged[report.name]


@pytest.mark.parametrize(
    "change",
    [
        {"lengths": [16, 0]}, {"lengths": [16]}, {"clips": [1, 0]}, {"clips": [1, 2]}, {"clip_start": [0, 3]}, {"clip_start": [0, -1]},
        {"clip_item": [0, -1]}, {"clip_item": [0, 2**27]}, {"groups": ["a"]}, {"lengths": [2**40, 16]}, {"clips": [2**31, -(2**31) + 2]},
    ],
)  # fmt: skip
def test_forged_table_cannot_make_the_sampler_read_elsewhere(place, change):
    meta = store_meta()
    episodes = build_group("a", [(0, 32)], meta)
    (report,) = write_lease(place.open(), 0, episodes, meta)
    table = msgspec.structs.replace(episode_table(episodes), **change)
    rewrite(place, report.name, pq.read_table(io.BytesIO(place.read(report.name))), encode_metadata(meta, table), row_group_size=16)
    index = ReplayIndex(place.open())
    index.refresh()
    assert report.name in index.damaged


def test_more_steps_than_the_index_can_count_are_damage():
    """The footer's own count of rows may be forged likewise, so that nothing contradicts it."""
    meta = store_meta()
    table = msgspec.structs.replace(episode_table(build_group("a", [(0, 16)], meta)), lengths=[2**31])
    with pytest.raises(ReplayError, match="contradicts itself"):
        decode_metadata(encode_metadata(meta, table))


def test_another_schema_version_is_named(place):
    meta = msgspec.structs.replace(store_meta(), schema_version=99)
    (report,) = write_lease(place.open(), 0, build_group("a", [(0, 9)], meta), meta)
    index = ReplayIndex(place.open())
    index.refresh()
    assert index.damaged[report.name] == "schema version 99; this program reads version 1: use the one that wrote it, or collect anew"


def test_temporary_and_hidden_files_are_ignored(place):
    index = small_store(place.open(), groups=1)
    place.write("e00000-000001-000.parquet.tmp-1", b"half")
    place.write(".hidden.parquet", b"half")
    assert index.refresh() == ([], [])
    assert not index.damaged


@pytest.mark.parametrize("column", ["source", "label"])
def test_text_that_is_no_utf8_is_damage_in_one_line(tmp_path, column):
    meta = store_meta()
    (report,) = write_lease(tmp_path, 0, build_group("a", [(0, 16)], meta), meta)
    path = tmp_path / report.name
    whole = pq.read_table(path)
    keys = {k: v for k, v in pq.read_metadata(path).metadata.items() if k in (META_KEY, TABLE_KEY, CHECK_KEY)}
    forged = pa.array([b"\xff\xfe\n"] * len(whole)).view(pa.string())
    changed = whole.set_column(whole.column_names.index(column), column, forged).replace_schema_metadata(keys)
    pq.write_table(changed, path, row_group_size=16)
    index = ReplayIndex(tmp_path)
    index.refresh()
    assert index.episodes == 1
    with pytest.raises(ReplayError, match="cannot read episode 0") as refusal:
        index.episode(0)
    assert "\n" not in str(refusal.value)
