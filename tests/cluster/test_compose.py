"""The real stack: one host with two workers, and a worker of a further host, on a Docker engine (make cluster; minutes)."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from pydreaming import keys

ROOT = Path(__file__).resolve().parents[2]
BUILD_S, RUN_S, STOP_S = 1500.0, 400.0, 120.0
UID = 1000  # the images' user
# Small leases and a small slack keep every worker at work until the end of training.
SETTINGS = (
    "--workers.passes 0 --workers.lease_items 4 --replay.replay_ratio 1 --replay.slack_tokens 500 --replay.capacity_tokens 20000"
    " --training.steps 600 --evaluation.max_clips 20"
)

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(BUILD_S + RUN_S + 2 * STOP_S)]


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


def inspect(container: str) -> dict[str, Any]:
    (found,) = json.loads(subprocess.run(["docker", "inspect", container], capture_output=True, check=True, timeout=30).stdout)
    return dict(found)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def ask(url: str, body: dict[str, Any], host: str = "") -> dict[str, Any]:
    headers = {"Content-Type": "application/json", **({"Host": host} if host else {})}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=20) as answer:
        return dict(json.load(answer))


def host_address() -> str:
    """An address of this host that containers of another network reach, as a further host would reach the learner's."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("198.51.100.1", 9))  # sends nothing: the route to elsewhere tells which address is this host's
        return str(probe.getsockname()[0])


@pytest.fixture(scope="module", autouse=True)
def engine() -> None:
    # Whoever asks for these tests wants them run: without an engine they fail, they are not skipped.
    if shutil.which("docker") is None or subprocess.run(["docker", "info"], capture_output=True, check=False, timeout=60).returncode:
        pytest.fail("no Docker engine answers; start one, and set DOCKER_HOST where it is not the default one")


@pytest.fixture
def audio(tmp_path: Path) -> Path:
    """180 short recordings: real digits where PYDREAMING_DATA has them, otherwise tones."""
    folder = tmp_path / "audio"
    folder.mkdir(mode=0o755)
    data = os.environ.get("PYDREAMING_DATA")
    real = sorted((Path(data) / "fsdd" / "recordings").glob("*_[57].wav")) if data else []
    for path in real:
        shutil.copyfile(path, folder / path.name)
    rng = np.random.default_rng(0)
    for i in range(0 if real else 180):
        tone = 0.3 * np.sin(2 * np.pi * rng.uniform(100, 2000) * np.arange(4000) / 8000)
        soundfile.write(folder / f"{i % 10}_tone{i // 10 % 6}_{10 + i}.wav", tone + 0.05 * rng.standard_normal(4000), 8000)
    for path in folder.iterdir():
        path.chmod(0o644)
    return folder


@pytest.fixture
def stacks(tmp_path: Path, audio: Path) -> Iterator[tuple[Stack, Stack, int]]:
    """The learner's host, a further host, and MLflow's port; both are removed in the end, with their volumes."""
    store = tmp_path / "store"
    store.mkdir()
    store.chmod(0o777)
    port, name = free_port(), f"pydreaming-test-{os.getpid()}"
    coordinator = free_port()
    here = {
        "AUDIO": str(audio), "REPLAY": str(store), "PRESETS": "defaults fsdd debug", "SETTINGS": SETTINGS, "MLFLOW_PORT": str(port),
        "COORDINATOR_BIND": host_address(), "COORDINATOR_PORT": str(coordinator),
    }  # fmt: skip
    there = {
        "AUDIO": str(audio), "REPLAY": str(store), "KEYS": str(tmp_path / "keys-further"),
        "COORDINATOR": f"tcp://{host_address()}:{coordinator}", "USER_ID": str(os.getuid() or UID), "GROUP_ID": str(os.getgid() or UID),
    }  # fmt: skip
    main, further = Stack("compose.yaml", name, here), Stack("compose.worker.yaml", f"{name}-further", there)
    main("build", timeout=BUILD_S)
    yield main, further, port
    for stack in (further, main):
        stack("down", "--volumes", "--timeout", "20")


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


