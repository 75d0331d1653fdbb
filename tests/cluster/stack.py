"""A compose stack on a real Docker engine, as a test's to start, look into, strike and end."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from pydreaming.tracking.live import COLLECTION, CollectionNow, WorkerNow

ROOT = Path(__file__).resolve().parents[2]
STOP_S = 120.0
UID = 1000  # the images' user


class Stack:
    """`docker compose` with one file, project and environment."""

    def __init__(self, file: str, project: str, environment: dict[str, str]) -> None:
        self._command = ["docker", "compose", "--file", str(ROOT / "docker" / file), "--project-name", project]
        self.environment = {**os.environ, **environment}

    def __call__(self, *words: str, timeout: float = STOP_S) -> str:
        done = subprocess.run([*self._command, *words], env=self.environment, capture_output=True, text=True, check=False, timeout=timeout)
        assert done.returncode == 0, f"docker compose {' '.join(words)}:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        return done.stdout

    def containers(self, service: str) -> list[str]:
        return self("ps", "--all", "--quiet", service).split()

    def exit_codes(self, service: str, deadline: float) -> list[int]:
        """Exit codes of all containers of a service, once they have ended."""
        while True:
            states = [inspect(container)["State"] for container in self.containers(service)]
            if states and all(state["Status"] == "exited" for state in states):
                return [state["ExitCode"] for state in states]
            assert time.monotonic() < deadline, f"{service} does not end:\n{self('logs', '--tail', '30')}"
            time.sleep(1.0)

    def wait_for(self, what: str, met: Callable[[], object], deadline: float) -> None:
        """Until it is so."""
        while not met():
            assert time.monotonic() < deadline, f"waited in vain until {what}:\n{self('ps', '--all')}\n{self('logs', '--tail', '40')}"
            time.sleep(1.0)

    def workers(self, since: float) -> list[WorkerNow]:
        """Who is connected, as the coordinator has said after `since` (s since the epoch); nobody where it has said nothing since."""
        words = [*self._command, "exec", "-T", "learner", "cat", f"/runs/main/status/{COLLECTION}"]
        said = subprocess.run(words, env=self.environment, capture_output=True, check=False, timeout=STOP_S)
        if said.returncode:  # the container is being started again
            return []
        now = msgspec.json.decode(said.stdout, type=CollectionNow)
        return now.workers if now.time > since else []

    def crash(self, service: str, number: int = 0) -> str:
        """Kill the service's own process in one of its containers, as the system would; the container."""
        container = self.containers(service)[number]
        subprocess.run(["docker", "exec", container, "sh", "-c", "kill -9 $(cat /proc/1/task/1/children)"], check=True, timeout=60)
        return container


def inspect(container: str) -> dict[str, Any]:
    (found,) = json.loads(subprocess.run(["docker", "inspect", container], capture_output=True, check=True, timeout=30).stdout)
    return dict(found)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Tracked:
    """The only run of the MLflow server on a port of this host."""

    def __init__(self, port: int) -> None:
        self.api = f"http://127.0.0.1:{port}/api/2.0/mlflow"
        found = ask(f"{self.api}/experiments/search", {"max_results": 10, "filter": "name = 'pydreaming'"})
        (run,) = ask(f"{self.api}/runs/search", {"experiment_ids": [found["experiments"][0]["experiment_id"]]})["runs"]
        self.id, self.status = run["info"]["run_id"], run["info"]["status"]
        self.metrics = {metric["key"]: float(metric["value"]) for metric in run["data"]["metrics"]}

    def history(self, ending: str) -> dict[str, list[tuple[int, float]]]:
        """Step and value of every point of the metrics whose names end so."""
        points = {}
        for key in (key for key in self.metrics if key.endswith(ending)):
            query = urllib.parse.urlencode({"run_id": self.id, "metric_key": key, "max_results": 25000})
            found = ask(f"{self.api}/metrics/get-history?{query}")["metrics"]
            points[key] = [(int(point["step"]), float(point["value"])) for point in found]
        return points


def ask(url: str, body: dict[str, Any] | None = None, host: str = "") -> dict[str, Any]:
    headers = {"Content-Type": "application/json", **({"Host": host} if host else {})}
    request = urllib.request.Request(url, None if body is None else json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return dict(json.load(answer))


def host_address() -> str:
    """An address of this host that containers of another network reach, as a further host would reach the learner's."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("198.51.100.1", 9))  # sends nothing: the route to elsewhere tells which address is this host's
        return str(probe.getsockname()[0])


def hand_over_keys(main: Stack, folder: Path) -> None:
    """Make keys for the further host and copy them there, as docs/cluster.md says."""
    main("run", "--rm", "--entrypoint", "python", "keys", "-m", "pydreaming.cli", "keys", "add", "/keys", "further")
    main("cp", "keys:/keys/peers/further", str(folder))
    own_by_worker(folder)


def own_by_worker(folder: Path) -> None:
    """Give a folder to the user that the workers run as (whoever runs the tests, unless that is root)."""
    for path in (folder, *folder.rglob("*")):
        if os.getuid() == 0:
            os.chown(path, UID, UID)


def recordings_done(logs: str) -> list[int]:
    """What each worker of a service says it has done."""
    return [int(count) for count in re.findall(r"done: .*; (\d+) recordings", logs)]
