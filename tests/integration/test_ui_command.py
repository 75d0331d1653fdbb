"""`python -m workers.ui`: what can go wrong before MLflow starts is told at once, in one line."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from pydreaming.errors import TrackingError
from workers import ui
from workers.ui import check_port, server_command


def _ui(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "workers.ui", *arguments], capture_output=True, text=True, timeout=60)


def test_taken_port_is_a_clear_error(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = _ui("--run-dir", str(tmp_path), "--port", str(port))
    assert done.returncode == 1
    assert done.stderr.startswith(f"port {port} is taken")
    assert done.stderr.endswith("choose another with --port (make ui PORT=...)\n")
    assert len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())  # no store is made for a page that cannot be shown


def test_free_port_is_accepted() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.listen()
        with pytest.raises(TrackingError, match="is taken"):
            check_port(port)
    check_port(port)


def test_missing_folder_is_a_clear_error(tmp_path: Path) -> None:
    done = _ui("--run-dir", str(tmp_path / "nowhere"))
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        f"{tmp_path}/nowhere does not exist; train something first, or name the folder of the runs with --run-dir (make ui RUNS=...)"
    ]


def test_server_listens_on_this_machine_only_with_one_worker(tmp_path: Path) -> None:
    command = server_command(tmp_path, 5001)
    options = dict(zip(command[4::2], command[5::2], strict=True))
    assert options["--host"] == "127.0.0.1"
    assert options["--workers"] == "1"
    assert options["--backend-store-uri"] == f"sqlite:///{tmp_path}/mlflow.db"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_however_it_is_ended_no_server_stays_behind(number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Server:
        def wait(self) -> int:
            signal.raise_signal(number)
            return 0

    server, stopped = Server(), list[object]()
    monkeypatch.setattr(ui, "start_server", lambda run_dir, port: server)
    monkeypatch.setattr(ui, "stop_server", stopped.append)
    monkeypatch.setattr(ui.Store, "__init__", lambda self, uri: None)
    monkeypatch.setattr(ui.Store, "experiment", lambda self, name: "1")
    monkeypatch.setattr(ui.Store, "experiment_tag", lambda self, experiment, name: "")
    before = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGHUP)}
    try:
        ui.serve(tmp_path, 0, "pydreaming")
    finally:
        for n, handler in before.items():
            signal.signal(n, handler)
    assert stopped == [server]
