"""A learner that hangs is replaced, and goes on from its newest checkpoint; one that waits is not taken for one that hangs."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from supervise import supervised

from pydreaming.training.checkpoint import latest_intact
from workers.layout import RunDir
from workers.serial import collect

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(600)]

MakeRun = Callable[..., RunDir]
Recordings = Callable[..., Path]
HUNG_S = 8
STEPS = 400
SETTINGS = ("--training.hung_s", str(HUNG_S), "--training.steps", str(STEPS), "--training.checkpoint_s", "1", "--training.log_s", "0.2")


def leader(run: RunDir) -> psutil.Process:
    """The learner's process, of several the first."""
    return psutil.Process(int((run.path / ".learner.lock").read_text()))


def wait_for(what: Callable[[], object], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


@pytest.mark.parametrize("processes", [1, 2])
def test_a_learner_that_something_stopped_goes_on_from_its_newest_checkpoint(
    processes: int, make_run: MakeRun, recordings: Recordings
) -> None:
    run = make_run(recordings(12), *SETTINGS, "--workers.count", "0", "--evaluation.streams", "4", "--training.processes", str(processes))
    collect(run, run.read_config())
    supervisor = subprocess.Popen(**supervised(run, "tracker"), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        wait_for(lambda: latest_intact(run.checkpoints))
        stopped = leader(run)
        others = psutil.Process(supervisor.pid).children(recursive=True)
        stopped.send_signal(signal.SIGSTOP)
        newest = latest_intact(run.checkpoints)
        assert newest is not None
        assert newest.name != f"step-{STEPS:08d}", "it has ended before it was stopped: raise STEPS"
        _, said = supervisor.communicate(timeout=400)
    finally:
        supervisor.kill()
    assert supervisor.returncode == 0, said
    assert said.count("learner has shown no sign of life") == 1
    assert f"the learner has ended (SIGKILL) and will go on from {newest.name}" in said
    last = latest_intact(run.checkpoints)
    assert last is not None
    assert last.name == f"step-{STEPS:08d}"
    assert psutil.wait_procs([stopped, *others], timeout=10)[1] == []  # none of the old ones is left


def test_a_learner_that_waits_for_recordings_is_not_taken_for_one_that_hangs(make_run: MakeRun, recordings: Recordings) -> None:
    run = make_run(recordings(3), *SETTINGS)
    supervisor = subprocess.Popen(**supervised(run, "worker", "tracker"), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        wait_for(run.learner_alive.exists)
        learner = leader(run)
        time.sleep(2.5 * HUNG_S)
        assert learner == leader(run)
        supervisor.send_signal(signal.SIGTERM)
        _, said = supervisor.communicate(timeout=120)
    finally:
        supervisor.kill()
    assert "no sign of life" not in said
