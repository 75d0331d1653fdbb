"""What `pydreaming status` says, from the files that the processes of a run leave."""

from __future__ import annotations

import json
import time
from pathlib import Path

import msgspec
import pytest

from pydreaming import cli
from pydreaming.errors import PydreamingError
from pydreaming.tracking.live import CollectionNow, LearnerNow, WorkerNow, as_json, describe, publish, read_run

NOW = 1_800_000_000.0
CHECKPOINT = "/gone/checkpoints/step-00002100"
LEARNER = LearnerNow(NOW - 3, 5.0, 7, "training", 2134, 0.64, 190.0, 8.94, 0.012, 3.2, 12.3, CHECKPOINT, NOW - 42, 10**6, 5150.0)
WORKER = WorkerNow("host-0", "host", 0.4, 5, 31.0, 14.0, 180.0, 5000)
COLLECTION = CollectionNow(
    NOW - 1, 2.0, 8, "tcp://127.0.0.1:5", "episodes", 1_234_567, 900_000, 120, 2, 1, 2, 0.45, False, 0, [WORKER], 10_000_000, 1350, 3000
)  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "my-run"
    folder.mkdir()
    (folder / "config.yaml").touch()
    return folder


def replaced(view: LearnerNow, **changes: object) -> LearnerNow:
    return msgspec.structs.replace(view, **changes)


def test_a_training_run_in_lines_and_as_json(run: Path) -> None:
    publish(run, LEARNER)
    publish(run, COLLECTION)
    (run / "quarantine.jsonl").write_text("{}\n{}\n")
    text = "\n".join(describe(read_run(run), NOW))
    assert text.startswith("my-run: training\n")
    for part in (
        "step 2134, 64%", "8.9 steps/s", "waits for data 1.2%", "step-00002100, 42 s ago", "pass 3, 45% done (1 350 of 3 000 recordings)",
        "1 leases in hand", "1 234 567 tokens written", "9% of replay.capacity_tokens", "12.3 times", "2 recordings unreadable",
        "workers     1 · 31.0 recordings/s", "host-0", "heard of 0 s ago, joined 3 min ago",
    ):  # fmt: skip
        assert part in text
    found = json.loads(as_json(read_run(run), NOW))
    assert (found["alive"], found["quarantined"], found["learner"]["step"]) == (True, 2, 2134)
    assert found["silent_s"] == 1.0


def test_held_out_recordings_that_cannot_be_read_are_told_of_too(run: Path) -> None:
    publish(run, COLLECTION)
    assert "of the evaluation" not in "\n".join(describe(read_run(run), NOW))
    (run / "eval_set").mkdir()
    (run / "eval_set/quarantine.jsonl").write_text("{}\n{}\n{}\n")
    (refused,) = (line for line in describe(read_run(run), NOW) if line.startswith("refused"))
    assert "2 recordings unreadable (quarantine.jsonl), 3 of the evaluation (eval_set/quarantine.jsonl) · 0 messages" in refused
    found = json.loads(as_json(read_run(run), NOW))
    assert (found["quarantined"], found["quarantined_of_evaluation"]) == (0, 3)


@pytest.mark.parametrize(
    ("learner", "collection", "after_s", "said", "alive"),
    [
        (None, None, 0, "nothing has been heard of it yet", False),
        (None, COLLECTION, 0, "collecting", True),
        (LEARNER, COLLECTION, 3600, "not running; last heard of 60 min ago", False),
        (replaced(LEARNER, time=NOW - 60), COLLECTION, 0, "running, but its learner is silent", True),
        (replaced(LEARNER, due_s=120.0, time=NOW - 100), None, 0, "training", True),
        (replaced(LEARNER, phase="waiting"), COLLECTION, 0, "waiting for workers", True),
        (replaced(LEARNER, phase="evaluating", due_s=1800.0, time=NOW - 300), None, 0, "evaluating", True),
        (replaced(LEARNER, phase="finished"), COLLECTION, 7200, "finished 2 h ago", False),
    ],
)
def test_states(run: Path, learner: LearnerNow | None, collection: CollectionNow | None, after_s: float, said: str, alive: bool) -> None:
    for view in (learner, collection):
        if view is not None:
            publish(run, view)
    found = read_run(run)
    assert describe(found, NOW + after_s)[0] == f"my-run: {said}"
    assert found.alive(NOW + after_s) is alive


