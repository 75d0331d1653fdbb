"""Writes one lease's episodes as Parquet files that appear when the lease is done, and not before.

add                 memory, then <name>.parquet.tmp-<pid> in the store's staging folder
mark, rollback_to   take back one failed item
commit              the store publishes the files as <name>.parquet
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pydreaming.errors import ReplayError
from pydreaming.replay.address import Location
from pydreaming.replay.names import shard_name
from pydreaming.replay.schema import Episode, EpisodeTable, StoreMeta, arrow_schema, check_episode, checksum, encode_metadata
from pydreaming.replay.store import Store, open_store

_ONE_PAGE = 2**30  # bytes and rows; above any row group, so that each column of an episode is a single page
_BUFFER = 2**16  # bytes; gathers the small columns into one system call, larger pages pass by it
_TEXT_COLUMNS = ["group", "source", "label", "speaker"]


class FileReport(msgspec.Struct, frozen=True):
    """One committed file."""

    name: str
    episodes: int
    tokens: int
    bytes: int


class _Part(NamedTuple):
    """A file that is complete but still has its temporary name."""

    report: FileReport
    temporary: Path


class ShardWriter:
    """A transaction of episodes, of which memory holds at most two files' worth.

    As a context manager it aborts what was not committed. After `commit` or `abort` it is closed.

    Args:
      where: the store; a folder is made when missing.
      name_prefix: beginning of the file names, `names.shard_prefix(epoch, lease)`. Names and contents depend on nothing but the
        arguments and the calls, so that a lease done twice gives the same files.
      meta: settings of the store; its features and action determine the widths D and A.
      shard_episodes: episodes in a file, at most.
    Raises:
      ReplayError: the folder cannot be made; later, the disk refuses a write (the transaction is then aborted).
    """

    def __init__(self, where: Location | Store, name_prefix: str, meta: StoreMeta, shard_episodes: int) -> None:
        if shard_episodes < 1:
            raise ValueError(f"shard_episodes must be at least 1, got {shard_episodes}")
        self._store, self._prefix, self._meta, self._limit = open_store(where), name_prefix, meta, shard_episodes
        self._schema = arrow_schema(meta.token_dim, meta.action_dim)
        self._parts: list[_Part] = []
        self._pending: list[Episode] = []
        # Before the last mark, and so out of a rollback's reach: the first _kept_parts parts and _kept pending episodes.
        self._kept_parts = self._kept = self._marks = 0
        self._closed = False
        self._staging = self._store.staging()

    def add(self, episode: Episode) -> None:
        """Append one episode. Raises ValueError: it contradicts itself or the store's widths."""
        self._require_open()
        check_episode(episode, self._meta.token_dim, self._meta.action_dim)
        self._pending.append(episode)
        if len(self._pending) - self._kept >= self._limit:
            self.flush()

    def mark(self) -> int:
        """Keep all episodes so far, and return the mark for `rollback_to`; earlier marks become invalid."""
        self._require_open()
        while len(self._pending) >= self._limit:
            self._write(self._limit)
        self._kept_parts, self._kept = len(self._parts), len(self._pending)
        self._marks += 1
        return self._marks

    def rollback_to(self, mark: int) -> None:
        """Take back every episode added since `mark`, which is the latest one. Raises ValueError: it is not."""
        self._require_open()
        if mark != self._marks or mark == 0:
            raise ValueError(f"mark {mark} is not the latest one ({self._marks})")
        for part in self._parts[self._kept_parts :]:
            part.temporary.unlink(missing_ok=True)
        del self._parts[self._kept_parts :]
        del self._pending[self._kept :]

    def flush(self) -> None:
        """Write what memory holds to temporary files. A file never spans the mark: a rollback could not cut it in two."""
        self._require_open()
        if self._kept:
            self._write(self._kept)
            self._kept, self._kept_parts = 0, len(self._parts)
        while self._pending:
            self._write(self._limit)

    def commit(self) -> list[FileReport]:
        """Make all episodes durable and visible, and close. An empty transaction commits to no file.

        Raises:
          ReplayError: the store refuses, or does not answer for too long (UnreachableError); nothing is left under a temporary name.
          Files that were already published stay: they are complete, and the same lease done again replaces them.
        """
        self._require_open()
        self._kept = 0  # nothing is taken back any more, so files may be filled across the mark
        self.flush()
        try:
            self._store.publish([(part.temporary, part.report.name) for part in self._parts])
        except OSError as e:
            self.abort()
            raise ReplayError(f"cannot commit to {self._store.location}: {e.strerror}") from e
        except ReplayError:
            self.abort()
            raise
        self._closed = True
        return [part.report for part in self._parts]

    def abort(self) -> None:
        """Remove everything that was not committed, and close; harmless when already closed."""
        if self._closed:
            return
        self._closed = True
        self._pending.clear()
        for part in self._parts:
            part.temporary.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.abort()

    def _require_open(self) -> None:
        if self._closed:
            raise ValueError(f"the transaction {self._prefix} is already committed or aborted")

    def _write(self, count: int) -> None:
        """Move the first `count` pending episodes into a file under a temporary name."""
        episodes, name = self._pending[:count], shard_name(self._prefix, len(self._parts))
        temporary = self._staging / f"{name}.tmp-{os.getpid()}"
        try:
            size = _write_file(temporary, episodes, self._meta, self._schema)
        except OSError as e:
            temporary.unlink(missing_ok=True)
            self.abort()
            raise ReplayError(f"cannot write {temporary}: {e}") from e
        del self._pending[:count]
        report = FileReport(name, len(episodes), sum(map(len, episodes)), size)
        self._parts.append(_Part(report, temporary))


