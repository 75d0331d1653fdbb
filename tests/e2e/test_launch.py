"""The real launch.py with all its processes: a run, its resumption, Ctrl-C, and every mistake that a newcomer makes first."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from listening import beyond_this_host, listening

from pydreaming import WorldModel, keys
from pydreaming.audio.sources.fsdd_download import bundled_digits
from pydreaming.config import load_config
from pydreaming.tracking.live import read_run
from pydreaming.tracking.store import prepare_environment
from workers.layout import hold

ROOT = Path(__file__).resolve().parents[2]
PRESETS = ("--configs", "defaults", "fsdd", "debug")
QUICK = ("--tracking.flush_s", "0.3", "--source.max_files", "120", "--evaluation.max_clips", "36", "--evaluation.streams", "4")
SECTIONS = ("1 Is it learning", "2 Is it a world model", "3 Is it useful", "4 Is it healthy", "5 Is the machine busy")


@dataclass(frozen=True)
class Outcome:
    """How a launch ended, and what MLflow and the run's folder then held."""

    code: int
    output: str
    run_dir: Path
    run_id: str
    status: str
    metrics: dict[str, float]
    params: dict[str, str]
    artifacts: set[str]
    last_step: int
    checkpoint_step: int
    seconds_to_end: float = 0.0
    sockets: frozenset[tuple[str, int]] = frozenset()  # on which its processes listened
    told: str = ""  # command lines and environments of its processes


def command(*arguments: str) -> list[str]:
    return [sys.executable, str(ROOT / "launch.py"), *arguments]


def launch(*arguments: str, timeout: float = 280) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), capture_output=True, text=True, timeout=timeout, cwd=ROOT)


def outcome(code: int, output: str, run_dir: Path, seconds_to_end: float = 0.0, **seen: Any) -> Outcome:
    assert code == 0, output + logs(run_dir)
    prepare_environment()
    import mlflow

    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{run_dir.parent / 'mlflow.db'}")
    run_id = json.loads((run_dir / "mlflow_run.json").read_text())["run_id"]
    run = client.get_run(run_id)
    loss = client.get_metric_history(run_id, "1 Is it learning/loss")
    artifacts = {info.path for info in client.list_artifacts(run_id)} | {i.path for i in client.list_artifacts(run_id, "checkpoint")}
    newest = max((run_dir / "checkpoints").glob("step-*"))
    return Outcome(
        code, output, run_dir, run_id, run.info.status, run.data.metrics, run.data.params, artifacts,
        max(point.step for point in loss), int(newest.name[-8:]), seconds_to_end, **seen,
    )  # fmt: skip


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def logs(run_dir: Path) -> str:
    return "".join(f"\n--- {path.name}\n{path.read_text()[-2000:]}" for path in sorted((run_dir / "logs").glob("*.log")))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """A run from beginning to end over the digits that come with the package, with keys."""
    runs = tmp_path_factory.mktemp("runs")
    keys.init_keys(runs.parent / "keys")
    where = ("--run.dir", str(runs), "--run.name", "digits", "--coordinator.keys", str(runs.parent / "keys"))
    done = launch(*PRESETS, *QUICK, "--source.path", str(bundled_digits()), *where)
    return outcome(done.returncode, done.stdout + done.stderr, runs / "digits")


@pytest.fixture(scope="module")
def interrupted(finished: Outcome) -> Iterator[Outcome]:
    """The same run, resumed without a limit, and ended by Ctrl-C in mid-training."""
    port = free_port()
    process = subprocess.Popen(
        command("--resume", str(finished.run_dir), "--training.steps", "1000000", "--tracking.prometheus", f"127.0.0.1:{port}"),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT, start_new_session=True,
    )  # fmt: skip
    lines: list[str] = []
    family: list[psutil.Process] = []
    try:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            step = re.search(r" step (\d+) \(", line)
            if step and int(step[1]) > finished.checkpoint_step + 5:
                break
        assert process.poll() is None, "".join(lines)
        assert read_run(finished.run_dir).alive(time.time())
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as scrape:
            assert b'pydreaming_up{run="digits"} 1.0' in scrape.read().splitlines()
        family = psutil.Process(process.pid).children(recursive=True)
        assert len(family) >= 3  # coordinator, tracker, learner; the worker has ended if all passes were done before
        sockets = frozenset(listening([*family, psutil.Process(process.pid)]))
        told = "\n".join(f"{child.cmdline()} {child.environ()}" for child in family)
        begin = time.monotonic()
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does, to the whole group
        lines += process.stdout.readlines()
        code = process.wait(30)
        seconds = time.monotonic() - begin
        assert psutil.wait_procs(family, timeout=2)[1] == []
        yield outcome(code, "".join(lines), finished.run_dir, seconds, sockets=sockets, told=told)
    finally:
        for child in [*family, process]:
            if child.pid and psutil.pid_exists(child.pid):
                child.kill()
        process.wait()


