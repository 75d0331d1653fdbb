"""Where the files of a replay store are: one interface over a folder and over a bucket.

A store is flat: names, and the bytes behind each. A file appears whole, under its name, and never changes; who does the same work again
replaces it. Everything else in this room is written once, over this interface:

    writer ── staging folder ──publish──> store ──scan, open, fetch──> index ──> sampler
                                            └──scan, open, remove────> evict (coordinator)

`LocalStore` is a folder: publishing is a rename, fetching a memory map. `s3.S3Store` is a prefix in a bucket.
"""

from __future__ import annotations

import os
import stat
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pydreaming.errors import ReplayError, UsageError
from pydreaming.replay.address import Location, is_distant
from pydreaming.replay.names import SUFFIX, temporary_pid

Bytes: TypeAlias = NDArray[np.uint8]
T = TypeVar("T")


class Identity(NamedTuple):
    """What tells a file from another one of the same name: bytes, modification time in ns, inode (0 where there is none).

    regular: False for a pipe, a folder or a device, which must not be opened: reading a pipe would hang.
    """

    size: int
    mtime_ns: int
    serial: int = 0
    regular: bool = True


class File(ABC):
    """One file of a store. `size` in bytes."""

    size: int

    @abstractmethod
    def footer(self) -> Any:
        """Its Parquet footer, a pyarrow.parquet.FileMetaData. Raises what pyarrow does for a damaged one; FileNotFoundError."""


@dataclass(frozen=True)
class Patience:
    """How long to go on asking a store that does not answer, and what to do meanwhile (what that raises ends the wait)."""

    seconds: float = 0.0
    meanwhile: Callable[[], None] = lambda: None


class Store(ABC):
    """The files of a replay store.

    location: as users write it; it holds no secret. concurrency: files that are worth opening at a time.

    Every method raises ReplayError when the store refuses, and UnreachableError (which may pass) when it does not answer.
    """

    location: str
    concurrency = 1

    def patiently(self, operation: Callable[[], T]) -> T:
        """Do what may safely be done again, until a store that does not answer does, or patience ends (UnreachableError)."""
        return operation()

    @abstractmethod
    def make(self) -> None:
        """Make the store where it is missing; remove what writers that died have left of unfinished files."""

    @abstractmethod
    def check_writable(self) -> None:
        """Raises UsageError when it is not there, ReplayError when this user may not write it."""

    @abstractmethod
    def scan(self) -> dict[str, Identity]:
        """Every visible Parquet file by name, whoever wrote it; none where the store is missing."""

    @abstractmethod
    def find(self, names: Iterable[str]) -> dict[str, Identity]:
        """Those of the named files that are there, and are files. Links and folders are not."""

    @abstractmethod
    def open(self, name: str, identity: Identity) -> File:
        """A listed file. Raises FileNotFoundError: it has gone since; ReplayError: it is none, but a pipe, say."""

    @abstractmethod
    def fetch(self, files: Sequence[File]) -> list[Bytes]:
        """The bytes (size,) of opened files, mapped. Patient. Raises FileNotFoundError: one has gone since, or was replaced."""

    @abstractmethod
    def forget(self, files: Iterable[File]) -> None:
        """These will not be fetched any more."""

    @abstractmethod
    def staging(self) -> Path:
        """A folder on this host where a writer may build files before it publishes them."""

    @abstractmethod
    def publish(self, files: Sequence[tuple[Path, str]]) -> None:
        """Make staged files durable and visible under their names, in this order, replacing older ones. Patient.

        Raises:
          OSError: the disk refuses. FileNotFoundError: the coordinator has taken an unfinished file away (see `remove_unfinished`).
        """

    @abstractmethod
    def remove(self, names: Iterable[str]) -> None:
        """Remove files; those that are not there are no error."""

    @abstractmethod
    def remove_unfinished(self, prefix: str = "") -> None:
        """Take away unfinished files whose names begin so, where writers build them in the store: they can no longer publish them."""

    @abstractmethod
    def unfinished(self) -> int:
        """How many unfinished files lie in the store."""


def open_store(where: Location | Store, cache: Path | None = None, cache_bytes: int = 0, patience: Patience | None = None) -> Store:
    """The store at a folder or `s3://` address; a store is given back as it is.

    Args:
      cache: folder for copies of the files of a distant store; without one, each fetch reads the store again.
      cache_bytes: of copies kept there, at most.
      patience: with a distant store, in `fetch` and `publish`.
    Raises:
      UsageError: the address is wrong. ReplayError: the folder for copies cannot be made.
    """
    if isinstance(where, Store):
        return where
    if not is_distant(where):
        return LocalStore(Path(where))
    from pydreaming.replay import cache as copies  # the AWS SDK behind it takes a while to load
    from pydreaming.replay import s3

    return s3.S3Store(str(where), copies.Cache(cache, cache_bytes) if cache else None, patience or Patience())


