"""A run at work, for `pydreaming status` to look at."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.exhibits.scene import Scene
from pydreaming.errors import PydreamingError
from pydreaming.tracking.live import read_run

ROOT = Path(__file__).resolve().parents[2]
RUN = "runs/today"
LINE = "python launch.py --configs defaults fsdd --source.path fsdd --training.seconds 600 --run.name today"
STEPS = 10  # of training before status is asked
PATIENCE_S = 240.0  # for it to get so far
LOG = Path("launch.txt")

STATUS = Scene(
    "status",
    "How is a run doing?",
    (f"pydreaming status {RUN}",),
    f"Asked while `{LINE}` was at work in another terminal, on the machine that made this page.",
)


@contextmanager
def training(digits: Path) -> Iterator[None]:
    """A run on `digits` in the working directory, which has come some way; it is stopped at the end. Raises PydreamingError."""
    Path("fsdd").symlink_to(digits.resolve())
    _, script, *words = shlex.split(LINE)
    with LOG.open("w", encoding="utf-8") as log:
        command = [sys.executable, str(ROOT / script), *words]
        process = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | {"PYTHONPATH": str(ROOT)})
    try:
        _wait(process)
        yield
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=120)


def _wait(process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline and process.poll() is None:
        if _steps() >= STEPS:
            return
        time.sleep(1)
    raise PydreamingError(f"the run did not come to {STEPS} steps:\n{LOG.read_text(encoding='utf-8')[-2000:]}")


def _steps() -> int:
    if not (Path(RUN) / "status/learner.json").is_file():
        return 0
    learner = read_run(Path(RUN)).learner
    return learner.step if learner is not None else 0
