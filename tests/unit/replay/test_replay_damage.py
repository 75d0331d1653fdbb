"""Values that are not what was written, and foreign files that ask for more memory than they may: named, and left out."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from places import Place
from replay_store import build_group, positions_in, small_store, store_meta, write_lease

from pydreaming.errors import DamagedError, ReplayError
from pydreaming.replay import shard, writer
from pydreaming.replay.index import ReplayIndex
from pydreaming.replay.pages import MAX_TEXT, RowGroups, check_pages
from pydreaming.replay.sampler import ReplaySampler
from pydreaming.replay.schema import encode_metadata
from pydreaming.replay.writer import episode_table

MIB = 2**20
_POOLS: list[pa.MemoryPool] = []


@pytest.fixture
def pool() -> Iterator[pa.MemoryPool]:
    """Counts what Arrow takes. Kept for good: a buffer that outlives its pool is freed through memory that is gone."""
    before = pa.default_memory_pool()
    _POOLS.append(pa.proxy_memory_pool(before))
    pa.set_memory_pool(_POOLS[-1])
    yield _POOLS[-1]
    pa.set_memory_pool(before)


def flip(place: Place, name: str, at: int) -> None:
    content = bytearray(place.read(name))
    content[at] ^= 1
    place.write(name, bytes(content))


def opened(place: Place) -> ReplayIndex:
    index = ReplayIndex(place.open())
    index.refresh()
    return index


@pytest.mark.parametrize("column", [0, 1, 2])
def test_a_flipped_bit_of_a_value_leaves_the_file_out_and_names_it_once(place, column, caplog):
    whole = small_store(place.open(), groups=2)
    victim = place.names()[0]
    flip(place, victim, int(positions_in(place.read(victim))[0, column]) + 5)
    index = opened(place)
    assert not index.damaged  # footers alone do not tell
    with caplog.at_level(logging.WARNING):
        sampler = ReplaySampler(index, 4, 8, 0.0, 1.0, 0)
        for _ in range(40):
            sampler.sample()
    assert index.damaged == {victim: "the values of episode 0 are damaged (checksum)"}
    assert [record.getMessage() for record in caplog.records if victim in record.getMessage()] == [
        f"left aside in {place.location}: {victim}: the values of episode 0 are damaged (checksum)"
    ]
    assert index.episodes == whole.episodes - 4
    assert index.refresh() == ([], [])
    assert list(index.damaged) == [victim]
    place.write(victim, b"another")  # a file that is replaced gets another chance
    index.refresh()
    assert "not a readable Parquet file" in index.damaged[victim]


def test_an_episode_that_is_read_alone_is_checked_too(place):
    small_store(place.open(), groups=1)
    name = place.names()[0]
    content = place.read(name)  # not by the index: an object replaced within a second is the same to S3, and its copy still good
    flip(place, name, int(positions_in(content)[1, 0]))
    index = opened(place)
    for read in (lambda: index.read(1, 5, 1), lambda: index.episode(1)):
        with pytest.raises(DamagedError, match=rf"{name}: the values of episode 1 are damaged"):
            read()
    begin = int(positions_in(content)[0, 0])
    first = index.read(0, 0, 8)
    assert first.tobytes() == content[begin : begin + first.nbytes]


def test_a_store_of_nothing_but_damage_ends_with_a_count(tmp_path):
    small_store(tmp_path, groups=3, shard_episodes=100)
    for path in sorted(tmp_path.iterdir()):
        content = bytearray(path.read_bytes())
        for position in positions_in(bytes(content))[:, 0].tolist():
            content[position] ^= 128
        path.write_bytes(content)
    index = ReplayIndex(tmp_path)
    index.refresh()
    with pytest.raises(ReplayError, match="holds no episode yet; 3 files are damaged"):
        ReplaySampler(index, 4, 8, 0.5, 0.5, 0).sample()


def test_values_are_checked_once(tmp_path, monkeypatch):
    index = small_store(tmp_path, groups=1)
    calls = []
    monkeypatch.setattr(shard, "checksum", lambda *raw: calls.append(1) or writer.checksum(*raw))
    sampler = ReplaySampler(index, 4, 8, 0.0, 1.0, 0)
    for _ in range(50):
        sampler.sample()
    write_lease(tmp_path, 1, build_group("b", [(0, 16)], store_meta()), store_meta())
    index.refresh()
    for episode in range(index.episodes):
        index.read(episode, 0, 1)
    assert len(calls) == index.episodes


def test_files_without_checksums_are_read_as_before(place, monkeypatch):
    meta = store_meta()
    with monkeypatch.context() as earlier:
        earlier.setattr(writer, "episode_table", lambda episodes: msgspec.structs.replace(episode_table(episodes), crc=[]))
        write_lease(place.open(), 0, build_group("a", [(0, 16)], meta), meta)
    index = opened(place)
    expected = build_group("a", [(0, 16)], meta)[0].tokens
    for _ in range(2):
        assert np.array_equal(index.read(0, 2, 5), expected[2:7])
        assert index._checked.all()


def test_a_rewritten_file_keeps_its_checksums(place):
    meta = store_meta()
    episodes = build_group("a", [(0, 16)], meta)
    (report,) = write_lease(place.open(), 0, episodes, meta)
    table = pq.read_table(io.BytesIO(place.read(report.name)))
    other = pa.array([b"\1" * 12] * 16, table.schema.field("obs").type)
    for column, sound in ((table["obs"], True), (other, False)):
        changed = table.set_column(table.column_names.index("obs"), "obs", column)
        put(place, report.name, changed, encode_metadata(meta, episode_table(episodes)), compression="zstd")
        index = opened(place)
        if sound:
            assert np.array_equal(index.read(0, 0, 16), episodes[0].tokens)
        else:
            with pytest.raises(DamagedError, match="checksum"):
                index.read(0, 0, 16)


# -- files that want too much --------------------------------------------------------------------------------------------------------------


def put(place: Place, name: str, table: pa.Table, metadata: dict[bytes, bytes], **options: object) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata(metadata), sink, row_group_size=len(table), **options)
    place.write(name, sink.getvalue().to_pybytes())


def forged(obs: pa.Array, source: pa.Array | None = None) -> tuple[pa.Table, dict[bytes, bytes]]:
    """A file's table and metadata with another `obs` column, of as many steps as it has."""
    meta, steps = store_meta(), len(obs)
    (episode,) = build_group("a", [(0, steps)], meta, episode_tokens=steps)
    text = pa.array(["a"] * steps)
    columns = {
        "source": text if source is None else source, "label": text, "speaker": text,
        "start_sample": pa.array(episode.start_sample), "action": pa.array([row.tobytes() for row in episode.action]), "obs": obs,
    }  # fmt: skip
    return pa.table(columns), encode_metadata(meta, episode_table([episode]))


