"""The coordinator's view of the replay folder: which files count, and which are left-overs of workers that were lost."""

from __future__ import annotations

import stat
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from pydreaming.errors import ReplayError
from pydreaming.replay.evict import evict
from pydreaming.replay.names import SUFFIX, temporary_pid
from workers.protocol import StoredFile

EVICT_TO = 0.98  # share of the capacity; room for many leases, so that not every one has the whole folder searched


class ShardFolder:
    """Files that finished leases have put into the replay folder.

    Args:
      folder: the store; made when missing. token_bytes: that a token takes in a file, at least.
    Raises:
      ReplayError: the folder cannot be made or read.
    """

    def __init__(self, folder: Path, token_bytes: int) -> None:
        self.folder, self._token_bytes = folder, token_bytes
        self._tokens: dict[str, int] = {}
        self._total = 0  # their sum: asked for with every lease
        self._doubtful: set[str] = set()  # leases of which somebody may have left files that were never reported
        self._evicted: set[str] = set()  # files that went between their renaming and the worker's Done
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for path in folder.iterdir():
                if temporary_pid(path.name) is not None:  # of an earlier coordinator's workers; their leases are redone
                    path.unlink(missing_ok=True)
        except OSError as e:
            raise ReplayError(f"cannot use the replay folder {folder}: {e.strerror}") from e

    def __len__(self) -> int:
        return len(self._tokens)

    @property
    def tokens(self) -> int:
        """Tokens of all files."""
        return self._total

    @property
    def files(self) -> Mapping[str, int]:
        """Tokens of each file, by name."""
        return self._tokens

    def names_on_disk(self) -> set[str]:
        """Names of all Parquet files there, whoever wrote them."""
        return {path.name for path in self.folder.iterdir() if path.name.endswith(SUFFIX)}

    def restore(self, files: Mapping[str, int]) -> None:
        """Go on with `files` (name -> tokens) of an earlier coordinator, as far as they are still there."""
        there = self.names_on_disk()
        self._tokens = {name: tokens for name, tokens in files.items() if name in there}
        self._total = sum(self._tokens.values())
        self._doubtful = {name.rpartition("-")[0] for name in there - self._tokens.keys()}

    def check(self, prefix: str, files: Sequence[StoredFile]) -> str | None:
        """Why these files cannot be the lease's: None when they can."""
        for file in files:
            if not file.name.startswith(f"{prefix}-"):
                return f"{file.name} is not a file of lease {prefix}"
            if file.tokens * self._token_bytes > file.bytes:  # a lie would let the learner run ahead, and the rest be evicted
                return f"{file.name} cannot hold {file.tokens} tokens in {file.bytes} bytes"
            try:
                found = (self.folder / file.name).lstat()
            except OSError:
                if file.name in self._evicted:
                    continue
                return f"{file.name} is not in {self.folder}; does the worker write to another folder (--replay)?"
            if not stat.S_ISREG(found.st_mode) or found.st_size != file.bytes:
                return f"{file.name} in {self.folder} is not the file of {file.bytes} bytes that was reported"
        return None

    def accept(self, prefix: str, files: Sequence[StoredFile]) -> int:
        """Count the lease's files, and remove any others of that lease. Returns its tokens."""
        reported = {file.name: file.tokens for file in files}
        if prefix in self._doubtful:  # only then is the whole folder searched, which takes long in a large store
            self._doubtful.discard(prefix)
            for path in self.folder.glob(f"{prefix}-*"):
                if path.name not in reported:  # of an earlier worker, lost between renaming its files and saying so
                    path.unlink(missing_ok=True)
                    self._forget(path.name)
        for name, tokens in reported.items():
            if name not in self._evicted:
                self._forget(name)
                self._tokens[name] = tokens
                self._total += tokens
        self._evicted.difference_update(reported)
        return sum(reported.values())

    def discard_strangers(self, names: Iterable[str]) -> None:
        """Remove files of a lease that had been given to another worker, unless that one wrote the same files."""
        for name in names:
            if name not in self._tokens:
                (self.folder / name).unlink(missing_ok=True)

    def remove_lease(self, prefix: str) -> None:
        """Remove every file of a lease that is to be done in another way."""
        for path in self.folder.glob(f"{prefix}-*"):
            path.unlink(missing_ok=True)
            self._forget(path.name)

    def remove_temporaries(self, prefix: str) -> None:
        """Remove a lost worker's unfinished files. If it is still alive, it can no longer rename them."""
        self._doubtful.add(prefix)
        for path in self.folder.glob(f"{prefix}-*{SUFFIX}.tmp-*"):
            path.unlink(missing_ok=True)

    def evict(self, capacity_tokens: int) -> None:
        """Keep at most `capacity_tokens`: beyond them, remove the oldest files until EVICT_TO of them are left. Raises ReplayError."""
        if self.tokens <= capacity_tokens:
            return
        removed = evict(self.folder, int(EVICT_TO * capacity_tokens))
        for name in removed:
            if not self._forget(name):
                self._evicted.add(name)

    def _forget(self, name: str) -> bool:
        """Whether the file counted."""
        tokens = self._tokens.pop(name, None)
        self._total -= tokens or 0
        return tokens is not None
