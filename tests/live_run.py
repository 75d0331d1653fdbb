"""launch.py with all its processes, as a test's to watch and to end."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from workers.layout import RunDir

ROOT = Path(__file__).resolve().parents[1]


class LiveRun:
    """A run named "live" in `folder`, small and without an end of its own unless the overrides say so."""

    def __init__(self, folder: Path, *overrides: str) -> None:
        self.run = RunDir(folder / "live")
        small = ["--workers.passes", "0", "--workers.count", "2", "--workers.lease_items", "3", "--training.steps", "1000000"]
        rates = ["--replay.replay_ratio", "0", "--evaluation.max_clips", "12", "--evaluation.streams", "4"]
        where = ["--run.dir", str(folder), "--run.name", "live"]
        command = [sys.executable, str(ROOT / "launch.py"), "--configs", "defaults", "folder", "debug"]
        self._output = (folder / "output").open("w+")
        self.process = subprocess.Popen(
            [*command, *small, *rates, *where, *overrides], stdout=self._output, stderr=subprocess.STDOUT, cwd=ROOT
        )

    def said(self) -> str:
        """Everything on the console and in the logs."""
        self._output.seek(0)
        logs = [path.read_text() for path in sorted((self.run.path / "logs").glob("*.log"))]
        return self._output.read() + "\n".join(logs)

    def step(self) -> int:
        """The last gradient step that was told."""
        return max([int(found) for found in re.findall(r" step (\d+) \(", self.said())], default=0)

    def wait_for(self, what: Callable[[], object], seconds: float = 200.0) -> None:
        """Until it is so, while the run lives."""
        end = time.monotonic() + seconds
        while not what():
            assert self.process.poll() is None, self.said()
            assert time.monotonic() < end, self.said()
            time.sleep(0.2)

    def kill(self) -> None:
        """Whatever is left of it."""
        family = psutil.Process(self.process.pid).children(recursive=True) if self.process.poll() is None else []
        for process in [*family, self.process]:
            process.kill()
        self.process.wait()
        self._output.close()
