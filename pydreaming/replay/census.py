"""What a replay file's columns for people say: counted from two of them, without reading any token."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from pydreaming.errors import ReplayError
from pydreaming.replay.shard import BROKEN
from pydreaming.replay.store import Bytes


@dataclass(frozen=True)
class Census:
    """Tokens by label and by speaker, of a file; '' stands for none known."""

    labels: Counter[str]
    speakers: Counter[str]


def take_census(data: Bytes) -> Census:
    """Count one file, a row group at a time. Raises ReplayError: it cannot be read."""
    counts: dict[str, Counter[str]] = {"label": Counter(), "speaker": Counter()}
    try:
        with pq.ParquetFile(pa.BufferReader(pa.py_buffer(data))) as file:
            for group in range(file.num_row_groups):
                table = file.read_row_group(group, columns=list(counts))
                for name, count in counts.items():
                    for pair in table[name].value_counts().to_pylist():
                        count[pair["values"]] += pair["counts"]
    except BROKEN as e:
        raise ReplayError(f"not a readable Parquet file: {' '.join(str(e).split())}") from e
    return Census(counts["label"], counts["speaker"])