def _write_file(path: Path, episodes: Sequence[Episode], meta: StoreMeta, schema: pa.Schema) -> int:
    """Write one file, a row group for each episode, and return its size in bytes."""
    table = episode_table(episodes)
    small = _small_columns(episodes, table)
    with pa.BufferedOutputStream(pa.OSFile(str(path), "wb"), _BUFFER) as sink:
        with pq.ParquetWriter(
            sink,
            schema,
            compression="NONE",
            use_dictionary=_TEXT_COLUMNS,
            write_statistics=["episode", "item"],
            data_page_size=_ONE_PAGE,
            max_rows_per_page=_ONE_PAGE,
            data_page_version="1.0",
            store_schema=False,
        ) as writer:
            begin = 0
            for episode in episodes:
                arrays = small.slice(begin, len(episode)).columns
                arrays += [
                    _fixed_binary(episode.action, schema.field("action").type),
                    _fixed_binary(episode.tokens, schema.field("obs").type),
                ]
                writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=schema), row_group_size=len(episode))
                begin += len(episode)
            writer.add_key_value_metadata(encode_metadata(meta, table))
        return int(sink.tell())


def episode_table(episodes: Sequence[Episode]) -> EpisodeTable:
    """The table of a file's footer."""
    return EpisodeTable(
        lengths=[len(episode) for episode in episodes],
        groups=[episode.group for episode in episodes],
        clips=[len(episode.clips) for episode in episodes],
        clip_start=[clip.start for episode in episodes for clip in episode.clips],
        clip_item=[clip.item for episode in episodes for clip in episode.clips],
        crc=[checksum(*map(np.ascontiguousarray, (episode.tokens, episode.action, episode.start_sample))) for episode in episodes],
    )


def _small_columns(episodes: Sequence[Episode], table: EpisodeTable) -> pa.RecordBatch:
    """All columns of a file but `action` and `obs`, built at once: for each episode alone it would cost as much as the writing."""
    lengths = np.array(table.lengths)
    total, clips = int(lengths.sum()), [clip for episode in episodes for clip in episode.clips]
    base = np.cumsum(lengths) - lengths
    begin = np.repeat(base, table.clips) + table.clip_start  # of each clip in the file
    clip_of_step = np.repeat(np.arange(len(clips), dtype=np.int32), np.diff([*begin, total]))
    episode_of_step = np.repeat(np.arange(len(episodes), dtype=np.int32), lengths)
    columns = {
        "episode": _numbers(episode_of_step),
        "step": _numbers((np.arange(total) - np.repeat(base, lengths)).astype(np.int32)),
        "is_first": _truths(np.concatenate([episode.is_first for episode in episodes])),
        "group": _text(table.groups, episode_of_step),
        "source": _text([clip.path for clip in clips], clip_of_step),
        "label": _text([clip.label for clip in clips], clip_of_step),
        "speaker": _text([clip.speaker for clip in clips], clip_of_step),
        "item": _numbers(np.array(table.clip_item, np.int64)[clip_of_step]),
        "start_sample": _numbers(np.concatenate([episode.start_sample for episode in episodes])),
    }
    return pa.record_batch(list(columns.values()), names=list(columns))


# Arrays are made of buffers: `pa.array` loads all of pandas at its first call, .7 s of a worker's start.


def _text(values: Sequence[str], index: NDArray[np.int32]) -> pa.StringArray:
    """A text for each step from one for each clip or episode."""
    encoded = [value.encode() for value in values]
    ends = np.cumsum([0, *map(len, encoded)], dtype=np.int32)
    texts = pa.StringArray.from_buffers(len(values), pa.py_buffer(ends), pa.py_buffer(b"".join(encoded)))
    return pc.take(texts, _numbers(index))


def _numbers(values: NDArray[Any]) -> pa.Array:
    """(N,) integers."""
    return pa.Array.from_buffers(pa.from_numpy_dtype(values.dtype), len(values), [None, pa.py_buffer(np.ascontiguousarray(values))])


def _truths(values: NDArray[np.bool_]) -> pa.BooleanArray:
    """(N,) truths."""
    return pa.Array.from_buffers(pa.bool_(), len(values), [None, pa.py_buffer(np.packbits(values, bitorder="little"))])


def _fixed_binary(values: NDArray[Any], kind: pa.DataType) -> pa.FixedSizeBinaryArray:
    """(T, W) as T binary values, without a copy."""
    return pa.FixedSizeBinaryArray.from_buffers(kind, len(values), [None, pa.py_buffer(np.ascontiguousarray(values))])
