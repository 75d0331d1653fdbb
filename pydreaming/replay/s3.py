"""A replay store under a prefix of an S3 bucket; see `address` for how it is named.

An object appears whole when its upload ends, so no rename is needed. What has been fetched once is read from a copy on this host.
"""

from __future__ import annotations

import atexit
import logging
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from pydreaming.errors import ReplayError, UnreachableError, UsageError
from pydreaming.replay.address import parse_address
from pydreaming.replay.cache import Cache, key_of
from pydreaming.replay.names import SUFFIX
from pydreaming.replay.staging import Staging
from pydreaming.replay.store import Bytes, File, Identity, Patience, Store, T

log = logging.getLogger(__name__)

CONNECT_S, REQUEST_S, ATTEMPTS = 2.0, 5.0, 2  # of one request, within the SDK; a coordinator waits so long at most
FIRST_PAUSE_S, LAST_PAUSE_S, SLICE_S = 0.2, 5.0, 0.1  # between requests while a store does not answer
# What asking again does not change.
_FINAL = re.compile(
    r"AWS Error (ACCESS_DENIED|NO_SUCH_BUCKET|INVALID_ACCESS_KEY_ID|SIGNATURE_DOES_NOT_MATCH|\w*TOKEN\w*|\w*CREDENTIALS\w*)\b"
)
_GONE = re.compile(r"AWS Error (RESOURCE_NOT_FOUND|NO_SUCH_KEY)\b")  # between two requests of one operation


class S3File(File):
    """A listed object. `key`: of its copy on this host, if there is one."""

    def __init__(self, store: S3Store, name: str, identity: Identity, key: str) -> None:
        self._store = store
        self.name, self.identity, self.size, self.key = name, identity, identity.size, key

    def footer(self) -> Any:
        """See File."""
        return self._store.read_footer(self.name)


