"""Keeps a store within its capacity; used by the coordinator only, so that nobody else removes files."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import pyarrow as pa

from pydreaming.errors import ReplayError, UnreachableError
from pydreaming.replay.names import META_KEY, shard_age
from pydreaming.replay.store import Identity, Store

_Aged = tuple[tuple[int, int, int], int, str, int]  # age by name, modification time in ns, name, tokens


def oldest_files(store: Store, capacity_tokens: int, known: Mapping[str, int] | None = None) -> list[str]:
    """The files without which at most `capacity_tokens` tokens are left, oldest first.

    The oldest file is that of the least epoch and lease in its name, then of the earliest modification time. One file always stays.
    Only replay files count: a damaged, foreign or unfinished file is left to its owner.

    Args:
      store: missing is empty. capacity_tokens: tokens to keep.
      known: tokens of files by name, as far as the caller knows them; of the others the footer is read.
    Raises:
      ReplayError: the store cannot be listed.
    """
    counts, files = known or {}, list[_Aged]()
    for name, identity in store.scan().items():
        tokens = counts.get(name) or _tokens(store, name, identity)
        if tokens is not None:
            files.append((shard_age(name), identity.mtime_ns, name, tokens))
    total, chosen = sum(file[3] for file in files), []
    for _, _, name, tokens in sorted(files)[:-1]:
        if total <= capacity_tokens:
            break
        total -= tokens
        chosen.append(name)
    return chosen


@lru_cache(maxsize=65_536)
def _tokens(store: Store, name: str, identity: Identity) -> int | None:
    """Rows of a replay file, None for any other file; kept in memory as long as the file is the same one."""
    try:
        footer = store.open(name, identity).footer()
    except FileNotFoundError:  # replaced or removed meanwhile
        return None
    except UnreachableError:
        raise
    except (ReplayError, OSError, ValueError, pa.ArrowException):  # damaged: the index reports it, with its cause
        return None
    return int(footer.num_rows) if META_KEY in (footer.metadata or {}) else None
