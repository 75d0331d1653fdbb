"""The coordinator process: one socket, a lease table behind it.

    python -m workers.coordinator --run RUN_DIR

It announces itself in RUN/coordinator.json once it listens, and the reason there if it cannot.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from types import FrameType

import msgspec

from pydreaming.audio.sources import source_root
from pydreaming.config import Config, WorkersConfig
from pydreaming.config_public import without_password
from pydreaming.errors import PydreamingError, TransportError
from pydreaming.keys import LOCAL_PEER, load_server_keys
from pydreaming.tracking.live import CollectionNow, publish
from workers import logs
from workers.collection import Collection
from workers.layout import PREDECESSOR_S, CoordinatorFile, RunDir, hold, replace_json
from workers.protocol import (
    Beat,
    Bye,
    Done,
    FromCoordinator,
    FromPeer,
    Hello,
    Lease,
    Progress,
    ProtocolError,
    Pull,
    Refused,
    Rehello,
    Revoked,
    Status,
    Stop,
    Wait,
    Welcome,
    decode_from_peer,
    one_line,
)
from workers.roster import Peer, Roster, crew_of
from workers.throttle import ThrottledLog
from workers.transport import Received, Router, host_part, split_address
from workers.watch import SourceWatch, open_source

log = logging.getLogger(__name__)

POLL_S = 0.1
BATCH = 1000  # messages between two rounds of regular work, so that a flood cannot hold it up
REGULAR_S = 2.0
DISMISS_S = 3.0  # for workers to read that the run has ended
OVER = Stop("the run has ended")


class Coordinator:
    """Answers messages from the collection's state.

    Args:
      run: the run's folder, for `pydreaming status`.
      router: the bound socket; collection: what there is to do; welcome: what peers are told first.
      workers: how work is handed to them. watch: on a source that grows.
    """

    def __init__(
        self, run: Path, router: Router, collection: Collection, welcome: Welcome, workers: WorkersConfig, watch: SourceWatch | None = None
    ) -> None:
        self._run = run
        self._router, self._collection, self._welcome, self._beat_s = router, collection, welcome, workers.beat_s
        # Not before its lease is lost and given to another: until then it may come back to it.
        self._roster = Roster(forget_s=max(60.0, 20 * workers.beat_s, 2 * workers.lease_ttl_s))
        self._watch = watch
        self._dropped: Counter[str] = Counter()
        self._say = ThrottledLog(log)
        self._regular, self._ticked, self._began = -REGULAR_S, -POLL_S, time.time()
        self.stopping = self.comes_back = False

    @property
    def dropped(self) -> Counter[str]:
        """Messages that were refused, by kind."""
        return self._dropped

    def serve(self) -> None:
        """Until `stopping`; then tell every peer that the run has ended, unless `comes_back`."""
        while not self.stopping:
            self.step(POLL_S)
        if not self.comes_back:
            self._dismiss()
        self._collection.save(time.monotonic())

    def _dismiss(self) -> None:
        """Tell every peer that the run has ended. Workers get the time to read it between two blocks of audio: of a connection that closes,
        what was not read yet is lost, and they would wait for a coordinator that never comes back."""
        for address in self._roster.everyone():
            self._router.send(address, OVER)
        until = time.monotonic() + DISMISS_S
        while (now := time.monotonic()) < until and self._roster.at_work(now - DISMISS_S):
            for received in self._router.receive(POLL_S):
                self._handle(received, time.monotonic())

    def step(self, timeout_s: float) -> None:
        """One round: the messages that are there, and regular work."""
        if self._router.refresh_keys():
            for peer in self._roster.without_leave(self._router.lets_in):
                self._shut_out(peer.address, peer.key)
        for count, received in enumerate(self._router.receive(timeout_s), start=1):
            self._handle(received, time.monotonic())
            if count >= BATCH:
                break
        now = time.monotonic()
        for change in self._watch.changes() if self._watch else ():
            self._collection.take_in(change)
        if now - self._ticked >= POLL_S:  # not after every message: it looks at all leases
            self._ticked = now
            self._collection.tick(now)
        if now - self._regular >= REGULAR_S:
            self._regular = now
            self._roster.forget_silent(now)
            publish(self._run, self.now(now))

    def _handle(self, received: Received, now: float) -> None:
        if not self._router.lets_in(received.key):
            self._shut_out(received.peer, received.key)
            return
        try:
            message = decode_from_peer(received.frame)
        except ProtocolError as e:
            self._drop(e.kind, str(e))
            if e.kind == "version":  # an honest peer of another version; it sees the version in this frame's header
                self._router.send(received.peer, Refused(str(e)))
            return
        for answer in self._answer(received, message, now):
            self._router.send(received.peer, answer)

    def _shut_out(self, address: bytes, key: str) -> None:
        """A message of, or a connection with, a key that was revoked since the connection was made."""
        name = self._router.name_of(key) or "somebody"
        self._dropped["key"] += 1
        self._say(logging.WARNING, ("key", key), "%s is shut out: its key was revoked", name)
        peer = self._roster.find(address, time.monotonic())
        if peer is not None:
            self._collection.leave(peer.owner)
            self._roster.remove(address)
        self._router.send(address, Refused("this host's key was revoked"))

    def _answer(self, received: Received, message: FromPeer, now: float) -> list[FromCoordinator]:
        if self.stopping and not isinstance(message, Bye):
            return [OVER]
        if isinstance(message, Hello):
            return [self._greet(received, message, now)]
        peer = self._roster.find(received.peer, now)
        if peer is None:
            return [Rehello()]
        if isinstance(message, Bye):
            reason = one_line(message.reason)
            about = {"peer": peer.owner, "reason": reason}
            self._say(logging.INFO, ("bye", received.peer), "%s leaves%s", peer.owner, f": {reason}" if reason else "", about=about)
            self._collection.leave(peer.owner)
            self._roster.remove(received.peer)
            return []
        if isinstance(message, Progress):
            if peer.hello.role != "learner":
                return self._drop("role", f"Progress from {peer.owner}, which is no learner")
            self._collection.progress(message.trained_tokens)
            return [self.status(now)]
        if peer.hello.role != "worker":
            return self._drop("role", f"{type(message).__name__} from {peer.owner}, which is no worker")
        return self._answer_worker(peer, message, now)

    def _answer_worker(self, peer: Peer, message: Pull | Beat | Done, now: float) -> list[FromCoordinator]:
        if isinstance(message, Pull):
            answer: Lease | Wait | Stop = self._collection.pull(peer.owner, now)
            peer.lease = answer.id if isinstance(answer, Lease) else -1
            return [answer]
        peer.beat(message.totals, now)
        if isinstance(message, Beat):
            stands = message.lease < 0 or self._collection.beat(message.lease, peer.owner, now)
            return [] if stands else [Revoked(message.lease)]
        verdict = self._collection.done(message, peer.owner)
        if isinstance(verdict, Refused):
            about = {"peer": peer.owner, "lease": message.lease}
            self._say(logging.WARNING, ("refused", peer.address), "%s: %s", peer.owner, verdict.reason, about=about)
        return [] if verdict is None else [verdict]

    def _greet(self, received: Received, hello: Hello, now: float) -> Welcome | Refused:
        key_name = self._router.name_of(received.key)
        if hello.role == "learner" and received.key and key_name != LOCAL_PEER:
            self._say(logging.WARNING, ("learner", received.key), "%s may not be the learner: only the key '%s' may", key_name, LOCAL_PEER)
            return Refused(f"only the key '{LOCAL_PEER}' of the coordinator's own host may be the learner")
        for twin in self._roster.greet(received.peer, received.key, key_name, hello, now):
            # Started again under the same name: most likely the old process is dead. If it lives, its beats say so before this.
            self._collection.hasten(twin.owner, max(now, twin.last_seen + 3 * self._beat_s))
        let_in, host = f" with the key of {key_name}" if key_name else "", one_line(hello.host)
        about = {"peer": hello.name, "peer_role": hello.role, "pid": hello.pid, "host": host}
        joins = "%s %s joins from %s (pid %d)%s"
        self._say(logging.INFO, ("hello", received.peer), joins, hello.role, hello.name, host, hello.pid, let_in, about=about)
        return self._welcome

    def status(self, now: float) -> Status:
        """What the learner is told."""
        c = self._collection
        return Status(
            phase=c.phase,
            written_tokens=c.state.written_tokens,
            stored_tokens=c.stored_tokens,
            files=c.stored_files,
            unreadable=c.unreadable,
            passes_done=c.passes_done,
            pass_share=c.pass_share,
            exhausted=c.exhausted,
            all_failed=c.all_failed,
            dropped_messages=sum(self._dropped.values()),
            leases=c.leases_in_hand,
            crew=crew_of(self._roster.workers(now)),
        )

    def now(self, now: float) -> CollectionNow:
        """What `pydreaming status` shows."""
        s, (done, listed) = self.status(now), self._collection.pass_items
        return CollectionNow(
            time=time.time(),
            due_s=REGULAR_S,
            pid=os.getpid(),
            address=self._router.address,
            phase=s.phase,
            written_tokens=s.written_tokens,
            stored_tokens=s.stored_tokens,
            files=s.files,
            unreadable=s.unreadable,
            leases=s.leases,
            passes_done=s.passes_done,
            pass_share=s.pass_share,
            exhausted=s.exhausted,
            dropped_messages=s.dropped_messages,
            workers=self._roster.workers(now),
            capacity_tokens=self._collection.capacity_tokens,
            recordings_done=done,
            recordings=listed,
            began=self._began,
        )

    def _drop(self, kind: str, detail: str) -> list[FromCoordinator]:
        self._dropped[kind] += 1
        about = {"kind": kind, "dropped": sum(self._dropped.values())}
        self._say(logging.WARNING, ("dropped", kind), "dropped %s (so far: %s)", detail, dict(self._dropped), about=about)
        return []


def bind(config: Config, last_address: str) -> Router:
    """Listen: with port 0 where the run's last coordinator did, if possible, so that its workers find this one. Raises TransportError."""
    keys = load_server_keys(Path(config.coordinator.keys).expanduser()) if config.coordinator.keys else None
    host, port = split_address(config.coordinator.address)
    if port == 0 and last_address:
        try:
            return Router(f"tcp://{host_part(host)}:{split_address(last_address)[1]}", keys)
        except TransportError as e:
            log.info("%s; taking another port", e)
    return Router(config.coordinator.address, keys)


