"""The host's clock jumps, by years and in both directions: nobody's lease is lost, nobody is taken for dead.

The processes are shown a wall clock of their own (jumping_clock.c, compiled here; skipped, visibly, where there is no C compiler), while
the clock that only goes forward stays as it is: what NTP, a battery or an administrator does to a host.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from supervise import supervised

from pydreaming.replay.index import ReplayIndex
from pydreaming.tracking.live import read_run
from pydreaming.tracking.spool import SPOOL
from workers.layout import RunDir

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(900)]

MakeRun = Callable[..., RunDir]
Recordings = Callable[..., Path]
DAY = 86_400
JUMPS = (3 * DAY, -400 * DAY, 0, 7200, -1, 20 * 365 * DAY, 0)  # s


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler (cc) here")
def test_a_clock_that_jumps_costs_nothing(make_run: MakeRun, recordings: Recordings, tmp_path: Path) -> None:
    audio = recordings(12, seconds=4.0)
    settings = ("--workers.count", "2", "--workers.passes", "0", "--workers.lease_ttl_s", "20", "--replay.capacity_tokens", "2000")
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
    clock, library = tmp_path / "clock", tmp_path / "jumping_clock.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", str(library), str(Path(__file__).with_name("jumping_clock.c"))], check=True)
    clock.write_text(str(DAY))
    environment = os.environ | {"LD_PRELOAD": str(library), "JUMPING_CLOCK": str(clock)}
    told = subprocess.run([sys.executable, "-c", "import time; print(time.time())"], env=environment, capture_output=True, text=True)
    assert abs(float(told.stdout) - time.time() - DAY) < 60
    process = subprocess.Popen(**supervised(run), env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        end = time.monotonic() + 240
        while not list(run.checkpoints.glob("step-*")):
            assert time.monotonic() < end
            time.sleep(0.1)
        for jump in JUMPS:
            clock.write_text(str(jump))
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
    shown = [json.loads(line)["time"] / 1000 for line in (run.path / SPOOL).read_text().splitlines()]
    assert max(shown) - min(shown) > 365 * DAY, "the clock did not jump"
    index = ReplayIndex(run.replay(run.read_config()))
    index.refresh()
    assert index.tokens > 0
    assert not index.damaged
    now = read_run(run.path)
    assert now.learner is not None
    assert now.learner.phase == "finished"
