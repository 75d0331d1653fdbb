"""Stores whose files a test may touch behind the program's back: a folder, or a prefix in a bucket of a real S3 server."""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from pathlib import Path
from urllib.parse import urlsplit

from s3_server import S3Server

from pydreaming.replay.store import Store, open_store


class Place(ABC):
    """One store, empty at first. `location`: as users name it."""

    location: Path | str

    @abstractmethod
    def open(self) -> Store:
        """A new view of it, as another process would have it."""

    @abstractmethod
    def names(self) -> list[str]:
        """Everything there, sorted."""

    @abstractmethod
    def read(self, name: str) -> bytes:
        """A file's bytes."""

    @abstractmethod
    def write(self, name: str, data: bytes) -> None:
        """Make or replace a file."""

    @abstractmethod
    def remove(self, name: str) -> None:
        """Remove a file."""

    def wipe(self) -> None:
        """Remove everything."""
        for name in self.names():
            self.remove(name)


class Folder(Place):
    """A folder of this host."""

    def __init__(self, folder: Path) -> None:
        self.location = self.folder = folder

    def open(self) -> Store:
        return open_store(self.folder)

    def names(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir()) if self.folder.is_dir() else []

    def read(self, name: str) -> bytes:
        return (self.folder / name).read_bytes()

    def write(self, name: str, data: bytes) -> None:
        """As a writer does: another file takes the name."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "new").write_bytes(data)
        (self.folder / "new").replace(self.folder / name)

    def remove(self, name: str) -> None:
        (self.folder / name).unlink()

    def wipe(self) -> None:
        shutil.rmtree(self.folder)


class Bucket(Place):
    """A prefix in a bucket; `cache` is where copies are kept."""

    def __init__(self, server: S3Server, cache: Path, location: str = "") -> None:
        self.location = location or server.new_address()
        self.cache, self._client = cache, server.client
        parts = urlsplit(self.location)
        self._bucket, self._prefix = parts.netloc, parts.path.strip("/") + "/"

    def open(self) -> Store:
        return open_store(self.location, self.cache, 10**8)

    def names(self) -> list[str]:
        found = self._client.list_objects_v2(Bucket=self._bucket, Prefix=self._prefix).get("Contents", [])
        names = (entry["Key"].removeprefix(self._prefix) for entry in found)
        return sorted(name for name in names if name)  # an empty one marks the folder

    def read(self, name: str) -> bytes:
        return self._client.get_object(Bucket=self._bucket, Key=self._prefix + name)["Body"].read()

    def write(self, name: str, data: bytes) -> None:
        self._client.put_object(Bucket=self._bucket, Key=self._prefix + name, Body=data)

    def remove(self, name: str) -> None:
        self._client.delete_object(Bucket=self._bucket, Key=self._prefix + name)
