"""Workers that are killed or stopped in the middle of a lease, and a supervisor that is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest

from workers.layout import RunDir
from workers.serial import collect

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(900)]

MakeRun = Callable[..., RunDir]
Recordings = Callable[..., Path]
Start = Callable[..., subprocess.Popen[bytes]]
DEADLINE_S = 240.0
LONG = ("--workers.passes", "1", "--replay.shard_episodes", "1")


@pytest.fixture
def start() -> Iterator[Start]:
    processes: list[subprocess.Popen[bytes]] = []

    def go(role: str, *arguments: str) -> subprocess.Popen[bytes]:
        processes.append(subprocess.Popen([sys.executable, "-m", f"workers.{role}", *arguments]))
        return processes[-1]

    yield go
    for process in processes:
        process.kill()
        process.wait()


def wait_for(what: Callable[[], object]) -> None:
    end = time.monotonic() + DEADLINE_S
    while not what():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def tokens(run: RunDir) -> set[tuple[int, str, int]]:
    found: set[tuple[int, str, int]] = set()
    for file in run.replay(run.read_config()).glob("*.parquet"):
        for row in pq.read_table(file, columns=["source", "start_sample"]).to_pylist():
            token = (int(file.name[1:6]), row["source"], row["start_sample"])
            assert token not in found
            found.add(token)
    return found


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_worker_lost_in_the_middle_of_a_lease(make_run: MakeRun, recordings: Recordings, start: Start, number: signal.Signals) -> None:
    audio = recordings(12, seconds=20.0)
    run = make_run(audio, *LONG)
    replay = run.replay(run.read_config())
    start("coordinator", "--run", str(run.path))
    lost = start("audio_worker", "--run", str(run.path), "--name", "lost")
    wait_for(lambda: list(replay.glob(f"*.tmp-{lost.pid}")))
    lost.send_signal(number)
    other = start("audio_worker", "--run", str(run.path), "--name", "other")
    assert other.wait(DEADLINE_S) == 0
    whole = make_run(audio, *LONG, name="serial")
    collect(whole, whole.read_config())
    assert tokens(run) == tokens(whole)
    if number == signal.SIGSTOP:  # it comes back, and finds that its lease is another worker's
        lost.send_signal(signal.SIGCONT)
        assert lost.wait(DEADLINE_S) == 0
        assert tokens(run) == tokens(whole)
    assert not list(replay.glob("*.tmp-*"))
    assert not run.quarantine.exists()


def test_nothing_outlives_a_killed_supervisor(make_run: MakeRun, recordings: Recordings, start: Start) -> None:
    run = make_run(recordings(12, seconds=20.0), "--workers.count", "2", "--workers.passes", "0")
    code = (
        "from pathlib import Path; from workers.layout import RunDir; from workers.supervisor import Supervisor;"
        f"run = RunDir(Path({str(run.path)!r})); Supervisor(run.path, run.read_config(), {{'coordinator', 'worker'}}).run()"
    )
    supervisor = subprocess.Popen([sys.executable, "-c", code])
    try:
        wait_for(lambda: list(run.replay(run.read_config()).glob("*.parquet")))
        children = psutil.Process(supervisor.pid).children(recursive=True)
        assert len(children) == 3
        os.kill(supervisor.pid, signal.SIGKILL)
        gone, alive = psutil.wait_procs(children, timeout=60)
        assert not alive
        assert len(gone) == 3
    finally:
        supervisor.kill()
        supervisor.wait()
