"""The learner process over finished stores: real processes, real files."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from quick_training import train

from pydreaming.errors import UnreachableError
from pydreaming.tracking.live import Phase, RunNow, describe, read_run
from pydreaming.training.checkpoint import list_checkpoints
from pydreaming.training.trainer import Trainer
from workers.layout import RunDir
from workers.learner import Learner, main
from workers.protocol import Crew, Progress, Status
from workers.readout import console_line
from workers.serial import collect

OFFLINE = ("--workers.count", "0", "--training.checkpoint_s", "1000", "--evaluation.streams", "4", "--training.log_s", "0.2")
STEPS_TO_KILL = 60  # so many that a learner is killed before its last also where the test looks late


def learner(run: RunDir, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "workers.learner", "--run", str(run.path), *arguments], capture_output=True, text=True, timeout=180
    )


def weights(run: RunDir) -> dict[str, np.ndarray]:
    tensors = safetensors.torch.load_file(list_checkpoints(run.path / "checkpoints")[-1] / "model.safetensors")
    return {name: value.numpy() for name, value in tensors.items()}


@pytest.fixture
def offline_run(recordings: Callable[..., Path], make_run: Callable[..., RunDir]) -> Callable[..., RunDir]:
    """make(*overrides, name=): a run whose replay store is complete."""
    audio = recordings(12)

    def make(*overrides: str, name: str = "run") -> RunDir:
        run = make_run(audio, *OFFLINE, *overrides, name=name)
        collect(run, run.read_config())
        return run

    return make


def test_trains_from_a_finished_store_and_evaluates(offline_run: Callable[..., RunDir]) -> None:
    run = offline_run("--training.steps", "12", "--source.held_out", "0.2")
    done = learner(run)
    assert done.returncode == 0, done.stderr
    assert "evaluation step-00000012: 1 token ahead" in done.stdout
    metrics = json.loads((run.path / "evals" / "step-00000012" / "metrics.json").read_text())
    assert np.isfinite(metrics["held_out_loss"]["loss"])
    assert metrics["open_loop"]["retrieval"]["1"] <= 1
    assert any("No label probe" in note for note in metrics["notes"])  # these recordings have no labels, and that is said
    events = [json.loads(line) for line in (run.path / "tracking" / "spool.jsonl").read_text().splitlines()]
    assert events[-1] == {"event": "end", "time": events[-1]["time"], "status": "FINISHED"}
    logged = {name for event in events if event["event"] == "metrics" for name in event["values"]}
    assert {"learning/loss", "health/information", "world_model/open_loop_gain_k1", "busy/data_wait", "busy/first_step_s"} <= logged


def test_resumed_training_equals_uninterrupted_training_bit_for_bit(offline_run: Callable[..., RunDir]) -> None:
    # By priority, as then the order of all that the learner and the thread that draws for it tell each other is in the batches.
    drawn = ("--replay.priority", "curious", "--training.steps", str(STEPS_TO_KILL))
    whole = offline_run(*drawn, name="whole")
    assert learner(whole).returncode == 0
    # The schedule must be the same in both, so the interrupted run is stopped by a signal and not by another number of steps.
    parts = offline_run(*drawn, "--training.checkpoint_s", "0.01", "--training.keep_checkpoints", "100", name="parts")
    process = subprocess.Popen([sys.executable, "-m", "workers.learner", "--run", str(parts.path)], stdout=subprocess.DEVNULL)
    while len(list_checkpoints(parts.path / "checkpoints")) < 5 and process.poll() is None:
        time.sleep(0.005)
    process.kill()
    process.wait()
    reached = int(list_checkpoints(parts.path / "checkpoints")[-1].name[-8:])
    assert 5 <= reached < STEPS_TO_KILL
    again = learner(parts, "--resume")
    assert again.returncode == 0, again.stderr
    assert f"at step {reached}" in again.stdout
    ours, theirs = weights(parts), weights(whole)
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)


def test_a_run_that_is_over_is_only_evaluated_again_and_says_so(offline_run: Callable[..., RunDir]) -> None:
    run = offline_run("--training.steps", "3")
    train(run, steps=3)
    before = weights(run)
    again = learner(run, "--resume")
    assert again.returncode == 0, again.stderr
    assert "nothing is left to train: raise training.seconds or training.steps" in again.stdout
    assert "evaluation step-00000003: " in again.stdout
    assert all(np.array_equal(value, before[name]) for name, value in weights(run).items())


def test_a_learner_that_is_stopped_says_how_to_go_on_in_words_to_copy(
    offline_run: Callable[..., RunDir], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run = offline_run("--training.steps", "5", name="my run")
    stopped = Learner(run, resume=False)

    def may_train() -> bool:
        stopped.stopping = "SIGTERM"
        return False

    monkeypatch.setattr(stopped, "_may_train", may_train)
    with caplog.at_level("INFO"):
        assert stopped.run() == "KILLED"
    assert f"stopped by SIGTERM; go on with: python launch.py --resume '{run.path}'" in caplog.text


def test_a_resumed_learner_never_tells_the_coordinator_that_it_begins_anew(offline_run: Callable[..., RunDir]) -> None:
    run = offline_run("--training.steps", "5")
    checkpoint = train(run, steps=3)
    sent: list[Progress] = []

    class Link:
        def exchange(self, progress: Progress) -> None:
            sent.append(progress)
            if len(sent) == 3:
                resumed.stopping = "SIGTERM"

    resumed = Learner(run, resume=True)
    resumed.link = Link()  # type: ignore[assignment]
    assert resumed.run() == "KILLED"
    config = run.read_config().training
    assert sent == [Progress(3 * config.batch_size * config.batch_length, 3, str(checkpoint))] * 3


def test_a_store_that_does_not_answer_for_a_while_is_no_end_of_waiting_for_data(offline_run: Callable[..., RunDir]) -> None:
    run = offline_run("--training.steps", "2")

    class Link:
        status: Status | None = None

        def exchange(self, progress: Progress) -> Status:
            time.sleep(0.1)
            return Status("episodes", 1, 1, 1, 0, 1, 0.5, False, False, 0, 1, Crew())

    waiting, looks = Learner(run, resume=False), list[float]()
    waiting.link = Link()  # type: ignore[assignment]
    refresh = waiting.index.refresh

    def away_at_first() -> None:
        looks.append(time.monotonic())
        if len(looks) < 3:
            raise UnreachableError("the replay store s3://b/p cannot be reached")
        refresh()

    waiting.index.refresh = away_at_first  # type: ignore[method-assign]
    waiting._await_data()
    assert len(looks) == 3
    assert looks[-1] - looks[0] > 1.5  # each look asks a distant store for the names of all its files


def test_training_begins_by_what_was_written_and_not_by_what_eviction_has_left(offline_run: Callable[..., RunDir]) -> None:
    run = offline_run("--replay.prefill_tokens", "5000", "--replay.capacity_tokens", "5000")
    answers = iter([4999, 5000])

    class Link:
        status: Status | None = None

        def exchange(self, progress: Progress) -> Status:
            return Status("episodes", next(answers), 4500, 1, 0, 0, 0.5, False, False, 0, 1, Crew())

    waiting = Learner(run, resume=False)
    waiting.link = Link()  # type: ignore[assignment]
    waiting._await_data()
    assert waiting.index.tokens < 5000
    assert not list(answers)


def test_a_learner_that_waits_for_workers_shows_that_it_does(offline_run: Callable[..., RunDir]) -> None:
    run = offline_run("--replay.replay_ratio", "1", "--replay.slack_tokens", "1", "--training.steps", "50")
    asked: list[Progress] = []

    class Link:
        status: Status | None = None

        def exchange(self, progress: Progress) -> Status:
            asked.append(progress)
            if len(asked) == 6:
                waiting.stopping = "SIGTERM"
            return Status("episodes", 1, 1, 1, 0, 1, 0.5, False, False, 0, 1, Crew())

    waiting = Learner(run, resume=False)
    waiting.link = Link()  # type: ignore[assignment]
    shown: list[RunNow] = []
    show = waiting._show

    def show_and_read(phase: Phase, due_s: float) -> None:
        show(phase, due_s)
        shown.append(read_run(run.path))

    waiting._show = show_and_read  # type: ignore[method-assign]
    assert waiting.run() == "KILLED"
    assert "run: waiting for workers" in [describe(now)[0] for now in shown]


def test_a_learner_gives_signs_of_life_through_its_last_evaluation(offline_run: Callable[..., RunDir]) -> None:
    """Which takes minutes: the supervisor would take silence for a learner that hangs."""
    run = offline_run("--training.steps", "4")
    process = subprocess.Popen([sys.executable, "-m", "workers.learner", "--run", str(run.path)], stdout=subprocess.DEVNULL)
    signs = set()
    while process.poll() is None:
        now = read_run(run.path).learner
        if now is not None and now.phase == "evaluating":
            signs.add(run.learner_alive.stat().st_mtime_ns)
        time.sleep(0.05)
    assert process.returncode == 0
    assert len(signs) > 3


@pytest.mark.parametrize("contrast", [{}, {"learning/nce_accuracy_k1": 0.5, "learning/chance": 0.01}])
def test_the_console_line_shows_the_contrast_of_objectives_that_have_one(contrast: dict[str, float]) -> None:
    health = {"health/information": 3.0, "health/effective_rank": 9.0, "health/non_finite_steps": 0.0}
    line = console_line(7, 0.5, health | contrast | {"machine/steps_per_s": 2.0, "learning/loss": 1.5}, 16)
    assert line.startswith("step 7 ( 50%) 2.0/s | loss 1.50 | ")
    assert ("next token found 50% (chance 1.0%)" in line) == bool(contrast)
    assert line.endswith("healthy")


@pytest.mark.parametrize("trouble", [torch.OutOfMemoryError("tried to allocate"), RuntimeError("a bug")])
def test_a_run_that_breaks_is_failed_in_mlflow_too(
    offline_run: Callable[..., RunDir], trouble: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = offline_run("--training.steps", "3")

    def broken(*_: object) -> None:
        raise trouble

    monkeypatch.setattr(Trainer, "train_step", broken)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    if isinstance(trouble, torch.OutOfMemoryError):
        assert main(["--run", str(run.path)]) == 1
        assert capsys.readouterr().err == "error: the memory of cpu is full: lower training.batch_size or training.batch_length\n"
    else:
        with pytest.raises(RuntimeError, match="a bug"):
            main(["--run", str(run.path)])
    last = json.loads((run.path / "tracking" / "spool.jsonl").read_text().splitlines()[-1])
    assert last["status"] == "FAILED"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_with_a_last_checkpoint(offline_run: Callable[..., RunDir], number: int) -> None:
    run = offline_run("--training.steps", "1000000")
    process = subprocess.Popen([sys.executable, "-m", "workers.learner", "--run", str(run.path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if "healthy" in line or "COLLAPS" in line or "world model" in line:
            break
    begin = time.monotonic()
    process.send_signal(number)
    output = process.stdout.read()
    assert process.wait(10) == 0
    assert time.monotonic() - begin < 10
    assert "--resume" in output
    assert len(list_checkpoints(run.path / "checkpoints")) == 1
    last = json.loads((run.path / "tracking" / "spool.jsonl").read_text().splitlines()[-1])
    assert last["status"] == "KILLED"


def test_an_empty_store_is_one_clear_line(make_run: Callable[..., RunDir], recordings: Callable[..., Path]) -> None:
    run = make_run(recordings(1), *OFFLINE)
    done = learner(run)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "holds no episodes" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_store_of_other_features_is_refused(offline_run: Callable[..., RunDir]) -> None:
    run = offline_run("--training.steps", "3")
    config = run.config.read_text().replace("n_mels: 16", "n_mels: 20")
    run.config.write_text(config)
    done = learner(run)
    assert done.returncode == 1
    assert "n_mels" in done.stderr
    assert "Traceback" not in done.stderr


def test_resume_with_another_model_names_the_key(offline_run: Callable[..., RunDir]) -> None:
    run = offline_run("--training.steps", "3")
    assert learner(run).returncode == 0
    run.config.write_text(run.config.read_text().replace("deter: 32", "deter: 48"))
    done = learner(run, "--resume")
    assert done.returncode == 1
    assert "model.deter=32" in done.stderr


def test_a_broken_learning_rate_ends_the_run_as_failed(offline_run: Callable[..., RunDir]) -> None:
    run = offline_run("--training.steps", "100000", "--training.learning_rate", "1e12", "--training.warmup_steps", "0")
    done = learner(run)
    assert done.returncode == 1
    assert "not finite" in done.stderr
    last = json.loads((run.path / "tracking" / "spool.jsonl").read_text().splitlines()[-1])
    assert last["status"] == "FAILED"
