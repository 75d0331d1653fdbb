"""Training with the replay store on a real S3 server: real processes, the same results as from a folder, outages survived."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import safetensors.numpy
from places import Bucket
from quick_training import train
from s3_server import CREDENTIALS, Cable, S3Server

from pydreaming import cli
from pydreaming.replay.index import ReplayIndex
from workers.layout import RunDir

MakeRun = Callable[..., RunDir]
Recordings = Callable[..., Path]
CAPACITY = 900  # tokens
CACHE_GB = 0.0002
ROOT = Path(__file__).resolve().parents[2]


def weights(checkpoint: Path) -> dict[str, bytes]:
    tensors = safetensors.numpy.load_file(checkpoint / "model.safetensors")
    return {name: value.tobytes() for name, value in tensors.items()}


def secrets_in(folder: Path) -> list[str]:
    secret = CREDENTIALS["AWS_SECRET_ACCESS_KEY"].encode()
    return [str(path) for path in folder.rglob("*") if path.is_file() and secret in path.read_bytes()]


def test_training_from_a_bucket_is_training_from_a_folder_bit_for_bit(make_run: MakeRun, recordings: Recordings, bucket: Bucket) -> None:
    audio = recordings(12)
    folder, distant = make_run(audio, name="folder"), make_run(audio, "--replay.dir", str(bucket.location), name="bucket")
    assert weights(train(folder)) == weights(train(distant))
    files = Path(folder.replay(folder.read_config()))
    assert {name: bucket.read(name) for name in bucket.names()} == {path.name: path.read_bytes() for path in files.iterdir()}
    assert len(list((distant.path / "replay-cache").iterdir())) > 0


class LiveRun:
    """launch.py over endless passes, with its processes."""

    def __init__(self, audio: Path, folder: Path, address: str, *overrides: str) -> None:
        self.run = RunDir(folder / "live")
        small = ["--source.path", str(audio), "--workers.passes", "0", "--workers.count", "2", "--workers.lease_items", "3"]
        limits = ["--replay.capacity_tokens", str(CAPACITY), "--replay.cache_gb", str(CACHE_GB)]
        store = ["--replay.dir", address, "--replay.shard_episodes", "2", *limits]
        rates = ["--replay.replay_ratio", "0", "--evaluation.max_clips", "12", "--evaluation.streams", "4"]
        where = ["--run.dir", str(folder), "--run.name", "live"]
        command = [sys.executable, str(ROOT / "launch.py"), "--configs", "defaults", "folder", "debug"]
        self.output = (folder / "output").open("w+")
        self.process = subprocess.Popen(
            [*command, *small, *store, *rates, *where, *overrides], stdout=self.output, stderr=subprocess.STDOUT, cwd=ROOT
        )

    def said(self) -> str:
        self.output.seek(0)
        logs = [path.read_text() for path in sorted((self.run.path / "logs").glob("*.log"))]
        return self.output.read() + "\n".join(logs)

    def step(self) -> int:
        return max([int(found) for found in re.findall(r" step (\d+) \(", self.said())], default=0)

    def wait_for(self, what: Callable[[], object], seconds: float = 180.0) -> None:
        end = time.monotonic() + seconds
        while not what():
            assert self.process.poll() is None, self.said()
            assert time.monotonic() < end, self.said()
            time.sleep(0.2)

    def end(self) -> None:
        family = psutil.Process(self.process.pid).children(recursive=True) if self.process.poll() is None else []
        for process in [*family, self.process]:
            process.kill()
        self.process.wait()
        self.output.close()


@pytest.fixture
def live(recordings: Recordings, tmp_path: Path) -> Iterator[Callable[..., LiveRun]]:
    runs: list[LiveRun] = []

    def start(address: str, *overrides: str) -> LiveRun:
        runs.append(LiveRun(recordings(12, seconds=3.0), tmp_path, address, *overrides))
        return runs[-1]

    yield start
    for run in runs:
        run.end()


def stored(place: Bucket) -> int:
    index = ReplayIndex(place.open())
    index.refresh()
    assert not index.damaged
    return index.tokens


def test_a_whole_run_over_a_bucket(live: Callable[..., LiveRun], bucket: Bucket, capsys: pytest.CaptureFixture[str]) -> None:
    run = live(str(bucket.location), "--training.steps", "1000000")
    run.wait_for(lambda: run.step() > 20)
    run.process.send_signal(signal.SIGINT)
    assert run.process.wait(60) == 0, run.said()
    assert 0 < stored(bucket) <= CAPACITY
    assert not secrets_in(run.run.path)
    assert "Traceback" not in run.said()
    assert not (run.run.path / "replay").exists()
    for what in (str(bucket.location), str(run.run.path)):
        assert cli.main(["inspect", what]) == 0
        assert str(bucket.location) in capsys.readouterr().out


@pytest.mark.chaos
def test_a_run_survives_a_cut_cable_and_a_server_that_loses_everything(live: Callable[..., LiveRun], tmp_path: Path) -> None:
    server = S3Server()
    cable = Cable(server.port)
    address = server.new_address(cable.port)
    place = Bucket(server, tmp_path / "copies", address)
    try:
        run = live(address, "--training.steps", "1000000")
        run.wait_for(lambda: run.step() > 20)
        for blow in ("cable", "server", "both"):
            before, passes = run.step(), run.run.coordinator_state.read_text()
            cable.cut()
            if blow != "cable":
                server.kill()
            time.sleep(8)
            if blow != "cable":
                server.start()
            cable.mend()
            run.wait_for(lambda before=before: run.step() > before + 50)
            run.wait_for(lambda passes=passes: run.run.coordinator_state.read_text() != passes)  # and collects again
            run.wait_for(lambda: stored(place) > 500)
            assert stored(place) <= CAPACITY + 200  # what is being evicted
        assert sum(path.stat().st_size for path in (run.run.path / "replay-cache").iterdir()) <= CACHE_GB * 1e9
        run.process.send_signal(signal.SIGINT)
        assert run.process.wait(60) == 0, run.said()
        said = run.said()
        assert "Traceback" not in said
        assert not run.run.quarantine.exists()
        assert "does not answer" in said or "cannot be reached" in said
        assert not secrets_in(run.run.path)
    finally:
        server.kill()


def test_a_store_that_is_not_there_fails_the_run_with_one_line(live: Callable[..., LiveRun]) -> None:
    run = live("s3://bucket/prefix?endpoint_override=127.0.0.1:9&scheme=http&region=us-east-1")
    assert run.process.wait(60) == 1
    (line,) = [line for line in run.said().splitlines() if line.startswith("error: ")]
    assert "the replay store s3://bucket/prefix" in line
    assert "cannot be reached" in line
    assert "Traceback" not in run.said()


def test_keys_in_an_address_are_refused_before_they_are_written_anywhere(live: Callable[..., LiveRun]) -> None:
    run = live("s3://key:hush@bucket/prefix")
    assert run.process.wait(60) == 2
    assert "AWS_SECRET_ACCESS_KEY" in run.said()
    assert "hush" not in run.said()
    assert not run.run.path.exists()
