"""Who is connected, and what each worker has done lately."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from pydreaming.tracking.live import WorkerNow
from workers.protocol import MAX_SECONDS, Crew, Hello, Totals, one_line

WINDOW_S = 30.0  # s over which rates are taken


@dataclass
class Peer:
    """One connection. `address` is ZeroMQ's name for it; `owner` names the process, over reconnections too.

    key: by which it was let in (empty: without keys); part of `owner`, so that nobody can take over another host's leases.
    replaced: another process has come under its name, and it was not heard of since: most likely it is dead.
    """

    address: bytes
    key: str
    hello: Hello
    owner: str
    last_seen: float
    joined: float
    lease: int = -1
    totals: Totals = field(default_factory=Totals)
    history: deque[tuple[float, Totals]] = field(default_factory=deque)
    replaced: bool = False

    def beat(self, totals: Totals, now: float) -> None:
        """Take in the totals of a beat."""
        self.totals = totals
        self.history.append((now, totals))
        while len(self.history) > 2 and now - self.history[0][0] > WINDOW_S:
            self.history.popleft()

    def now(self, now: float) -> WorkerNow:
        """This worker as `pydreaming status` shows it."""
        begin, first = self.history[0] if self.history else (now, self.totals)
        rate = 1 / (now - begin) if now > begin else 0.0
        return WorkerNow(
            name=self.hello.name,
            host=one_line(self.hello.host),
            silent_s=max(0.0, now - self.last_seen),
            lease=self.lease,
            clips_per_s=_plausible((self.totals.clips - first.clips) * rate),
            audio_per_s=_plausible((self.totals.audio_s - first.audio_s) * rate),
            age_s=max(0.0, now - self.joined),
            clips=self.totals.clips,
        )


class Roster:
    """Connected peers, by ZeroMQ's name."""

    def __init__(self, forget_s: float) -> None:
        self._peers: dict[bytes, Peer] = {}
        self._forget_s = forget_s

    def find(self, address: bytes, now: float) -> Peer | None:
        """The peer, noting that it was heard from."""
        peer = self._peers.get(address)
        if peer is not None:
            peer.last_seen, peer.replaced = now, False
        return peer

    def greet(self, address: bytes, key: str, key_name: str, hello: Hello, now: float) -> list[Peer]:
        """Enter a peer. Returns the ones it replaces: other processes of the same key, name and host."""
        owner = f"{key_name and key_name + ':'}{one_line(hello.host)}/{hello.name}/{hello.pid}-{hello.session:x}"
        same = (key, hello.host, hello.name, hello.role)
        twins = [p for p in self._peers.values() if (p.key, p.hello.host, p.hello.name, p.hello.role) == same]
        peer = Peer(address, key, hello, owner, now, now)
        for twin in twins:
            if twin.owner == owner:  # the same process after a reconnection
                peer.totals, peer.history, peer.lease, peer.joined = twin.totals, twin.history, twin.lease, twin.joined
                del self._peers[twin.address]
            else:
                twin.replaced = True
        self._peers[address] = peer
        return [twin for twin in twins if twin.owner != owner]

    def remove(self, address: bytes) -> None:
        """The peer has left."""
        self._peers.pop(address, None)

    def forget_silent(self, now: float) -> None:
        """Drop peers that have not been heard from for long; they have to say Hello again."""
        for peer in [p for p in self._peers.values() if now - p.last_seen > self._forget_s]:
            del self._peers[peer.address]

    def without_leave(self, lets_in: Callable[[str], bool]) -> list[Peer]:
        """Peers whose keys are let in no more."""
        return [peer for peer in self._peers.values() if not lets_in(peer.key)]

    def everyone(self) -> list[bytes]:
        """ZeroMQ's names of all peers."""
        return list(self._peers)

    def at_work(self, since: float) -> bool:
        """Whether a worker that was heard of `since` then has not left."""
        return any(p.hello.role == "worker" and p.last_seen >= since for p in self._peers.values())

    def workers(self, now: float) -> list[WorkerNow]:
        """All workers, by name, without those that were replaced."""
        workers = (p.now(now) for p in self._peers.values() if p.hello.role == "worker" and not p.replaced)
        return sorted(workers, key=lambda w: (w.host, w.name))


def crew_of(workers: Sequence[WorkerNow]) -> Crew:
    """What the learner is told about all of them."""
    return Crew(
        count=len(workers),
        clips_per_s=_plausible(sum(w.clips_per_s for w in workers)),
        audio_per_s=_plausible(sum(w.audio_per_s for w in workers)),
        silent_s=max((w.silent_s for w in workers), default=0.0),
    )


def _plausible(rate: float) -> float:
    """A rate as it may stand in a Status: a worker that lies must not make one that the learner refuses."""
    return min(max(0.0, rate), MAX_SECONDS)