def test_two_workers_and_a_further_host_feed_a_learner(stacks: tuple[Stack, Stack, int], tmp_path: Path) -> None:
    main, further, port = stacks
    deadline = time.monotonic() + RUN_S
    main("up", "--detach", "keys")
    assert main.exit_codes("keys", deadline) == [0]
    hand_over_keys(main, tmp_path / "keys-further")
    further("up", "--detach")  # before there is a coordinator: it waits
    main("up", "--detach", "--scale", "worker=2", timeout=RUN_S)

    assert main.exit_codes("learner", deadline) == [0]
    workers = main.exit_codes("worker", deadline)
    assert workers == [0, 0]
    assert further.exit_codes("worker", deadline) == [0]
    for stack, count in ((main, 2), (further, 1)):
        done = recordings_done(stack("logs", "--no-color", "worker"))
        assert len(done) == count
        assert min(done) > 0, "a worker had nothing to do"

    main("cp", "learner:/runs/main", str(tmp_path / "run"))
    checkpoints = list((tmp_path / "run" / "checkpoints").glob("step-00000600/model.safetensors"))
    assert len(checkpoints) == 1
    assert list((tmp_path / "store" / "main").glob("e*.parquet"))
    assert not list((tmp_path / "store" / "main").glob("*.tmp-*"))

    api = f"http://127.0.0.1:{port}/api/2.0/mlflow"
    experiment = ask(f"{api}/experiments/search", {"max_results": 10, "filter": "name = 'pydreaming'"})["experiments"][0]
    (run,) = ask(f"{api}/runs/search", {"experiment_ids": [experiment["experiment_id"]]})["runs"]
    assert run["info"]["status"] == "FINISHED"
    metrics = {metric["key"].rpartition("/")[2]: metric["value"] for metric in run["data"]["metrics"]}
    assert any(key.endswith("loss") for key in metrics)
    assert metrics["workers.count"] == 3
    with pytest.raises(urllib.error.HTTPError, match="403"):
        ask(f"{api}/experiments/search", {"max_results": 1}, host="elsewhere.example")


def test_with_foreign_keys_nobody_joins_and_a_killed_learner_comes_back(stacks: tuple[Stack, Stack, int], tmp_path: Path) -> None:
    main, _, _ = stacks
    main.environment["SETTINGS"] += " --training.steps 1000000"  # the last word counts
    deadline = time.monotonic() + RUN_S
    main("up", "--detach", timeout=RUN_S)
    network = next(iter(inspect(main.containers("learner")[0])["NetworkSettings"]["Networks"]))
    while not main("exec", "-T", "learner", "sh", "-c", "ls -d /runs/main/checkpoints/step-???????? 2>/dev/null || true").strip():
        assert time.monotonic() < deadline, main("logs", "--tail", "40", "learner")
        time.sleep(1.0)

    keys.init_keys(tmp_path / "stranger")
    own_by_worker(tmp_path / "stranger")
    options = ["--network", network, "--user", str(os.getuid() or UID), "--volume", f"{tmp_path / 'stranger'}:/keys:ro"]
    words = ["--address", "tcp://learner:5555", "--keys", "/keys", "--patience", "5"]
    command = ["docker", "run", "--rm", *options, "pydreaming-worker", *words]
    stranger = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert stranger.returncode == 1
    assert "the keys do not match" in stranger.stderr

    (learner,) = main.containers("learner")
    main("exec", "-T", "learner", "sh", "-c", "kill -9 $(cat /proc/1/task/1/children)")  # the supervisor dies, as a crash would have it
    while inspect(learner)["RestartCount"] == 0 or "resumed " not in main("logs", "learner"):
        assert time.monotonic() < deadline, main("logs", "--tail", "40", "learner")
        time.sleep(1.0)

    begin = time.monotonic()
    main("stop")
    assert time.monotonic() - begin < 90
    assert inspect(learner)["State"]["ExitCode"] == 0  # it ended by itself, with a checkpoint
    assert "go on with" in main("logs", "learner")