def run_coordinator(run: RunDir, stop: Stopper) -> None:
    """Build what is needed, announce the address, serve until stopped. Raises PydreamingError."""
    config = run.read_config()
    log.info("listing the recordings of %s ...", config.source.path)
    catalogue, watch = open_source(run, config)
    collection = Collection(run, config, catalogue, time.monotonic())
    router = bind(config, collection.state.address)
    try:
        collection.state.address = router.address
        collection.save(time.monotonic())
        welcome = Welcome(
            config=msgspec.json.encode(without_password(config)).decode(),
            root=str(source_root(config.source).absolute()),
            replay=str(run.replay(config)),
            recordings=len(catalogue),
            control_mean=catalogue.info.control_mean,
            control_std=catalogue.info.control_std,
            run=run.path.resolve().name,
        )
        coordinator = Coordinator(run.path, router, collection, welcome, config.workers, watch)
        stop.attach(coordinator)
        replace_json(run.coordinator, CoordinatorFile(router.address, os.getpid()))
        log.info("listening on %s, %d recordings", router.address, len(catalogue))
        if watch is not None:
            watch.start()
        coordinator.serve()
    finally:
        if watch is not None:
            watch.close()
        router.close()


class Stopper:
    """Turns SIGTERM and SIGINT into the end of the run for its peers, and SIGHUP (whoever started this process is gone) into a pause."""

    def __init__(self) -> None:
        self._coordinator: Coordinator | None = None
        self._asked = False
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._ask)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self._asked = True
        if self._coordinator is None:
            raise SystemExit(0)  # still listing recordings: nothing to tidy up
        self._coordinator.comes_back = number == signal.SIGHUP
        self._coordinator.stopping = True

    def attach(self, coordinator: Coordinator) -> None:
        """From now on a signal ends this coordinator."""
        self._coordinator = coordinator


def main(arguments: list[str] | None = None) -> int:
    """Entry point of `python -m workers.coordinator`."""
    parser = argparse.ArgumentParser(prog="python -m workers.coordinator", description="hands out work to audio workers")
    parser.add_argument("--run", type=Path, required=True, help="folder of the run, with its config.yaml")
    run = RunDir(parser.parse_args(arguments).run)
    logs.begin("coordinator", run)
    try:
        stop = Stopper()
        with hold(run.path, "coordinator", PREDECESSOR_S):
            run_coordinator(run, stop)
    except PydreamingError as e:
        log.error("error: %s", e)
        if run.path.is_dir():
            replace_json(run.coordinator, CoordinatorFile("", os.getpid(), str(e), e.exit_code))
        return e.exit_code
    except OSError as e:  # a full disk, most likely: no word in coordinator.json, so that the supervisor tries again before it gives up
        log.error("error: cannot write %s: %s", e.filename or run.path, e.strerror)
        return PydreamingError.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
