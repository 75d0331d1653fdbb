"""The real stack on a Docker engine, with a further host, scaled, struck and ended (make cluster; a quarter of an hour)."""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import time
import urllib.error
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pyarrow.parquet as pq
import pytest
from stack import STOP_S, UID, Stack, Tracked, ask, free_port, hand_over_keys, host_address, inspect, own_by_worker, recordings_done

from pydreaming import keys
from pydreaming.audio.sources.fsdd_download import bundled_digits
from pydreaming.tracking.live import COLLECTION, LEARNER, CollectionNow, LearnerNow

BUILD_S, RUN_S, STRUCK_S, EVALUATION_S = 1500.0, 400.0, 900.0, 1200.0  # evaluations give way to everything else on the host
# Small leases and a small slack keep every worker at work until the end of training.
SETTINGS = (
    "--workers.passes 0 --workers.lease_items 4 --replay.replay_ratio 1 --replay.slack_tokens 500 --replay.capacity_tokens 20000"
    " --training.steps 600 --evaluation.max_clips 20"
)
# Nothing is kept from training, and nothing evicted.
LASTING = "--source.held_out 0 --replay.capacity_tokens 10000000 --replay.replay_ratio 8 --training.steps 1000000"

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(BUILD_S + STRUCK_S + EVALUATION_S + 2 * STOP_S)]


@pytest.fixture(scope="module", autouse=True)
def engine() -> None:
    """`make cluster` shows why these were skipped."""
    if shutil.which("docker") is None or subprocess.run(["docker", "info"], capture_output=True, check=False, timeout=60).returncode:
        pytest.skip("no Docker engine answers; start one, and set DOCKER_HOST where it is not the default one")


@pytest.fixture
def audio(tmp_path: Path) -> Path:
    """120 spoken digits: people's where PYDREAMING_DATA has them, otherwise those that come with the package."""
    folder = tmp_path / "audio"
    folder.mkdir(mode=0o755)
    data = os.environ.get("PYDREAMING_DATA")
    digits = Path(data) / "fsdd" / "recordings" if data else bundled_digits()
    for path in sorted(digits.glob("*_[57].*")):
        shutil.copyfile(path, folder / path.name)
        (folder / path.name).chmod(0o644)
    assert len(list(folder.iterdir())) == 120
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


def test_two_workers_and_a_further_host_feed_a_learner(stacks: tuple[Stack, Stack, int], tmp_path: Path) -> None:
    main, further, port = stacks
    deadline = time.monotonic() + RUN_S
    main("up", "--detach", "keys")
    assert main.exit_codes("keys", deadline) == [0]
    hand_over_keys(main, tmp_path / "keys-further")
    further("up", "--detach")  # before there is a coordinator: it waits
    main("up", "--detach", "--scale", "worker=2", timeout=RUN_S)

    deadline += EVALUATION_S
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

    tracked = Tracked(port)
    assert tracked.status == "FINISHED"
    assert any(key.endswith("loss") for key in tracked.metrics)
    assert {points[-1] for points in tracked.history("workers.count").values()} == {(600, 3.0)}
    with pytest.raises(urllib.error.HTTPError, match="403"):
        ask(f"{tracked.api}/experiments/search", {"max_results": 1}, host="elsewhere.example")


