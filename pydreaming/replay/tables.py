"""Result tables of the analyses, as Parquet, CSV or npz: the one place outside the store that reads and writes Parquet."""

from __future__ import annotations

import csv
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pydreaming.errors import ReplayError, UsageError

Columns = Mapping[str, Sequence[Any] | NDArray[Any]]
GROUP_BYTES = 1 << 25  # held by a TableWriter before they are written: row groups much smaller make a Parquet file slow to read


def write_table(path: Path, columns: Columns, metadata: Mapping[str, Any] | None = None) -> None:
    """Write named columns of equal length; the file appears complete, under its name, or not at all.

    A column is (N,) numbers, truth values or text, or (N, K) numbers. One line reads each format:

        pandas.read_parquet("x.parquet")             a (N, K) column holds arrays: numpy.stack(df["feat"])
        pandas.read_csv("x.csv", comment="#")        a (N, K) column becomes K columns feat_0 … feat_{K-1}
        numpy.load("x.npz")                          one array a column, and `metadata`, a JSON text

    Args:
      path: ends in .parquet, .csv or .npz; its folder is made when missing.
      columns: name to values.
      metadata: JSON-able values that say where the table comes from: Parquet's key-value metadata (JSON texts), `# key: value` lines
        at the top of a CSV, or the array `metadata`.
    Raises:
      UsageError: another ending. ValueError: columns differ in length or have a type that no format holds.
      ReplayError: the disk refuses.
    """
    with TableWriter(path, metadata) as table:
        table.append(columns)


class TableWriter:
    """A table written block by block, so that it may be larger than memory (an .npz is held until its end); see `write_table`.

        with TableWriter(path, metadata) as table:
            for block in blocks:
                table.append(block)

    The file takes its name when the block of code ends well, and is not made when nothing was appended.

    Attributes:
      rows: appended so far.
    Raises: as `write_table`; ValueError also when a later block has other columns than the first.
    """

    def __init__(self, path: Path, metadata: Mapping[str, Any] | None = None) -> None:
        self._path = Path(path)
        sinks: dict[str, type[_Sink]] = {".parquet": _Parquet, ".csv": _Csv, ".npz": _Npz}
        if self._path.suffix not in sinks:
            raise UsageError(f"{path}: a table ends in .parquet, .csv or .npz")
        self._temporary = self._path.with_name(f".{self._path.name}.tmp-{os.getpid()}")
        texts = {key: json.dumps(value, ensure_ascii=False) for key, value in (metadata or {}).items()}
        self._sink = sinks[self._path.suffix](self._temporary, texts)
        self._pending: list[dict[str, NDArray[Any]]] = []
        self._names: tuple[str, ...] = ()
        self.rows = 0

    def append(self, columns: Columns) -> None:
        """Add rows: the same columns each time."""
        arrays = {name: _column(name, values) for name, values in columns.items()}
        lengths = {name: len(array) for name, array in arrays.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"columns differ in length: {lengths}")
        self._names = self._names or tuple(arrays)
        if tuple(arrays) != self._names:
            raise ValueError(f"the table has columns {self._names}, not {tuple(arrays)}")
        self._pending.append(arrays)
        self.rows += next(iter(lengths.values()))
        if sum(array.nbytes for block in self._pending for array in block.values()) >= GROUP_BYTES:
            self._flush()

    def __enter__(self) -> TableWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if kind is None and self._names:
                self._flush()
                self._sink.close()
                self._temporary.replace(self._path)
        except OSError as e:
            raise self._refused(e) from e
        finally:
            self._sink.abandon()
            if self._temporary.exists():
                self._temporary.unlink()

    def _flush(self) -> None:
        if not self._pending:
            return
        block = {name: np.concatenate([part[name] for part in self._pending]) for name in self._names}
        self._pending = []
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._sink.write(block)
        except OSError as e:
            raise self._refused(e) from e

    def _refused(self, error: OSError) -> ReplayError:
        return ReplayError(f"cannot write {self._path}: {error.strerror or error}")


def read_about(path: Path) -> dict[str, Any]:
    """The metadata that `write_table` put into a Parquet file. Raises ReplayError: missing, or no Parquet file."""
    with _parquet_file(path) as file:
        texts = {key.decode(): value.decode() for key, value in (file.schema_arrow.metadata or {}).items()}
    return {key: json.loads(text) for key, text in texts.items() if key not in ("ARROW:schema", "pandas")}


