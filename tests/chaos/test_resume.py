"""A learner that is killed, and killed again, trains as if nothing had been: the same losses and weights, bit for bit.

On a CPU, from a finished store. The moments are seeded: PYDREAMING_CHAOS_SEED, 0 where it is not set.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
import safetensors.torch
import torch
from supervise import supervised

from pydreaming.training.checkpoint import latest_intact
from workers.layout import RunDir
from workers.serial import collect

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(900)]

MakeRun = Callable[..., RunDir]
Recordings = Callable[..., Path]
STEPS, INTERVAL_S, KILLS = 400, 0.3, 5
SETTINGS = ("--workers.count", "0", "--training.steps", str(STEPS), "--training.log_s", "0.00001", "--evaluation.streams", "4")


@dataclass
class Session:
    """What one life of the learner wrote into the spool: the step it began with, and loss and time (ms) of each step."""

    begin: int
    losses: dict[int, float] = field(default_factory=dict)
    times: dict[int, int] = field(default_factory=dict)


def sessions(run: RunDir) -> list[Session]:
    found: list[Session] = []
    for line in (run.path / "tracking/spool.jsonl").read_text().splitlines():
        event = json.loads(line)
        if event["event"] == "start":
            found.append(Session(event["step"]))
        elif event["event"] == "metrics" and "learning/loss" in event["values"]:
            found[-1].losses[event["step"]] = event["values"]["learning/loss"]
            found[-1].times[event["step"]] = event["time"]
    return found


def trains(run: RunDir, life: int, supervisor: subprocess.Popen[str]) -> bool:
    """Whether the learner's life of that number has made a step."""
    assert supervisor.poll() is None, supervisor.communicate()[1]
    spool = run.path / "tracking/spool.jsonl"
    lives = spool.read_text().split('"event":"start"')[1:] if spool.exists() else []
    return len(lives) == life and '"learning/loss"' in lives[-1]


def last_weights(run: RunDir) -> dict[str, torch.Tensor]:
    newest = latest_intact(run.checkpoints)
    assert newest is not None
    assert newest.name == f"step-{STEPS:08d}"
    return safetensors.torch.load_file(newest / "model.safetensors")


def reached(run: RunDir) -> int:
    """The step of the newest intact checkpoint."""
    newest = latest_intact(run.checkpoints)
    return int(newest.name[-8:]) if newest else 0


def learner_of(supervisor: int) -> psutil.Process | None:
    found = [p for p in psutil.Process(supervisor).children() if "workers.learner" in " ".join(p.cmdline())]
    return found[0] if found else None


def wait_for(what: Callable[[], object], poll_s: float) -> None:
    end = time.monotonic() + 120
    while not what():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(poll_s)


def test_killed_at_any_moment_it_goes_on_as_if_it_had_not_been(make_run: MakeRun, recordings: Recordings) -> None:
    audio, rng = recordings(12), random.Random(int(os.environ.get("PYDREAMING_CHAOS_SEED", "0")))
    whole = make_run(audio, *SETTINGS, name="whole")
    collect(whole, whole.read_config())
    subprocess.run([sys.executable, "-m", "workers.learner", "--run", str(whole.path)], check=True, capture_output=True, timeout=240)
    (straight,) = sessions(whole)
    assert len(straight.losses) == STEPS

    run = make_run(audio, *SETTINGS, "--training.checkpoint_s", str(INTERVAL_S))
    collect(run, run.read_config())
    supervisor = subprocess.Popen(**supervised(run, "tracker"), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    newest_at_death: list[int] = []
    try:
        for number in range(KILLS):
            wait_for(lambda number=number: trains(run, number + 1, supervisor), poll_s=0.02)
            if number % 2:  # in the middle of a checkpoint
                wait_for(lambda: list(run.checkpoints.glob(".step-*")), poll_s=0.0005)
            else:  # at any moment after one
                begun = reached(run)
                wait_for(lambda begun=begun: reached(run) > begun, poll_s=0.01)
                time.sleep(rng.uniform(0.0, 1.5 * INTERVAL_S))
            learner = learner_of(supervisor.pid)
            assert learner is not None, "it has ended before the last kill: raise STEPS"
            learner.send_signal(signal.SIGKILL)
            learner.wait(10)
            newest_at_death.append(reached(run))
        _, said = supervisor.communicate(timeout=240)
    finally:
        supervisor.kill()
    assert supervisor.returncode == 0, said
    assert said.count("the learner has ended (SIGKILL)") == KILLS

    lives = sessions(run)
    assert [life.begin for life in lives] == [0, *newest_at_death]
    for life in lives:
        assert life.losses == {step: straight.losses[step] for step in life.losses}
        assert min(life.losses) == life.begin + 1
    assert lives[-1].losses.keys() == set(range(lives[-1].begin + 1, STEPS + 1))
    for killed, begin in zip(lives, newest_at_death, strict=False):
        steps = [step for step in killed.times if step > begin]
        lost_ms = killed.times[max(steps)] - killed.times[min(steps)] if steps else 0
        assert lost_ms < 1000 * (INTERVAL_S + 2.0), "more was lost than one interval and the time that a checkpoint and a step may take"
    ours, theirs = last_weights(run), last_weights(whole)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
