"""Disks that are full or read-only: small tmpfs, mounted here (as root; skipped, visibly, for others)."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from supervise import supervised

from pydreaming.replay.index import ReplayIndex
from pydreaming.training.checkpoint import latest_intact, list_checkpoints
from workers.layout import RunDir
from workers.serial import collect

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(900), pytest.mark.skipif(os.geteuid() != 0, reason="mounts file systems: needs root")]

MakeRun = Callable[..., RunDir]
Recordings = Callable[..., Path]
Disk = Callable[[int], Path]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """make(kib): a file system of that size."""
    mounted: list[Path] = []

    def make(kib: int) -> Path:
        folder = tmp_path / f"disk-{len(mounted)}"
        folder.mkdir()
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kib}k", "none", str(folder)], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
        mounted.append(folder)
        return folder

    yield make
    for folder in mounted:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Take all the room there is."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            return filler
    raise AssertionError("the disk has no end")


def supervise(run: RunDir) -> subprocess.CompletedProcess[str]:
    return subprocess.run(**supervised(run), capture_output=True, text=True, timeout=240)


def wait_for(what: Callable[[], object], seconds: float = 90.0) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def one_error(done: subprocess.CompletedProcess[str]) -> str:
    """The line that a run ended with."""
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stdout + done.stderr, done.stderr
    errors = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, done.stderr
    return errors[0]


def test_a_full_replay_disk_ends_the_run_with_one_line(make_run: MakeRun, recordings: Recordings, disk: Disk) -> None:
    store = disk(300)
    forever = ("--workers.passes", "0", "--training.steps", "1000000", "--replay.episode_tokens", "32")
    run = make_run(
        recordings(12, seconds=4.0), *forever, "--replay.dir", str(store), "--tracking.uri", f"sqlite:///{store.parent}/mlflow.db"
    )
    error = one_error(supervise(run))
    assert re.search(rf"every worker has failed: cannot (write|commit to) {store}.*No space left on device", error), error
    index = ReplayIndex(store)
    index.refresh()
    assert index.tokens > 0
    assert not index.damaged
    assert not list(store.glob("*.tmp-*"))
    assert latest_intact(run.path / "checkpoints") is not None  # written on the way out


@pytest.mark.parametrize("frees", [True, False])
def test_a_disk_too_full_for_a_checkpoint_costs_that_checkpoint_only(
    make_run: MakeRun, recordings: Recordings, disk: Disk, frees: bool, tmp_path: Path
) -> None:
    audio, room = recordings(6), disk(2048)
    settings = ("--workers.count", "0", "--training.steps", "1000000", "--training.checkpoint_s", "0.3", "--training.log_s", "0.2")
    store = make_run(audio, *settings, name="store")
    collect(store, store.read_config())
    run = make_run(audio, *settings, "--replay.dir", str(store.replay(store.read_config())), name=f"{room.name}/run")
    checkpoints, log = run.path / "checkpoints", tmp_path / "learner.log"
    with log.open("w") as output:
        process = subprocess.Popen([sys.executable, "-m", "workers.learner", "--run", str(run.path)], stdout=output, stderr=output)
    try:
        wait_for(lambda: latest_intact(checkpoints))
        filler = fill(room)
        wait_for(lambda: log.read_text().count("training goes on from memory") >= 2)
        assert latest_intact(checkpoints) is not None
        assert process.poll() is None
        if frees:
            filler.unlink()
            before = list_checkpoints(checkpoints)[-1]
            wait_for(lambda: (newest := latest_intact(checkpoints)) is not None and newest.name > before.name)
        process.terminate()
        assert process.wait(60) == (0 if frees else 1)
    finally:
        process.kill()
        process.wait()
    said = log.read_text()
    assert "Traceback" not in said
    assert ("error: cannot write a checkpoint to" in said.splitlines()[-1]) == (not frees)
    assert "No space left on device" in said
    assert [p for p in checkpoints.iterdir() if p.name.startswith(".")] == []


def test_a_replay_folder_that_turns_read_only_ends_the_run_with_one_line(make_run: MakeRun, recordings: Recordings, disk: Disk) -> None:
    store = disk(50_000)
    forever = ("--workers.passes", "0", "--training.steps", "1000000", "--tracking.uri", f"sqlite:///{store.parent}/mlflow.db")
    run = make_run(recordings(12, seconds=4.0), *forever, "--replay.dir", str(store))

    def turn() -> None:
        wait_for(lambda: list_checkpoints(run.path / "checkpoints") or list(store.glob("*.parquet")))
        wait_for(lambda: subprocess.run(["mount", "-o", "remount,ro", str(store)], capture_output=True).returncode == 0)

    turning = threading.Thread(target=turn)
    turning.start()
    error = one_error(supervise(run))
    turning.join()
    assert str(store) in error
    assert "Read-only file system" in error or "cannot be written" in error
    index = ReplayIndex(store)
    index.refresh()
    assert index.tokens > 0
    assert not index.damaged


def test_a_finished_store_is_trained_from_where_it_is_read_only(make_run: MakeRun, recordings: Recordings, disk: Disk) -> None:
    room = disk(50_000)
    store = make_run(recordings(6), name="store")
    collect(store, store.read_config())
    subprocess.run(["cp", "-r", str(store.replay(store.read_config())), str(room / "replay")], check=True)
    subprocess.run(["mount", "-o", "remount,ro", str(room)], check=True)
    offline = ("--workers.count", "0", "--replay.dir", str(room / "replay"), "--training.steps", "5")
    run = make_run(recordings(6), *offline, "--tracking.uri", f"sqlite:///{room.parent}/mlflow.db", "--evaluation.streams", "4")
    done = supervise(run)
    assert done.returncode == 0, done.stdout + done.stderr
    assert latest_intact(run.path / "checkpoints") is not None
