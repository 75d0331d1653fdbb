"""The supervisor over real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from pydreaming.errors import UsageError
from workers import children
from workers import supervisor as supervisor_module
from workers.layout import RunDir
from workers.supervisor import LEARNER_HOST, WORKER_HOST, RunError, Supervisor

MakeRun = Callable[..., RunDir]
Recordings = Callable[..., Path]


@pytest.fixture
def said() -> list[str]:
    return []


def supervise(run: RunDir, said: list[str], *roles: str) -> Supervisor:
    return Supervisor(run.path, run.read_config(), set(roles), say=said.append)  # type: ignore[arg-type]


def family(run: RunDir) -> list[psutil.Process]:
    """Processes below this one that work for a run; other tests may have theirs beside them."""
    below = psutil.Process().children(recursive=True)
    return [p for p in below if p.status() != psutil.STATUS_ZOMBIE and str(run.path) in " ".join(p.cmdline())]


def test_collection_alone_ends_with_its_passes(make_run: MakeRun, recordings: Recordings, said: list[str]) -> None:
    run = make_run(recordings(6), "--workers.count", "2")
    assert supervise(run, said, "coordinator", "worker").run() == 0
    assert any(run.replay(run.read_config()).glob("e00001-*.parquet"))
    assert "waiting for the coordinator" in said[0]
    assert sorted(p.name for p in run.logs.iterdir()) == ["coordinator.log", "worker-0.log", "worker-1.log"]
    assert not family(run)


def test_a_source_without_audio_fails_with_the_coordinators_line(make_run: MakeRun, tmp_path: Path, said: list[str]) -> None:
    (tmp_path / "empty").mkdir()
    run = make_run(tmp_path / "empty")
    with pytest.raises(RunError, match="no audio found") as caught:
        supervise(run, said, "coordinator", "worker").run()
    assert caught.value.exit_code == 1
    assert not family(run)


def test_killed_processes_are_started_again(make_run: MakeRun, recordings: Recordings, said: list[str]) -> None:
    run = make_run(recordings(12, seconds=10.0), "--workers.count", "1", "--workers.passes", "8")

    def kill_both() -> None:
        while not any(run.replay(run.read_config()).glob("*.parquet")):
            time.sleep(0.05)
        for process in family(run):
            process.kill()

    killer = threading.Thread(target=kill_both, daemon=True)
    killer.start()
    assert supervise(run, said, "coordinator", "worker").run() == 0
    killer.join()
    assert any("coordinator has ended (SIGKILL)" in line for line in said)
    assert any("worker-0 has ended (SIGKILL)" in line for line in said)
    assert any(run.replay(run.read_config()).glob("e00007-*.parquet"))


def test_workers_that_fail_again_and_again_fail_the_run(
    make_run: MakeRun, recordings: Recordings, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(children, "FIRST_DELAY_S", 0.01)
    run = make_run(recordings(2), "--workers.count", "1", "--workers.passes", "0")
    supervisor = supervise(run, said, "coordinator", "worker", "tracker")
    supervisor._workers[0].arguments = ["-c", "import sys; sys.exit('error: no such thing')"]
    supervisor._tracker = None
    supervisor._learner = children.Child("learner", ["-c", "import time; time.sleep(60)"], None)
    with pytest.raises(RunError, match="every worker has failed: no such thing"):
        supervisor.run()
    assert sum("worker-0 has ended (exit code 1: no such thing)" in line for line in said) == children.MAX_ERRORS


@pytest.mark.parametrize("code", [0, 3])
def test_the_exit_code_is_the_learners(make_run: MakeRun, recordings: Recordings, said: list[str], code: int) -> None:
    run = make_run(recordings(2), "--workers.count", "0")
    supervisor = supervise(run, said, "coordinator", "worker")
    assert supervisor._coordinator is None  # nothing to coordinate
    supervisor._learner = children.Child("learner", ["-c", f"raise SystemExit({code})"], None)
    assert supervisor.run() == code


def test_a_learner_that_is_killed_again_and_again_is_an_error(
    make_run: MakeRun, recordings: Recordings, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(children, "FIRST_DELAY_S", 0.01)
    run = make_run(recordings(2), "--workers.count", "0")
    supervisor = supervise(run, said, "worker", "coordinator")
    supervisor._learner = children.Child("learner", ["-c", "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"], None)
    assert supervisor.run() == 128 + signal.SIGSEGV
    assert sum("the learner has ended (SIGSEGV) and will go on from the beginning" in line for line in said) == children.MAX_ERRORS - 1
    assert said[-1] == f"the learner has ended {children.MAX_ERRORS} times (SIGSEGV) without a further checkpoint: given up"


def test_a_learner_that_gets_further_each_time_is_never_given_up_nor_what_it_started_left(
    make_run: MakeRun, recordings: Recordings, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(children, "FIRST_DELAY_S", 0.01)
    run = make_run(recordings(2), "--workers.count", "0")
    supervisor = supervise(run, said, "worker", "coordinator")
    code = (
        "import os, pathlib, subprocess, sys; place = pathlib.Path(sys.argv[1]); done = len(list(place.glob('step-*')));"
        "(place / f'step-{done:08d}').mkdir(parents=True); assert ('--resume' in sys.argv) == (done > 0);"
        "done < 7 and (subprocess.Popen(['sleep', '600', sys.argv[1]]), os.kill(os.getpid(), 9))"
    )
    supervisor._learner = children.Child("learner", ["-c", code, str(run.checkpoints)], None)
    assert supervisor.run() == 0
    assert len(list(run.checkpoints.iterdir())) == 8
    assert said[-2].endswith("will go on from step-00000006")
    assert not family(run)


def test_a_tracker_that_takes_too_long_is_asked_to_end_and_says_what_is_left(
    make_run: MakeRun, recordings: Recordings, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor_module, "TRACKER_END_S", 1.0)
    run = make_run(recordings(2), "--workers.count", "0")
    supervisor = supervise(run, said, "worker", "coordinator")
    supervisor._learner = children.Child("learner", ["-c", "pass"], None)
    slow = "import signal, sys, time; signal.signal(15, lambda *_: sys.exit('3 bytes wait')); time.sleep(60)"
    run.logs.mkdir()
    supervisor._tracker = children.Child("tracker", ["-c", slow], run.logs / "tracker.log")
    assert supervisor.run() == 0
    assert (run.logs / "tracker.log").read_text() == "3 bytes wait\n"
    assert not [line for line in said if "killed" in line]


def test_the_coordinator_runs_for_workers_of_other_hosts(make_run: MakeRun, recordings: Recordings, said: list[str]) -> None:
    run = make_run(recordings(2), "--workers.count", "0")
    assert Supervisor(run.path, run.read_config(), LEARNER_HOST, say=said.append)._coordinator is not None
    with pytest.raises(UsageError, match=r"workers\.count"):
        Supervisor(run.path, run.read_config(), WORKER_HOST)


def test_ctrl_c_ends_everything_in_order(make_run: MakeRun, recordings: Recordings) -> None:
    run = make_run(recordings(6, seconds=5.0), "--workers.count", "2", "--workers.passes", "0")
    code = (
        "import sys; from pathlib import Path; from workers.layout import RunDir; from workers.supervisor import Supervisor;"
        f"run = RunDir(Path({str(run.path)!r})); sys.exit(Supervisor(run.path, run.read_config(), {{'coordinator', 'worker'}}).run())"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE)
    try:
        end = time.monotonic() + 30
        while not any(run.replay(run.read_config()).glob("*.parquet")):
            assert time.monotonic() < end
            time.sleep(0.05)
        family = psutil.Process(process.pid).children(recursive=True)
        os.kill(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == 0
    assert b"killed" not in errors
    assert not psutil.wait_procs(family, timeout=1)[1]
    assert "interrupted" in (run.logs / "worker-0.log").read_text()
    assert not list(run.replay(run.read_config()).glob("*.tmp-*"))


def test_a_whole_run_with_learner_and_tracker(make_run: MakeRun, recordings: Recordings, said: list[str], tmp_path: Path) -> None:
    run = make_run(recordings(6), "--tracking.uri", f"sqlite:///{tmp_path}/mlflow.db", "--run.dir", str(tmp_path))
    assert Supervisor(run.path, run.read_config(), say=said.append).run() == 0
    assert any((run.path / "checkpoints").iterdir())
    assert not family(run)
