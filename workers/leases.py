"""Who works on what: the lease table of one phase, free of sockets and clocks.

Work is cut into numbered leases, epoch after epoch. A lease is *pending*, *granted* (to an owner, until its deadline, which beats
push back) or *done*. Each grant has an id of its own and only the current grant of a lease can finish it, so a worker that was stopped
and comes back changes nothing. A lease whose worker is lost twice is split into single items; a single item lost twice is given up as
deadly.

Numbers: with leases of at most `width` items, the epoch's leases are 0 .. n-1 and item p of a split lease k becomes lease
n + k * width + p, so that names of files follow from the catalogue alone.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np
import numpy.typing as npt

MAX_LOSSES = 2

EpochPlan = Callable[[int], Sequence["Sequence[int] | npt.NDArray[np.int64]"]]


class EpochRecord(msgspec.Struct, forbid_unknown_fields=True):
    """What has to be remembered of an open epoch. `done` holds numbers as [first, last] runs; `split` the leases cut into items."""

    epoch: int
    done: list[tuple[int, int]]
    split: list[int]
    tokens: int
    extra: bool = False


@dataclass
class Grant:
    """One lease in one worker's hands. `deadline` in the caller's clock's seconds."""

    id: int
    epoch: int
    number: int
    items: list[int]
    owner: str
    deadline: float
    ttl_s: float


@dataclass
class Loss:
    """A grant that came to nothing. `split`: its items are leases of their own now; `deadly`: the item that is given up, or None."""

    grant: Grant
    split: bool
    deadly: int | None


@dataclass
class _Epoch:
    number: int
    leases: Sequence[Sequence[int] | npt.NDArray[np.int64]]
    width: int
    pending: deque[int] = field(default_factory=deque)
    done: set[int] = field(default_factory=set)
    split: set[int] = field(default_factory=set)
    losses: dict[int, int] = field(default_factory=dict)
    tokens: int = 0
    left: int = 0  # leases neither done nor split
    listed: int = 0  # items of all leases
    items_done: int = 0  # of those that are done
    extra: bool = False  # beside the passes

    def items(self, lease: int) -> list[int]:
        if lease < len(self.leases):
            return [int(i) for i in self.leases[lease]]
        parent, position = divmod(lease - len(self.leases), self.width)
        return [int(self.leases[parent][position])]

    def size(self, lease: int) -> int:
        return len(self.leases[lease]) if lease < len(self.leases) else 1

    def children(self, lease: int) -> list[int]:
        first = len(self.leases) + lease * self.width
        return list(range(first, first + len(self.leases[lease])))