@pytest.mark.parametrize("learner", [LEARNER, replaced(LEARNER, phase="finished")])
def test_of_a_run_that_is_no_more_nobody_is_at_work(run: Path, learner: LearnerNow) -> None:
    publish(run, learner)
    publish(run, COLLECTION)
    lines = describe(read_run(run), NOW + 3600)
    assert lines[-1] == "workers     1 when last heard of"
    assert "at work" not in "\n".join(lines)


def test_of_many_workers_the_silent_ones_are_shown(run: Path) -> None:
    crew = [msgspec.structs.replace(WORKER, name=f"host-{i:03}", silent_s=float(i)) for i in range(100)]
    publish(run, msgspec.structs.replace(COLLECTION, workers=crew))
    lines = describe(read_run(run), NOW)
    assert "workers     100 · 3100.0 recordings/s, 1400 x real time" in lines
    assert lines[-1] == "  ... and 60 that were heard of later (--json has all)"
    assert [line.split()[0] for line in lines[-41:-1]] == [f"host-{i:03}" for i in range(60, 100)]
    assert len(json.loads(as_json(read_run(run), NOW))["collection"]["workers"]) == 100


def test_status_files_of_an_earlier_version_are_read(run: Path) -> None:
    publish(run, LEARNER)
    publish(run, COLLECTION)
    for name, young in (
        ("learner", ("checkpoint_time", "trained_tokens", "tokens_per_s", "non_finite_steps")),
        ("collection", ("capacity_tokens", "recordings_done", "recordings", "began")),
    ):
        path = run / "status" / f"{name}.json"
        path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k not in young}))
    text = "\n".join(describe(read_run(run), NOW))
    assert "checkpoint  step-00002100\n" in text
    assert "tokens in 120 files · each" in text
    assert "pass 3, 45% done · 1 leases" in text


def test_a_run_that_was_taken_up_again_has_not_ended(run: Path) -> None:
    publish(run, replaced(LEARNER, phase="stopped", time=NOW - 1000))
    publish(run, COLLECTION)
    assert read_run(run).alive(NOW)


@pytest.mark.parametrize(("began", "alive"), [(NOW - 500, False), (NOW - 90, True)])
def test_a_coordinator_that_outlives_its_learner_is_told_from_one_that_has_begun_again(run: Path, began: float, alive: bool) -> None:
    publish(run, replaced(LEARNER, phase="finished", time=NOW - 100))
    publish(run, msgspec.structs.replace(COLLECTION, began=began))  # MLflow took long to get the rest
    found = read_run(run)
    assert found.alive(NOW) is alive
    assert describe(found, NOW + 3600)[0] == f"my-run: {'not running; last heard of 60' if alive else 'finished 62'} min ago"


def test_what_cannot_be_read_is_one_line(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(PydreamingError, match="no run at"):
        read_run(tmp_path)
    publish(run, LEARNER)
    (run / "status/learner.json").write_text("{")
    assert cli.main(["status", str(run)]) == 1
    assert "learner.json cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize("seconds", ["-1", "0", "nan", "inf", "soon"])
def test_a_watch_is_seconds_above_0(run: Path, seconds: str, capsys: pytest.CaptureFixture[str]) -> None:
    publish(run, LEARNER)
    with pytest.raises(SystemExit, match="2"):
        cli.main(["status", str(run), "--watch", seconds])
    assert f"argument --watch: '{seconds}' is not a number above 0" in capsys.readouterr().err


def test_a_disk_that_refuses_stops_nothing(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    (run / "status").touch()
    publish(run, LEARNER)
    assert "cannot be written" in caplog.text


def test_exit_code_is_a_health_check(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    publish(run, replaced(LEARNER, time=time.time()))
    assert cli.main(["status", str(run)]) == 0
    publish(run, replaced(LEARNER, time=time.time() - 3600))
    assert cli.main(["status", str(run), "--json"]) == 1
    out = capsys.readouterr().out
    assert out.startswith("my-run: training")
    assert '"alive": false' in out
