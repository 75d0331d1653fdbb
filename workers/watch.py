"""Looks at a growing source again and again, in a thread of its own, as a look may take long."""

from __future__ import annotations

import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pydreaming.audio.sources import AudioItem, Catalogue, iter_source, source_root
from pydreaming.audio.sources.growth import Completeness
from pydreaming.config import Config, SourceConfig
from pydreaming.errors import SourceError
from workers.layout import RunDir

log = logging.getLogger(__name__)

ANNOUNCE_S = 20.0  # s between two lines about waiting
Key = tuple[str, float, int]  # what tells a recording from all others: path, offset in s, channel


@dataclass(frozen=True)
class Change:
    """What one look has found. new: complete recordings, in the order of their rows. gone, back: rows of deleted ones, and of some that
    are there again."""

    new: Sequence[AudioItem]
    gone: frozenset[int]
    back: frozenset[int]


class SourceWatch:
    """Finds what has come and gone.

    Args:
      config: of the source. columns: numeric columns to take as controls. completeness: tells what may be read.
      known: the catalogue's recordings, in the order of their rows. What is found new gets the rows behind them.
    """

    def __init__(self, config: SourceConfig, columns: Sequence[str], completeness: Completeness, known: Iterable[AudioItem]) -> None:
        self._config, self._columns, self._completeness = config, columns, completeness
        self._rows = {_key(item): row for row, item in enumerate(known)}
        self._gone: frozenset[int] = frozenset()
        self._changes: queue.SimpleQueue[Change] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._complaint = ""
        self._thread = threading.Thread(target=self._run, name="source-watch", daemon=True)

    def start(self) -> None:
        """Begin to look, now and every `watch_s`."""
        self._thread.start()

    def close(self) -> None:
        """End the thread; a look that is going on is not waited for."""
        self._stop.set()

    def changes(self) -> list[Change]:
        """What has been found since the last call."""
        found = []
        while not self._changes.empty():
            found.append(self._changes.get())
        return found

    def look(self) -> None:
        """One look. A source that cannot be read as a whole (a manifest that is being replaced, a disk that is away or full) is left as it
        was."""
        new: list[AudioItem] = []
        present: set[int] = set()
        try:
            for item in iter_source(self._config, self._columns):
                key = _key(item)
                row = self._rows.get(key)
                if row is not None:
                    present.add(row)
                elif self._completeness.is_complete(item.path):
                    new.append(item)
        except (SourceError, OSError, sqlite3.Error) as e:  # layouts keep their lookups in a database on disk, which may be full
            if str(e) != self._complaint:
                log.warning("the source cannot be looked at: %s", e)
            self._complaint = str(e)
            return
        self._complaint = ""
        self._completeness.end_round()
        missing = frozenset(self._rows.values()) - present
        first = len(self._rows)
        self._rows.update((_key(item), row) for row, item in enumerate(new, start=first))
        change = Change(new, missing - self._gone, self._gone - missing)
        self._gone = missing
        self.report(change)

    def report(self, change: Change) -> None:
        """Tell a change at the next call of `changes`, if it is one."""
        if change.new or change.gone or change.back:
            self._changes.put(change)

    def _run(self) -> None:
        while not self._stop.is_set():
            self.look()
            self._stop.wait(self._config.watch_s)


def open_source(run: RunDir, config: Config) -> tuple[Catalogue, SourceWatch | None]:
    """The catalogue of a run; of a growing source with a watch on it, once there is a complete recording to train on: this waits for one.

    Raises:
      SourceError: as Catalogue.build does; with a growing source only for what waiting does not mend.
    """
    source, action, seed = config.source, config.action, config.run.seed
    if not source.watch_s:
        return Catalogue.build(source, action, seed, run.catalogue), None
    columns = list(action.columns) if action.kind == "controls" else []
    completeness, wait = Completeness(source_root(source), source.watch_s), _Waiting(source)
    if not (run.catalogue / "catalogue.json").is_file():
        while not [item for item in iter_source(source, columns) if completeness.is_complete(item.path)]:
            completeness.end_round()
            wait()
    catalogue = Catalogue.build(source, action, seed, run.catalogue, completeness.is_complete)
    watch = SourceWatch(source, columns, completeness, catalogue)
    while not len(catalogue.train_indices):
        wait()
        watch.look()
        for change in watch.changes():
            catalogue.add(change.new, source, seed)
            watch.report(Change([], change.gone, change.back))
    return catalogue, watch


class _Waiting:
    """Waits for one look's time, and says so now and then."""

    def __init__(self, config: SourceConfig) -> None:
        self._config, self._said = config, -ANNOUNCE_S

    def __call__(self) -> None:
        if time.monotonic() - self._said >= ANNOUNCE_S:
            self._said = time.monotonic()
            log.info("waiting for the first complete recording in %s", self._config.path)
        time.sleep(self._config.watch_s)


def _key(item: AudioItem) -> Key:
    return (item.path, item.offset_s, item.channel)
