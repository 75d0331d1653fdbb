"""A learner of two processes: what one would have trained, and one clear end."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import safetensors.torch
import torch

from pydreaming.errors import ConfigError
from pydreaming.replay.index import ReplayIndex
from pydreaming.training.checkpoint import list_checkpoints
from pydreaming.training.trainer import Trainer
from workers import learners
from workers.batches import make_sampler
from workers.layout import RunDir
from workers.serial import collect
from workers.supervisor import Supervisor

MakeRun = Callable[..., RunDir]
Recordings = Callable[..., Path]
STEPS = 6


@pytest.fixture
def two(make_run: MakeRun, recordings: Recordings) -> Callable[..., RunDir]:
    """make(*overrides, name=): a run of two learner processes whose store is complete."""
    audio = recordings(12)

    def make(*overrides: str, name: str = "run") -> RunDir:
        offline = ["--workers.count", "0", "--training.processes", "2", "--training.device", "cpu", "--training.threads", "1"]
        run = make_run(audio, *offline, "--evaluation.streams", "4", "--training.log_s", "0.01", *overrides, name=name)
        collect(run, run.read_config())
        return run

    return make


def spool(run: RunDir) -> list[dict[str, object]]:
    return [json.loads(line) for line in (run.path / "tracking" / "spool.jsonl").read_text().splitlines()]


def listening(process: psutil.Process) -> set[str]:
    """Addresses that a process and its children listen on."""
    found = set()
    for each in [process, *process.children(recursive=True)]:
        try:
            found |= {c.laddr.ip for c in each.net_connections(kind="inet") if c.status == psutil.CONN_LISTEN}
        except psutil.NoSuchProcess:
            continue
    return found


def alone(run: RunDir, steps: int) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], dict[str, object]]:
    """The model's weights before and after as many steps in this process, and the sampler's state then."""
    config, index = run.read_config(), ReplayIndex(run.replay(run.read_config()))
    index.refresh()
    assert index.meta is not None
    trainer, sampler = Trainer(config, index.meta.token_dim, index.meta.action_dim), make_sampler(index, config)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    for _ in range(steps):
        trainer.train_step(trainer.to_device(sampler.sample()), progress=0.0)
    return before, trainer.model.state_dict(), sampler.state_dict()


def test_two_processes_train_what_one_would_and_end_with_a_signal(two: Callable[..., RunDir]) -> None:
    run = two("--training.steps", "100000", "--training.decay_from", "1")
    words = [sys.executable, "-m", "workers.learners", "--run", str(run.path)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if f" step {STEPS} " in line or len(lines) > 200:
                break
        addresses = listening(psutil.Process(process.pid))
        process.send_signal(signal.SIGTERM)
        lines += process.stdout.readlines()
        assert process.wait(60) == 0, lines
    finally:
        process.kill()
    assert addresses <= {"127.0.0.1"}
    assert "Traceback" not in "".join(lines)

    (checkpoint,) = list_checkpoints(run.path / "checkpoints")
    steps = int(checkpoint.name[-8:])
    assert steps >= STEPS
    assert spool(run)[-1]["status"] == "KILLED"
    before, after, sampler = alone(run, steps)
    reached = safetensors.torch.load_file(checkpoint / "model.safetensors")
    moved = max(float((after[name] - before[name]).abs().max()) for name in after)
    apart = max(float((after[name] - reached[f"model.{name}"]).abs().max()) for name in after)
    assert apart < 0.02 * moved, (apart, moved)
    state = json.loads((checkpoint / "state.json").read_text())
    assert state["sampler"] == sampler  # so that one process, or any number, could go on from here
    rates = [event["values"] for event in spool(run) if "machine/tokens_per_s" in event.get("values", ())]  # type: ignore[operator]
    each = max(values["machine/tokens_per_s"] / values["machine/steps_per_s"] for values in rates)  # type: ignore[index]
    assert each > 0.9 * state["counters"]["trained_tokens"] / steps  # tokens of both


@pytest.mark.slow
def test_the_supervisor_starts_them_and_an_error_that_would_come_again_ends_the_run(
    two: Callable[..., RunDir], capfd: pytest.CaptureFixture[str]
) -> None:
    run = two("--training.steps", "100000", "--training.learning_rate", "1e12", "--training.warmup_steps", "0")
    assert Supervisor(run.path, run.read_config(), {"coordinator", "worker", "learner"}).run() == 1
    said = capfd.readouterr()
    assert said.err.count("not finite; lower training.learning_rate") == 1  # it was not tried again
    assert spool(run)[-1]["status"] == "FAILED"


def test_processes_that_cannot_share_a_batch_are_refused(
    two: Callable[..., RunDir], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigError, match=r"training\.batch_size must be a multiple of training\.processes"):
        two("--training.batch_size", "9", name="odd")
    run = two("--training.device", "auto", name="auto")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert learners.main(["--run", str(run.path)]) == 2
    assert "training.processes is 2, but this host has 1 GPUs" in capsys.readouterr().err
