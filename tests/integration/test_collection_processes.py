"""Real coordinators and workers over real sockets."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import zmq

from pydreaming import keys
from pydreaming.audio.sources import Catalogue
from workers.layout import RunDir
from workers.protocol import PROTOCOL_VERSION, Hello, Progress, Refused, Status, Stop, Welcome
from workers.serial import collect
from workers.transport import Dealer

MakeRun = Callable[..., RunDir]
Recordings = Callable[..., Path]
Start = Callable[..., subprocess.Popen[bytes]]
DEADLINE_S = 150.0


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """start(role, *arguments): a process; its output goes to tmp_path/<role>-<n>.log. None outlives the test."""
    processes: list[subprocess.Popen[bytes]] = []

    def go(role: str, *arguments: str) -> subprocess.Popen[bytes]:
        with (tmp_path / f"{role}-{len(processes)}.log").open("wb") as log:
            process = subprocess.Popen([sys.executable, "-m", f"workers.{role}", *arguments], stdout=log, stderr=log)
        processes.append(process)
        return process

    yield go
    for process in processes:
        process.kill()
        process.wait()


def wait_for(what: Callable[[], object], seconds: float = DEADLINE_S) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def listening(run: RunDir) -> bool:
    announced = run.read_coordinator()
    return announced is not None and not announced.error


def tokens(run: RunDir) -> set[tuple[int, str, int]]:
    """(epoch, path, start sample) of every stored token; one that is there twice fails the test."""
    found: set[tuple[int, str, int]] = set()
    for file in run.replay(run.read_config()).glob("*.parquet"):
        for row in pq.read_table(file, columns=["source", "start_sample"]).to_pylist():
            token = (int(file.name[1:6]), row["source"], row["start_sample"])
            assert token not in found
            found.add(token)
    return found


def expected(make_run: MakeRun, audio: Path, *overrides: str) -> set[tuple[int, str, int]]:
    """The tokens that one process collects from the same recordings."""
    run = make_run(audio, *overrides, name="serial")
    collect(run, run.read_config())
    return tokens(run)


def raw_frames(address: str) -> None:
    """What a port scanner, a browser and an attacker may send."""
    context = zmq.Context()
    socket = context.socket(zmq.DEALER)
    socket.connect(address)
    for frame in (b"", b"GET / HTTP/1.1\r\n\r\n", b"pyd\x01" + b"[" * 100_000, b"pyd\x07{}", b'pyd\x01{"type":"Exec"}', os.urandom(1000)):
        socket.send(frame)
    socket.send_multipart([b"pyd", b"\x01", b"x"])
    time.sleep(0.2)
    context.destroy(linger=500)


def test_two_workers_collect_every_good_file_once_per_pass(make_run: MakeRun, recordings: Recordings, start: Start) -> None:
    audio = recordings(17, broken=1)
    run = make_run(audio)
    coordinator = start("coordinator", "--run", str(run.path))
    wait_for(lambda: listening(run))
    announced = run.read_coordinator()
    assert announced is not None
    raw_frames(announced.address)
    workers = [start("audio_worker", "--run", str(run.path), "--name", name) for name in ("a", "b")]
    with Dealer(announced.address) as learner:
        for worker in workers:
            assert worker.wait(DEADLINE_S) == 0
        learner.handshake(Hello("learner", "l", "here", 1), 30)  # now: who is silent for a minute is forgotten
        learner.send(Progress(0, 0))
        status = learner.receive(30)
        assert isinstance(status, Status)
        assert status.exhausted
        assert not status.all_failed
        assert status.unreadable == 1
        assert status.passes_done == 2
        assert status.dropped_messages >= 7
        assert status.written_tokens == len(tokens(run))
        coordinator.send_signal(signal.SIGTERM)
        assert isinstance(learner.receive(30), Stop)
    assert coordinator.wait(30) == 0
    assert tokens(run) == expected(make_run, audio)
    assert [json.loads(line)["path"] for line in run.quarantine.read_text().splitlines()] == ["broken-000.wav"]


def test_a_restarted_coordinator_finds_its_workers_and_goes_on(make_run: MakeRun, recordings: Recordings, start: Start) -> None:
    audio = recordings(25, seconds=4.0)
    run = make_run(audio, "--workers.passes", "6")
    coordinator = start("coordinator", "--run", str(run.path))
    workers = [start("audio_worker", "--run", str(run.path), "--name", name) for name in ("a", "b")]
    wait_for(lambda: any(run.replay(run.read_config()).glob("*.parquet")))
    coordinator.kill()
    coordinator.wait()
    run.coordinator.unlink()
    again = start("coordinator", "--run", str(run.path))
    for worker in workers:
        assert worker.wait(DEADLINE_S) == 0
    again.send_signal(signal.SIGTERM)
    assert again.wait(10) == 0
    assert tokens(run) == expected(make_run, audio, "--workers.passes", "6")


def test_a_source_without_audio_is_one_line_in_the_run_folder(make_run: MakeRun, tmp_path: Path, start: Start) -> None:
    (tmp_path / "empty").mkdir()
    run = make_run(tmp_path / "empty")
    assert start("coordinator", "--run", str(run.path)).wait(20) == 1
    announced = run.read_coordinator()
    assert announced is not None
    assert "empty" in announced.error
    assert "\n" not in announced.error


def test_sigterm_gives_the_lease_back_and_leaves_nothing(make_run: MakeRun, recordings: Recordings, start: Start) -> None:
    audio = recordings(3, seconds=120.0)
    run = make_run(audio, "--workers.passes", "0", "--workers.lease_ttl_s", "30", "--replay.shard_episodes", "1")
    replay = run.replay(run.read_config())
    start("coordinator", "--run", str(run.path))
    worker = start("audio_worker", "--run", str(run.path))
    wait_for(lambda: list(replay.glob("*.tmp-*")))
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(30) == 0
    assert not list(replay.glob("*.tmp-*"))


def test_a_worker_with_keys_and_mounts_of_its_own(make_run: MakeRun, recordings: Recordings, start: Start, tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    keys.init_keys(folder)
    peer = keys.add_peer(folder, "box")
    audio = recordings(4)
    run = make_run(audio, "--coordinator.keys", str(folder), "--coordinator.address", "tcp://0.0.0.0:0")
    start("coordinator", "--run", str(run.path))
    wait_for(lambda: listening(run))
    announced = run.read_coordinator()
    assert announced is not None
    (tmp_path / "mount").symlink_to(audio)
    (tmp_path / "store").symlink_to(run.replay(run.read_config()))
    arguments = ["--address", announced.address, "--root", str(tmp_path / "mount"), "--replay", str(tmp_path / "store")]
    assert start("audio_worker", *arguments, "--keys", str(peer)).wait(DEADLINE_S) == 0
    assert len({path for _, path, _ in tokens(run)}) == 4


def test_a_worker_that_writes_to_another_folder_is_told(make_run: MakeRun, recordings: Recordings, start: Start, tmp_path: Path) -> None:
    run = make_run(recordings(4))
    (tmp_path / "wrong").mkdir()
    start("coordinator", "--run", str(run.path))
    wait_for(lambda: listening(run))
    announced = run.read_coordinator()
    assert announced is not None
    worker = start("audio_worker", "--address", announced.address, "--replay", str(tmp_path / "wrong"))
    assert worker.wait(DEADLINE_S) == 1
    assert "--replay" in (tmp_path / "audio_worker-1.log").read_text()


def test_a_worker_without_a_coordinator_says_so_and_ends(start: Start, tmp_path: Path) -> None:
    worker = start("audio_worker", "--address", "tcp://127.0.0.1:9", "--patience", "1")
    assert worker.wait(100) == 1
    assert "nothing listens there" in (tmp_path / "audio_worker-0.log").read_text()


def test_another_protocol_version_is_told(make_run: MakeRun, recordings: Recordings, start: Start) -> None:
    run = make_run(recordings(2))
    start("coordinator", "--run", str(run.path))
    wait_for(lambda: listening(run))
    announced = run.read_coordinator()
    assert announced is not None
    context = zmq.Context()
    socket = context.socket(zmq.DEALER)
    socket.connect(announced.address)
    socket.send(b'pyd\x63{"type":"Hello"}')
    assert socket.poll(5000)
    answer = socket.recv()
    context.destroy(linger=0)
    assert answer[3] == PROTOCOL_VERSION
    assert Refused.__name__.encode() in answer
    assert Welcome.__name__.encode() not in answer


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits the size of files as a full disk would")
def test_a_coordinator_whose_disk_is_full_says_so_in_one_line(make_run: MakeRun, recordings: Recordings, tmp_path: Path) -> None:
    run = make_run(recordings(12))
    config = run.read_config()
    Catalogue.build(config.source, config.action, config.run.seed, run.catalogue)
    code = (
        "import resource, signal, sys; from workers.coordinator import main;"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0));"
        "sys.exit(main(sys.argv[1:]))"
    )
    done = subprocess.run([sys.executable, "-c", code, "--run", str(run.path)], stderr=subprocess.PIPE, text=True, timeout=60)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.endswith(f'event="error: cannot write {run.path}: File too large"'), last
    assert not list(run.path.glob("*.tmp*"))
    assert run.read_coordinator() is None  # so that the supervisor starts it again: there may be room in a while
