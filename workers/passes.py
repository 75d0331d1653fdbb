"""Which rows of the catalogue each pass covers, where the source grows: a pass that is gone on with after a restart is the same one.

rows       0 ............... 40 ..... 43 ......... 60
pass 0     |----------------|                            what was there when it began
pass 1                      |--------|                   an arrival: only what came then, before all other work
pass 2     |-------------------------|                   the next pass over everything
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

import msgspec

from pydreaming.audio.sources import Catalogue, Leases
from pydreaming.config import Config


class PassRows(msgspec.Struct, forbid_unknown_fields=True):
    """The rows `first` to `last` - 1 that a pass covers."""

    epoch: int
    first: int
    last: int


class Passes:
    """Plans passes, and remembers what each covers.

    Args:
      saved: what earlier sessions of the run have planned.
    """

    def __init__(self, catalogue: Catalogue, config: Config, saved: Iterable[PassRows]) -> None:
        self._catalogue, self._seed, self._lease_items = catalogue, config.run.seed, config.workers.lease_items
        self._rows = {rows.epoch: rows for rows in saved}

    def plan(self, epoch: int) -> Leases:
        """The leases of a pass: over everything that is there now, unless it was planned before."""
        rows = self._rows.setdefault(epoch, PassRows(epoch, 0, len(self._catalogue)))
        return self._catalogue.leases(self._seed, epoch, self._lease_items, (rows.first, rows.last))

    def plan_arrival(self, epoch: int) -> bool:
        """Let a pass cover what no pass before it does. Returns whether there is such a thing; the first pass takes all there is."""
        first, last = max((rows.last for rows in self._rows.values()), default=len(self._catalogue)), len(self._catalogue)
        if first < last:
            self._rows[epoch] = PassRows(epoch, first, last)
        return first < last

    def rows(self) -> list[PassRows]:
        """What is to be saved: open passes, and one of those that reached farthest."""
        return list(self._rows.values())

    def keep(self, epochs: Collection[int]) -> None:
        """All passes but these are done."""
        if self._rows:
            farthest = max(self._rows.values(), key=lambda rows: rows.last).epoch
            self._rows = {epoch: rows for epoch, rows in self._rows.items() if epoch in epochs or epoch == farthest}