@pytest.fixture(scope="module")
def resumed(interrupted: Outcome) -> Outcome:
    """The same run once more, to an end some steps on."""
    done = launch("--resume", str(interrupted.run_dir), "--training.steps", str(interrupted.checkpoint_step + 10))
    return outcome(done.returncode, done.stdout + done.stderr, interrupted.run_dir)


def test_a_run_ends_with_everything_in_mlflow(finished: Outcome) -> None:
    assert finished.status == "FINISHED"
    assert finished.checkpoint_step == finished.last_step == 20
    for section in SECTIONS:
        assert any(name.startswith(f"{section}/") for name in finished.metrics), section
    for name in ("2 Is it a world model/retrieval_k1", "2 Is it a world model/retrieval_copy_k1", "1 Is it learning/held_out_loss"):
        assert name in finished.metrics
    for name in (
        "count",
        "clips_per_s",
        "silent_s_max",
        "leases",
        "passes",
        "unreadable_files",
        "dropped_messages",
    ):  # as `pydreaming status`
        assert f"5 Is the machine busy/workers.{name}" in finished.metrics
    for name in ("replay.fill", "replay.files", "replay.ratio", "steps_per_s", "busy.data_wait", "busy.first_step_s", "checkpoint_age_s"):
        assert f"5 Is the machine busy/{name}" in finished.metrics
    assert any(name.startswith("3 Is it useful/label_leave_one_speaker_out.world_model") for name in finished.metrics)
    assert 12 <= len(finished.params) <= 18
    assert {"report.html", "config.yaml"} <= finished.artifacts
    model = WorldModel.load(f"runs:/{finished.run_id}", "cpu", f"sqlite:///{finished.run_dir.parent / 'mlflow.db'}")
    assert model.state.counters["step"] == 20


def test_its_console_tells_what_there_is_and_what_to_try(finished: Outcome) -> None:
    assert "Traceback" not in finished.output
    assert "evaluation step-00000020: label probe, leave-one-speaker-out: world model" in finished.output
    for word in ("checkpoint ", "report ", "MLflow ", "next:", "pydreaming embed", "pydreaming dream"):
        assert word in finished.output
    assert (finished.run_dir / "report.html").is_file()
    now = read_run(finished.run_dir)
    assert now.learner is not None
    assert now.collection is not None
    assert now.collection.written_tokens > 0
    assert now.learner.phase in ("finished", "stopped")  # the latter where the resumed run was interrupted before
    assert not (finished.run_dir / "quarantine.jsonl").exists()
    assert not list(finished.run_dir.rglob("*.tmp*"))
    assert not list(ROOT.glob("mlruns*"))


def test_ctrl_c_ends_soon_with_a_checkpoint_and_killed_in_mlflow(interrupted: Outcome, finished: Outcome) -> None:
    assert interrupted.seconds_to_end < 15
    assert interrupted.run_id == finished.run_id
    assert interrupted.status == "KILLED"
    assert "at step 20" in interrupted.output
    assert "--resume" in interrupted.output
    assert "Traceback" not in interrupted.output
    assert interrupted.checkpoint_step > finished.checkpoint_step
    assert interrupted.last_step > finished.last_step


def test_a_resumed_run_goes_on_in_the_same_mlflow_run(resumed: Outcome, interrupted: Outcome) -> None:
    assert resumed.run_id == interrupted.run_id
    assert resumed.status == "FINISHED"
    assert f"at step {interrupted.checkpoint_step}" in resumed.output
    assert resumed.checkpoint_step == resumed.last_step == interrupted.checkpoint_step + 10
    assert resumed.params["training.batch_size"] == interrupted.params["training.batch_size"]
    assert f"evaluation step-{resumed.checkpoint_step:08d}: " in resumed.output


