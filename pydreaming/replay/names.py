"""File names and metadata keys of the replay store; imports nothing heavy, so that the coordinator may use it."""

from __future__ import annotations

import re

SUFFIX = ".parquet"
META_KEY = b"pydreaming.store"  # JSON of StoreMeta, identical in every file of a store
TABLE_KEY = b"pydreaming.episodes"  # JSON of EpisodeTable, this file's episodes
CHECK_KEY = b"pydreaming.crc32"  # crc32 of the two values above, so that a flipped bit in a footer is seen

_SHARD = re.compile(r"e(\d+)-(\d+)-(\d+)\.parquet")
_TEMPORARY = re.compile(r".+\.parquet\.tmp-(\d+)")


def shard_prefix(epoch: int, lease: int) -> str:
    """Beginning of the names of one lease's files; deterministic, so that a re-done lease replaces its own files."""
    return f"e{epoch:05d}-{lease:06d}"


def shard_name(prefix: str, part: int) -> str:
    """`<prefix>-<part>.parquet`."""
    return f"{prefix}-{part:03d}{SUFFIX}"


def shard_age(name: str) -> tuple[int, int, int]:
    """(epoch, lease, part) of a file name; (-1, -1, -1), older than all, for a name of another form."""
    match = _SHARD.fullmatch(name)
    return (int(match[1]), int(match[2]), int(match[3])) if match else (-1, -1, -1)


def temporary_pid(name: str) -> int | None:
    """Process that writes the temporary file `name`; None when it is not one of ours."""
    match = _TEMPORARY.fullmatch(name)
    return int(match[1]) if match else None
