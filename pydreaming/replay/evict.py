"""Keeps a store within its capacity; used by the coordinator only, so that nobody else removes files."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pydreaming.errors import ReplayError
from pydreaming.replay.names import META_KEY, SUFFIX, shard_age


def evict(folder: Path, capacity_tokens: int) -> list[str]:
    """Remove the oldest files until at most `capacity_tokens` tokens are left.

    The oldest file is that of the least epoch and lease in its name, then of the earliest modification time. One file always stays.
    Only replay files count and are removed: a damaged, foreign or unfinished file is left to its owner. A learner that has a file
    mapped keeps reading it.

    Args:
      folder: the store; missing is empty. capacity_tokens: tokens to keep.
    Returns:
      names of the removed replay files, oldest first.
    Raises:
      ReplayError: the folder cannot be listed, or a file cannot be removed.
    """
    files: list[tuple[tuple[int, int, int], int, str, int]] = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if not entry.name.endswith(SUFFIX):
                    continue
                try:
                    stat = entry.stat()
                    if not entry.is_file():
                        continue
                    tokens = _tokens(entry.path, stat.st_ino, stat.st_size, stat.st_mtime_ns)
                except FileNotFoundError:  # replaced or removed meanwhile
                    continue
                if tokens is not None:
                    files.append((shard_age(entry.name), stat.st_mtime_ns, entry.name, tokens))
    except FileNotFoundError:
        return []
    except OSError as e:
        raise ReplayError(f"cannot clean the replay folder {folder}: {e.strerror}") from e
    return _remove_oldest(Path(folder), sorted(files), capacity_tokens)


def _remove_oldest(folder: Path, files: list[tuple[tuple[int, int, int], int, str, int]], capacity_tokens: int) -> list[str]:
    total, removed = sum(file[3] for file in files), []
    for _, _, name, tokens in files[:-1]:
        if total <= capacity_tokens:
            break
        try:
            (folder / name).unlink(missing_ok=True)
        except OSError as e:
            raise ReplayError(f"cannot remove {folder / name}: {e.strerror}") from e
        total -= tokens
        removed.append(name)
    return removed


@lru_cache(maxsize=65_536)
def _tokens(path: str, inode: int, size: int, mtime_ns: int) -> int | None:
    """Rows of a replay file, None for any other file; kept in memory as long as the file is the same one."""
    try:
        footer = pq.read_metadata(path)
    except FileNotFoundError:
        raise
    except (OSError, ValueError, pa.ArrowException):  # damaged: the index reports it, with its cause
        return None
    return int(footer.num_rows) if META_KEY in (footer.metadata or {}) else None