class LeaseTable:
    """Leases of consecutive epochs.

    Args:
      plan: epoch -> the item numbers of each of its leases; must give the same answer every time.
      passes: epochs to hand out; 0: endless.
      ttl_s: seconds without a beat after which a grant is lost.
      ids: of the grants; never one that a peer may still hold, be it from before a restart.
      overlap: epochs open at once, so that no worker idles while another finishes the last lease of an epoch.
    """

    def __init__(self, plan: EpochPlan, passes: int, ttl_s: float, ids: Iterator[int] | None = None, overlap: int = 2) -> None:
        self._plan, self._passes, self._ttl_s, self._overlap = plan, passes, ttl_s, overlap
        self._ids = ids if ids is not None else itertools.count()
        self._next_epoch = 0
        self._open: dict[int, _Epoch] = {}
        self._grants: dict[int, Grant] = {}
        self._owned: dict[str, set[int]] = {}  # ids of grants by owner, so that no question walks through all of them
        self.skip: set[int] = set()  # deadly items
        self.gone: set[int] = set()  # items that are not there now
        self.passes_done = 0  # extra ones, too
        self.extras = 0  # epochs so far that were not among the passes
        self._closed: set[int] = set()  # extra epochs that were done before an older one
        self.last_pass_tokens = -1  # tokens of the last finished epoch; -1: none yet

    @property
    def exhausted(self) -> bool:
        """Whether every pass is done, and every extra epoch so far."""
        return bool(self._passes) and self.passes_done - self.extras >= self._passes

    @property
    def pass_share(self) -> float:
        """Share of the oldest open epoch's leases that are done."""
        for epoch in self._open.values():
            return len(epoch.done) / max(1, len(epoch.done) + epoch.left)
        return 0.0

    @property
    def pass_items(self) -> tuple[int, int]:
        """Items of the oldest open epoch: those that are done (or given up), and all."""
        for epoch in self._open.values():
            return epoch.items_done, epoch.listed
        return 0, 0

    def grant(self, owner: str, now: float) -> Grant | None:
        """The next lease for `owner`, or None when nothing is pending (now, or ever again: see `exhausted`)."""
        while True:
            waiting = [e for e in self._open.values() if e.pending]
            epoch = next((e for e in waiting if e.extra), waiting[0] if waiting else None)
            if epoch is None and self._may_begin():
                epoch = self._begin(self._next_epoch)
            if epoch is None:
                return None
            while epoch.pending:
                number = epoch.pending.popleft()
                items = [i for i in epoch.items(number) if i not in self.skip and i not in self.gone]
                if items:
                    grant = Grant(next(self._ids), epoch.number, number, items, owner, now + self._ttl_s, self._ttl_s)
                    self._grants[grant.id] = grant
                    self._owned.setdefault(owner, set()).add(grant.id)
                    return grant
                self._settle(epoch, number)
            if not epoch.left:
                self._close_finished()
                if not self._passes:  # an epoch without work ends at once; endless ones would never stop beginning
                    return None

    def add_epoch(self) -> None:
        """Begin an epoch now, beside the passes; its leases go before all others."""
        self.extras += 1
        self._begin(self._next_epoch, extra=True)
        self._close_finished()

    @property
    def open_epochs(self) -> Collection[int]:
        """Numbers of the epochs that are not done."""
        return self._open.keys()

    @property
    def closed(self) -> list[tuple[int, int]]:
        """Extra epochs that were done before an older one, as [first, last] runs."""
        return _runs(self._closed)

    @property
    def next_epoch(self) -> int:
        """Number of the epoch that begins next."""
        return self._next_epoch

    def _may_begin(self) -> bool:
        among_passes = sum(not e.extra for e in self._open.values())
        return among_passes < self._overlap and (not self._passes or self._next_epoch - self.extras < self._passes)

    @property
    def granted(self) -> Collection[Grant]:
        """Every lease that is in somebody's hands."""
        return self._grants.values()

    def current(self, grant_id: int, owner: str) -> Grant | None:
        """The grant, if it still stands and is `owner`'s."""
        grant = self._grants.get(grant_id)
        return grant if grant is not None and grant.owner == owner else None

    def beat(self, grant_id: int, owner: str, now: float) -> bool:
        """Push the deadline back. False: the grant does not stand any more."""
        grant = self.current(grant_id, owner)
        if grant is None:
            return False
        grant.deadline = now + grant.ttl_s
        return True

    def finish(self, grant_id: int, owner: str, tokens: int) -> Grant | None:
        """Mark the lease done with `tokens` collected. None: the grant does not stand any more, and nothing is changed."""
        grant = self.current(grant_id, owner)
        if grant is None:
            return None
        self._remove(grant)
        epoch = self._open[grant.epoch]
        epoch.tokens += tokens
        self._settle(epoch, grant.number)
        self._close_finished()
        return grant

    def give_back(self, owner: str) -> list[Grant]:
        """The owner ends in good order: its leases are pending again, at no fault of their items."""
        back = self._of(owner)
        for grant in back:
            self._remove(grant)
            self._open[grant.epoch].pending.appendleft(grant.number)
        return back

    def hasten(self, owner: str, deadline: float) -> None:
        """The owner seems to be gone: its leases are lost at `deadline` at the latest."""
        for grant in self._of(owner):
            grant.deadline = min(grant.deadline, deadline)

    def expire(self, now: float) -> list[Loss]:
        """Take back every grant past its deadline: pending again, split into items, or given up."""
        lost = [g for g in self._grants.values() if g.deadline < now]
        losses = [self._lose(grant) for grant in lost]
        self._close_finished()
        return losses

    def _of(self, owner: str) -> list[Grant]:
        return [self._grants[i] for i in sorted(self._owned.get(owner, ()))]

    def _remove(self, grant: Grant) -> None:
        del self._grants[grant.id]
        mine = self._owned[grant.owner]
        mine.discard(grant.id)
        if not mine:
            del self._owned[grant.owner]

    def _lose(self, grant: Grant) -> Loss:
        self._remove(grant)
        epoch = self._open[grant.epoch]
        count = epoch.losses[grant.number] = epoch.losses.get(grant.number, 0) + 1
        if count < MAX_LOSSES:
            epoch.pending.appendleft(grant.number)
            return Loss(grant, split=False, deadly=None)
        if grant.number < len(epoch.leases) and len(epoch.leases[grant.number]) > 1:
            self._split(epoch, grant.number)
            return Loss(grant, split=True, deadly=None)
        self._settle(epoch, grant.number)
        deadly = grant.items[0] if grant.items else None
        if deadly is not None:
            self.skip.add(deadly)
        return Loss(grant, split=False, deadly=deadly)

    def _split(self, epoch: _Epoch, lease: int) -> None:
        children = epoch.children(lease)
        epoch.split.add(lease)
        epoch.left += len(children) - 1
        epoch.pending.extend(children)

    @staticmethod
    def _settle(epoch: _Epoch, lease: int) -> None:
        epoch.done.add(lease)
        epoch.items_done += epoch.size(lease)
        epoch.left -= 1

    def _begin(self, number: int, extra: bool = False) -> _Epoch:
        leases = self._plan(number)
        epoch = _Epoch(number, leases, width=1, extra=extra)
        for lease in leases:
            epoch.width = max(epoch.width, len(lease))
            epoch.listed += len(lease)
        epoch.pending.extend(range(len(leases)))
        epoch.left = len(leases)
        self._open[number] = epoch
        self._next_epoch = max(self._next_epoch, number + 1)
        return epoch

    def _close_finished(self) -> None:
        for number in [n for n, epoch in self._open.items() if epoch.extra and not epoch.left]:
            del self._open[number]
            self._closed.add(number)
        while True:
            if self.passes_done in self._closed:
                self._closed.discard(self.passes_done)
            elif (epoch := self._open.get(self.passes_done)) is not None and not epoch.left:
                self.last_pass_tokens = self._open.pop(self.passes_done).tokens
            else:
                return
            self.passes_done += 1

    def records(self) -> list[EpochRecord]:
        """The open epochs, to be kept across a restart. Granted leases count as not done."""
        return [EpochRecord(e.number, _runs(e.done), sorted(e.split), e.tokens, e.extra) for e in self._open.values()]

    def restore(self, passes_done: int, records: Sequence[EpochRecord], extras: int = 0, closed: Sequence[tuple[int, int]] = ()) -> None:
        """Go on from `records`, `extras` and `closed` of an earlier table with the same plan."""
        self.passes_done, self.extras = passes_done, extras
        self._closed = {n for first, last in closed for n in range(first, last + 1)}
        self._next_epoch = max([passes_done, *(number + 1 for number in self._closed)])
        for record in sorted(records, key=lambda r: r.epoch):
            epoch = self._begin(record.epoch, record.extra)
            epoch.tokens = record.tokens
            epoch.pending.clear()
            epoch.done = {n for first, last in record.done for n in range(first, last + 1)}
            epoch.items_done = sum(map(epoch.size, epoch.done))
            epoch.split = set(record.split)
            every = [*range(len(epoch.leases)), *(child for lease in record.split for child in epoch.children(lease))]
            epoch.pending.extend(n for n in every if n not in epoch.done and n not in epoch.split)
            epoch.left = len(epoch.pending)
        self._close_finished()


def _runs(numbers: set[int]) -> list[tuple[int, int]]:
    """Sorted numbers as inclusive runs: {1, 2, 3, 7} -> [(1, 3), (7, 7)]."""
    runs: list[tuple[int, int]] = []
    for n in sorted(numbers):
        if runs and runs[-1][1] == n - 1:
            runs[-1] = (runs[-1][0], n)
        else:
            runs.append((n, n))
    return runs
