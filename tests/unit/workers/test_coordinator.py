from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from pydreaming.audio.sources import Catalogue
from workers.audio_worker import AudioWorker, Options
from workers.collection import Collection
from workers.coordinator import DISMISS_S, Coordinator, bind
from workers.layout import RunDir
from workers.produce import Producer
from workers.protocol import (
    Beat,
    Bye,
    FromCoordinator,
    FromPeer,
    Hello,
    Lease,
    Progress,
    Pull,
    Rehello,
    Revoked,
    Status,
    Stop,
    Totals,
    Welcome,
)
from workers.serial import work
from workers.supervisor import Supervisor
from workers.transport import Dealer, Router

MakeRun = Callable[..., RunDir]
Recordings = Callable[..., Path]
WELCOME = Welcome("{}", "/audio", "/replay", 0, [], [])
M = TypeVar("M")


class Site:
    """A coordinator and its peers in one thread: `ask` lets the coordinator work until it has answered."""

    def __init__(self, run: RunDir) -> None:
        config = run.read_config()
        catalogue = Catalogue.build(config.source, config.action, config.run.seed, run.catalogue)
        self.router = Router("tcp://127.0.0.1:0", None)
        self.collection = Collection(run, config, catalogue, time.monotonic())
        self.coordinator = Coordinator(run.path, self.router, self.collection, WELCOME, config.workers)
        self.producer = Producer(config, Path(config.source.path), run.replay(config))
        self.dealers: list[Dealer] = []

    def join(self, role: str, name: str, pid: int, session: int = 0) -> Dealer:
        self.dealers.append(Dealer(self.router.address))
        assert self.ask(self.dealers[-1], Hello(role, name, "host", pid, session), Welcome)  # type: ignore[arg-type]
        return self.dealers[-1]

    def tell(self, dealer: Dealer, message: FromPeer) -> None:
        end = time.monotonic() + 5
        while not dealer.send(message):
            assert time.monotonic() < end
            self.coordinator.step(0.01)
        for _ in range(5):
            self.coordinator.step(0.01)

    def ask(self, dealer: Dealer, message: FromPeer, kind: type[M]) -> M:
        self.tell(dealer, message)
        end = time.monotonic() + 5
        while True:
            answer: FromCoordinator | None = dealer.receive(0.01)
            if answer is not None:
                assert isinstance(answer, kind), answer
                return answer
            assert time.monotonic() < end
            self.coordinator.step(0.01)

    def close(self) -> None:
        for dealer in self.dealers:
            dealer.close()
        self.router.close()


@pytest.fixture
def site(make_run: MakeRun, recordings: Recordings) -> Iterator[Site]:
    there = Site(make_run(recordings(8), "--workers.lease_ttl_s", "60", "--workers.beat_s", "0.1"))
    yield there
    there.close()


def test_strangers_are_asked_who_they_are(site: Site) -> None:
    site.dealers.append(Dealer(site.router.address))
    for message in (Pull(), Progress(1, 1), Beat(3, Totals())):
        site.ask(site.dealers[0], message, Rehello)


def test_nobody_speaks_out_of_role(site: Site) -> None:
    worker, learner = site.join("worker", "w", 1), site.join("learner", "l", 2)
    site.tell(worker, Progress(10**9, 1))
    site.tell(learner, Pull())
    assert site.collection.state.trained_tokens == 0
    assert site.coordinator.dropped == {"role": 2}
    assert site.ask(learner, Progress(5, 1), Status).dropped_messages == 2
    assert site.collection.state.trained_tokens == 5


def test_beats_of_a_lease_that_is_not_theirs_are_revoked(site: Site) -> None:
    a, b = site.join("worker", "a", 1), site.join("worker", "b", 2)
    lease = site.ask(a, Pull(), Lease)
    assert site.ask(b, Beat(lease.id, Totals()), Revoked).lease == lease.id
    site.tell(a, Beat(lease.id, Totals(audio_s=7.5, clips=3)))
    assert a.receive(0.05) is None
    learner = site.join("learner", "l", 3)
    status = site.ask(learner, Progress(0, 0), Status)
    assert (status.crew.count, status.leases) == (2, 1)
    now = site.coordinator.now(time.monotonic())
    assert now.time - 600 < now.began < now.time
    assert [(w.name, w.lease, w.clips) for w in now.workers] == [("a", lease.id, 3), ("b", -1, 0)]


def test_a_worker_that_lies_about_its_work_does_not_blind_the_learner(site: Site) -> None:
    worker, learner = site.join("worker", "a", 1), site.join("learner", "l", 2)
    for audio_s, clips in ((0.0, 0), (1e12, 2**53), (0.0, 0), (1e12, 2**53)):
        site.tell(worker, Beat(-1, Totals(audio_s=audio_s, clips=clips)))
    status = site.ask(learner, Progress(0, 0), Status)  # more than 1e12 s a second would be refused
    assert status.crew.audio_per_s == 1e12


def test_who_leaves_gives_its_lease_to_the_next(site: Site) -> None:
    a, b = site.join("worker", "a", 1), site.join("worker", "b", 2)
    lease = site.ask(a, Pull(), Lease)
    site.tell(a, Bye("sigterm"))
    again = site.ask(b, Pull(), Lease)
    assert (again.number, again.items) == (lease.number, lease.items)