def read_footer(buffer: pa.Buffer) -> Any:
    """Parquet's metadata of a whole file in memory. Raises what pyarrow does: it is none."""
    reader = pq.core.ParquetReader()  # pq.read_metadata makes a ParquetFile as well, which takes longer than the footer
    reader.open(pa.BufferReader(buffer))
    return reader.metadata


class LocalFile(File):
    """A mapped file. The mapping outlives the file: one that is evicted while in use stays readable."""

    def __init__(self, path: str) -> None:
        with pa.memory_map(path) as file:
            self._buffer = file.read_buffer()  # keeps the mapping, but no file descriptor: a store has thousands of files
        self.data = np.frombuffer(self._buffer, np.uint8)
        self.size = len(self.data)

    def footer(self) -> Any:
        """See File."""
        return read_footer(self._buffer)


class LocalStore(Store):
    """A folder, on a disk or a file system that hosts share."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.location = str(folder)

    def make(self) -> None:
        """See Store."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self.remove_unfinished()
        except OSError as e:
            raise ReplayError(f"cannot use the replay folder {self._folder}: {e.strerror}") from e

    def check_writable(self) -> None:
        """See Store."""
        if not self._folder.is_dir():
            raise UsageError(f"{self._folder} is not a folder on this host; say with --replay where it is here")
        if not os.access(self._folder, os.W_OK | os.X_OK):
            raise ReplayError(f"the replay folder {self._folder} cannot be written by this user")

    def scan(self) -> dict[str, Identity]:
        """See Store."""
        present = {}
        try:
            with os.scandir(self._folder) as entries:
                for entry in entries:
                    if not entry.name.endswith(SUFFIX) or entry.name.startswith("."):
                        continue
                    try:
                        found = entry.stat()
                    except FileNotFoundError:  # evicted meanwhile
                        continue
                    present[entry.name] = Identity(found.st_size, found.st_mtime_ns, found.st_ino, stat.S_ISREG(found.st_mode))
        except FileNotFoundError:
            return {}
        except OSError as e:
            raise ReplayError(f"cannot list the replay folder {self._folder}: {e.strerror}") from e
        return present

    def find(self, names: Iterable[str]) -> dict[str, Identity]:
        """See Store."""
        present = {}
        for name in names:
            try:
                found = (self._folder / name).lstat()
            except OSError:
                continue
            if stat.S_ISREG(found.st_mode):
                present[name] = Identity(found.st_size, found.st_mtime_ns, found.st_ino)
        return present

    def open(self, name: str, identity: Identity) -> LocalFile:
        """See Store."""
        if not identity.regular:
            raise ReplayError("not a regular file")
        return LocalFile(f"{self._folder}/{name}")

    def fetch(self, files: Sequence[File]) -> list[Bytes]:
        """See Store."""
        return [file.data for file in files]  # type: ignore[attr-defined]  # this store's files are LocalFiles

    def forget(self, files: Iterable[File]) -> None:
        """See Store."""
        pass  # the mapping ends with the object

    def staging(self) -> Path:
        """See Store."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise ReplayError(f"cannot make the replay folder {self._folder}: {e.strerror}") from e
        return self._folder

    def publish(self, files: Sequence[tuple[Path, str]]) -> None:
        """See Store."""
        for temporary, _ in files:
            _fsync(temporary)
        for temporary, name in files:
            temporary.replace(self._folder / name)
        if files:
            _fsync(self._folder)

    def remove(self, names: Iterable[str]) -> None:
        """See Store."""
        for name in names:
            try:
                (self._folder / name).unlink(missing_ok=True)
            except OSError as e:
                raise ReplayError(f"cannot remove {self._folder / name}: {e.strerror}") from e

    def remove_unfinished(self, prefix: str = "") -> None:
        """See Store."""
        for name in self._unfinished(prefix):
            (self._folder / name).unlink(missing_ok=True)

    def unfinished(self) -> int:
        """See Store."""
        return len(self._unfinished())

    def _unfinished(self, prefix: str = "") -> Sequence[str]:
        if not self._folder.is_dir():
            return []
        return [p.name for p in self._folder.iterdir() if p.name.startswith(prefix) and temporary_pid(p.name) is not None]


def _fsync(path: Path) -> None:
    """Flush a file or folder to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
