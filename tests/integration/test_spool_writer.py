"""The writer against real sqlite stores: exactly once, in order, resumed, reaped, and never stopped by one bad event."""

from __future__ import annotations

import http.server
import logging
import math
import multiprocessing
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pydreaming.errors import TrackingError, redact
from pydreaming.tracking.spool import Spool
from pydreaming.tracking.store import Store, prepare_environment, resolve_uri
from pydreaming.tracking.views import VIEW_TAG, dashboard_content
from pydreaming.tracking.writer import CURSOR, SPOOL, RunDeletedError, SpoolWriter

LOSS = "1 Is it learning/loss"
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010806000000"
    "1f15c4890000000d49444154789c6360606060000000050001a5f645400000000049454e44ae426082"
)  # one transparent pixel


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs with an initialised store; tests use runs and experiments of their own in it."""
    folder = tmp_path_factory.mktemp("runs")
    Store(f"sqlite:///{folder / 'mlflow.db'}")
    return folder


def _client(runs: Path) -> Any:
    prepare_environment()
    import mlflow

    return mlflow.MlflowClient(tracking_uri=f"sqlite:///{runs / 'mlflow.db'}")


def _make(runs: Path, name: str, **more: Any) -> tuple[Spool, SpoolWriter]:
    run_dir = runs / name
    return Spool(run_dir / SPOOL), SpoolWriter(run_dir, resolve_uri("", run_dir), f"experiment {name}", **more)


def _run(runs: Path, name: str) -> Any:
    client = _client(runs)
    found = client.search_runs([client.get_experiment_by_name(f"experiment {name}").experiment_id])
    assert len(found) == 1
    return found[0]


def _history(runs: Path, name: str, metric: str = LOSS) -> list[tuple[int, float, int]]:
    history = _client(runs).get_metric_history(_run(runs, name).info.run_id, metric)
    return sorted((point.step, point.value, point.timestamp) for point in history)


def test_points_arrive_once_with_their_time_in_batches(runs: Path) -> None:
    spool, writer = _make(runs, "batches", params={"model.deter": "256"})
    spool.start()
    for step in range(700):
        spool.metrics(step, {"learning/loss": 1 / (step + 1), "health/kl": 1.0, "loss": math.nan}, timestamp_ms=1_700_000_000_000 + step)
    assert writer.pump() == 701
    assert writer.pump() == 0
    assert writer.offset == spool.path.stat().st_size
    assert _history(runs, "batches") == [(step, 1 / (step + 1), 1_700_000_000_000 + step) for step in range(700)]
    run = _run(runs, "batches")
    assert run.data.metrics["4 Is it healthy/non_finite_metrics"] == 700
    assert run.data.params == {"model.deter": "256"}
    assert run.info.run_name == "batches"
    assert run.info.status == "RUNNING"
    assert Path(run.info.artifact_uri).is_relative_to(runs / "artifacts")


def test_everything_is_sent_again_without_a_trace_when_the_cursor_is_lost(runs: Path) -> None:
    spool, writer = _make(runs, "replay")
    picture = runs / "replay" / "dream.png"
    picture.write_bytes(PNG)
    for step in range(10):
        spool.metrics(step, {"learning/loss": float(step)})
    spool.image(picture, "dream/mel", 5)
    writer.pump()
    before = _history(runs, "replay")
    client, run_id = _client(runs), _run(runs, "replay").info.run_id
    images = {file.path for file in client.list_artifacts(run_id, "images")}
    (runs / "replay" / CURSOR).unlink()
    assert _make(runs, "replay")[1].pump() == 11
    assert _history(runs, "replay") == before
    assert {file.path for file in client.list_artifacts(run_id, "images")} == images
    assert len(images) == 2  # the picture and its thumbnail


def test_artifacts_and_end(runs: Path) -> None:
    spool, writer = _make(runs, "artifacts")
    (runs / "artifacts-in").mkdir()
    (runs / "artifacts-in" / "report.html").write_text("<p>report</p>")
    spool.artifact(runs / "artifacts-in" / "report.html")
    spool.artifact(runs / "artifacts-in", "folder")
    spool.end("FAILED")
    writer.pump()
    run = _run(runs, "artifacts")
    names = {file.path for file in _client(runs).list_artifacts(run.info.run_id)}
    assert names == {"report.html", "folder"}
    assert run.info.status == "FAILED"
    assert run.info.end_time is not None


def test_resumed_session_continues_the_run_and_draws_no_step_twice(runs: Path) -> None:
    spool, writer = _make(runs, "resumed", params={"training.batch_size": "8"})
    spool.start()
    for step in range(0, 50, 10):
        spool.metrics(step, {"learning/loss": 1.0})
    spool.end("KILLED")
    writer.pump()
    assert _run(runs, "resumed").info.status == "KILLED"
    spool, writer = _make(runs, "resumed", params={"training.batch_size": "16"})
    writer.pump()
    assert _run(runs, "resumed").info.status == "KILLED"  # looking at an ended run does not start it
    spool.start(20)
    for step in range(30, 80, 10):
        spool.metrics(step, {"learning/loss": 2.0})
    writer.pump()
    assert [(step, value) for step, value, _ in _history(runs, "resumed")] == [
        (0, 1.0), (10, 1.0), (20, 1.0), (30, 1.0), (40, 1.0), (50, 2.0), (60, 2.0), (70, 2.0),
    ]  # fmt: skip
    run = _run(runs, "resumed")
    assert run.info.status == "RUNNING"
    assert run.data.params["training.batch_size"] == "8"
    assert run.data.tags["resumed.training.batch_size"] == "16"


def test_wiped_store_gets_the_whole_history(tmp_path: Path, runs: Path) -> None:
    spool = Spool(tmp_path / "old" / "run" / SPOOL)
    spool.metrics(1, {"learning/loss": 1.0})
    uri = f"sqlite:///{runs / 'mlflow.db'}"
    SpoolWriter(tmp_path / "old" / "run", uri, "wiped a").pump()
    spool.metrics(2, {"learning/loss": 2.0})
    assert SpoolWriter(tmp_path / "old" / "run", uri, "wiped b").pump() == 2


def test_one_bad_event_does_not_hold_up_the_others(runs: Path, caplog: pytest.LogCaptureFixture) -> None:
    spool, writer = _make(runs, "bad")
    broken = runs / "bad" / "broken.png"
    broken.write_bytes(b"not a picture at all")
    spool.artifact(runs / "never-existed.html")
    spool.image(broken, "dream", 0)
    with spool.path.open("ab") as file:
        file.write(b'{"event":"metrics","time":1,"step":"x","values":{}}\n{"event":"exec","time":1}\nnot json\n')
    spool.metrics(10**30, {"learning/loss": 1.0})  # MLflow's steps are 64-bit
    spool.metrics(1, {"learning/loss": 2.0})
    with caplog.at_level(logging.WARNING):
        writer.pump()
    assert [point[:2] for point in _history(runs, "bad")] == [(1, 2.0)]
    text = caplog.text
    assert "gone before it could be logged" in text
    assert "not a picture" in text
    assert text.count("is damaged and was left out") >= 3


def test_file_that_never_goes_through_is_left_out_in_the_end(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool, writer = _make(runs, "stuck")
    spool.artifact(Path(__file__))
    spool.metrics(1, {"learning/loss": 1.0})

    def refuse(*_: object) -> None:
        raise TrackingError("no space")

    monkeypatch.setattr(Store, "artifact", refuse)
    for _ in range(4):
        with pytest.raises(TrackingError, match="no space"):
            writer.pump()
    assert writer.pump() == 2
    assert len(_history(runs, "stuck")) == 1


def test_run_left_running_by_a_dead_process_is_ended_and_a_live_one_is_not(runs: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from pydreaming.tracking.writer import SpoolWriter\n"
        "run = Path(sys.argv[1]); SpoolWriter(run, f'sqlite:///{run.parent}/mlflow.db', 'experiment reap').pump()"
    )
    subprocess.run([sys.executable, "-c", code, str(runs / "dead")], check=True, timeout=60)
    for name in ("live", "next"):
        SpoolWriter(runs / name, f"sqlite:///{runs / 'mlflow.db'}", "experiment reap").pump()
    client = _client(runs)
    found = client.search_runs([client.get_experiment_by_name("experiment reap").experiment_id])
    assert {run.info.run_name: run.info.status for run in found} == {"dead": "KILLED", "live": "RUNNING", "next": "RUNNING"}


def test_deleted_run_ends_the_tracking(runs: Path) -> None:
    spool, writer = _make(runs, "deleted")
    spool.metrics(1, {"learning/loss": 1.0})
    writer.pump()
    _client(runs).delete_run(_run(runs, "deleted").info.run_id)
    spool.metrics(2, {"learning/loss": 1.0})
    with pytest.raises(RunDeletedError, match="was deleted in MLflow"):
        writer.pump()


def test_dashboard_grows_with_the_metrics_of_all_runs(runs: Path) -> None:
    uri = f"sqlite:///{runs / 'mlflow.db'}"
    for name, metric in (("one", "learning/loss"), ("two", "health/kl")):
        spool = Spool(runs / name / SPOOL)
        spool.metrics(1, {metric: 1.0})
        SpoolWriter(runs / name, uri, "experiment board").pump()
    tags = _client(runs).get_experiment_by_name("experiment board").tags
    assert dashboard_content(tags[VIEW_TAG]) == ({LOSS, "4 Is it healthy/kl"}, set())


def _first_start(folder: Path, number: int) -> None:
    spool = Spool(folder / f"run{number}" / SPOOL)
    spool.metrics(1, {"learning/loss": float(number)})
    SpoolWriter(folder / f"run{number}", f"sqlite:///{folder}/mlflow.db", "shared").pump()


def test_concurrent_first_starts_share_a_fresh_store(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    starts = [context.Process(target=_first_start, args=(tmp_path, number)) for number in range(3)]
    for process in starts:
        process.start()
    for process in starts:
        process.join(120)
        assert process.exitcode == 0
    client = _client(tmp_path)
    assert len(client.search_runs([client.get_experiment_by_name("shared").experiment_id])) == 3


def test_a_tracker_that_is_killed_while_it_makes_the_store_leaves_no_broken_one(tmp_path: Path) -> None:
    code = """
