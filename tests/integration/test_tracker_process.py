"""The tracker as a process: it ends with the session, obeys SIGTERM, and outlives a server that is killed and started again."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import workers.tracker
from pydreaming.config import load_config
from pydreaming.tracking.spool import Spool
from pydreaming.tracking.store import Store, prepare_environment
from pydreaming.tracking.writer import CURSOR, RUN_FILE, SPOOL
from workers.tracker import Tracker
from workers.ui import start_server, stop_server

LOSS = "1 Is it learning/loss"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    Store(f"sqlite:///{folder / 'mlflow.db'}")
    return folder


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Processes put here are ended with the test, whatever happens."""
    processes: list[subprocess.Popen[bytes]] = []
    yield processes
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.wait(10)


def _make_run(runs: Path, name: str, uri: str = "") -> Path:
    run_dir = runs / name
    run_dir.mkdir()
    config = load_config(["defaults"], ["--run.dir", str(runs), "--tracking.uri", uri, "--tracking.flush_s", "0.2"])
    (run_dir / "config.yaml").write_text(config.to_yaml())
    return run_dir


def _start(run_dir: Path, *more: str) -> subprocess.Popen[bytes]:
    log = (run_dir / "tracker.log").open("ab")
    with log:
        return subprocess.Popen([sys.executable, "-m", "workers.tracker", "--run", str(run_dir), *more], stdout=log, stderr=log)


def _wait(what: Callable[[], bool], seconds: float = 40.0) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.1)


def _offset(run_dir: Path) -> int:
    path = run_dir / CURSOR
    return int(json.loads(path.read_text())["offset"]) if path.is_file() else 0


def _drained(run_dir: Path) -> bool:
    return _offset(run_dir) == (run_dir / SPOOL).stat().st_size


def _run(run_dir: Path, uri: str) -> tuple[Any, list[tuple[int, float]]]:
    prepare_environment()
    import mlflow

    client = mlflow.MlflowClient(tracking_uri=uri)
    run_id = json.loads((run_dir / RUN_FILE).read_text())["run_id"]
    history = client.get_metric_history(run_id, LOSS)
    return client.get_run(run_id), sorted((point.step, point.value) for point in history)


def _sqlite(runs: Path) -> str:
    return f"sqlite:///{runs / 'mlflow.db'}"


def test_tracker_sends_everything_and_ends_with_the_session(runs: Path, started: list[subprocess.Popen[bytes]]) -> None:
    run_dir = _make_run(runs, "whole")
    spool = Spool(run_dir / SPOOL)
    spool.start()
    started.append(_start(run_dir))
    for step in range(200):
        spool.metrics(step, {"learning/loss": float(step)})
        time.sleep(0.005)
    spool.end("FINISHED")
    assert started[0].wait(30) == 0, (run_dir / "tracker.log").read_text()
    run, history = _run(run_dir, _sqlite(runs))
    assert history == [(step, float(step)) for step in range(200)]
    assert run.info.status == "FINISHED"
    assert run.data.params["model.dynamics"]
    assert len(run.data.params) <= 16
    assert (Path(run.info.artifact_uri) / "config.yaml").read_text() == (run_dir / "config.yaml").read_text()
    assert "5 Is the machine busy/system.cpu_percent" in run.data.metrics


def test_sigterm_ends_the_run_as_killed_and_the_next_start_goes_on(runs: Path, started: list[subprocess.Popen[bytes]]) -> None:
    run_dir = _make_run(runs, "killed")
    spool = Spool(run_dir / SPOOL)
    spool.metrics(1, {"learning/loss": 1.0})
    started.append(_start(run_dir))
    _wait(lambda: _drained(run_dir))
    spool.metrics(2, {"learning/loss": 2.0})
    began = time.monotonic()
    started[0].send_signal(signal.SIGTERM)
    assert started[0].wait(15) == 0
    assert time.monotonic() - began < 14  # five seconds, with room for a busy host
    run, history = _run(run_dir, _sqlite(runs))
    assert (run.info.status, history) == ("KILLED", [(1, 1.0), (2, 2.0)])
    spool.metrics(3, {"learning/loss": 3.0})
    spool.end("FINISHED")
    assert _start(run_dir, "--drain").wait(30) == 0
    again, history = _run(run_dir, _sqlite(runs))
    assert again.info.run_id == run.info.run_id
    assert (again.info.status, history) == ("FINISHED", [(1, 1.0), (2, 2.0), (3, 3.0)])


def test_a_run_that_is_deleted_in_mlflow_is_not_made_again(runs: Path, started: list[subprocess.Popen[bytes]]) -> None:
    run_dir = _make_run(runs, "deleted")
    spool = Spool(run_dir / SPOOL)
    spool.metrics(1, {"learning/loss": 1.0})
    started.append(_start(run_dir))
    _wait(lambda: _drained(run_dir))
    import mlflow

    mlflow.MlflowClient(tracking_uri=_sqlite(runs)).delete_run(json.loads((run_dir / RUN_FILE).read_text())["run_id"])
    spool.metrics(2, {"learning/loss": 2.0})
    assert started[0].wait(30) == 0  # with anything else the supervisor would start it again
    assert "was deleted in MLflow; the tracker stops" in (run_dir / "tracker.log").read_text()


