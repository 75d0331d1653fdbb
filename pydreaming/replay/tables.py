"""Result tables of the analyses, as Parquet, CSV or npz: the one place outside the store that writes Parquet."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pydreaming.errors import ReplayError, UsageError


def write_table(path: Path, columns: Mapping[str, Sequence[Any] | NDArray[Any]], metadata: Mapping[str, Any] | None = None) -> None:
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
    path = Path(path)
    writers = {".parquet": _write_parquet, ".csv": _write_csv, ".npz": _write_npz}
    if path.suffix not in writers:
        raise UsageError(f"{path}: a table ends in .parquet, .csv or .npz")
    arrays = {name: _column(name, values) for name, values in columns.items()}
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"columns differ in length: {lengths}")
    texts = {key: json.dumps(value, ensure_ascii=False) for key, value in (metadata or {}).items()}
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            writers[path.suffix](temporary, arrays, texts)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as e:
        raise ReplayError(f"cannot write {path}: {e.strerror or e}") from e


def _column(name: str, values: Sequence[Any] | NDArray[Any]) -> NDArray[Any]:
    array = np.asarray(values)
    if array.ndim not in (1, 2) or array.dtype.kind not in "biufU" or (array.ndim == 2 and array.dtype.kind == "U"):
        raise ValueError(f"column '{name}' must be (N,) numbers, truth values or text, or (N, K) numbers; got {array.shape} {array.dtype}")
    return array


def _write_parquet(path: Path, columns: Mapping[str, NDArray[Any]], metadata: Mapping[str, str]) -> None:
    def arrow(array: NDArray[Any]) -> pa.Array:
        flat = pa.array(np.ascontiguousarray(array).reshape(-1))
        return flat if array.ndim == 1 else pa.FixedSizeListArray.from_arrays(flat, array.shape[1])

    table = pa.table({name: arrow(array) for name, array in columns.items()})
    pq.write_table(table.replace_schema_metadata(dict(metadata)), str(path), compression="zstd")


def _write_csv(path: Path, columns: Mapping[str, NDArray[Any]], metadata: Mapping[str, str]) -> None:
    names: list[str] = []
    values: list[list[Any]] = []
    for name, array in columns.items():
        wide = array.ndim == 2
        names += [f"{name}_{k}" for k in range(array.shape[1])] if wide else [name]
        values += array.T.tolist() if wide else [array.tolist()]
    with path.open("w", encoding="utf-8", newline="") as file:
        file.writelines(f"# {key}: {value}\n" for key, value in metadata.items())
        writer = csv.writer(file)
        writer.writerow(names)
        writer.writerows(zip(*values, strict=True))


def _write_npz(path: Path, columns: Mapping[str, NDArray[Any]], metadata: Mapping[str, str]) -> None:
    if taken := {"metadata", "file", "allow_pickle"} & columns.keys():  # arguments of numpy.savez
        raise ValueError(f"the column name '{min(taken)}' is taken in an npz")
    document = json.dumps({key: json.loads(value) for key, value in metadata.items()}, ensure_ascii=False)
    with path.open("wb") as file:
        np.savez(file, allow_pickle=False, metadata=np.array(document), **columns)