class S3Store(Store):
    """See the module.

    Args:
      location: the address. cache: copies on this host. patience: see Store.
    Raises:
      UsageError: the address is wrong.
    """

    concurrency = 16

    def __init__(self, location: str, cache: Cache | None, patience: Patience) -> None:
        address = parse_address(location)
        self.location = location
        self._base, self._cache, self._patience = address.base, cache, patience
        self._keys = key_of(address.base, address.endpoint)
        self._staging: Staging | None = None
        try:
            self._fs = fs.S3FileSystem(
                endpoint_override=address.endpoint or None,
                scheme=address.scheme,
                region=address.region or None,
                connect_timeout=CONNECT_S,
                request_timeout=REQUEST_S,
                retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS),
                allow_delayed_open=True,  # one PUT for a file, not three requests
            )
        except OSError as e:
            raise UsageError(f"{location} cannot be used: {_brief(e)}") from e

    def patiently(self, operation: Callable[[], T]) -> T:
        """See Store."""
        deadline, pause, said = time.monotonic() + self._patience.seconds, FIRST_PAUSE_S, False
        while True:
            try:
                done = operation()
            except UnreachableError as e:
                if time.monotonic() + pause > deadline:
                    raise
                if not said:
                    log.warning("%s; trying again for %.0f s", e, self._patience.seconds)
                said = True
            else:
                if said:
                    log.info("the replay store %s answers again", self.location)
                return done
            end = time.monotonic() + pause
            while time.monotonic() < end:
                self._patience.meanwhile()
                time.sleep(SLICE_S)
            pause = min(2 * pause, LAST_PAUSE_S)

    def make(self) -> None:
        """See Store."""
        self.check_writable()

    def check_writable(self) -> None:
        """See Store."""
        bucket = self._base.partition("/")[0]
        with self._talking():
            if self._fs.get_file_info(bucket).type == fs.FileType.NotFound:
                raise ReplayError(f"the replay store {self.location} cannot be used: there is no bucket '{bucket}', or no right to see it")

    def scan(self) -> dict[str, Identity]:
        """See Store."""
        with self._talking():
            return _identities(self._fs.get_file_info(fs.FileSelector(self._base, allow_not_found=True)))

    def find(self, names: Iterable[str]) -> dict[str, Identity]:
        """See Store."""
        with self._talking():
            return _identities(self._fs.get_file_info([self._path(name) for name in names]))

    def open(self, name: str, identity: Identity) -> S3File:
        """See Store."""
        return S3File(self, name, identity, key_of(self._keys, name, identity.size, identity.mtime_ns))

    def read_footer(self, name: str) -> Any:
        """A ranged read of the end of an object; see File."""
        with self._talking(), self._fs.open_input_file(self._path(name)) as file:
            return pq.read_metadata(file)

    def fetch(self, files: Sequence[File]) -> list[Bytes]:
        """See Store."""
        wanted: list[S3File] = files  # type: ignore[assignment]  # this store's files
        data = {file: self._copy(file) for file in wanted}

        def fetch_missing() -> None:
            missing = [file for file, copy in data.items() if copy is None]
            with ThreadPoolExecutor(self.concurrency) as pool:
                for file, got in zip(missing, pool.map(self._attempt, missing), strict=True):
                    if isinstance(got, Exception):
                        raise got
                    data[file] = self._cache.put(file.key, got) if self._cache else got

        if any(copy is None for copy in data.values()):
            self.patiently(fetch_missing)
        return [copy for file in wanted if (copy := data[file]) is not None]

    def forget(self, files: Iterable[File]) -> None:
        """See Store."""
        for file in files:
            if self._cache is not None and isinstance(file, S3File):
                self._cache.drop(file.key)

    def staging(self) -> Path:
        """See Store."""
        if self._staging is None:
            self._staging = Staging()
            atexit.register(self._staging.close)
        return self._staging.folder

    def publish(self, files: Sequence[tuple[Path, str]]) -> None:
        """See Store."""
        for path, name in files:
            self.patiently(lambda path=path, name=name: self._upload(path, name))  # type: ignore[misc]
            path.unlink()

    def remove(self, names: Iterable[str]) -> None:
        """See Store."""

        def remove(name: str) -> None:
            with self._talking(), suppress(FileNotFoundError):
                self._fs.delete_file(self._path(name))

        with ThreadPoolExecutor(self.concurrency) as pool:
            list(pool.map(remove, names))

    def remove_unfinished(self, prefix: str = "") -> None:
        """See Store."""
        pass  # they are on the writers' hosts

    def unfinished(self) -> int:
        """See Store."""
        return 0

    # -- inside -------------------------------------------------------------------------------------------------------------------------

    def _path(self, name: str) -> str:
        if not _is_safe(name):
            raise ReplayError(f"'{name}' is no name for a file of {self.location}")
        return f"{self._base}/{name}"

    def _copy(self, file: S3File) -> Bytes | None:
        return self._cache.get(file.key, file.size) if self._cache else None

    def _attempt(self, file: S3File) -> Bytes | Exception:
        """An object's bytes, or why not: the others that are being fetched are worth having all the same."""
        try:
            with self._talking(), self._fs.open_input_file(self._path(file.name)) as source:
                if file.identity != self._identity(source):
                    return FileNotFoundError(f"{file.name} was replaced")
                data = np.frombuffer(source.read_buffer(), np.uint8)
        except (OSError, ReplayError) as e:
            return e
        return data if len(data) == file.size else UnreachableError(f"{self.location} gave {len(data)} bytes of {file.size}")

    @staticmethod
    def _identity(source: Any) -> Identity:
        modified = np.datetime64(source.metadata()["Last-Modified"].decode().removesuffix("Z"), "ns")
        return Identity(source.size(), int(modified.astype(np.int64)))

    def _upload(self, path: Path, name: str) -> None:
        """One PUT (several from 10 MB on). A stream that failed is closed before anything else is tried: closing it later, as its
        destructor would, might put half a file in the place of a whole one."""
        with pa.memory_map(str(path)) as file:
            buffer = file.read_buffer()
        with self._talking(), self._fs.open_output_stream(self._path(name)) as stream:
            stream.write(buffer)

    @contextmanager
    def _talking(self) -> Iterator[None]:
        """Turns the SDK's errors into ours; FileNotFoundError, and what a broken file makes Parquet say, pass."""
        try:
            yield
        except FileNotFoundError:
            raise
        except OSError as e:
            if "AWS Error" not in str(e):
                raise
            if _GONE.search(str(e)):
                raise FileNotFoundError(f"{self.location}: {_brief(e)}") from e
            if _FINAL.search(str(e)):
                raise ReplayError(f"the replay store {self.location} cannot be used: {_brief(e)}") from e
            raise UnreachableError(f"the replay store {self.location} cannot be reached: {_brief(e)}") from e


def _is_safe(name: str) -> bool:
    """Whether a name stands for an object right below the prefix: the SDK resolves dots, and so could be led out of the bucket."""
    return not name.startswith(".") and not set(name) & {"/", "\\"} and name.isprintable()


def _identities(found: Sequence[fs.FileInfo]) -> dict[str, Identity]:
    return {
        info.base_name: Identity(info.size, info.mtime_ns)
        for info in found
        if info.type == fs.FileType.File and info.base_name.endswith(SUFFIX) and _is_safe(info.base_name)
    }


def _brief(error: OSError) -> str:
    """What the SDK says, without its preamble and request ids, on one line."""
    text = " ".join(str(error).split())
    text = text.partition("AWS Error ")[2] or text
    return re.sub(r" \(Request ID: [^)]*\)", "", text)[:300].rstrip(": ")
