"""Copies of a distant store's files on this host's disk: bounded, checked, and shared by the processes of the host.

A copy is the file and behind it a digest of it, under a name that is a digest too (of whatever the store calls the file):

    |bytes of the file …|blake2b, 16 bytes|

It is checked when a process opens it, and stays mapped after that. A copy that is torn, or damaged, or of another length is removed.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pyarrow as pa

from pydreaming.errors import ReplayError
from pydreaming.replay.store import Bytes

log = logging.getLogger(__name__)

DIGEST = 16  # bytes
SHRINK_TO = 0.95  # share of the limit that is left when it has been passed, so that not every copy has the folder searched
STALE_S = 3600.0  # s after which a copy that is being written counts as abandoned
_TEMPORARY = ".tmp-"


class Cache:
    """A folder of copies.

    Args:
      folder: made when missing, for this user only. limit: bytes of copies, at most; what was used least recently goes first.
    Raises:
      ReplayError: the folder cannot be made or read.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder, limit
        self._mapped: OrderedDict[str, Bytes] = OrderedDict()  # of this process, the least recently used first
        self._complained = False
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._bytes = sum(size for _, _, size in self._copies())
        except OSError as e:
            raise ReplayError(f"cannot use the folder for copies {folder} (replay.cache): {e.strerror}") from e

    def get(self, key: str, size: int) -> Bytes | None:
        """The copy of `key`, mapped, if there is one and it is sound. `size`: of the file, bytes."""
        if (data := self._mapped.get(key)) is not None:
            self._mapped.move_to_end(key)
            return data
        path = self._path(key)
        try:
            with pa.memory_map(str(path)) as file:
                whole = np.frombuffer(file.read_buffer(), np.uint8)
        except (OSError, ValueError):  # not there, or empty
            return None
        data, digest = whole[:-DIGEST], whole[-DIGEST:]
        if len(data) != size or _digest(data) != digest.tobytes():
            log.warning("a copy in %s is damaged and fetched again", self.folder)
            self.drop(key)
            return None
        self._mapped[key] = data
        return data

    def put(self, key: str, data: Bytes) -> Bytes:
        """Keep a copy; returns it mapped. A disk that refuses is no error: the data are then in memory only."""
        path = self._path(key)
        temporary = path.with_name(f"{path.name}{_TEMPORARY}{os.getpid()}")
        try:
            with temporary.open("wb") as file:
                file.write(data.data)
                file.write(_digest(data))
            temporary.replace(path)
        except OSError as e:
            temporary.unlink(missing_ok=True)
            if not self._complained:
                log.warning("no copy can be kept in %s, so every use fetches again: %s", self.folder, e.strerror)
            self._complained = True
            return data
        self._bytes += len(data) + DIGEST
        kept = self.get(key, len(data))
        if self._bytes > self.limit:
            self._shrink()
        return data if kept is None else kept

    def drop(self, key: str) -> None:
        """Remove a copy."""
        self._mapped.pop(key, None)
        path = self._path(key)
        try:
            size = path.stat().st_size
            path.unlink()
        except FileNotFoundError:  # another process was faster
            return
        self._bytes -= size

    def _shrink(self) -> None:
        """Remove copies: first those that this process has not used, the oldest first, then those it has, the least recent first."""
        recency = {self._path(key).name: number for number, key in enumerate(self._mapped, start=1)}
        copies = sorted((recency.get(path.name, 0), time_ns, path, size) for time_ns, path, size in self._copies())
        self._bytes = sum(copy[3] for copy in copies)
        for _, _, path, size in copies:
            if self._bytes <= SHRINK_TO * self.limit:
                break
            path.unlink(missing_ok=True)
            self._mapped.pop(path.stem, None)
            self._bytes -= size

    def _copies(self) -> list[tuple[int, Path, int]]:
        """(modification time in ns, path, bytes) of each copy; on the way removes those that nobody finished."""
        found = []
        for path in self.folder.iterdir():
            try:
                stat = path.stat()
            except FileNotFoundError:
                continue
            if path.suffix == ".copy":
                found.append((stat.st_mtime_ns, path, stat.st_size))
            elif _TEMPORARY in path.name and time.time() - stat.st_mtime > STALE_S:
                path.unlink(missing_ok=True)
        return found

    def _path(self, key: str) -> Path:
        """Where the copy of a key lies: no character of the key itself gets into the name."""
        return self.folder / f"{key}.copy"


def key_of(*parts: str | int) -> str:
    """A key that is safe as a file name, different for different parts."""
    return hashlib.blake2b(repr(parts).encode(), digest_size=16).hexdigest()


def _digest(data: Bytes) -> bytes:
    return hashlib.blake2b(data.data, digest_size=DIGEST).digest()
