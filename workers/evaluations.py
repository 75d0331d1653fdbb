"""Evaluations in a process of their own, so that training never stalls."""

from __future__ import annotations

import json
import logging
import math
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from pydreaming.config import Config
from workers.layout import RunDir

log = logging.getLogger("learner")


class Evaluations:
    """Starts `python -m workers.evaluator` for checkpoints, one at a time, and reports what came out."""

    def __init__(self, run: RunDir, config: Config) -> None:
        self._run, self._config = run, config
        self._process: subprocess.Popen[bytes] | None = None
        self._checkpoint: Path | None = None

    def start(self, checkpoint: Path, final: bool = False) -> bool:
        """Evaluate a checkpoint in the background; False when the last evaluation is still going on."""
        self.report_finished()
        if self._process is not None:
            log.info("evaluation of %s left out: the last one is still running", checkpoint.name)
            return False
        self._run.logs.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "workers.evaluator", "--run", str(self._run.path), "--checkpoint", str(checkpoint)]
        with (self._run.logs / "evaluator.log").open("ab") as output:
            self._process = subprocess.Popen([*command, *(["--final"] if final else [])], stdout=output, stderr=output)
        self._checkpoint = checkpoint
        return True

    def report_finished(self) -> None:
        """Print the figures of an evaluation that has ended since the last call."""
        if self._process is None or self._process.poll() is None or self._checkpoint is None:
            return
        code, name = self._process.returncode, self._checkpoint.name
        self._process = None
        if code != 0:
            log.warning("evaluation of %s failed (exit code %d): see %s", name, code, self._run.logs / "evaluator.log")
            return
        summary = self._run.path / "evals" / name / "summary.json"
        for line in json.loads(summary.read_text(encoding="utf-8"))["lines"]:
            log.info("evaluation %s: %s", name, line)

    def finish(self, checkpoint: Path, interrupted: Callable[[], bool]) -> None:
        """Evaluate the last checkpoint and wait for it, unless `interrupted`."""
        self._wait(interrupted)
        log.info("evaluating %s", checkpoint.name)
        self.start(checkpoint, final=True)
        self._wait(interrupted)

    def cancel(self) -> None:
        """End a running evaluation."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(3.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def _wait(self, interrupted: Callable[[], bool]) -> None:
        while self._process is not None:
            if interrupted():
                self.cancel()
                return
            self.report_finished()
            time.sleep(0.1)


def left_s(seconds: float, progress: float) -> float:
    """Seconds until training ends, from what it has taken so far and the share that is over; infinite where that tells nothing."""
    return seconds * (1 - progress) / progress if progress > 0 else math.inf
