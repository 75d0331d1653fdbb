"""Workers that hang: in a decoder, or because something has stopped them. They are replaced, and what they had in hand is not lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from workers.layout import RunDir
from workers.serial import collect

pytestmark = pytest.mark.chaos

MakeRun = Callable[..., RunDir]
Recordings = Callable[..., Path]
QUICK = ("--workers.count", "2", "--workers.passes", "1", "--workers.lease_ttl_s", "4", "--replay.shard_episodes", "1")
SUPERVISE = (
    "import sys; from pathlib import Path; from workers.layout import RunDir; from workers.supervisor import Supervisor;"
    "run = RunDir(Path(sys.argv[1])); sys.exit(Supervisor(run.path, run.read_config(), {'coordinator', 'worker'}).run())"
)
# What libsndfile does when it meets a file that sends it round in circles: the call never comes back.
HANGING_DECODER = """
import time, soundfile
read = soundfile.SoundFile.read
def hang(self, *arguments, **options):
    while "hangs.wav" in str(self.name):
        time.sleep(1)
    return read(self, *arguments, **options)
soundfile.SoundFile.read = hang
"""


def supervise(run: RunDir, site: Path | None = None) -> subprocess.Popen[str]:
    environment = dict(os.environ) if site is None else os.environ | {"PYTHONPATH": str(site)}
    line = [sys.executable, "-c", SUPERVISE, str(run.path)]
    return subprocess.Popen(line, stderr=subprocess.PIPE, text=True, env=environment)


def sources(run: RunDir) -> set[str]:
    import pyarrow.parquet as pq

    found = set()
    for file in run.replay(run.read_config()).glob("*.parquet"):
        found.update(pq.read_table(file, columns=["source"])["source"].to_pylist())
    return found


def test_a_decoder_that_hangs_costs_its_recording_alone(make_run: MakeRun, recordings: Recordings, tmp_path: Path) -> None:
    audio = recordings(12)
    (audio / "good-005.wav").rename(audio / "hangs.wav")
    run = make_run(audio, *QUICK)
    (tmp_path / "site").mkdir()
    (tmp_path / "site/sitecustomize.py").write_text(HANGING_DECODER)
    # The statistics come from recordings that can be read.
    reference = make_run(recordings(3, name="others"), name="reference")
    collect(reference, reference.read_config(), leases=1)
    run.stats.write_bytes(reference.stats.read_bytes())
    process = supervise(run, tmp_path / "site")
    _, said = process.communicate(timeout=180)
    assert process.returncode == 0, said
    assert "has shown no sign of life" in said
    assert sources(run) == {path.name for path in audio.iterdir()} - {"hangs.wav"}
    (entry,) = (json.loads(line) for line in run.quarantine.read_text().splitlines())
    assert (entry["path"], entry["cause"]) == ("hangs.wav", "worker died while reading it")


def test_a_worker_that_something_stopped_is_replaced(make_run: MakeRun, recordings: Recordings) -> None:
    audio = recordings(12, seconds=20.0)
    run = make_run(audio, *QUICK)
    process = supervise(run)
    replay = run.replay(run.read_config())
    end = time.monotonic() + 60
    while not list(replay.glob("*.parquet")):
        assert time.monotonic() < end
        time.sleep(0.02)
    workers = [p for p in psutil.Process(process.pid).children() if "workers.audio_worker" in " ".join(p.cmdline())]
    workers[0].send_signal(signal.SIGSTOP)
    _, said = process.communicate(timeout=180)
    assert process.returncode == 0, said
    assert "has shown no sign of life" in said
    assert sources(run) == {path.name for path in audio.iterdir()}
    assert not list(replay.glob("*.tmp-*"))
    assert not run.quarantine.exists()
