"""Who is let in, and what a key allows: real sockets, both ends in one thread."""

from __future__ import annotations

import contextlib
import logging
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
import zmq

from pydreaming import keys
from pydreaming.audio.sources import Catalogue
from workers.collection import Collection
from workers.coordinator import Coordinator
from workers.layout import RunDir
from workers.produce import Producer
from workers.protocol import (
    Beat,
    Done,
    FromCoordinator,
    FromPeer,
    Hello,
    Lease,
    Progress,
    Pull,
    Refused,
    Rehello,
    Revoked,
    Status,
    Stop,
    Totals,
    Welcome,
)
from workers.serial import work
from workers.transport import Dealer, Router

MakeRun = Callable[..., RunDir]
Recordings = Callable[..., Path]
WELCOME = Welcome("{}", "/audio", "/replay", 0, [], [])
M = TypeVar("M")


class Site:
    """A coordinator with keys, and peers in the same thread: `ask` lets the coordinator work until it has answered."""

    def __init__(self, run: RunDir, folder: Path) -> None:
        config = run.read_config()
        catalogue = Catalogue.build(config.source, config.action, config.run.seed, run.catalogue)
        self.folder, self.run = folder, run
        self.router = Router("tcp://127.0.0.1:0", keys.load_server_keys(folder))
        self.collection = Collection(run, config, catalogue, time.monotonic())
        self.coordinator = Coordinator(run.path, self.router, self.collection, WELCOME, config.workers)
        self.producer = Producer(config, Path(config.source.path), run.replay(config))
        self.dealers: list[Dealer] = []

    def connect(self, client: keys.ClientKeys | None) -> Dealer:
        self.dealers.append(Dealer(self.router.address, client))
        return self.dealers[-1]

    def join(self, peer: Path, name: str = "w", role: str = "worker", session: int = 1) -> Dealer:
        dealer = self.connect(keys.load_client_keys(peer))
        self.ask(dealer, Hello(role, name, "host", 1, session), Welcome)  # type: ignore[arg-type]
        return dealer

    def ask(self, dealer: Dealer, message: FromPeer, kind: type[M]) -> M:
        end, sent = time.monotonic() + 20, False
        while True:
            sent = sent or dealer.send(message)
            answer: FromCoordinator | None = dealer.receive(0.01)
            if answer is not None:
                assert isinstance(answer, kind), answer
                return answer
            assert time.monotonic() < end
            self.coordinator.step(0.01)

    def serve(self, until: Callable[[], object]) -> None:
        end = time.monotonic() + 20
        while not until():
            assert time.monotonic() < end, "waited in vain"
            self.coordinator.step(0.02)

    def finish_measuring(self, worker: Dealer) -> Lease:
        """The first lease of the episodes."""
        while (lease := self.ask(worker, Pull(), Lease)).kind == "measure":
            worker.send(work(self.producer, lease))
        return lease

    def facts(self) -> tuple[object, ...]:
        """What no forged message may change."""
        c = self.collection
        files = {path.name: path.stat().st_mtime_ns for path in self.run.replay(self.run.read_config()).glob("*")}
        return c.state.written_tokens, c.state.trained_tokens, c.stored_files, c.unreadable, c.leases_in_hand, c.passes_done, files

    def close(self) -> None:
        for dealer in self.dealers:
            dealer.close()
        self.router.close()


@pytest.fixture
def site(make_run: MakeRun, recordings: Recordings, tmp_path: Path) -> Iterator[Site]:
    folder = tmp_path / "keys"
    keys.init_keys(folder)
    there = Site(make_run(recordings(8), "--workers.lease_ttl_s", "60", "--workers.beat_s", "0.1"), folder)
    yield there
    there.close()


