"""A process of a learner of two is killed: the others end, and all go on from the newest checkpoint, to the end of the run."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from pydreaming.training.checkpoint import latest_intact, list_checkpoints
from workers.layout import RunDir
from workers.serial import collect

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(900)]
KILLS, STEPS = 2, 120


def ranks(process: psutil.Process) -> dict[int, psutil.Process]:
    """The learner's processes by rank: torchrun's know it from their environment, `learners` starts them one after the other."""
    found, spawned = {}, 0
    for child in sorted(process.children(recursive=True), key=lambda p: p.pid):
        try:
            words, rank = " ".join(child.cmdline()), child.environ().get("RANK", "")
            if "spawn_main" in words:
                found[spawned], spawned = child, spawned + 1
            elif rank and "workers.learner" in words:
                found[int(rank)] = child
        except psutil.Error:
            continue
    return found


@pytest.mark.parametrize("starter", ["learners", "torchrun"])
def test_lost_ranks_are_started_again_from_the_checkpoint(
    starter: str, make_run: Callable[..., RunDir], recordings: Callable[..., Path], capfd: pytest.CaptureFixture[str]
) -> None:
    chance = random.Random(5)
    run = make_run(
        recordings(12), "--workers.count", "0", "--training.processes", "2", "--training.device", "cpu", "--training.threads", "1",
        "--training.steps", str(STEPS), "--training.checkpoint_s", "0.5", "--training.log_s", "0.2", "--evaluation.streams", "4",
    )  # fmt: skip
    collect(run, run.read_config())
    words = {
        "learners": [sys.executable, "-m", "workers.learners"],
        "torchrun": [
            str(Path(sys.executable).parent / "torchrun"), "--standalone", "--nproc-per-node", "2", "--max-restarts", "9",
            "-m", "--", "workers.learner",
        ],
    }[starter]  # fmt: skip
    assert shutil.which(words[0])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    process = subprocess.Popen([*words, "--run", str(run.path)], env=environment)
    try:
        seen: set[int] = set()
        for _ in range(KILLS):
            count = len(list_checkpoints(run.path / "checkpoints"))
            newest = latest_intact(run.path / "checkpoints")
            while (now := latest_intact(run.path / "checkpoints")) == newest or now is None:
                assert process.poll() is None, (count, capfd.readouterr())
                time.sleep(0.1)
            victims = ranks(psutil.Process(process.pid))
            assert set(victims) == {0, 1}
            victim = chance.choice(sorted(victims))
            assert not {p.pid for p in victims.values()} & seen, "the others were not started anew"
            seen |= {p.pid for p in victims.values()}
            victims[victim].kill()
            psutil.wait_procs(list(victims.values()), timeout=90)
        assert process.wait(600) == 0
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
    said = capfd.readouterr().out
    assert said.count("a process of this learner was lost") == KILLS
    assert said.count("resumed ") == KILLS
    assert list_checkpoints(run.path / "checkpoints")[-1].name == f"step-{STEPS:08d}"
    events = [json.loads(line) for line in (run.path / "tracking" / "spool.jsonl").read_text().splitlines()]
    assert [e["status"] for e in events if e["event"] == "end"] == ["FINISHED"]  # MLflow never heard of an end in between
