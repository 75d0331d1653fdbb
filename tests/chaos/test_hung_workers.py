"""Workers that hang: in a decoder, or because something has stopped them. They are replaced, and what they had in hand is not lost.

Neither do they outlive their supervisor, which cannot reach them by SIGTERM: Python answers no signal while a call into C goes on.
"""

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
import soundfile
from supervise import supervised

from workers.layout import RunDir
from workers.serial import collect

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(900)]

MakeRun = Callable[..., RunDir]
Recordings = Callable[..., Path]
HangingRun = Callable[[str], tuple[RunDir, Path]]
QUICK = ("--workers.count", "2", "--workers.passes", "1", "--workers.lease_ttl_s", "4", "--replay.shard_episodes", "1")
# What a library does when a file sends it round in circles: the call never comes back. `forever` is one of the calls below.
HANGING_DECODER = """
import ctypes, time, soundfile
read = soundfile.SoundFile.read
def hang(self, *arguments, **options):
    while "hangs.flac" in str(self.name):
        {forever}
    return read(self, *arguments, **options)
soundfile.SoundFile.read = hang
"""
IN_PYTHON, IN_C, IN_C_WITH_THE_LOCK = "time.sleep(1)", "ctypes.CDLL(None).sleep(600)", "ctypes.PyDLL(None).sleep(600)"


@pytest.fixture
def hanging_run(make_run: MakeRun, recordings: Recordings, tmp_path: Path) -> Callable[[str], tuple[RunDir, Path]]:
    """make(forever): a run over 12 recordings of which hangs.flac is read for ever, and the folder that makes processes do so."""

    def make(forever: str) -> tuple[RunDir, Path]:
        audio = recordings(12)
        samples, rate = soundfile.read(audio / "good-005.wav")
        soundfile.write(audio / "hangs.flac", samples, rate)  # a plain WAV never meets the library that hangs
        (audio / "good-005.wav").unlink()
        run = make_run(audio, *QUICK)
        (tmp_path / "site").mkdir()
        (tmp_path / "site/sitecustomize.py").write_text(HANGING_DECODER.format(forever=forever))
        # The statistics come from recordings that can be read.
        reference = make_run(recordings(3, name="others"), name="reference")
        collect(reference, reference.read_config(), leases=1)
        run.stats.write_bytes(reference.stats.read_bytes())
        return run, tmp_path / "site"

    return make


def supervise(run: RunDir, site: Path | None = None) -> subprocess.Popen[str]:
    environment = dict(os.environ)
    if site is not None:
        environment["PYTHONPATH"] = f"{site}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    return subprocess.Popen(**supervised(run, "learner", "tracker"), stderr=subprocess.PIPE, text=True, env=environment)


def sources(run: RunDir) -> set[str]:
    import pyarrow.parquet as pq

    found = set()
    for file in run.replay(run.read_config()).glob("*.parquet"):
        found.update(pq.read_table(file, columns=["source"])["source"].to_pylist())
    return found


def test_a_decoder_that_hangs_costs_its_recording_alone(hanging_run: HangingRun) -> None:
    run, site = hanging_run(IN_C_WITH_THE_LOCK)
    process = supervise(run, site)
    _, said = process.communicate(timeout=400)
    assert process.returncode == 0, said
    assert "has shown no sign of life" in said
    assert sources(run) == {path.name for path in Path(run.read_config().source.path).iterdir()} - {"hangs.flac"}
    (entry,) = (json.loads(line) for line in run.quarantine.read_text().splitlines())
    assert (entry["path"], entry["cause"]) == ("hangs.flac", "worker died while reading it")


def test_a_worker_that_something_stopped_is_replaced(make_run: MakeRun, recordings: Recordings) -> None:
    audio = recordings(12, seconds=20.0)
    run = make_run(audio, *QUICK)
    process = supervise(run)
    replay = run.replay(run.read_config())
    end = time.monotonic() + 240
    while not list(replay.glob("*.parquet")):
        assert time.monotonic() < end
        time.sleep(0.02)
    workers = [p for p in psutil.Process(process.pid).children() if "workers.audio_worker" in " ".join(p.cmdline())]
    workers[0].send_signal(signal.SIGSTOP)
    _, said = process.communicate(timeout=400)
    assert process.returncode == 0, said
    assert said.count("has shown no sign of life") == 1
    assert sources(run) == {path.name for path in audio.iterdir()}
    assert not list(replay.glob("*.tmp-*"))
    assert not run.quarantine.exists()


def test_a_coordinator_that_something_stopped_is_replaced(make_run: MakeRun, recordings: Recordings) -> None:
    audio = recordings(12, seconds=20.0)
    run = make_run(audio, *QUICK)
    process = supervise(run)
    try:
        wait_for(lambda: list(run.replay(run.read_config()).glob("*.parquet")), 240)
        (coordinator,) = (p for p in psutil.Process(process.pid).children() if "workers.coordinator" in " ".join(p.cmdline()))
        coordinator.send_signal(signal.SIGSTOP)
        _, said = process.communicate(timeout=400)
    finally:
        process.kill()
    assert process.returncode == 0, said
    assert "coordinator has shown no sign of life" in said
    assert sources(run) == {path.name for path in audio.iterdir()}


@pytest.mark.parametrize(
    ("number", "forever"), [(signal.SIGKILL, IN_PYTHON), (signal.SIGKILL, IN_C_WITH_THE_LOCK), (signal.SIGTERM, IN_C_WITH_THE_LOCK)]
)
def test_a_worker_that_hangs_does_not_outlive_its_supervisor(hanging_run: HangingRun, number: signal.Signals, forever: str) -> None:
    run, site = hanging_run(forever)
    process = supervise(run, site)
    family: list[psutil.Process] = []
    try:
        wait_for(lambda: hung(process.pid), 240)
        family = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(number)
        process.communicate(timeout=300)
        assert psutil.wait_procs(family, timeout=60)[1] == []
    finally:
        for orphan in family:
            if orphan.is_running():
                orphan.kill()


def test_a_worker_without_a_supervisor_ends_itself_when_it_hangs(hanging_run: HangingRun) -> None:
    """In a container or a job of a cluster, which are started again."""
    run, site = hanging_run(IN_C)
    command = [sys.executable, "-m", "workers.{}", "--run", str(run.path)]
    coordinator = subprocess.Popen([word.format("coordinator") for word in command], stderr=subprocess.DEVNULL)
    environment = os.environ | {"PYTHONPATH": f"{site}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    try:
        worker = subprocess.run(
            [word.format("audio_worker") for word in command], stderr=subprocess.PIPE, text=True, env=environment, timeout=120
        )
    finally:
        coordinator.kill()
        coordinator.wait()
    assert worker.returncode == 1
    *_, last = worker.stderr.splitlines()
    assert "error: no progress for" in last
    assert "sitecustomize.py" in worker.stderr  # where it hung
    assert not list(run.replay(run.read_config()).glob("hangs*"))


def hung(supervisor: int) -> bool:
    """Whether a worker reads the recording that never ends."""
    workers = [p for p in psutil.Process(supervisor).children() if "workers.audio_worker" in " ".join(p.cmdline())]
    return any("hangs.flac" in opened.path for worker in workers for opened in worker.open_files())


def wait_for(what: Callable[[], object], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)