# -- connections --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "logged", "told"),
    [
        ("stranger", "refused 127.0.0.1: its key is unknown", "key is refused"),
        ("revoked", "refused 127.0.0.1: the key of box was revoked on ", "key is refused"),
        ("another", "it has another coordinator's key", "keys do not match"),
        ("none", "without keys", "without keys; give --keys"),  # whoever hangs up first looks like a probe, "or a peer without keys"
    ],
)
def test_who_has_no_key_is_kept_out_told_why_and_logged(
    site: Site, tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str, logged: str, told: str
) -> None:
    own, other = keys.load_client_keys(site.folder), tmp_path / "other"
    keys.init_keys(other)
    stranger = keys.load_client_keys(other)
    if kind == "stranger":
        client: keys.ClientKeys | None = keys.ClientKeys(stranger.public, stranger.secret, own.server)
    elif kind == "revoked":
        client = keys.load_client_keys(keys.add_peer(site.folder, "box"))
        keys.revoke_peer(site.folder, "box")
    else:
        client = stranger if kind == "another" else None
    caplog.set_level(logging.INFO)
    dealer = site.connect(client)

    def turned_away() -> bool:
        dealer.send(Hello("worker", "w", "host", 1))
        return any(logged in line for line in caplog.messages) and told in dealer.explain(1.0)

    site.serve(turned_away)
    for _ in range(30):
        site.coordinator.step(0.02)
    assert dealer.receive(0.1) is None
    assert not site.coordinator.status(time.monotonic()).crew.count
    assert sum("refused" in line for line in caplog.messages) <= 2  # however often it tries; "unknown address" is another matter
    for secret in (own.secret, stranger.secret):
        assert secret.decode() not in caplog.text


def test_who_comes_without_keys_and_stays_is_logged_with_its_address(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    greeting = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)  # ZMTP 3.0, section 3.2: no security
    with socket.create_connection(("127.0.0.1", site.router.port), 5) as connection:
        assert connection.recv(10)  # of the coordinator's own greeting: the connection is accepted
        time.sleep(0.5)  # long enough for its address to be asked for
        connection.sendall(greeting)
        site.serve(lambda: caplog.messages)
    assert caplog.messages == ["refused 127.0.0.1: it came without keys"]


