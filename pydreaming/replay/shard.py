"""One replay file: where the bytes of each episode lie in it.

Opening it reads from the footer what the episodes are. Where they lie is found, from the footer again, when the first of them is read: a
large store is open sooner, as most of its files are not drawn from for a while. An episode's column is taken straight from the page,
wherever the file is mapped, when by the footer the page is nothing but the values:

    |header|value 0|value 1| … |value T-1|      begin = data_page_offset + total_compressed_size - T * width

Otherwise (a file rewritten with compression, say) the position is -1 and the episode is decoded through Parquet (`pages`): the same
bytes, a hundred times slower. Either way they are checked by the episode's checksum when they are first used; what lies at a position and
does not pass may still be another encoding of the same size, and is decoded, too.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pydreaming.errors import DamagedError, ReplayError, UnreachableError
from pydreaming.replay.pages import BROKEN, MAX_ROWS, MAX_TEXT, RowGroups, one_line, places_of
from pydreaming.replay.schema import (
    ACTION_DTYPE,
    START_DTYPE,
    TOKEN_DTYPE,
    Clip,
    Episode,
    StoreMeta,
    checksum,
    decode_metadata,
)
from pydreaming.replay.store import Bytes, File, Identity, Store, read_footer

# A V1 page header without statistics is 17 to 29 bytes (thrift compact: six small integers and two sizes); two pages in one
# column chunk would show at least 34 bytes beside the values.
_PAGE_HEADER = range(17, 30)
_PLAIN = frozenset({"PLAIN", "RLE", "BIT_PACKED"})

_COLUMNS = ("obs", "action", "start_sample")
_DECODED, _UNKNOWN = -1, -2  # instead of a position

# What a file's footer may promise of episodes that have to be decoded: times its size (silence can be packed that well), and bytes beside.
_UNFOLD, _UNFOLD_MARGIN = 100, 2**26


class Raw(NamedTuple):
    """Bytes of one episode's columns: obs (T * 2 D,), action (T * 4 A,), start_sample (T * 8,) uint8."""

    obs: Bytes
    action: Bytes
    start_sample: Bytes