def read_blocks(path: Path, columns: Sequence[str] = (), rows: int = 8192) -> Iterator[dict[str, NDArray[Any]]]:
    """Columns of a Parquet table, at most `rows` rows at a time; a (N, K) column comes back as one.

    Args:
      columns: their names; all when empty.
    Raises:
      ReplayError: missing, no Parquet file, damaged, or without one of the columns.
    """
    with _parquet_file(path) as file:
        names = list(columns) or file.schema_arrow.names
        if missing := [name for name in names if name not in file.schema_arrow.names]:
            raise ReplayError(f"{path} has no column '{missing[0]}'; it has {', '.join(file.schema_arrow.names)}")
        try:
            for batch in file.iter_batches(rows, columns=names):
                yield {name: _from_arrow(batch.column(name)) for name in names}
        except (pa.ArrowException, OSError) as e:
            raise ReplayError(f"{path} is damaged: {e}") from e


def _parquet_file(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(str(path))
    except (pa.ArrowException, OSError) as e:
        reason = "it is not there" if not Path(path).exists() else "it is no Parquet file"
        raise ReplayError(f"cannot read {path}: {reason}") from e


def _from_arrow(column: pa.Array) -> NDArray[Any]:
    if pa.types.is_fixed_size_list(column.type):
        values: NDArray[Any] = column.flatten().to_numpy(zero_copy_only=False)
        return values.reshape(len(column), column.type.list_size)
    if pa.types.is_string(column.type):
        return np.array(column.to_pylist(), dtype=np.str_)
    plain: NDArray[Any] = column.to_numpy(zero_copy_only=False)
    return plain


def _column(name: str, values: Sequence[Any] | NDArray[Any]) -> NDArray[Any]:
    array = np.asarray(values)
    if array.ndim not in (1, 2) or array.dtype.kind not in "biufU" or (array.ndim == 2 and array.dtype.kind == "U"):
        raise ValueError(f"column '{name}' must be (N,) numbers, truth values or text, or (N, K) numbers; got {array.shape} {array.dtype}")
    return array


class _Sink(ABC):
    """One format: blocks of checked columns to a file at `path`, which is opened with the first."""

    def __init__(self, path: Path, metadata: Mapping[str, str]) -> None:
        self.path = path
        self.metadata = metadata

    @abstractmethod
    def write(self, columns: Mapping[str, NDArray[Any]]) -> None:
        """Add a block."""

    @abstractmethod
    def close(self) -> None:
        """Complete the file."""

    def abandon(self) -> None:  # noqa: B027 - most keep no file open
        """Let go of the file, complete or not."""


class _Parquet(_Sink):
    _writer: pq.ParquetWriter | None = None

    def write(self, columns: Mapping[str, NDArray[Any]]) -> None:
        def arrow(array: NDArray[Any]) -> pa.Array:
            flat = pa.array(np.ascontiguousarray(array).reshape(-1))
            return flat if array.ndim == 1 else pa.FixedSizeListArray.from_arrays(flat, array.shape[1])

        table = pa.table({name: arrow(array) for name, array in columns.items()}).replace_schema_metadata(dict(self.metadata))
        if self._writer is None:
            self._writer = pq.ParquetWriter(str(self.path), table.schema, compression="zstd")
        self._writer.write_table(table)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()

    def abandon(self) -> None:
        if self._writer is not None and self._writer.is_open:
            self._writer.close()


class _Csv(_Sink):
    _mode = "w"

    def write(self, columns: Mapping[str, NDArray[Any]]) -> None:
        names: list[str] = []
        values: list[list[Any]] = []
        for name, array in columns.items():
            wide = array.ndim == 2
            names += [f"{name}_{k}" for k in range(array.shape[1])] if wide else [name]
            values += array.T.tolist() if wide else [array.tolist()]
        with self.path.open(self._mode, encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            if self._mode == "w":
                file.writelines(f"# {key}: {value}\n" for key, value in self.metadata.items())
                writer.writerow(names)
            writer.writerows(zip(*values, strict=True))
        self._mode = "a"

    def close(self) -> None:
        pass  # every block is in the file already


class _Npz(_Sink):
    def __init__(self, path: Path, metadata: Mapping[str, str]) -> None:
        super().__init__(path, metadata)
        self._blocks: list[Mapping[str, NDArray[Any]]] = []

    def write(self, columns: Mapping[str, NDArray[Any]]) -> None:
        if taken := {"metadata", "file", "allow_pickle"} & columns.keys():  # arguments of numpy.savez
            raise ValueError(f"the column name '{min(taken)}' is taken in an npz")
        self._blocks.append(columns)

    def close(self) -> None:
        columns = {name: np.concatenate([block[name] for block in self._blocks]) for name in self._blocks[0]}
        document = json.dumps({key: json.loads(value) for key, value in self.metadata.items()}, ensure_ascii=False)
        with self.path.open("wb") as file:
            np.savez(file, allow_pickle=False, metadata=np.array(document), **columns)
