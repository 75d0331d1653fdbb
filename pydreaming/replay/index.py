"""Which episodes a store holds, kept up to date while workers write and the coordinator evicts.

Shapes: E episodes, C clips, T steps of an episode, D values of a token, A of an action.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from pydreaming.errors import DamagedError, ReplayError, UnreachableError
from pydreaming.replay.address import Location
from pydreaming.replay.schema import ACTION_DTYPE, TOKEN_DTYPE, Episode, StoreMeta, difference
from pydreaming.replay.shard import Raw, Shard, open_shard
from pydreaming.replay.store import Bytes, Identity, Store, open_store

log = logging.getLogger(__name__)


class ReplayIndex:
    """The readable files of a store as flat arrays, in the order of file names (not of arrival).

    Memory is about 65 bytes an episode and 8 a clip beside the mapped files; there is no Python object for an episode. Files must
    not change once they have their name; a changed file is seen as another one. A file that was seen is not asked for again: of a
    distant store its footer is read once, and its bytes are fetched when a sequence is first drawn from it. An episode's values are
    checked when one is first read from it; who meets damage there decides whether to `leave_out` the file.

    Args:
      where: the store. It may be empty or missing at first. All files must have the settings of the first one, by name.

    Attributes:
      location: of the store, for messages.
      version: counts the refreshes that changed something.
      damaged: cause by name of each file that is there but cannot be used.
      names: of the files, sorted; first (files + 1,) int64: file f has the episodes first[f]:first[f+1].
      groups: names of the groups, sorted; ids in `group_ids` point into it, and change with `version`.
      lengths (E,) int32 steps; group_ids (E,) int32; clip_offsets (E + 1,) int64: episode e has the clips
      clip_offsets[e]:clip_offsets[e+1] of clip_start (C,) int32 (step in the episode) and clip_item (C,) int32 (catalogue row).
    """

    def __init__(self, where: Location | Store) -> None:
        self._store = open_store(where)
        self.location = self._store.location
        self.version = 0
        self.damaged: dict[str, str] = {}
        self._shards: dict[str, tuple[Identity, Shard]] = {}
        self._seen_damaged: dict[str, Identity] = {}
        self._build()

    @property
    def episodes(self) -> int:
        """E, episodes in the store."""
        return len(self.lengths)

    @property
    def tokens(self) -> int:
        """Steps of all episodes."""
        return self._tokens

    @property
    def meta(self) -> StoreMeta | None:
        """Settings of the store; None while nothing is known."""
        return self._order[0].meta if self._order else None

    def refresh(self, patient: bool = False) -> tuple[list[str], list[str]]:
        """Look at the store again: one listing, and one footer for each new file.

        Args:
          patient: wait for a store that does not answer, as it was opened to.
        Returns:
          names of the files (added, removed); a replaced file is in both. Damaged files are neither: see `damaged`.
        Raises:
          ReplayError: a file was made with other settings, or the store cannot be listed. The index is then as before.
          UnreachableError: the store does not answer. The index is as before and still of use.
        """
        return self._store.patiently(self._refresh) if patient else self._refresh()

    def _refresh(self) -> tuple[list[str], list[str]]:
        present = self._store.scan()
        shards = {name: known for name, known in self._shards.items() if present.get(name) == known[0]}
        seen = {name: identity for name, identity in self._seen_damaged.items() if present.get(name) == identity}
        causes = {name: self.damaged[name] for name in seen}
        added = []
        new = {name: present[name] for name in sorted(present.keys() - shards.keys() - seen.keys())}
        for name, found in zip(new, self._open(new), strict=True):
            if isinstance(found, Shard):
                shards[name] = (present[name], found)
                added.append(name)
            elif found:
                seen[name], causes[name] = present[name], found
        removed = sorted(name for name, known in self._shards.items() if shards.get(name) is not known)
        self._require_same_settings(shards, added)
        self._store.forget(self._shards[name][1].file for name in removed)
        self._shards, self._seen_damaged, self.damaged = shards, seen, causes
        if added or removed:
            self.version += 1
            self._build()
        return added, removed

    def leave_out(self, error: DamagedError) -> None:
        """Count a file as damaged from now on, and name it in the log."""
        identity, shard = self._shards.pop(error.name)
        self._seen_damaged[error.name], self.damaged[error.name] = identity, error.cause
        self._store.forget([shard.file])
        self.version += 1
        self._build()
        log.warning("left aside in %s: %s", self.location, error)

    def read(self, episode: int, start: int, length: int) -> NDArray[np.float16]:
        """Copy tokens `start` to `start + length` of an episode: (length, D) float16. Raises IndexError outside of it; DamagedError."""
        if not 0 <= start <= start + length <= self.lengths.item(episode):
            raise IndexError(f"steps {start} to {start + length} of an episode of {self.lengths[episode]}")
        width = self._widths[0]
        begin = self._positions.item(episode, 0)
        (data,) = self._store.fetch([self._files[self._shard_ids.item(episode)]])
        if not self._checked[episode]:
            data, begin = self._raw(episode, data).obs, 0
        # an unaligned view, copied to an aligned array
        return np.ndarray((length, width // 2), TOKEN_DTYPE, data, begin + start * width).copy()

    def read_into(self, episodes: NDArray[np.int64], starts: NDArray[np.int64], counts: NDArray[np.int64], out: Raw) -> None:
        """Copy one sequence of each episode, of all three columns.

        Args:
          episodes, starts, counts: (B,) episode, first step and number of steps of each sequence; they must fit.
          out: for each column (B, bytes) uint8, wide enough; bytes behind a sequence are left as they are.
        Raises:
          FileNotFoundError: a distant file has gone before it was fetched. DamagedError: a file does not hold what was written.
        """
        widths = np.array(self._widths)
        sizes = (counts[:, None] * widths).tolist()
        skipped = starts[:, None] * widths
        mapped = self._positions[episodes]
        begins = (np.maximum(mapped, 0) + skipped).tolist()
        files = [self._files[shard] for shard in self._shard_ids[episodes].tolist()]
        ready = self._checked[episodes].tolist()
        # Slices of memoryviews cost half of an array's; but arrays let other threads run while they copy, if they are as large as tokens.
        obs, action, start = out.obs, *(column.reshape(-1).data for column in (out.action, out.start_sample))
        places = [row * column.shape[1] for row in range(len(files)) for column in (out.action, out.start_sample)]
        for row, (data, at, size) in enumerate(zip(self._store.fetch(files), begins, sizes, strict=True)):
            source = Raw(data, data, data)
            if not ready[row]:
                source, at = self._raw(int(episodes[row]), data), skipped[row].tolist()
            obs[row, : size[0]] = source.obs[at[0] : at[0] + size[0]]
            a, s = places[2 * row : 2 * row + 2]
            action[a : a + size[1]] = source.action.data[at[1] : at[1] + size[1]]
            start[s : s + size[2]] = source.start_sample.data[at[2] : at[2] + size[2]]

    def episode(self, episode: int) -> Episode:
        """A whole episode with its clips, paths and labels; slow, for people and evaluation. Raises DamagedError."""
        shard = self._order[int(self._shard_ids[episode])]
        return shard.episode(self._number(episode), self._store.fetch([shard.file])[0])

    def _raw(self, episode: int, data: Bytes) -> Raw:
        """The columns of an episode that was not read before, or has to be decoded each time."""
        place, number = int(self._shard_ids[episode]), self._number(episode)
        shard, here = self._order[place], slice(*self.first[place : place + 2].tolist())
        raw = shard.raw(number, data)
        self._positions[here], self._checked[here] = shard.positions, shard.checked
        return raw

    def _number(self, episode: int) -> int:
        """Number of the episode within its file."""
        return episode - int(self.first[int(self._shard_ids[episode])])

    def _build(self) -> None:
        """Join the files' tables in the order of their names."""
        self._order = order = [shard for _, (_, shard) in sorted(self._shards.items())]
        self._files = [shard.file for shard in order]
        counts = [len(shard.lengths) for shard in order]
        self.names = [shard.name for shard in order]
        self.first = np.cumsum([0, *counts])
        self._shard_ids = np.repeat(np.arange(len(order), dtype=np.int32), counts)
        self._positions = np.concatenate([np.empty((0, 3), np.int64), *(shard.positions for shard in order)])
        # Whether an episode's values may be taken from the mapped file as they are.
        self._checked = np.concatenate([np.empty(0, np.bool_), *(shard.checked for shard in order)])
        self.lengths = _join([shard.lengths for shard in order])
        self.clip_offsets = np.concatenate([[0], np.cumsum(_join([shard.clip_counts for shard in order]), dtype=np.int64)])
        self.clip_start = _join([shard.clip_start for shard in order])
        self.clip_item = _join([shard.clip_item for shard in order])
        self.groups: list[str] = sorted({group for shard in order for group in shard.groups})
        ids = {group: number for number, group in enumerate(self.groups)}
        self.group_ids = np.fromiter((ids[group] for shard in order for group in shard.groups), np.int32, count=sum(counts))
        self._tokens = int(self.lengths.sum(dtype=np.int64))
        self._widths = (0, 0, 0)
        if self.meta is not None:
            self._widths = (self.meta.token_dim * TOKEN_DTYPE.itemsize, self.meta.action_dim * ACTION_DTYPE.itemsize, 8)

    def _require_same_settings(self, shards: dict[str, tuple[Identity, Shard]], added: list[str]) -> None:
        if not added:
            return
        first = min(shards)
        for name in added:
            if found := difference(shards[first][1].meta, shards[name][1].meta):
                raise ReplayError(f"{name} in {self.location} does not belong with {first}: {found}")

    def _open(self, files: dict[str, Identity]) -> list[Shard | str]:
        """Each file's shard, or why it cannot be used; '' for one that was evicted since the listing."""

        def attempt(item: tuple[str, Identity]) -> Shard | str:
            try:
                return open_shard(self._store, *item)
            except FileNotFoundError:
                return ""
            except UnreachableError:
                raise
            except ReplayError as e:
                return str(e)

        if self._store.concurrency == 1 or len(files) < 2:
            return [attempt(item) for item in files.items()]
        with ThreadPoolExecutor(self._store.concurrency) as pool:
            return list(pool.map(attempt, files.items()))


def _join(arrays: Sequence[NDArray[np.int32]]) -> NDArray[np.int32]:
    return np.concatenate([np.empty(0, np.int32), *arrays])
