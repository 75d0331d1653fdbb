"""Learner and workers on two hosts, which are network namespaces: the link is slow, loses packets, and is cut for half a minute."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import lossy_link
import psutil
import pyarrow.parquet as pq
import pytest

from pydreaming import keys
from pydreaming.audio.sources import Catalogue
from pydreaming.audio.sources.fsdd_download import bundled_digits
from pydreaming.tracking.live import RunNow, read_run

ROOT = Path(__file__).resolve().parents[2]
DELAY_S, LOSS, CUT_S, PASSES = 0.2, 0.02, 30.0, 6
DEADLINE_S = 900.0
ADDRESS = "tcp://10.77.0.1:5555"

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(DEADLINE_S + 120)]


@pytest.fixture
def hosts() -> Iterator[tuple[str, str]]:
    """The namespaces of the learner's host and of the workers'."""
    if os.getuid() or shutil.which("ip") is None or not Path("/dev/net/tun").exists():
        pytest.skip("network namespaces need root, iproute2 and /dev/net/tun")
    names = (f"pyd-learner-{os.getpid()}", f"pyd-workers-{os.getpid()}")
    for name in names:
        subprocess.run(["ip", "netns", "add", name], check=True)
    yield names
    for name in names:
        subprocess.run(["ip", "netns", "delete", name], check=True)


@pytest.fixture
def cut(hosts: tuple[str, str], tmp_path: Path) -> Iterator[Path]:
    """The link between them is up; it carries nothing while this file exists."""
    file = tmp_path / "cut"
    link = subprocess.Popen(
        [sys.executable, lossy_link.__file__, *hosts, str(DELAY_S), str(LOSS), str(file)], stdout=subprocess.PIPE, text=True
    )
    assert link.stdout is not None
    assert link.stdout.readline() == "up\n"
    yield file
    link.kill()
    link.wait()


def on(host: str, *words: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(["ip", "netns", "exec", host, sys.executable, str(ROOT / "launch.py"), *words], env=environment)


def end(process: subprocess.Popen[bytes]) -> None:
    for child in psutil.Process(process.pid).children(recursive=True):
        child.kill()
    process.kill()
    process.wait()


def wait(run: Path, what: str, until: float) -> RunNow:
    """Until the run's state satisfies a named condition; the state then."""
    conditions = {
        "both workers feed the learner": lambda r: r.learner and r.collection and sum(w.clips > 0 for w in r.collection.workers) == 2,
        "everything is collected": lambda r: r.collection and r.collection.exhausted,
    }
    while True:
        if (run / "config.yaml").is_file() and conditions[what](now := read_run(run)):
            return now
        assert time.monotonic() < until, f"waited in vain until {what}"
        time.sleep(0.2)


def test_a_partition_and_a_bad_link_lose_nothing(hosts: tuple[str, str], cut: Path, tmp_path: Path) -> None:
    keys.init_keys(tmp_path / "keys")
    keys.add_peer(tmp_path / "keys", "elsewhere")
    run = tmp_path / "runs" / "digits"
    learner = on(
        hosts[0], "--role", "learner", "--configs", "defaults", "fsdd", "debug", "--source.path", str(bundled_digits()),
        "--run.dir", str(tmp_path / "runs"), "--run.name", "digits", "--coordinator.address", ADDRESS,
        "--coordinator.keys", str(tmp_path / "keys"), "--workers.passes", str(PASSES), "--workers.lease_items", "4",
        "--workers.lease_ttl_s", "10", "--replay.replay_ratio", "0", "--training.steps", "100000000", "--source.held_out", "0",
        "--evaluation.every_s", "0", "--training.log_s", "0.5", "--source.max_files", "120",
    )  # fmt: skip
    workers = on(
        hosts[1], "--role", "worker", "--configs", "defaults", "--run.dir", str(tmp_path / "elsewhere"), "--run.name", "workers",
        "--coordinator.address", ADDRESS, "--coordinator.keys", str(tmp_path / "keys" / "peers" / "elsewhere"), "--workers.count", "2",
    )  # fmt: skip
    until = time.monotonic() + DEADLINE_S
    try:
        wait(run, "both workers feed the learner", until)
        cut.touch()
        before = read_run(run)
        time.sleep(CUT_S)
        during = read_run(run)
        cut.unlink()
        after = wait(run, "everything is collected", until)
        learner.send_signal(signal.SIGTERM)
        assert learner.wait(180) == 0
        assert workers.wait(180) == 0
    finally:
        for process in (learner, workers):
            if process.poll() is None:
                end(process)

    assert before.learner is not None
    assert during.learner is not None
    assert during.learner.step > before.learner.step  # training went on with what there was
    assert during.collection is not None
    assert before.collection is not None
    assert not before.collection.exhausted, "the link was cut too late to matter"
    assert min(worker.silent_s for worker in during.collection.workers) > CUT_S / 2
    assert after.collection is not None
    assert (after.collection.unreadable, after.collection.passes_done) == (0, PASSES)
    log = (run / "logs" / "coordinator.log").read_text()
    assert "is lost with" in log  # leases ran out in between, and were done by others

    seen: Counter[tuple[int, str, int]] = Counter()
    files = list((run / "replay").glob("*.parquet"))
    for file in files:
        for row in pq.read_table(file, columns=["source", "start_sample"]).to_pylist():
            seen[int(file.name[1:6]), row["source"], row["start_sample"]] += 1
    assert max(seen.values()) == 1
    catalogue = Catalogue.open(run / "catalogue")
    every = {catalogue[int(i)].path for i in catalogue.train_indices}
    assert len(every) > 50
    for number in range(PASSES):
        assert {source for p, source, _ in seen if p == number} == every, f"pass {number}"
    assert not list((run / "replay").glob("*.tmp-*"))
