"""One replay file: where the bytes of each episode lie in it, from its footer alone.

An episode's column is taken straight from the page, wherever the file is mapped, when the footer proves that the page is nothing but the
values:

    |header|value 0|value 1| … |value T-1|      begin = data_page_offset + total_compressed_size - T * width

Otherwise (a file rewritten with compression, say) the position is -1 and the episode is decoded by `read_row_group`: the same
bytes, a hundred times slower.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pydreaming.errors import ReplayError, UnreachableError
from pydreaming.replay.schema import ACTION_DTYPE, START_DTYPE, TOKEN_DTYPE, Clip, Episode, EpisodeTable, StoreMeta, decode_metadata
from pydreaming.replay.store import Bytes, File, Identity, Store

# A V1 page header without statistics is 17 to 29 bytes (thrift compact: six small integers and two sizes); two pages in one
# column chunk would show at least 34 bytes beside the values.
_PAGE_HEADER = range(17, 30)
_PLAIN = frozenset({"PLAIN", "RLE", "BIT_PACKED"})

# What a broken file makes pyarrow and numpy raise; ArrowInvalid and UnicodeDecodeError are ValueErrors.
BROKEN = (OSError, ValueError, pa.ArrowException, OverflowError, IndexError, KeyError)


class Raw(NamedTuple):
    """Bytes of one episode's columns: obs (T * 2 D,), action (T * 4 A,), start_sample (T * 8,) uint8."""

    obs: Bytes
    action: Bytes
    start_sample: Bytes


@dataclass(frozen=True)
class Shard:
    """An open file. Its bytes are the store's to fetch (`Store.fetch`); those who have them give them as `data` below.

    `positions` (episodes, 3) int64: byte position in them of obs, action and start_sample; -1 in a row that must be decoded.
    """

    name: str
    meta: StoreMeta
    file: File
    lengths: NDArray[np.int32]
    groups: tuple[str, ...]
    clip_counts: NDArray[np.int32]
    clip_start: NDArray[np.int32]
    clip_item: NDArray[np.int32]
    positions: NDArray[np.int64]

    def decode(self, number: int, data: Bytes) -> Raw:
        """Read the columns of episode `number` of this file through Parquet. Raises ReplayError."""
        obs, action, start = self._columns(number, ("obs", "action", "start_sample"), data)
        steps, meta = int(self.lengths[number]), self.meta
        sizes = (steps * meta.token_dim * TOKEN_DTYPE.itemsize, steps * meta.action_dim * ACTION_DTYPE.itemsize, steps * 8)
        try:
            raw = Raw(
                np.frombuffer(b"".join(obs), np.uint8),
                np.frombuffer(b"".join(action), np.uint8),
                np.array(start, START_DTYPE).view(np.uint8),
            )
        except (ValueError, TypeError, OverflowError) as e:  # a missing value, another type
            raise ReplayError(f"{self.name}: episode {number} holds other values than its footer promises") from e
        if tuple(map(len, raw)) != sizes:
            raise ReplayError(f"{self.name}: episode {number} does not have the sizes that its footer promises")
        return raw

    def episode(self, number: int, data: Bytes) -> Episode:
        """Episode `number` of this file with the columns that are for people. Raises ReplayError."""
        raw = self.decode(number, data)
        source, label, speaker = self._columns(number, ("source", "label", "speaker"), data)
        first = int(self.clip_counts[:number].sum())
        here = slice(first, first + int(self.clip_counts[number]))
        starts, items = self.clip_start[here].tolist(), self.clip_item[here].tolist()
        start_sample = raw.start_sample.view(START_DTYPE)
        is_first = np.zeros(int(self.lengths[number]), np.bool_)
        is_first[starts] = True
        clips = [
            Clip(start, item, source[start], int(start_sample[start]), label[start], speaker[start])
            for start, item in zip(starts, items, strict=True)
        ]
        tokens = raw.obs.view(TOKEN_DTYPE).reshape(-1, self.meta.token_dim)
        action = raw.action.view(ACTION_DTYPE).reshape(-1, self.meta.action_dim)
        return Episode(tokens, is_first, action, start_sample, clips, self.groups[number])

    def _columns(self, number: int, names: Sequence[str], data: Bytes) -> list[list[Any]]:
        """Values of each column, one a step."""
        try:
            table = pq.ParquetFile(pa.BufferReader(pa.py_buffer(data))).read_row_group(number, columns=list(names))
            columns = [table[name].to_pylist() for name in names]  # text is looked at only here: it need not be UTF-8
        except BROKEN as e:
            raise ReplayError(f"{self.name}: cannot read episode {number}: {' '.join(str(e).split())}") from e
        if any(len(column) != self.lengths[number] for column in columns):
            raise ReplayError(f"{self.name}: episode {number} does not have the steps that its footer promises")
        return columns