@dataclass(frozen=True)
class Shard:
    """An open file. Its bytes are the store's to fetch (`Store.fetch`); those who have them give them as `data` below.

    `positions` (episodes, 3) int64: byte position in them of obs, action and start_sample; -1 in a row that must be decoded, -2 in all
    before the first is read. `crc` (episodes,) uint32, or empty in a file of an earlier version. `checked` (episodes,) bool: whose values
    may be taken from the mapping as they are. `raw` fills in both.
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
    crc: NDArray[np.uint32]
    checked: NDArray[np.bool_]

    def raw(self, number: int, data: Bytes) -> Raw:
        """The columns of episode `number` of this file, checked. Raises DamagedError."""
        if self.positions[number, 0] == _UNKNOWN:
            self._locate(data)
        if self.positions[number, 0] == _DECODED:
            return self._decode(number, data)
        sizes = (int(self.lengths[number]) * width for width in _widths(self.meta))
        raw = Raw(*(data[at : at + size] for at, size in zip(self.positions[number].tolist(), sizes, strict=True)))
        if not self.checked[number]:
            if not self._passes(number, raw):
                return self._decode(number, data)
            self.checked[number] = True
        return raw

    def _locate(self, data: Bytes) -> None:
        """Find where the episodes lie. Raises DamagedError."""
        try:
            footer = read_footer(pa.py_buffer(data))
            positions = _positions(footer, self.lengths.tolist(), len(self.crc) > 0, self.meta, self.file.size - 8 - footer.serialized_size)
            _check_promise(self.lengths[positions[:, 0] == _DECODED], sum(_widths(self.meta)), self.file.size)
        except BROKEN as e:
            raise DamagedError(self.name, f"not a readable Parquet file: {one_line(e)}") from e
        except ReplayError as e:
            raise DamagedError(self.name, str(e)) from e
        self.positions[:] = positions
        self.checked[:] = (positions[:, 0] != _DECODED) & (len(self.crc) == 0)

    def _passes(self, number: int, raw: Raw) -> bool:
        return not len(self.crc) or checksum(*raw) == self.crc[number]

    def _decode(self, number: int, data: Bytes) -> Raw:
        """Read the columns through Parquet."""
        widths = _widths(self.meta)
        obs, action, start = self._columns(number, _COLUMNS, widths, data)
        sizes = tuple(int(self.lengths[number]) * width for width in widths)
        try:
            raw = Raw(
                np.frombuffer(b"".join(obs), np.uint8),
                np.frombuffer(b"".join(action), np.uint8),
                np.array(start, START_DTYPE).view(np.uint8),
            )
        except (ValueError, TypeError, OverflowError) as e:  # a missing value, another type
            raise DamagedError(self.name, f"episode {number} holds other values than its footer promises") from e
        if tuple(map(len, raw)) != sizes:
            raise DamagedError(self.name, f"episode {number} does not have the sizes that its footer promises")
        if not self._passes(number, raw):
            raise DamagedError(self.name, f"the values of episode {number} are damaged (checksum)")
        return raw

    def episode(self, number: int, data: Bytes) -> Episode:
        """Episode `number` of this file with the columns that are for people. Raises DamagedError."""
        raw = Raw(*(part.copy() for part in self.raw(number, data)))  # aligned, and not of the mapping
        source, label, speaker = self._columns(number, ("source", "label", "speaker"), (MAX_TEXT,) * 3, data)
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

    def _columns(self, number: int, names: Sequence[str], widths: Sequence[int], data: Bytes) -> list[list[Any]]:
        """Values of each column, one a step."""
        try:
            columns = RowGroups(data).read(number, names, widths)
        except ReplayError as e:
            raise DamagedError(self.name, f"cannot read episode {number}: {e}") from e
        if any(len(column) != self.lengths[number] for column in columns):
            raise DamagedError(self.name, f"episode {number} does not have the steps that its footer promises")
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
        _check_rows(footer, table.lengths)
    except (FileNotFoundError, UnreachableError):
        raise
    except BROKEN as e:
        raise ReplayError(f"not a readable Parquet file: {one_line(e)}") from e
    episodes = len(table.lengths)
    return Shard(
        name,
        meta,
        file,
        np.array(table.lengths, np.int32),
        tuple(map(sys.intern, table.groups)),  # episodes of one group are many
        np.array(table.clips, np.int32),
        np.array(table.clip_start, np.int32),
        np.array(table.clip_item, np.int32),
        np.full((episodes, 3), _UNKNOWN, np.int64),
        np.array(table.crc, np.uint32),
        np.zeros(episodes, np.bool_),
    )


def _check_rows(footer: Any, lengths: Sequence[int]) -> None:
    """Raises ReplayError: the footer contradicts the table of episodes, or lacks a column."""
    if footer.num_row_groups != len(lengths):
        raise ReplayError(f"{footer.num_row_groups} row groups for {len(lengths)} episodes")
    for number, steps in enumerate(lengths):
        if (rows := footer.row_group(number).num_rows) != steps:
            raise ReplayError(f"row group {number} has {rows} rows, its episode {steps} steps")
    if lengths:
        columns = footer.row_group(0)  # asked for `schema`, a footer would be in a cycle with it, and stay until somebody collects that
        places_of([columns.column(place).path_in_schema for place in range(footer.num_columns)], _COLUMNS)


def _positions(footer: Any, lengths: Sequence[int], has_checksums: bool, meta: StoreMeta, end: int) -> NDArray[np.int64]:
    """(episodes, 3) positions; see `Shard`. `end` is where the footer begins.

    Our files end each row group with start_sample, action and obs, back to back. A footer that says otherwise, if only by one flipped
    bit, is not trusted with positions.
    """
    widths = _widths(meta)
    places = places_of([footer.schema.column(place).path for place in range(footer.num_columns)], _COLUMNS)
    schema = [footer.schema.column(place) for place in places]
    required = all(column.max_definition_level == 0 for column in schema) and [column.length for column in schema[:2]] == list(widths[:2])
    columns = list(zip(places, widths, strict=True))
    positions = np.full((len(lengths), 3), _DECODED, np.int64)
    for number in reversed(range(len(lengths))):
        steps, row_group = lengths[number], footer.row_group(number)
        found = []
        for place, width in columns:
            column, values = row_group.column(place), steps * width
            begin, size = column.data_page_offset, column.total_compressed_size
            fits = required and begin + size == end and size - values in _PAGE_HEADER
            proven = fits and (has_checksums or _is_plain(column, steps))  # a checksum will say it, and costs nothing now
            found.append(end - values if proven else _DECODED)
            end = begin
        if min(found) > 0:
            positions[number] = found
        end = row_group.column(0).data_page_offset
    return positions


def _widths(meta: StoreMeta) -> tuple[int, int, int]:
    """Bytes of one step in obs, action and start_sample."""
    return meta.token_dim * TOKEN_DTYPE.itemsize, meta.action_dim * ACTION_DTYPE.itemsize, START_DTYPE.itemsize


def _check_promise(lengths: NDArray[np.int64], width: int, size: int) -> None:
    """Raises ReplayError: a file of `size` bytes can hardly hold episodes of these lengths, of `width` bytes a step."""
    promised, most = int(lengths.sum()) * width, _UNFOLD * size + _UNFOLD_MARGIN
    if promised > most or lengths.max(initial=0) > MAX_ROWS:
        raise ReplayError(f"its footer promises {promised} bytes; from a file of {size} bytes no more than {most} are believed")


def _is_plain(column: Any, steps: int) -> bool:
    """Whether a column chunk holds `steps` values as they are."""
    return (
        column.num_values == steps
        and column.compression == "UNCOMPRESSED"
        and not column.has_dictionary_page
        and _PLAIN.issuperset(column.encodings)
    )
