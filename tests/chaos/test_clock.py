"""The host's clock jumps, by hours and in both directions: nobody's lease is lost, nobody is taken for dead.

The clock is libfaketime's (Debian: apt install faketime), which shows the processes a wall clock of its own while theirs that only goes
forward stays as it is. Skipped, visibly, where it is not installed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pydreaming.tracking.live import read_run
from workers.layout import RunDir

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(900)]

MakeRun = Callable[..., RunDir]
Recordings = Callable[..., Path]
LIBRARY = next(iter(sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))), None)
JUMPS = ("+3d", "-400d", "+0", "+7200", "-1", "+20y", "+0")
SUPERVISE = (
    "import sys; from pathlib import Path; from workers.layout import RunDir; from workers.supervisor import ALL, Supervisor;"
    "run = RunDir(Path(sys.argv[1])); sys.exit(Supervisor(run.path, run.read_config(), ALL).run())"
)


@pytest.mark.skipif(LIBRARY is None, reason="libfaketime is not installed (apt install faketime)")
def test_a_clock_that_jumps_costs_nothing(make_run: MakeRun, recordings: Recordings, tmp_path: Path) -> None:
    audio = recordings(12, seconds=4.0)
    settings = ("--workers.count", "2", "--workers.passes", "200", "--workers.lease_ttl_s", "20", "--replay.capacity_tokens", "2000")
    lasts = (
        "--training.steps",
        "0",
        "--training.seconds",
        "12",
        "--training.checkpoint_s",
        "1",
        "--tracking.uri",
        f"sqlite:///{tmp_path}/mlflow.db",
    )
    run = make_run(audio, *settings, *lasts, "--evaluation.streams", "4")
    clock = tmp_path / "clock"
    clock.write_text("+0\n")
    environment = os.environ | {
        "LD_PRELOAD": str(LIBRARY), "FAKETIME_TIMESTAMP_FILE": str(clock), "FAKETIME_NO_CACHE": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "NO_FAKE_STAT": "1",
    }  # fmt: skip
    told = subprocess.run([sys.executable, "-c", "import time; print(time.time())"], env=environment, capture_output=True, text=True)
    assert abs(float(told.stdout) - time.time()) < 60
    process = subprocess.Popen(
        [sys.executable, "-c", SUPERVISE, str(run.path)], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        end = time.monotonic() + 240
        while not list(run.checkpoints.glob("step-*")):
            assert time.monotonic() < end
            time.sleep(0.1)
        for jump in JUMPS:
            clock.write_text(f"{jump}\n")
            time.sleep(1.5)
        said, _ = process.communicate(timeout=400)
    finally:
        process.kill()
    assert process.returncode == 0, said
    assert "Traceback" not in said
    for words in ("no sign of life", "is started again", "damaged"):
        assert words not in said
    log = (run.logs / "coordinator.log").read_text()
    assert "is lost with" not in log
    assert not run.quarantine.exists()
    years = {line[:4] for line in log.splitlines()}
    assert len(years) > 1, "the clock did not jump"
    sources = {
        name
        for file in run.replay(run.read_config()).glob("*.parquet")
        for name in pq.read_table(file, columns=["source"])["source"].to_pylist()
    }
    assert sources == {path.name for path in audio.iterdir()}
    now = read_run(run.path)
    assert now.learner is not None
    assert now.learner.phase == "finished"