def test_tracker_that_was_killed_loses_and_doubles_nothing(runs: Path, started: list[subprocess.Popen[bytes]]) -> None:
    run_dir = _make_run(runs, "crashed")
    spool = Spool(run_dir / SPOOL)
    spool.start()
    for attempt in range(2):
        started.append(_start(run_dir))
        before = _offset(run_dir)
        for step in range(attempt * 400, attempt * 400 + 400):
            spool.metrics(step, {"learning/loss": float(step)})
        _wait(lambda before=before: _offset(run_dir) > before)
        started[-1].kill()
        started[-1].wait(10)
    spool.end("FINISHED")
    assert _start(run_dir).wait(30) == 0
    run, history = _run(run_dir, _sqlite(runs))
    assert history == [(step, float(step)) for step in range(800)]
    assert run.info.status == "FINISHED"


def test_unusable_store_is_one_warning_and_the_points_stay(runs: Path, tmp_path: Path, started: list[subprocess.Popen[bytes]]) -> None:
    (tmp_path / "mlflow.db").write_text("hello " * 100)
    run_dir = _make_run(tmp_path, "run")
    spool = Spool(run_dir / SPOOL)
    spool.metrics(1, {"learning/loss": 1.0})
    started.append(_start(run_dir))
    log = run_dir / "tracker.log"
    _wait(lambda: "is not an sqlite database" in log.read_text())
    time.sleep(2.5)  # a second attempt lies in here
    started[0].send_signal(signal.SIGTERM)
    assert started[0].wait(15) == 1
    lines = log.read_text().splitlines()
    assert len(lines) == 2, lines
    assert "training goes on" in lines[0]
    assert "--drain" in lines[1]
    shutil.copy(runs / "mlflow.db", tmp_path / "mlflow.db")  # an initialised store; making one takes seconds
    assert _start(run_dir, "--drain").wait(40) == 0
    assert _run(run_dir, _sqlite(tmp_path))[1] == [(1, 1.0)]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_does_not_end_the_tracker(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run_dir = _make_run(tmp_path, "run")
    tracker = Tracker(run_dir, load_config([str(run_dir / "config.yaml")]), drain=False, stop=threading.Event())
    tracker._spool = Spool(Path("/dev/full"))
    tracker._log_system()
    assert "No space left" in caplog.text


def test_sigterm_counts_while_the_rest_is_sent_too(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers.tracker, "STOP_S", 1.0)
    run_dir, stop = _make_run(tmp_path, "run"), threading.Event()
    spool = Spool(run_dir / SPOOL)
    spool.end("FINISHED")
    tracker = Tracker(run_dir, load_config([str(run_dir / "config.yaml")]), drain=False, stop=stop)

    def pump(deadline: float) -> int:
        """A server that takes one event after the other, and there are always more."""
        time.sleep(max(0.0, deadline - time.monotonic()))
        return 1

    monkeypatch.setattr(tracker.writer, "pump", pump)
    threading.Timer(2.0, stop.set).start()
    began = time.monotonic()
    assert tracker.run() == 1
    assert time.monotonic() - began < 10
    assert "--drain" in caplog.text


@pytest.mark.parametrize(("content", "message"), [(None, "holds no config.yaml"), ("run: 3", "config.yaml")])
def test_wrong_folder_is_a_usage_error(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "config.yaml").write_text(content)
    command = [sys.executable, "-m", "workers.tracker", "--run", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_server_killed_and_started_again_loses_and_doubles_nothing(tmp_path: Path, started: list[subprocess.Popen[bytes]]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    uri = f"http://127.0.0.1:{port}"
    run_dir = _make_run(tmp_path, "outage", uri)
    spool = Spool(run_dir / SPOOL)
    picture = run_dir / "notes.txt"
    picture.write_text("kept")
    server = start_server(tmp_path, port)
    started.append(server)
    started.append(_start(run_dir))
    for step in range(100):
        spool.metrics(step, {"learning/loss": float(step)})
    _wait(lambda: _drained(run_dir))
    os.killpg(server.pid, signal.SIGKILL)
    server.wait(10)
    for step in range(100, 1500):
        spool.metrics(step, {"learning/loss": float(step)})
    spool.artifact(picture, "folder")
    _wait(lambda: "training goes on" in (run_dir / "tracker.log").read_text())
    server = start_server(tmp_path, port)
    started.append(server)
    spool.metrics(1500, {"learning/loss": 1500.0})
    spool.end("FINISHED")
    try:
        assert started[1].wait(60) == 0, (run_dir / "tracker.log").read_text()
        run, history = _run(run_dir, uri)
        assert history == [(step, float(step)) for step in range(1501)]
        assert run.info.status == "FINISHED"
        assert run.info.artifact_uri.startswith("mlflow-artifacts:")
    finally:
        stop_server(server)
