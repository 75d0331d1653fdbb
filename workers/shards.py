"""The coordinator's view of the replay store: which files count, and which are left-overs of workers that were lost.

A distant store may not answer for a while. Cleaning up is then left out, as `sweep` does it later; what has to be answered raises.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence

from pydreaming.errors import UnreachableError
from pydreaming.replay.address import Location
from pydreaming.replay.evict import oldest_files
from pydreaming.replay.names import shard_age
from pydreaming.replay.store import Store, open_store
from workers.protocol import StoredFile

log = logging.getLogger(__name__)

EVICT_TO = 0.98  # share of the capacity; room for many leases, so that not every one has the whole store searched


class ShardFolder:
    """Files that finished leases have put into the replay store.

    Args:
      where: the store; made when missing. token_bytes: that a token takes in a file, at least.
    Raises:
      ReplayError: it cannot be made or read, or does not answer.
    """

    def __init__(self, where: Location | Store, token_bytes: int) -> None:
        self._store, self._token_bytes = open_store(where), token_bytes
        self.location = self._store.location
        self.reachable = True  # whether the store answered when last asked
        self._tokens: dict[str, int] = {}
        self._total = 0  # their sum: asked for with every lease
        self._evicted: set[str] = set()  # files that went between their publication and the worker's Done
        self._doubtful: set[str] = set()  # prefixes of leases that somebody else had before, and may have left files of
        self._store.make()
        self._there_at_first = frozenset(self._store.scan())

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

    @property
    def there_at_first(self) -> frozenset[str]:
        """Names of all Parquet files that were there when this began, whoever wrote them."""
        return self._there_at_first

    def restore(self, files: Mapping[str, int]) -> None:
        """Go on with `files` (name -> tokens) of an earlier coordinator, as far as they are still there."""
        there = self._there_at_first | self._store.find(files.keys() - self._there_at_first).keys()
        self._tokens = {name: tokens for name, tokens in files.items() if name in there}
        self._total = sum(self._tokens.values())
        self._doubtful.update(_prefix(name) for name in self._there_at_first - self._tokens.keys())

    def check(self, prefix: str, files: Sequence[StoredFile]) -> str | None:
        """Why these files cannot be the lease's: None when they can. Raises UnreachableError."""
        if strangers := [file.name for file in files if not file.name.startswith(f"{prefix}-")]:
            return f"{strangers[0]} is not a file of lease {prefix}"
        if liars := [file for file in files if file.tokens * self._token_bytes > file.bytes]:
            # The learner would run ahead, and the rest be evicted.
            return f"{liars[0].name} cannot hold {liars[0].tokens} tokens in {liars[0].bytes} bytes"
        found = self._store.find(file.name for file in files) if files else {}
        self.reachable = True
        for file in files:
            if file.name not in found and file.name not in self._evicted:
                return f"{file.name} is not in {self.location}; does the worker write to another store (--replay)?"
            if file.name in found and found[file.name].size != file.bytes:
                return f"{file.name} in {self.location} is not the file of {file.bytes} bytes that was reported"
        return None

    def accept(self, prefix: str, files: Sequence[StoredFile]) -> int:
        """Count the lease's files, and remove any others of that lease. Returns its tokens."""
        reported = {file.name: file.tokens for file in files}
        if prefix in self._doubtful:  # an earlier worker may have been lost between publishing its files and saying so
            self._doubtful.discard(prefix)
            self._remove_lease(prefix, keep=reported)
        for name in reported.keys() - self._evicted:
            self._forget(name)
            self._tokens[name] = reported[name]
            self._total += reported[name]
        self._evicted.difference_update(reported)
        return sum(reported.values())

    def discard_strangers(self, names: Iterable[str]) -> None:
        """Remove files of a lease that had been given to another worker, unless that one wrote the same files."""
        self._tolerant(lambda: self._store.remove([name for name in names if name not in self._tokens]))

    def remove_lease(self, prefix: str) -> None:
        """Remove every file of a lease that is to be done in another way."""
        self._remove_lease(prefix, keep=())

    def lost(self, prefix: str) -> None:
        """The worker that had this lease has it no more. Where its unfinished files are in reach, it can no longer publish them."""
        self._doubtful.add(prefix)
        self._store.remove_unfinished(f"{prefix}-")

    def evict(self, capacity_tokens: int) -> None:
        """Keep at most `capacity_tokens`: beyond them, remove the oldest files until EVICT_TO of them are left. Raises ReplayError."""
        if self.tokens <= capacity_tokens:
            return

        def remove_oldest() -> None:
            names = oldest_files(self._store, int(EVICT_TO * capacity_tokens), self._tokens)
            for name in names:  # first of all: what cannot be removed now is nobody's, and goes in the next sweep
                if not self._forget(name):
                    self._evicted.add(name)
            self._store.remove(names)

        self._tolerant(remove_oldest)

    def sweep(self, granted: Callable[[], Iterable[str]]) -> None:
        """Remove this run's files that nobody has reported and nobody will: of a worker that was stopped, lost its lease, came back and
        published, and ended before it could say so. Files that somebody else removed count no more. `granted` gives the prefixes of
        leases in hand."""

        def remove_strays() -> None:
            found = self._store.scan()
            missing = self._tokens.keys() - found.keys()
            for name in missing - self._store.find(missing).keys():  # a network file system may list what was there a minute ago
                self._forget(name)
            hands = {*granted()}
            strays = [n for n in found if shard_age(n) >= (0, 0, 0) and n not in self._tokens and _prefix(n) not in hands]
            if strays:
                log.warning("removing %d files of leases that were lost, the first: %s", len(strays), min(strays))
                self._store.remove(strays)

        self._tolerant(remove_strays)

    def probe(self) -> None:
        """Ask a store that did not answer whether it does again."""
        if not self.reachable:
            self._tolerant(self._store.check_writable)

    def _remove_lease(self, prefix: str, keep: Iterable[str]) -> None:
        def remove() -> None:
            names = [name for name in self._store.scan() if name.startswith(f"{prefix}-") and name not in keep]
            self._store.remove(names)
            for name in names:
                self._forget(name)

        self._tolerant(remove)

    def _forget(self, name: str) -> bool:
        """Whether the file counted."""
        tokens = self._tokens.pop(name, None)
        self._total -= tokens or 0
        return tokens is not None

    def _tolerant(self, operation: Callable[[], None]) -> None:
        """Do it if the store answers."""
        try:
            operation()
        except UnreachableError as e:
            self.unreachable(e)
        else:
            self.reachable = True

    def unreachable(self, error: UnreachableError) -> None:
        """Take note that the store does not answer."""
        if self.reachable:
            log.warning("%s; no work is handed out meanwhile", error)
        self.reachable = False


def _prefix(name: str) -> str:
    """Beginning of the names of a lease's files, from one of them."""
    return name.rpartition("-")[0]