BOMBS = {
    "large values": pa.array([bytes(4 * MIB)] * 16),
    "a large value of a dictionary": pa.array([bytes(60_000)] * 3000).dictionary_encode(),
    "wide values": pa.array([bytes(50_000)] * 1000, pa.binary(50_000)),
    "many values a row": pa.array([[bytes(12)] * 100_000] * 16),
}


@pytest.mark.parametrize("obs", BOMBS.values(), ids=BOMBS.keys())
@pytest.mark.parametrize("compression", ["zstd", "none"])
def test_pages_that_unfold_without_end_are_refused_before_they_do(place, obs, compression, pool):
    put(place, "e00000-000000-000.parquet", *forged(obs), compression=compression)
    data = np.frombuffer(place.read("e00000-000000-000.parquet"), np.uint8)
    before = pool.max_memory()
    file = RowGroups(data)
    with pytest.raises(ReplayError):
        file.read(0, ["obs"], [12])
    assert pool.max_memory() - before < 4 * MIB
    sampler = ReplaySampler(index := opened(place), 4, 8, 0.0, 1.0, 0)
    with pytest.raises(ReplayError, match=r"1 files are damaged"):
        sampler.sample()
    assert len(index.damaged) == 1


def test_texts_that_unfold_without_end_are_refused(place):
    source = pa.array(["x" * (MAX_TEXT + 1)] * 16)
    put(place, "e00000-000000-000.parquet", *forged(pa.array([bytes(12)] * 16), source))
    file = RowGroups(np.frombuffer(place.read("e00000-000000-000.parquet"), np.uint8))
    assert file.read(0, ["label"], [MAX_TEXT]) == [["a"] * 16]
    with pytest.raises(ReplayError, match="more than 8192 bytes"):
        file.read(0, ["source"], [MAX_TEXT])


def test_two_columns_of_a_name_are_refused(place):
    table, metadata = forged(pa.array([bytes(12)] * 16))
    put(place, "e00000-000000-000.parquet", table.append_column("obs", pa.array([bytes(MIB)] * 16)), metadata)
    assert "no column 'obs', or several" in opened(place).damaged["e00000-000000-000.parquet"]


def test_a_footer_may_promise_only_what_its_file_can_hold():
    shard._check_promise(np.array([10_000] * 20), 300, 200_000)
    for lengths, size in (([2**20] * 1000, 10_000), ([2**25], 2**40), ([2**62, 2**62], 10_000)):
        with pytest.raises(ReplayError, match="footer promises"):
            shard._check_promise(np.array(lengths), 20, size)


@pytest.mark.parametrize(
    "options", [{}, {"data_page_version": "2.0"}, {"use_dictionary": False, "data_page_size": 64, "write_batch_size": 4}]
)
def test_a_chunk_with_any_byte_changed_is_refused_or_within_its_bound(tmp_path, options):
    table, metadata = forged(pa.array([bytes([i]) * 12 for i in range(16)]))
    pq.write_table(table.replace_schema_metadata(metadata), tmp_path / "a.parquet", compression="zstd", **options)
    footer = pq.read_metadata(tmp_path / "a.parquet")
    column = footer.row_group(0).column(table.column_names.index("obs"))
    begin = column.dictionary_page_offset or column.data_page_offset
    chunk = np.fromfile(tmp_path / "a.parquet", np.uint8)[begin : begin + column.total_compressed_size]
    check_pages(chunk, 16, 2**16)
    outcomes = {"refused": 0, "passed": 0}
    rng = np.random.default_rng(0)
    for at in range(len(chunk)):
        for value in rng.integers(0, 256, 20).tolist():
            changed = chunk.copy()
            changed[at] = value
            try:
                check_pages(changed[: rng.integers(at, len(chunk)) + 1], 16, 2**16)
                outcomes["passed"] += 1
            except ReplayError:
                outcomes["refused"] += 1
    assert min(outcomes.values()) > 0