def open_shard(store: Store, name: str, identity: Identity) -> Shard:
    """Read a listed file's footer, once.

    Raises:
      ReplayError: it is empty, torn, damaged, of another program or of another version. FileNotFoundError: it has vanished.
      UnreachableError: the store does not answer.
    """
    try:
        file = store.open(name, identity)
        footer = file.footer()
        meta, table = decode_metadata(footer.metadata)
        positions = _positions(footer, table, meta, file.size - 8 - footer.serialized_size)
    except (FileNotFoundError, UnreachableError):
        raise
    except BROKEN as e:
        raise ReplayError(f"not a readable Parquet file: {' '.join(str(e).split())}") from e
    return Shard(
        name,
        meta,
        file,
        np.array(table.lengths, np.int32),
        tuple(map(sys.intern, table.groups)),  # episodes of one group are many
        np.array(table.clips, np.int32),
        np.array(table.clip_start, np.int32),
        np.array(table.clip_item, np.int32),
        positions,
    )


def _positions(footer: Any, table: EpisodeTable, meta: StoreMeta, end: int) -> NDArray[np.int64]:
    """(episodes, 3) positions; see `Shard`. `end` is where the footer begins.

    Our files end each row group with start_sample, action and obs, back to back. A footer that says otherwise, if only by one flipped
    bit, is not trusted with positions.

    Raises:
      ReplayError: the footer contradicts the table of episodes.
    """
    widths = (meta.token_dim * TOKEN_DTYPE.itemsize, meta.action_dim * ACTION_DTYPE.itemsize, START_DTYPE.itemsize)
    places = [_column(footer, name) for name in ("obs", "action", "start_sample")]
    if footer.num_row_groups != len(table.lengths):
        raise ReplayError(f"{footer.num_row_groups} row groups for {len(table.lengths)} episodes")
    schema = [footer.schema.column(place) for place in places]
    required = all(column.max_definition_level == 0 for column in schema) and [column.length for column in schema[:2]] == list(widths[:2])
    columns = list(zip(places, widths, strict=True))
    positions = np.full((len(table.lengths), 3), -1, np.int64)
    for number in reversed(range(len(table.lengths))):
        steps, row_group = table.lengths[number], footer.row_group(number)
        if row_group.num_rows != steps:
            raise ReplayError(f"row group {number} has {row_group.num_rows} rows, its episode {steps} steps")
        found = []
        for place, width in columns:
            column, values = row_group.column(place), steps * width
            begin, size = column.data_page_offset, column.total_compressed_size
            proven = required and begin + size == end and _is_one_page(column, steps, size - values)
            found.append(end - values if proven else -1)
            end = begin
        if min(found) > 0:
            positions[number] = found
        end = row_group.column(0).data_page_offset
    return positions


def _column(footer: Any, name: str) -> int:
    for place in range(footer.num_columns - 1, -1, -1):  # ours are the last
        if footer.schema.column(place).path == name:
            return place
    raise ReplayError(f"it has no column '{name}'")


def _is_one_page(column: Any, steps: int, header: int) -> bool:
    """Whether a column chunk is one plain uncompressed page of `steps` values behind `header` bytes."""
    return (
        header in _PAGE_HEADER
        and column.num_values == steps
        and column.compression == "UNCOMPRESSED"
        and not column.has_dictionary_page
        and _PLAIN.issuperset(column.encodings)
    )