def test_a_run_listens_on_this_host_only(interrupted: Outcome) -> None:
    assert interrupted.sockets  # the coordinator's
    assert beyond_this_host(interrupted.sockets) == []


def test_no_secret_key_leaves_its_file(resumed: Outcome, interrupted: Outcome, finished: Outcome) -> None:
    folder = finished.run_dir.parent.parent / "keys"
    secrets = [keys.load_server_keys(folder).secret, keys.load_client_keys(folder).secret]
    files = [path for path in finished.run_dir.parent.rglob("*") if path.is_file()]
    assert {"config.yaml", "coordinator.log", "mlflow.db", "report.html", "state.json"} <= {path.name for path in files}
    assert str(folder) in (finished.run_dir / "config.yaml").read_text()  # it was a run with keys
    said = "".join(o.output + o.told for o in (resumed, interrupted, finished))
    assert "--run" in said
    for secret in secrets:
        assert secret.decode() not in said
        assert [path for path in files if secret in path.read_bytes()] == []


@pytest.mark.parametrize("sign", ["logs", "logs/coordinator.log", "logs/tracker.log"])
def test_ctrl_c_while_everything_starts_ends_at_once(sign: str, tmp_path: Path) -> None:
    where = ("--source.path", str(bundled_digits()), "--run.dir", str(tmp_path), "--run.name", "early")
    process = subprocess.Popen(
        command(*PRESETS, *QUICK, *where), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT, start_new_session=True
    )
    try:
        while not (tmp_path / "early" / sign).exists():
            assert process.poll() is None
            time.sleep(0.01)
        family = psutil.Process(process.pid).children(recursive=True)
        begin = time.monotonic()
        os.killpg(process.pid, signal.SIGINT)
        output, _ = process.communicate(timeout=60)
        assert time.monotonic() - begin < 15
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, output
    assert "Traceback" not in output
    assert "killed" not in output
    assert psutil.wait_procs(family, timeout=2)[1] == []


# -- mistakes ---------------------------------------------------------------------------------------------------------------------------


def refused(*arguments: str, code: int) -> str:
    """The one error line of a launch that is refused."""
    done = launch(*arguments, timeout=60)
    output = done.stdout + done.stderr
    assert done.returncode == code, output
    assert "Traceback" not in output
    errors = [line for line in output.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, output
    return errors[0]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), ["--configs defaults fsdd", "--help"]),
        (("--configs", "defaults", "fssd"), ["'fssd'", "did you mean 'fsdd'"]),
        (("--configs", "defaults", "fsdd", "--source.pth", "x"), ["'source.pth'", "did you mean 'source.path'"]),
        (("--configs", "defaults", "fsdd", "--training.steps", "many"), ["training.steps", "'many'"]),
        (("--configs", "defaults", "fsdd", "extra"), ["extra"]),
        (("--configs", "defaults", "folder"), ["--source.path FOLDER"]),
        (("--configs", "folder"), ["--configs defaults"]),
        (("--resume", "/nonexistent/run"), ["/nonexistent/run", "holds no run"]),
        (("--resume", "somewhere", "--configs", "defaults"), ["--configs out"]),
        (("--role", "worker", "--configs", "defaults"), ["--coordinator.address tcp://HOST:PORT"]),
        (("--role", "worker", "--configs", "defaults", "--workers.count", "0", "--coordinator.address", "tcp://h:5555"), ["workers.count"]),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(arguments: tuple[str, ...], words: list[str]) -> None:
    error = refused(*arguments, code=2)
    assert all(word in error for word in words), error


def test_an_unknown_role_is_answered_by_the_choices() -> None:
    done = launch("--role", "boss")
    assert done.returncode == 2
    assert "'boss'" in done.stderr
    assert "learner" in done.stderr


def test_help_is_quick_and_explains_itself() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *command("--help")[1:]], capture_output=True, text=True, cwd=ROOT, timeout=30
    )
    assert done.returncode == 0
    # What takes seconds to load. The clock is not asked: other tests run on the same processors.
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert not imported & {"torch", "numpy", "mlflow", "pyarrow", "soundfile"}
    for word in ("python launch.py --configs defaults fsdd", "--resume", "--role", "configs/defaults.yaml", "esc10", "Exit codes"):
        assert word in done.stdout