def test_probes_leave_one_quiet_line(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    for _ in range(10):
        with socket.create_connection(("127.0.0.1", site.router.port), 5):
            site.coordinator.step(0.02)
    site.serve(lambda: caplog.messages)
    assert caplog.messages == ["127.0.0.1 connected and left without a key: a probe, or a peer without keys"]
    assert caplog.records[0].levelno == logging.INFO


@pytest.mark.parametrize(
    "words", [b"GET / HTTP/1.1\r\n\r\n", bytes(10_000), b"\xff" * 10_000, b"\xff\0\0\0\0\0\0\0\1\x7f\3\0CURVE" + bytes(10_000)]
)
def test_what_is_no_zeromq_harms_nobody(site: Site, words: bytes) -> None:
    with socket.create_connection(("127.0.0.1", site.router.port), 5) as connection, contextlib.suppress(ConnectionError):
        connection.sendall(words)
        for _ in range(5):
            site.coordinator.step(0.02)
    site.join(site.folder)


def test_keys_are_let_in_while_the_coordinator_runs(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    site.coordinator.step(0.01)
    site.join(keys.add_peer(site.folder, "late"))
    assert any("joins from host" in line and "with the key of late" in line for line in caplog.messages)


# -- a key that is revoked while its owner is connected -----------------------------------------------------------------------------------


def test_a_revoked_worker_is_refused_its_lease_goes_to_the_next_at_once(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    box, good = site.join(keys.add_peer(site.folder, "box")), site.join(site.folder)
    lease = site.finish_measuring(box)
    assert site.collection.leases_in_hand == 1
    keys.revoke_peer(site.folder, "box")
    site.serve(lambda: site.collection.leases_in_hand == 0)  # without a word from it, long before its lease's minute is over
    assert site.ask(good, Pull(), Lease).number == lease.number
    assert "revoked" in site.ask(box, Beat(lease.id, Totals()), Refused).reason
    before = site.facts()
    for message in (Hello("worker", "w", "host", 1, 1), Pull(), work(site.producer, lease), Beat(lease.id, Totals(clips=7))):
        box.send(message)
        for _ in range(5):
            site.coordinator.step(0.02)
    after = site.facts()
    assert after[:-1] == before[:-1]
    assert all(w.clips != 7 for w in site.coordinator.now(time.monotonic()).workers)
    assert [line for line in caplog.messages if "box is shut out: its key was revoked" in line]
    assert site.coordinator.dropped["key"] >= 4


# -- what a key allows --------------------------------------------------------------------------------------------------------------------


def test_only_the_coordinators_own_host_may_be_the_learner(site: Site) -> None:
    dealer = site.connect(keys.load_client_keys(keys.add_peer(site.folder, "box")))
    assert "only the key 'local'" in site.ask(dealer, Hello("learner", "l", "host", 1), Refused).reason
    site.ask(dealer, Progress(10**9, 1), Rehello)
    learner = site.join(site.folder, role="learner")
    assert site.ask(learner, Progress(5, 1), Status).written_tokens == 0
    assert site.collection.state.trained_tokens == 5


def test_a_host_cannot_take_over_another_hosts_worker_by_its_name(site: Site) -> None:
    honest = site.join(keys.add_peer(site.folder, "a"), session=77)
    lease = site.finish_measuring(honest)
    thief = site.join(keys.add_peer(site.folder, "b"), session=77)  # name, host, process and session of the other
    before = site.facts()
    site.ask(thief, Beat(lease.id, Totals()), Revoked)
    site.ask(thief, Done(lease.id, [], [], None, Totals()), Revoked)
    assert site.facts() == before
    assert site.collection.beat(lease.id, "a:host/w/1-4d", time.monotonic())
    site.ask(honest, work(site.producer, lease), Stop) if site.collection.exhausted else honest.send(work(site.producer, lease))
    site.serve(lambda: site.collection.state.written_tokens > 0)


# -- leases that are replayed or made up --------------------------------------------------------------------------------------------------


def test_replayed_and_forged_leases_change_nothing(site: Site) -> None:
    a, b = site.join(keys.add_peer(site.folder, "a")), site.join(keys.add_peer(site.folder, "b"))
    lease = site.finish_measuring(a)
    done = work(site.producer, lease)
    a.send(done)
    site.serve(lambda: site.collection.state.written_tokens > 0)
    current = site.ask(b, Pull(), Lease)
    before = site.facts()
    earlier = current.id - 10**9  # of the coordinator before a restart
    for thief, number in ((a, done.lease), (b, done.lease), (a, current.id), (a, current.id + 1), (a, max(0, earlier)), (a, 2**53)):
        forged = Done(number, done.files, done.unreadable, None, Totals())
        assert site.ask(thief, forged, Revoked).lease == number
        assert site.ask(thief, Beat(number, Totals()), Revoked).lease == number
        assert site.facts() == before, number


@pytest.mark.parametrize("claim", ["another lease's file", "another size", "a link", "not there", "sums instead"])
def test_a_lease_of_ones_own_cannot_be_finished_with_what_is_not_its(site: Site, tmp_path: Path, claim: str) -> None:
    a = site.join(keys.add_peer(site.folder, "a"))
    first = site.finish_measuring(a)
    a.send(finished := work(site.producer, first))
    site.serve(lambda: site.collection.state.written_tokens > 0)
    lease = site.ask(a, Pull(), Lease)
    honest = work(site.producer, lease)
    replay = site.run.replay(site.run.read_config())
    name = honest.files[0].name
    if claim == "a link":
        (replay / name).rename(tmp_path / "outside.parquet")
        (replay / name).symlink_to(tmp_path / "outside.parquet")
    elif claim == "not there":
        (replay / name).unlink()
    file = honest.files[0]
    files = {
        "another lease's file": [finished.files[0]],
        "another size": [type(file)(file.name, file.episodes, file.tokens, file.bytes + 1)],
        "sums instead": [type(file)(file.name, file.episodes, file.tokens * 10**6, file.bytes)],
    }.get(claim, honest.files)
    written = site.collection.state.written_tokens
    assert site.ask(a, Done(lease.id, files, [], None, Totals()), Refused).reason
    assert site.collection.state.written_tokens == written


def test_several_parts_and_giants_never_reach_the_decoder(site: Site) -> None:
    own = keys.load_client_keys(site.folder)
    context = zmq.Context()
    raw = context.socket(zmq.DEALER)
    raw.curve_publickey, raw.curve_secretkey, raw.curve_serverkey = own.public, own.secret, own.server
    raw.connect(site.router.address)
    raw.send_multipart([b"a", b"b", b"c"])
    raw.send(b"hello")
    site.serve(lambda: sum(site.coordinator.dropped.values()) >= 2)
    context.destroy(linger=0)
    assert site.coordinator.dropped == {"foreign": 2}