import os, signal, sys, threading, time
from pathlib import Path
from pydreaming.tracking.store import Store

def kill():
    while not any(path.stat().st_size for path in Path(sys.argv[1]).glob("*mlflow.db*") if path.suffix != ".lock"):
        time.sleep(0.001)
    os.kill(os.getpid(), signal.SIGKILL)

threading.Thread(target=kill, daemon=True).start()
Store(f"sqlite:///{sys.argv[1]}/mlflow.db")
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "mlflow.db").exists()
    assert Store(f"sqlite:///{tmp_path}/mlflow.db?timeout=30").experiment("x")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".mlflow.db.lock", "mlflow.db"]


def test_file_that_is_no_database_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("hello " * 100)
    with pytest.raises(TrackingError, match=r"mlflow\.db is not an sqlite database"):
        Store(f"sqlite:///{tmp_path}/mlflow.db")


@pytest.fixture
def answer_with() -> Iterator[Callable[[int, bytes], str]]:
    """Starts small HTTP servers that give one answer to everything; status 0: accept, and never answer."""
    servers: list[http.server.ThreadingHTTPServer] = []

    def start(status: int, body: bytes) -> str:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if status == 0:
                    time.sleep(4)
                    return
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://user:secret@127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (403, b"Invalid Host header - possible DNS rebinding attack detected", "start it with --allowed-hosts"),
        (500, b"oh no", "500"),
        (200, b"<html>not MLflow</html>", "MLflow store http://127.0.0.1"),
        (0, b"", "timed out|Timeout|timeout"),
    ],
)
def test_server_that_is_of_no_use_is_one_clear_line_soon(
    status: int, body: bytes, message: str, answer_with: Callable[[int, bytes], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    began = time.monotonic()
    with pytest.raises(TrackingError, match=message) as caught:
        Store(answer_with(status, body)).experiment("x")
    assert time.monotonic() - began < 10
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_addresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for wrong in ("./mlruns", "file:///x", "postgresql://h/db", "sqlite:///", "http://"):
        with pytest.raises(TrackingError, match=r"is neither http\(s\)://host:port nor sqlite"):
            resolve_uri(wrong, Path("x"))
    monkeypatch.chdir(tmp_path)
    assert resolve_uri("http://h:5000", Path("x")) == "http://h:5000"
    assert resolve_uri("", Path("runs/x")) == f"sqlite:///{tmp_path}/runs/mlflow.db"
    assert resolve_uri("sqlite:///some/mlflow.db", Path("x")) == f"sqlite:///{tmp_path}/some/mlflow.db"
    assert redact("https://user:secret@h:5000/x") == "https://h:5000/x"
    assert redact("sqlite:////a/b.db") == "sqlite:////a/b.db"


def test_leftover_mlruns_in_the_working_directory_does_not_matter(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mlruns" / "0").mkdir(parents=True)
    (tmp_path / "mlruns" / "0" / "meta.yaml").write_text("artifact_location: x")
    monkeypatch.chdir(tmp_path)
    spool, writer = _make(runs, "leftover")
    spool.metrics(1, {"learning/loss": 1.0})
    assert writer.pump() == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mlruns"]
