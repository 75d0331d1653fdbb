"""The MLflow page of a folder of runs: `python -m workers.ui --run-dir runs`, ended by Ctrl-C.

Serves the sqlite store and the artifacts of that folder to this machine only, in two processes instead of MLflow's usual fifteen, and
prints the link that opens the training runs with their dashboard.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from pydreaming.errors import PydreamingError, TrackingError
from pydreaming.tracking.store import Store, prepare_environment
from pydreaming.tracking.views import VIEW_TAG, runs_link

HOST = "127.0.0.1"
START_S = 120.0  # MLflow takes 10 s to start on two free cores


def check_port(port: int) -> None:
    """Raises TrackingError where another program listens on the port already."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as e:
            advice = "choose another with --port (make ui PORT=...)"
            raise TrackingError(f"port {port} is taken or not allowed ({e.strerror}); {advice}") from e


def server_command(run_dir: Path, port: int) -> list[str]:
    """The `mlflow server` command line for the store in `run_dir`."""
    folder = run_dir.resolve()
    options = {
        "--host": HOST,
        "--port": str(port),
        "--workers": "1",
        "--backend-store-uri": f"sqlite:///{folder / 'mlflow.db'}",
        "--artifacts-destination": str(folder / "artifacts"),
    }
    return [sys.executable, "-m", "mlflow", "server", *(word for pair in options.items() for word in pair)]


def start_server(run_dir: Path, port: int) -> subprocess.Popen[bytes]:
    """Start the server in a process group of its own. Its log goes to `run_dir`/mlflow-server.log.

    Raises:
      TrackingError: the port is taken, or the server ends or stays silent.
    """
    check_port(port)
    prepare_environment()
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    log_path = run_dir / "mlflow-server.log"
    with log_path.open("wb") as log:
        server = subprocess.Popen(
            server_command(run_dir, port), env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    deadline = time.monotonic() + START_S
    try:
        while not _healthy(port):
            if server.poll() is not None or time.monotonic() > deadline:
                raise TrackingError(f"the MLflow server did not start; see {log_path}")
            time.sleep(0.2)
    except BaseException:
        stop_server(server)  # also on Ctrl-C: no server may be left behind
        raise
    return server


def stop_server(server: subprocess.Popen[bytes]) -> None:
    """End the server and its worker process."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(server.pid, number)
        except ProcessLookupError:
            return
        try:
            server.wait(timeout=5.0)
        except subprocess.TimeoutExpired:
            continue


def _healthy(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://{HOST}:{port}/health", timeout=2.0) as answer:  # nosec B310
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def serve(run_dir: Path, port: int, experiment: str) -> None:
    """Serve until Ctrl-C or SIGTERM. Raises TrackingError."""
    if not run_dir.is_dir():
        advice = "train something first, or name the folder of the runs with --run-dir (make ui RUNS=...)"
        raise TrackingError(f"{run_dir} does not exist; {advice}")
    check_port(port)
    # Opens the store first, so that a fresh one is made here and not in a race with a training that starts.
    store = Store(f"sqlite:///{run_dir.resolve() / 'mlflow.db'}")
    experiment_id = store.experiment(experiment)
    link = runs_link(f"http://{HOST}:{port}", experiment_id, with_dashboard=bool(store.experiment_tag(experiment_id, VIEW_TAG)))
    for number in (signal.SIGTERM, signal.SIGHUP):  # the latter when the terminal is closed: no server may be left behind
        signal.signal(number, _interrupt)
    server: subprocess.Popen[bytes] | None = None
    try:
        server = start_server(run_dir, port)
        sys.stdout.write(f"MLflow: {link}\n(Ctrl-C ends it)\n")
        sys.stdout.flush()
        if server.wait() != 0:
            raise TrackingError(f"the MLflow server ended; see {run_dir / 'mlflow-server.log'}")
    except KeyboardInterrupt:
        sys.stdout.write("stopped\n")
    finally:
        if server is not None:
            stop_server(server)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m workers.ui", description="Show the runs of a folder in MLflow's web page.")
    parser.add_argument("--run-dir", type=Path, default=Path("runs"), help="folder of the runs (run.dir), default: runs")
    parser.add_argument("--port", type=int, default=5000, help="port on 127.0.0.1, default: 5000")
    parser.add_argument("--experiment", default="pydreaming", help="MLflow experiment (tracking.experiment)")
    arguments = parser.parse_args(argv)
    try:
        serve(arguments.run_dir, arguments.port, arguments.experiment)
    except PydreamingError as e:
        sys.stderr.write(f"{e}\n")
        return e.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