@pytest.mark.parametrize("pid", [1, 2])  # a container's processes have the same number every time it is started
def test_a_restarted_workers_old_lease_is_lost_long_before_its_time(site: Site, pid: int) -> None:
    old = site.join("worker", "a", 1, session=10)
    lease = site.ask(old, Pull(), Lease)
    site.join("worker", "a", pid, session=11)
    time.sleep(0.5)  # more than three beats, far less than the lease's minute
    site.coordinator.step(0.01)
    site.ask(old, Beat(lease.id, Totals()), Revoked)


def test_a_recording_that_kills_a_container_every_time_is_given_up(site: Site) -> None:
    worker, session = site.join("worker", "a", 7), 0
    while site.collection.phase == "measure":
        site.tell(worker, work(site.producer, site.ask(worker, Pull(), Lease)))
    while not site.collection.unreadable:
        lease = site.ask(worker, Pull(), Lease)
        if any(item.path == "good-003.wav" for item in lease.items):
            session += 1
            assert session <= 4
            worker = site.join("worker", "a", 7, session)  # it died without a word, and was started again
            site.collection.tick(time.monotonic() + 1)
        else:
            site.tell(worker, work(site.producer, lease))
    assert session == 4


def test_a_reconnected_worker_keeps_its_lease(site: Site) -> None:
    worker = site.join("worker", "a", 1)
    while site.collection.phase == "measure":
        site.tell(worker, work(site.producer, site.ask(worker, Pull(), Lease)))
    lease = site.ask(worker, Pull(), Lease)
    again = site.join("worker", "a", 1)
    before = site.collection.state.written_tokens
    site.tell(again, work(site.producer, lease))
    assert again.receive(0.05) is None
    assert site.collection.state.written_tokens > before


def test_a_worker_whose_connection_was_made_anew_keeps_the_lease_it_works_on(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = AudioWorker(Options(None, site.router.address, None, None, None, "w", 1.0))
    dealer = Dealer(site.router.address)
    site.dealers.append(dealer)
    monkeypatch.setattr(worker, "_dealer", dealer)
    site.ask(dealer, worker._hello, Welcome)
    lease = site.ask(dealer, Pull(), Lease)
    monkeypatch.setattr(worker, "_lease", lease.id)
    (grant,) = site.collection._measure.granted
    deadline = grant.deadline
    site.coordinator._roster.remove(site.coordinator._roster.everyone()[0])  # ZeroMQ's new name for the connection is nobody's yet
    for _ in range(20):
        monkeypatch.setattr(worker, "_beaten", 0.0)
        worker._on_block()
        site.coordinator.step(0.01)
    assert [w.name for w in site.coordinator.now(time.monotonic()).workers] == ["w"]
    assert grant.deadline > deadline


def test_who_is_silent_is_not_forgotten_while_its_lease_may_still_be_its_own(make_run: MakeRun, recordings: Recordings) -> None:
    site = Site(make_run(recordings(2), "--workers.lease_ttl_s", "300"))
    site.join("worker", "w", 1)
    site.coordinator._roster.forget_silent(time.monotonic() + 590)
    assert site.coordinator._roster.everyone()
    site.close()


def test_a_restarted_coordinator_takes_its_port_again(make_run: MakeRun, recordings: Recordings) -> None:
    config = make_run(recordings(2)).read_config()
    first = bind(config, "")
    taken = bind(config, first.address)  # still in use
    assert taken.address != first.address
    first.close()
    again = bind(config, first.address)
    assert again.address == first.address
    again.close()
    taken.close()


def test_a_worker_at_work_still_reads_that_the_run_has_ended(site: Site) -> None:
    """What it has not read when the other side hangs up is lost; it is busy with a block of audio now and then."""
    worker = site.join("worker", "w", 1)
    site.coordinator.stopping = True
    heard: list[FromCoordinator | None] = []

    def work() -> None:
        time.sleep(0.5)
        heard.append(worker.receive(1.0))
        while not worker.send(Bye("")):
            time.sleep(0.01)

    busy = threading.Thread(target=work)
    busy.start()
    begin = time.monotonic()
    site.coordinator.serve()
    taken = time.monotonic() - begin
    site.router.close()
    busy.join()
    assert heard == [Stop("the run has ended")]
    assert taken < DISMISS_S - 0.5  # it does not wait once everybody has left


def test_nobody_is_waited_for_where_only_the_learner_is_left(site: Site) -> None:
    site.join("learner", "l", 1)
    site.coordinator.stopping = True
    begin = time.monotonic()
    site.coordinator.serve()
    assert time.monotonic() - begin < 0.5


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_peers_are_dismissed_when_the_run_ends_and_not_when_its_launcher_dies(
    make_run: MakeRun, recordings: Recordings, number: signal.Signals
) -> None:
    """A worker that is told Stop ends for good; the supervisor has its coordinator hang up instead."""
    run = make_run(recordings(2))
    assert Supervisor(run.path, run.read_config(), {"coordinator", "worker"})._coordinator.orphaned == signal.SIGHUP
    process = subprocess.Popen([sys.executable, "-m", "workers.coordinator", "--run", str(run.path)])
    try:
        while (there := run.read_coordinator()) is None:
            assert process.poll() is None
            time.sleep(0.05)
        dealer = Dealer(there.address)
        while not dealer.send(Hello("worker", "a", "host", 1, 0)):
            time.sleep(0.05)
        while not isinstance(dealer.receive(0.1), Welcome):
            assert process.poll() is None
        process.send_signal(number)
        heard = []
        while process.poll() is None:  # what is not taken before the connection ends is lost with it
            heard.append(dealer.receive(0.05))
        assert process.returncode == 0
        assert any(isinstance(message, Stop) for message in heard) is (number == signal.SIGTERM)
        dealer.close()
    finally:
        process.kill()
        process.wait()