def test_the_folder_of_another_run_is_not_touched(tmp_path: Path) -> None:
    run = tmp_path / "taken"
    run.mkdir()
    (run / "config.yaml").write_text("kept: true\n")
    error = refused(*PRESETS, "--source.path", str(tmp_path), "--run.dir", str(tmp_path), "--run.name", "taken", code=2)
    assert f"--resume {run}" in error
    assert (run / "config.yaml").read_text() == "kept: true\n"


@pytest.mark.parametrize(
    ("key", "value"),
    [("features.n_mels", "32"), ("run.seed", "1"), ("workers.lease_items", "7")],
)
def test_a_run_does_not_go_on_with_what_it_was_not_begun_with(key: str, value: str, finished: Outcome) -> None:
    before = (finished.run_dir / "config.yaml").read_bytes()
    error = refused("--resume", str(finished.run_dir), f"--{key}", value, code=2)
    assert f"was begun with {key}=" in error
    assert f"cannot go on with {value}: leave --{key} out, or start a new run" in error
    assert (finished.run_dir / "config.yaml").read_bytes() == before  # or the next --resume would fail as well


def test_a_run_of_another_version_names_the_key_and_the_way_out(tmp_path: Path) -> None:
    run = tmp_path / "later"
    run.mkdir()
    (run / "config.yaml").write_text(load_config(["defaults"]).to_yaml().replace("run:\n", "run:\n  mood: calm\n", 1))
    error = refused("--resume", str(run), code=2)
    assert "'run.mood'" in error
    assert "another version" in error
    assert "start a new run" in error


def test_a_run_that_is_at_work_is_not_started_twice(finished: Outcome) -> None:
    before = (finished.run_dir / "config.yaml").stat().st_mtime_ns
    with hold(finished.run_dir):
        error = refused("--resume", str(finished.run_dir), code=2)
    assert f"{finished.run_dir} is at work" in error
    assert (finished.run_dir / "config.yaml").stat().st_mtime_ns == before


def test_runs_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    error = refused(*PRESETS, "--source.path", str(tmp_path), "--run.dir", str(tmp_path / "file" / "runs"), code=2)
    assert "choose another --run.dir" in error


@pytest.mark.parametrize("kind", ["missing", "empty", "text"])
def test_a_source_without_audio_is_one_line_and_leaves_the_name_free(kind: str, tmp_path: Path) -> None:
    source = tmp_path / kind
    if kind == "empty":
        source.mkdir()
    elif kind == "text":
        source.write_text("not audio, and no manifest\n")
    presets = ("--configs", "defaults", "folder", "debug")
    error = refused(*presets, "--source.path", str(source), "--run.dir", str(tmp_path), "--run.name", "first", code=1)
    assert str(source) in error
    assert not (tmp_path / "first" / "config.yaml").exists()


def test_unreadable_files_only_fail_the_run_with_the_place_of_the_causes(tmp_path: Path) -> None:
    audio = tmp_path / "audio"
    audio.mkdir()
    for i in range(5):
        (audio / f"{i}.wav").write_bytes(b"RIFF" + bytes(40))
    settings = ("--configs", "defaults", "folder", "debug", "--source.path", str(audio), "--source.held_out", "0")
    error = refused(*settings, "--run.dir", str(tmp_path), "--run.name", "bad", code=1)
    assert f"not one of the recordings in {audio} could be read" in error
    quarantine = tmp_path / "bad" / "quarantine.jsonl"
    assert str(quarantine) in error
    assert len(quarantine.read_text().splitlines()) == 5


def test_logs_of_workers_that_cannot_be_written_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    where = ("--coordinator.address", "tcp://127.0.0.1:9", "--run.dir", str(tmp_path / "file" / "runs"))
    error = refused("--role", "worker", "--configs", "defaults", *where, code=2)
    assert str(tmp_path / "file" / "runs") in error
    assert "choose another --run.dir" in error


def test_an_occupied_port_is_one_line(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        where = ("--run.dir", str(tmp_path), "--coordinator.address", address)
        error = refused(*PRESETS, "--source.path", str(bundled_digits()), *where, code=1)
    assert address in error
    assert "in use" in error


def test_a_worker_beyond_loopback_needs_keys(tmp_path: Path) -> None:
    where: tuple[Any, ...] = ("--run.dir", str(tmp_path), "--coordinator.address", "tcp://0.0.0.0:0")
    error = refused(*PRESETS, "--source.path", str(bundled_digits()), *where, code=1)
    assert "keys" in error
