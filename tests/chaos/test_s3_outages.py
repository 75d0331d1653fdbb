"""A replay store on S3 that is cut off, and one that loses everything, in the middle of a run."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from live_run import LiveRun
from places import Bucket
from s3_server import CREDENTIALS, Cable, S3Server

from pydreaming.replay.index import ReplayIndex

pytestmark = pytest.mark.chaos

CAPACITY = 900  # tokens
CACHE_GB = 0.0002


def stored(place: Bucket) -> int:
    index = ReplayIndex(place.open())
    index.refresh()
    assert not index.damaged
    return index.tokens


def test_a_run_survives_a_cut_cable_and_a_server_that_loses_everything(recordings: Callable[..., Path], tmp_path: Path) -> None:
    server = S3Server()
    cable = Cable(server.port)
    address = server.new_address(cable.port)
    place = Bucket(server, tmp_path / "copies", address)
    limits = ("--replay.capacity_tokens", str(CAPACITY), "--replay.cache_gb", str(CACHE_GB), "--replay.shard_episodes", "2")
    run = LiveRun(tmp_path, "--source.path", str(recordings(12, seconds=3.0)), *limits, "--replay.dir", address)
    try:
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
        secret = CREDENTIALS["AWS_SECRET_ACCESS_KEY"].encode()
        assert not [path for path in run.run.path.rglob("*") if path.is_file() and secret in path.read_bytes()]
    finally:
        run.kill()
        server.kill()