def test_a_stack_is_scaled_and_struck_while_it_trains_and_uses_every_recording(
    stacks: tuple[Stack, Stack, int], audio: Path, tmp_path: Path
) -> None:
    main, _, port = stacks
    endless = main.environment["SETTINGS"] = f"{SETTINGS} {LASTING}"
    deadline = time.monotonic() + STRUCK_S

    def await_crew(count: int) -> None:
        since = time.time()
        main.wait_for(f"{count} workers are seen", lambda: len(main.workers(since)) == count, deadline)

    main("up", "--detach", "--scale", "worker=2", timeout=RUN_S)
    await_crew(2)
    main.wait_for("both have read something", lambda: min((w.clips for w in main.workers(0)), default=0) > 0, deadline)

    crashed = main.crash("worker")
    main.wait_for("it is started again", lambda: (now := inspect(crashed))["RestartCount"] and now["State"]["Running"], deadline)
    (other,) = set(main.containers("worker")) - {crashed}
    subprocess.run(["docker", "kill", "--signal", "KILL", other], check=True, capture_output=True, timeout=60)
    await_crew(1)  # the coordinator forgets the other in a minute
    gone = inspect(other)
    assert (gone["State"]["ExitCode"], gone["RestartCount"]) == (137, 0)  # Docker takes it for its owner's wish, and leaves it be

    main("up", "--detach", "--no-recreate", "--scale", "worker=4", timeout=RUN_S)
    await_crew(4)
    main.wait_for("all have read something", lambda: min((w.clips for w in main.workers(0)), default=0) > 0, deadline)

    learner = main.crash("learner")
    main.wait_for("it resumes", lambda: inspect(learner)["RestartCount"] and "resumed " in main("logs", "learner"), deadline)
    await_crew(4)
    main("up", "--detach", "--no-recreate", "--scale", "worker=1", timeout=RUN_S)
    await_crew(1)

    begin = time.monotonic()
    main("stop")
    assert time.monotonic() - begin < 90
    assert inspect(learner)["State"]["ExitCode"] == 0  # it ended by itself, with a checkpoint
    assert "go on with" in main("logs", "learner")
    main("cp", f"learner:/runs/main/status/{LEARNER}", str(tmp_path))
    steps = msgspec.json.decode((tmp_path / LEARNER).read_bytes(), type=LearnerNow).step + 100
    main.environment["SETTINGS"] = f"{endless} --training.steps {steps}"  # the last word counts
    main("up", "--detach", "--scale", "worker=1", timeout=RUN_S)
    deadline = time.monotonic() + EVALUATION_S
    assert main.exit_codes("learner", deadline) == [0]
    assert main.exit_codes("worker", deadline) == [0]

    main("cp", "learner:/runs/main", str(tmp_path / "run"))
    assert list((tmp_path / "run" / "checkpoints").glob(f"step-{steps:08d}/model.safetensors"))
    tracked = Tracked(port)
    assert tracked.status == "FINISHED"
    losses = tracked.history("loss")
    assert losses
    assert all(math.isfinite(value) for points in losses.values() for _, value in points)
    assert max(step for points in losses.values() for step, _ in points) == steps
    (crews,) = tracked.history("workers.count").values()
    assert {1.0, 2.0, 4.0} <= {count for _, count in crews}

    passes = msgspec.json.decode((tmp_path / "run" / "status" / COLLECTION).read_bytes(), type=CollectionNow).passes_done
    assert passes > 1
    seen: Counter[tuple[int, str, int]] = Counter()
    for file in (tmp_path / "store" / "main").glob("e*.parquet"):
        for row in pq.read_table(file, columns=["source", "start_sample"]).to_pylist():
            seen[int(file.name[1:6]), Path(row["source"]).name, row["start_sample"]] += 1
    assert max(seen.values()) == 1
    every = {path.name for path in audio.iterdir()}
    for number in range(passes):
        assert {source for p, source, _ in seen if p == number} == every, f"pass {number}"
    assert not list((tmp_path / "store" / "main").glob("*.tmp-*"))


def test_with_foreign_keys_nobody_joins(stacks: tuple[Stack, Stack, int], tmp_path: Path) -> None:
    main, _, _ = stacks
    main.environment["SETTINGS"] += f" {LASTING}"
    main("up", "--detach", timeout=RUN_S)
    (network,) = inspect(main.containers("worker")[0])["NetworkSettings"]["Networks"]
    main.wait_for("a worker with the right keys has joined", lambda: main.workers(0), time.monotonic() + RUN_S)

    keys.init_keys(tmp_path / "stranger")
    own_by_worker(tmp_path / "stranger")
    options = ["--network", network, "--user", str(os.getuid() or UID), "--volume", f"{tmp_path / 'stranger'}:/keys:ro"]
    words = ["--address", "tcp://learner:5555", "--keys", "/keys", "--patience", "5"]
    command = ["docker", "run", "--rm", *options, "pydreaming-worker", *words]
    stranger = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert stranger.returncode == 1
    assert "the keys do not match" in stranger.stderr
