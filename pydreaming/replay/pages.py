"""Reads columns of a row group through Parquet, as any program may have written it, in no more memory than they should need.

What a file says of its sizes binds nobody: Arrow takes what each page's own header asks for (2 GB, in a file of some bytes), and repeats a
value of a dictionary as often as there are rows. So the headers are read here first, and dictionaries stay what they are.

    |header|page …|header|page …|      a column chunk: a dictionary perhaps, and then values
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from pydreaming.errors import ReplayError
from pydreaming.replay.store import Bytes

MAX_TEXT = 2**13  # bytes of a text
MAX_BYTES = 2**28  # of a column of a row group, unfolded: an episode of 100,000 tokens of 1,280 bytes has half of it
MAX_ROWS = 2**24  # of a row group
_MARGIN = 2**16  # bytes of a chunk beside its values: indices, levels, length prefixes, and a dictionary for a few rows
_PER_VALUE = 16  # bytes of them that grow with the rows

# What broken bytes make pyarrow and numpy raise; ArrowInvalid and UnicodeDecodeError are ValueErrors.
BROKEN = (OSError, ValueError, pa.ArrowException, OverflowError, IndexError, KeyError)

_VALUES, _DICTIONARY, _VALUES_V2 = 0, 2, 3  # types of pages
_ENCODING = {_VALUES: (5, 2), _DICTIONARY: (7, 2), _VALUES_V2: (8, 4)}  # field of a header with the type's own, and of the encoding there
# PLAIN, PLAIN_DICTIONARY, RLE, BIT_PACKED, DELTA_BINARY_PACKED, DELTA_LENGTH_BYTE_ARRAY, RLE_DICTIONARY, BYTE_STREAM_SPLIT: values take no
# more than their pages do. (DELTA_BYTE_ARRAY lets each share the beginning of the one before.)
_BOUNDED = {0, 2, 3, 4, 5, 6, 8, 9}
_TRUTHS, _INTEGERS, _I32, _BINARY, _STRUCT = (1, 2), (4, 6), 5, 8, 12  # thrift's types


class RowGroups:
    """The row groups of a file in memory.

    Raises:
      ReplayError: it is no Parquet file.
    """

    def __init__(self, data: Bytes) -> None:
        self._data, self._buffer = data, pa.py_buffer(data)
        try:
            self.footer = pq.read_metadata(pa.BufferReader(self._buffer))
            self._schema = [self.footer.schema.column(place) for place in range(self.footer.num_columns)]
            kept = [column.path for column in self._schema if column.physical_type == "BYTE_ARRAY" and "." not in column.path]
            self._file = pq.ParquetFile(pa.BufferReader(self._buffer), metadata=self.footer, read_dictionary=kept)
        except BROKEN as e:
            raise ReplayError(f"not a readable Parquet file: {one_line(e)}") from e

    def read(self, number: int, names: Sequence[str], widths: Sequence[int]) -> list[list[Any]]:
        """Values of columns, one a row. Equal ones may be one object.

        Args:
          number: of the row group. widths: bytes that a value of each column has; MAX_TEXT for text, which may have fewer.
        Raises:
          ReplayError: a column is not there, or not flat, or larger than that, or damaged.
        """
        try:
            group = self.footer.row_group(number)
            for name, width in zip(names, widths, strict=True):
                self._check(group, name, width)
            table = self._file.read_row_group(number, columns=list(names))
            columns = [_values(table[name]) for name in names]  # text is looked at only here: it need not be UTF-8
        except BROKEN as e:
            raise ReplayError(one_line(e)) from e
        for name, width, column in zip(names, widths, columns, strict=True):
            if any(isinstance(value, str | bytes) and len(value) > width for value in set(column)):
                raise ReplayError(f"a value of '{name}' has more than {width} bytes")
        return columns

    def _check(self, group: Any, name: str, width: int) -> None:
        """Raises ReplayError unless a column holds one value of at most `width` bytes for each row."""
        (place,) = places_of([column.path for column in self._schema], [name])
        kind, column, rows = self._schema[place], group.column(place), group.num_rows
        begin, size = column.data_page_offset, column.total_compressed_size
        if column.has_dictionary_page and 0 < column.dictionary_page_offset < begin:
            begin = column.dictionary_page_offset
        flat = kind.max_repetition_level == 0 and kind.max_definition_level <= 1 and column.num_values == rows
        narrow = kind.physical_type != "FIXED_LEN_BYTE_ARRAY" or kind.length <= width < MAX_TEXT
        if not flat or not narrow or not 0 <= begin <= begin + size <= len(self._data):
            raise ReplayError(f"column '{name}' is not one value of {width} bytes a row")
        if rows > MAX_ROWS:
            raise ReplayError(f"{rows} rows in one row group")
        check_pages(self._data[begin : begin + size], rows, min(rows * (width + _PER_VALUE) + _MARGIN, MAX_BYTES))


def check_pages(chunk: Bytes, rows: int, most: int) -> None:
    """Walk through the pages of a column chunk.

    Raises:
      ReplayError: they are not pages of `rows` values in all that unfold to `most` bytes at most.
    """
    data, at, values, unfolded = chunk.data, 0, 0, 0
    while at < len(data):
        try:
            header, at = _struct(data, at)
        except IndexError as e:
            raise ReplayError("a page's header ends early") from e
        kind = header.numbers.get(1, -1)
        place, encoding = _ENCODING.get(kind, (0, 0))
        own = header.structs.get(place, _NOTHING).numbers
        sizes = [header.numbers.get(2, -1), header.numbers.get(3, -1), own.get(1, -1)]
        if own.get(encoding) not in _BOUNDED or min(sizes) < 0:
            raise ReplayError("a page of a kind that is not read here")
        unfolded += sizes[0]
        at += sizes[1]
        values += sizes[2] if kind != _DICTIONARY else 0
    if at != len(data) or values != rows:
        raise ReplayError(f"pages of {values} values for {rows} rows")
    if unfolded > most:
        raise ReplayError(f"its pages unfold to {unfolded} bytes, where {most} are the most that {rows} rows may need")


def places_of(paths: Sequence[str], names: Sequence[str]) -> list[int]:
    """Where columns stand among all `paths` of a file. Raises ReplayError: there is none of a name, or more than one."""
    tops = [path.split(".")[0] for path in paths]
    for name in names:
        if tops.count(name) != 1:
            raise ReplayError(f"it has no column '{name}', or several")
    return [tops.index(name) for name in names]


def one_line(error: Exception) -> str:
    """What pyarrow says, on one line."""
    return " ".join(str(error).split())


def _values(column: pa.ChunkedArray) -> list[Any]:
    found: list[Any] = []
    for chunk in column.chunks:
        if isinstance(chunk, pa.DictionaryArray):
            values = chunk.dictionary.to_pylist()
            found += [None if index is None else values[index] for index in chunk.indices.to_pylist()]
        else:
            found += chunk.to_pylist()
    return found


class _Fields(NamedTuple):
    """What a page's header says, by thrift's numbers of fields: int32 and structs; nothing else matters here."""

    numbers: dict[int, int]
    structs: dict[int, _Fields]


_NOTHING = _Fields({}, {})


def _struct(data: memoryview, at: int, depth: int = 0) -> tuple[_Fields, int]:
    """A struct of thrift's compact protocol, and where it ends.

    Raises:
      ReplayError: what is there is not a page's header. IndexError: the data end before.
    """
    found, number = _Fields({}, {}), 0
    while data[at]:
        kind, step = data[at] & 15, data[at] >> 4
        number, at = (number + step, at + 1) if step else _signed(data, at + 1)
        if number in found.numbers or number in found.structs:
            raise ReplayError("a page's header says something twice")
        if kind == _I32:
            found.numbers[number], at = _signed(data, at)
        elif kind == _STRUCT and depth < 2:
            found.structs[number], at = _struct(data, at, depth + 1)
        elif kind in _INTEGERS:
            _, at = _unsigned(data, at)
        elif kind == _BINARY:
            length, at = _unsigned(data, at)
            at += length
        elif kind not in _TRUTHS:
            raise ReplayError("a page's header cannot be read")
    return found, at + 1


def _unsigned(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
        if shift > 63:
            raise ReplayError("a page's header cannot be read")


def _signed(data: memoryview, at: int) -> tuple[int, int]:
    value, at = _unsigned(data, at)
    return (value >> 1) ^ -(value & 1), at
