"""Training with the replay store on a real S3 server: real processes, the same results as from a folder, outages survived."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import safetensors.numpy
from live_run import LiveRun
from places import Bucket
from quick_training import train
from s3_server import CREDENTIALS

from pydreaming import cli
from pydreaming.replay.index import ReplayIndex
from workers.layout import RunDir

MakeRun = Callable[..., RunDir]
Recordings = Callable[..., Path]
CAPACITY = 900  # tokens
CACHE_GB = 0.0002


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


@pytest.fixture
def live(recordings: Recordings, tmp_path: Path) -> Iterator[Callable[[str], LiveRun]]:
    """start(address): a run with its replay store there."""
    runs: list[LiveRun] = []

    def start(address: str) -> LiveRun:
        source = ["--source.path", str(recordings(12, seconds=3.0)), "--replay.shard_episodes", "2"]
        limits = ["--replay.capacity_tokens", str(CAPACITY), "--replay.cache_gb", str(CACHE_GB)]
        runs.append(LiveRun(tmp_path, *source, *limits, "--replay.dir", address))
        return runs[-1]

    yield start
    for run in runs:
        run.kill()


def stored(place: Bucket) -> int:
    index = ReplayIndex(place.open())
    index.refresh()
    assert not index.damaged
    return index.tokens


def test_a_whole_run_over_a_bucket(live: Callable[[str], LiveRun], bucket: Bucket, capsys: pytest.CaptureFixture[str]) -> None:
    run = live(str(bucket.location))
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


def test_a_store_that_is_not_there_fails_the_run_with_one_line(live: Callable[[str], LiveRun]) -> None:
    run = live("s3://bucket/prefix?endpoint_override=127.0.0.1:9&scheme=http&region=us-east-1")
    assert run.process.wait(60) == 1
    (line,) = [line for line in run.said().splitlines() if line.startswith("error: ")]
    assert "the replay store s3://bucket/prefix" in line
    assert "cannot be reached" in line
    assert "Traceback" not in run.said()


def test_keys_in_an_address_are_refused_before_they_are_written_anywhere(live: Callable[[str], LiveRun]) -> None:
    run = live("s3://key:hush@bucket/prefix")
    assert run.process.wait(60) == 2
    assert "AWS_SECRET_ACCESS_KEY" in run.said()
    assert "hush" not in run.said()
    assert not run.run.path.exists()
