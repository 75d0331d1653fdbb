"""The learner's evaluations in a process of their own: one at a time, reported, and ended when training is."""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pydreaming.config import load_config
from workers import evaluations as module
from workers.evaluations import Evaluations, left_s
from workers.layout import RunDir

# In place of the interpreter: what it does with `-m workers.evaluator --run RUN --checkpoint C [--final]` stands in the checkpoint's file.
STUB = f"""#!{sys.executable}
import json, pathlib, signal, sys, time
run, checkpoint = (pathlib.Path(sys.argv[i]) for i in (4, 6))
assert sys.argv[1:4] == ["-m", "workers.evaluator", "--run"]
kind = checkpoint.read_text()
if kind == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
pathlib.Path(f"{{checkpoint}}.started").touch()
if kind in ("slow", "stubborn"):
    time.sleep(60)
if kind == "broken":
    sys.exit(3)
folder = run / "evals" / checkpoint.name
folder.mkdir(parents=True)
(folder / "summary.json").write_text(json.dumps({{"lines": [f"a figure, final {{'--final' in sys.argv}}"]}}))
"""


@pytest.fixture
def checkpoint(tmp_path: Path) -> Callable[[str], Path]:
    """make(kind): a checkpoint that makes the stub evaluator quick, slow, stubborn or broken."""

    def make(kind: str) -> Path:
        path = tmp_path / kind
        path.write_text(kind)
        return path

    return make


@pytest.fixture
def evaluations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Iterator[Evaluations]:
    stub = tmp_path / "python"
    stub.write_text(STUB)
    stub.chmod(0o755)
    monkeypatch.setattr(module.sys, "executable", str(stub))
    caplog.set_level(logging.INFO, logger="learner")
    made = Evaluations(RunDir(tmp_path), load_config(["defaults", "debug"]))
    yield made
    made.cancel()


def started(checkpoint: Path) -> bool:
    end = time.monotonic() + 20
    while not checkpoint.with_name(f"{checkpoint.name}.started").exists():
        assert time.monotonic() < end
        time.sleep(0.01)
    return True


def test_the_last_checkpoint_is_waited_for_and_its_lines_are_printed(
    evaluations: Evaluations, checkpoint: Callable[[str], Path], caplog: pytest.LogCaptureFixture
) -> None:
    evaluations.finish(checkpoint("quick"), lambda: False)
    assert "evaluation quick: a figure, final True" in caplog.text


def test_one_at_a_time(evaluations: Evaluations, checkpoint: Callable[[str], Path], caplog: pytest.LogCaptureFixture) -> None:
    assert evaluations.start(checkpoint("slow"))
    assert not evaluations.start(checkpoint("quick"))
    assert "evaluation of quick left out" in caplog.text
    evaluations.cancel()
    assert evaluations.start(checkpoint("quick"))


def test_a_failed_evaluation_is_told_and_training_goes_on(
    evaluations: Evaluations, checkpoint: Callable[[str], Path], caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    evaluations.finish(checkpoint("broken"), lambda: False)
    assert f"evaluation of broken failed (exit code 3): see {tmp_path / 'logs' / 'evaluator.log'}" in caplog.text
    evaluations.finish(checkpoint("quick"), lambda: False)
    assert "a figure" in caplog.text


def test_a_signal_ends_the_wait(evaluations: Evaluations, checkpoint: Callable[[str], Path]) -> None:
    begin = time.monotonic()
    slow = checkpoint("slow")
    evaluations.finish(slow, lambda: started(slow))
    assert time.monotonic() - begin < 10
    assert evaluations._process is None


def test_an_evaluation_that_does_not_obey_is_killed(evaluations: Evaluations, checkpoint: Callable[[str], Path]) -> None:
    evaluations.start(path := checkpoint("stubborn"))
    started(path)
    process = evaluations._process
    assert process is not None
    begin = time.monotonic()
    evaluations.cancel()
    assert process.returncode == -9
    assert time.monotonic() - begin < 6


@pytest.mark.parametrize(
    ("seconds", "progress", "left"),
    [(0.0, 0.0, math.inf), (50.0, 0.0, math.inf), (240.0, 0.8, 60.0), (30.0, 0.1, 270.0), (300.0, 1.0, 0.0)],
)
def test_what_is_left_of_training_goes_by_its_pace(seconds: float, progress: float, left: float) -> None:
    assert left_s(seconds, progress) == pytest.approx(left)
