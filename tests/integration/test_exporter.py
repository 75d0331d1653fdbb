"""Prometheus' endpoint and the logs of a real run, by real requests."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from pydreaming import keys
from pydreaming.tracking.live import FOLDER
from workers.exporter import main, serve
from workers.layout import RunDir
from workers.supervisor import Supervisor

Samples = dict[str, list[tuple[dict[str, str], float]]]
MakeRun = Callable[..., RunDir]
Recordings = Callable[..., Path]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def scrape(port: int) -> Samples:
    """Samples by name, as Prometheus reads them."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as answer:
        families = text_string_to_metric_families(answer.read().decode())
        found: Samples = {}
        for family in families:
            for sample in family.samples:
                found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


def value(samples: Samples, name: str) -> float:
    return samples.get(f"pydreaming_{name}", [({}, -1.0)])[0][1]


def test_a_run_is_scraped_while_it_trains_and_its_logs_are_json(
    make_run: MakeRun, recordings: Recordings, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    port = free_port()
    keys.init_keys(tmp_path / "keys")
    run = make_run(
        recordings(12, broken=1), "--workers.count", "2", "--workers.passes", "0", "--training.steps", "1000000", "--training.log_s", "0.2",
        "--tracking.logs", "json", "--replay.replay_ratio", "4", "--coordinator.keys", str(tmp_path / "keys"), "--evaluation.every_s", "0",
    )  # fmt: skip
    serve(run.path, f"127.0.0.1:{port}")
    samples: Samples = {}

    def watch() -> None:
        end = time.monotonic() + 120
        while time.monotonic() < end:
            samples.clear()
            samples.update(scrape(port))
            if (
                value(samples, "learner_steps_total") > 3
                and value(samples, "workers") == 2
                and value(samples, "quarantined_recordings") == 1
            ):
                break
            time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGTERM)  # the supervisor listens

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    assert Supervisor(run.path, run.read_config(), {"coordinator", "worker", "learner"}).run() == 0
    watcher.join()

    assert value(samples, "up") == 1
    assert samples["pydreaming_learner_steps_total"][0][0] == {"run": "run"}
    assert value(samples, "learner_steps_total") > 3
    assert value(samples, "collected_tokens_total") >= value(samples, "replay_tokens") > 0
    assert value(samples, "replay_capacity_tokens") == run.read_config().replay.capacity_tokens
    for name in ("learner_steps_per_second", "learner_wait_ratio", "replay_ratio", "leases", "passes"):
        assert value(samples, name) >= 0, name
    crew = samples["pydreaming_worker_recordings_per_second"]
    assert len({labels["worker"] for labels, _ in crew}) == 2
    assert max(seconds for _, seconds in samples["pydreaming_worker_silent_seconds"]) < 60

    lines = capfd.readouterr().out.splitlines()  # the learner's console
    for path in run.logs.iterdir():
        lines += path.read_text().splitlines()
    events = [json.loads(line) for line in lines]
    assert {e["role"] for e in events} == {"learner", "coordinator", "worker"}
    assert all(e["run"] == "run" for e in events)
    assert {e["worker"] for e in events if e["role"] == "worker"} == {labels["worker"] for labels, _ in crew}
    assert any(e["role"] == "learner" and e.get("loss", 0) > 0 and e["step"] > 0 for e in events)
    assert any(e["event"].startswith("unreadable") and e["path"] == "broken-000.wav" for e in events)
    assert keys.load_server_keys(tmp_path / "keys").secret.decode() not in "\n".join(lines)


def test_a_run_that_says_nothing_is_not_up(make_run: MakeRun, recordings: Recordings) -> None:
    run, port = make_run(recordings(1)), free_port()
    serve(run.path, f"127.0.0.1:{port}")
    assert value(scrape(port), "up") == 0
    (run.path / FOLDER).mkdir()
    (run.path / FOLDER / "learner.json").write_text("{")
    samples = scrape(port)
    assert value(samples, "up") == 0
    assert "pydreaming_learner_steps_total" not in samples


@pytest.mark.parametrize("address", ["nonsense", "127.0.0.1:", "127.0.0.1:99999", "127.0.0.1:0"])
def test_an_address_that_is_none_is_one_line(
    address: str, make_run: MakeRun, recordings: Recordings, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(recordings(1))
    assert main(["--run", str(run.path), "--address", address]) == 2
    assert "must be HOST:PORT" in capsys.readouterr().err


def test_a_port_that_is_taken_is_one_line(make_run: MakeRun, recordings: Recordings, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        run = make_run(recordings(1), "--tracking.prometheus", f"127.0.0.1:{other.getsockname()[1]}")
        assert main(["--run", str(run.path)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "cannot listen on 127.0.0.1" in line
