"""Files in the replay folder that do not belong there, or were damaged there: named, left aside, and no reason to end."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from supervise import supervised

from pydreaming.replay.index import ReplayIndex
from pydreaming.replay.writer import ShardWriter
from pydreaming.tracking.live import read_run
from workers.layout import RunDir
from workers.serial import collect

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(900)]

MakeRun = Callable[..., RunDir]
Recordings = Callable[..., Path]
PATIENT = ("--workers.lease_ttl_s", "30")  # the host may be busy with other things


def spoil(folder: Path, like: Path) -> dict[str, str]:
    """Put every sort of bad file into a store; its name and a word of the cause that must be told."""
    content = like.read_bytes()
    footer = int.from_bytes(content[-8:-4], "little")
    flipped = bytearray(content)
    flipped[-8 - footer // 2] ^= 4
    torn = {"torn": content[: len(content) // 2], "truncated": content[:-8], "empty": b"", "text": b"not Parquet\n" * 50}
    for name, data in (torn | {"flipped": bytes(flipped)}).items():
        (folder / f"e90000-000000-{name}.parquet").write_bytes(data)
    pq.write_table(pa.table({"price": [1.0, 2.0]}), folder / "prices.parquet")
    (folder / "folder.parquet").mkdir()
    (folder / "dangling.parquet").symlink_to(folder / "nowhere")
    os.mkfifo(folder / "pipe.parquet")
    unreadable = "not a readable Parquet file"
    causes = {f"e90000-000000-{name}.parquet": unreadable for name in torn}
    return causes | {
        "prices.parquet": "not a replay file of pydreaming",
        "folder.parquet": "not a regular file",
        "pipe.parquet": "not a regular file",
    }


def write_no_numbers(folder: Path) -> None:
    """A file as a worker gone wrong might write it: nothing is damaged, but the tokens are no numbers. The step refuses them."""
    index = ReplayIndex(folder)
    index.refresh()
    assert index.meta is not None
    episode = index.episode(0)
    with ShardWriter(folder, "e00002-000000", index.meta, 1) as writer:
        writer.add(dataclasses.replace(episode, tokens=np.full_like(episode.tokens, np.nan)))
        writer.commit()


def test_a_learner_names_bad_files_and_trains_on_the_rest(make_run: MakeRun, recordings: Recordings) -> None:
    offline = ("--workers.count", "0", "--training.steps", "30", "--training.log_s", "0.1", "--evaluation.streams", "4")
    run = make_run(recordings(6), *offline, "--replay.shard_episodes", "1")
    collect(run, run.read_config())
    replay = run.replay(run.read_config())
    causes = spoil(replay, min(replay.glob("e*.parquet")))
    victim = max(replay.glob("e00001-*.parquet"))
    write_no_numbers(replay)
    content = bytearray(victim.read_bytes())
    content[-8 - int.from_bytes(content[-8:-4], "little") - 100] ^= 1  # in the last token
    victim.write_bytes(content)
    causes |= {victim.name: "the values of episode 0 are damaged"}
    done = subprocess.run([sys.executable, "-m", "workers.learner", "--run", str(run.path)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    for name, cause in causes.items():
        (line,) = (line for line in done.stdout.splitlines() if f" {name}: " in line)
        assert cause in line
    assert "after 30 steps" in done.stdout
    assert read_run(run.path).learner.non_finite_steps > 0


def test_a_run_goes_on_when_bad_files_appear_in_its_store(make_run: MakeRun, recordings: Recordings, tmp_path: Path) -> None:
    where = ("--tracking.uri", f"sqlite:///{tmp_path}/mlflow.db", "--evaluation.streams", "4", "--replay.capacity_tokens", "400")
    run = make_run(
        recordings(12, seconds=2.0), "--workers.passes", "6", "--training.steps", "100", "--training.log_s", "0.1", *PATIENT, *where
    )
    replay = run.replay(run.read_config())
    process = subprocess.Popen(**supervised(run), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        end = time.monotonic() + 240
        while not (there := sorted(replay.glob("e*.parquet"))):
            assert time.monotonic() < end
            time.sleep(0.05)
        kept = shutil.copy(there[0], tmp_path / "copy.parquet")
        causes = spoil(replay, Path(kept))
        said, _ = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 0, said
    assert "Traceback" not in said
    assert "prices.parquet: not a replay file of pydreaming" in said
    assert all((replay / name).exists() for name in causes)  # they are their owner's, and not removed


def test_a_replay_folder_that_is_removed_ends_the_run_with_one_line(make_run: MakeRun, recordings: Recordings, tmp_path: Path) -> None:
    where = ("--tracking.uri", f"sqlite:///{tmp_path}/mlflow.db", "--replay.dir", str(tmp_path / "store"))
    run = make_run(
        recordings(12, seconds=4.0), "--workers.passes", "0", "--training.steps", "1000000", "--training.checkpoint_s", "1", *where
    )
    process = subprocess.Popen(**supervised(run), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        end = time.monotonic() + 240
        while not list(run.checkpoints.glob("step-*")):
            assert time.monotonic() < end
            time.sleep(0.05)
        while (tmp_path / "store").exists():
            shutil.rmtree(tmp_path / "store", ignore_errors=True)
        said, _ = process.communicate(timeout=300)
    finally:
        process.kill()
    assert "Traceback" not in said, said
    assert process.returncode == 1, said
    (error,) = (line for line in said.splitlines() if line.startswith("error: "))
    assert str(tmp_path / "store") in error
    assert list(run.checkpoints.glob("step-*"))


def test_a_file_cut_short_under_the_learner_costs_the_learners_life_but_not_the_run(make_run: MakeRun, recordings: Recordings) -> None:
    """The pages behind the cut are mapped: the system answers their reading with SIGBUS, which no program can refuse."""
    offline = ("--workers.count", "0", "--training.steps", "1000000", "--training.log_s", "0.1", "--training.checkpoint_s", "0.5")
    run = make_run(recordings(6), *offline)
    collect(run, run.read_config())
    largest = max(run.replay(run.read_config()).iterdir(), key=lambda path: path.stat().st_size)
    log = run.path / "console.log"
    with log.open("w") as output:
        process = subprocess.Popen(**supervised(run, "tracker"), stdout=output, stderr=output)
    try:
        for words in (" step ", "left aside", "at step"):
            end = time.monotonic() + 240
            while words not in log.read_text():
                assert time.monotonic() < end, log.read_text()
                assert process.poll() is None, log.read_text()
                time.sleep(0.05)
            if words == " step ":
                while not list(run.checkpoints.glob("step-*")):  # or it would begin anew
                    assert time.monotonic() < end
                    time.sleep(0.05)
                os.truncate(largest, 4096)
        process.terminate()
        assert process.wait(120) == 0
    finally:
        process.kill()
    said = log.read_text()
    assert "the learner has ended (SIGBUS) and will go on from" in said
    assert f"{largest.name}: not a readable Parquet file" in said
