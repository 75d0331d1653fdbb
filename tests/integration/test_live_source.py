"""A run that learns from a sound that goes on: a recorder, a folder that is watched, and all processes of a run. All of it real."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from live_run import LiveRun
from tones import RATE, write_tone

CAPACITY = 600  # tokens


def trained_on(run: LiveRun) -> set[str]:
    """Paths of the recordings in the replay store now."""
    found: set[str] = set()
    for file in run.run.replay(run.run.read_config()).glob("*.parquet"):
        try:
            found.update(pq.read_table(file, columns=["source"])["source"].to_pylist())
        except (FileNotFoundError, pa.ArrowInvalid):  # evicted meanwhile
            continue
    return found


def tokens(run: LiveRun) -> int:
    return sum(json.loads(run.run.coordinator_state.read_text())["files"].values())


class Sound:
    """`pydreaming record` behind a pipe into which a tone goes on and on, `speed` times faster than real time."""

    def __init__(self, folder: Path, speed: float = 4.0) -> None:
        words = ["record", str(folder), "--rate", str(RATE), "--segment", "1.5", "--keep", "30"]
        self.process = subprocess.Popen([sys.executable, "-m", "pydreaming.cli", *words], stdin=subprocess.PIPE, stderr=subprocess.PIPE)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._play, args=[speed])
        self._thread.start()

    def _play(self, speed: float) -> None:
        rng = np.random.default_rng(0)
        assert self.process.stdin is not None
        place = 0
        while not self._end.wait(0.1):
            time_s = (place + np.arange(int(0.1 * speed * RATE))) / RATE
            place += len(time_s)
            sound = 0.3 * np.sin(2 * np.pi * (300 + 200 * np.sin(time_s)) * time_s) + 0.05 * rng.standard_normal(len(time_s))
            try:
                self.process.stdin.write((32767 * sound).astype("<i2").tobytes())
                self.process.stdin.flush()
            except BrokenPipeError:
                return

    def stop(self) -> None:
        """As a user does, with the pipe still open."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(60) == 0
        self.close()

    def close(self) -> None:
        self._end.set()
        self._thread.join()
        self.process.kill()
        self.process.communicate()


class Slow:
    """A program that writes a file piece by piece, with pauses shorter than watch_s, until it is told to end it."""

    def __init__(self, source: Path, target: Path) -> None:
        self._data, self._target = source.read_bytes(), target
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._write)
        self._thread.start()

    @property
    def growing(self) -> bool:
        return self._thread.is_alive()

    def end(self) -> None:
        self._end.set()
        self._thread.join()

    def _write(self) -> None:
        self._target.parent.mkdir(exist_ok=True)
        with self._target.open("wb", buffering=0) as file:
            place = 44  # a header that promises all of it
            file.write(self._data[:place])
            while not self._end.wait(0.2):
                place += file.write(self._data[place : place + 8])
            file.write(self._data[place:])


@pytest.fixture
def sound(tmp_path: Path) -> Iterator[Sound]:
    made = Sound(tmp_path / "sound")
    yield made
    made.close()


def test_a_run_goes_on_learning_while_recordings_come_and_go(sound: Sound, tmp_path: Path) -> None:
    folder = tmp_path / "sound"
    source = ("--source.path", str(folder), "--source.watch_s", "2", "--source.labels", "none", "--source.held_out", "0")
    store = ("--replay.capacity_tokens", str(CAPACITY), "--replay.shard_episodes", "2", "--replay.prefill_tokens", "30")
    run = LiveRun(tmp_path, *source, *store)
    write_tone(tmp_path / "whole.wav", 2.0, seed=9)
    slow = Slow(tmp_path / "whole.wav", folder / "slow.wav")
    try:
        run.wait_for(lambda: run.step() > 5)
        newest, before = max(path.name for path in folder.glob("*.flac")), run.step()
        run.wait_for(lambda: any(newest < name < "slow" for name in trained_on(run)))  # what comes is trained on
        run.wait_for(lambda: run.step() > before)  # and training goes on
        assert tokens(run) <= CAPACITY
        assert slow.growing
        assert "slow.wav" not in trained_on(run)
        slow.end()
        run.wait_for(lambda: "slow.wav" in trained_on(run))
        assert len(list(folder.glob("*.flac"))) <= 21  # the recorder keeps 30 s
        sound.stop()
        before = run.step()
        run.wait_for(lambda: run.step() > before + 5)  # the sound has ended; what there is is gone over again
        assert tokens(run) <= CAPACITY
        run.process.send_signal(signal.SIGINT)
        assert run.process.wait(60) == 0, run.said()
        assert "Traceback" not in run.said()
        assert not run.run.quarantine.exists(), run.run.quarantine.read_text()
    finally:
        slow.end()
        run.kill()
