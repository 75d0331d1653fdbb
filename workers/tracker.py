"""The tracker process: `python -m workers.tracker --run RUN_DIR` sends the run's spool to MLflow while training goes on.

It ends when the spool says that the session ended, or on SIGTERM or SIGINT after up to five seconds in which it sends what it can;
whatever is left stays in the spool and is sent by the next start, or by `--drain`, which sends what is there and exits.
Exit codes: 0 all sent, or the run was deleted in MLflow · 1 the session ended, but the store could not take everything (one line says
what to do) · 2 wrong usage.
"""

from __future__ import annotations

import argparse
import logging
import shutil
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

import psutil

from pydreaming.config import Config, load_config
from pydreaming.errors import ConfigError, PydreamingError, TrackingError, UsageError, redact
from pydreaming.tracking.spool import SPOOL, End, Spool, Start, read_events
from pydreaming.tracking.store import resolve_uri
from pydreaming.tracking.writer import RunDeletedError, SpoolWriter
from workers import logs
from workers.layout import RunDir

STOP_S = 5.0  # time to send what is left after SIGTERM
SLICE_S = 1.0  # of sending after the end of the session, between two looks for SIGTERM
END_S = 30.0  # time without progress, after the end of the session, until the rest is left in the spool
MAX_BACKOFF_S = 10.0
SYSTEM_S = 30.0  # between system metrics

# Shown beside the run; the rest is in config.yaml among the artifacts. MLflow prints all of them above every image grid.
MAIN_PARAMS = (
    "run.seed", "source.kind", "source.path", "features.sample_rate", "features.n_mels", "features.token_frames", "action.kind",
    "model.dynamics", "model.deter", "model.groups", "model.classes", "objective.horizon", "training.batch_size",
    "training.batch_length", "training.learning_rate",
)  # fmt: skip

_log = logging.getLogger("tracker")


class Tracker:
    """Pumps one spool until its session ends.

    Args:
      run_dir: folder of the run.
      config: its configuration.
      drain: send what the spool holds now, and return.
      stop: set when the process is told to stop.
    """

    def __init__(self, run_dir: Path, config: Config, drain: bool, stop: threading.Event) -> None:
        uri = resolve_uri(config.tracking.uri, run_dir)
        params = {name: str(_lookup(config, name)) for name in MAIN_PARAMS}
        # Everybody who sees the page can read this file, so the password of tracking.uri does not go into it.
        texts = {"config.yaml": redact(config.to_yaml())}
        self.writer = SpoolWriter(run_dir, uri, config.tracking.experiment, params, texts)
        self._run_dir, self._flush_s, self._drain, self._stop = run_dir, config.tracking.flush_s, drain, stop
        self._spool = Spool(run_dir / SPOOL)
        # The end of an earlier session lies before the cursor, or before the `start` that a resumed session begins with.
        self._seen = self.writer.offset
        self._ended = drain
        self._failures = 0
        self._next_system = 0.0
        psutil.cpu_percent()  # each call tells the load since the one before; the first tells nothing

    def run(self) -> int:
        """Pump until the end; the exit code."""
        give_up: float | None = None
        told = False
        while True:
            if self._stop.is_set() and not told:  # be it in the middle of sending what is left
                told, give_up = True, time.monotonic() + STOP_S
            elif not self._ended and not told:
                give_up = None
            elif give_up is None:
                give_up = time.monotonic() + END_S
            sent = self._attempt(give_up)
            if sent and give_up is not None and not told:
                give_up = time.monotonic() + END_S
            if give_up is None and time.monotonic() >= self._next_system:
                self._log_system()
            self._look_for_end()
            if give_up is not None and self._ended and self._failures == 0 and sent == 0:
                return 0
            if give_up is not None and time.monotonic() >= give_up:
                return self._leave()
            if not self._ended or self._failures:
                self._stop.wait(self._pause(give_up))

    def _attempt(self, give_up: float | None) -> int:
        try:
            now = time.monotonic()
            sent = self.writer.pump(now + STOP_S if give_up is None else min(give_up, now + SLICE_S))
        except RunDeletedError:
            raise
        except TrackingError as e:
            if self._failures == 0:
                _log.warning("%s; training goes on, the points wait in %s", e, self._run_dir / SPOOL)
            self._failures += 1
            return 0
        if self._failures:
            _log.warning("MLflow is back after %d failed attempts; sent %d events that waited", self._failures, sent)
        self._failures = 0
        return sent

    def _pause(self, give_up: float | None) -> float:
        if give_up is not None or self._stop.is_set():
            time.sleep(0.2)  # the stop event is set already, so that waiting for it would spin
            return 0.0
        return min(MAX_BACKOFF_S, max(self._flush_s, 1.0) * 2.0 ** min(self._failures - 1, 6)) if self._failures else self._flush_s

    def _look_for_end(self) -> None:
        for event, after in read_events(self._run_dir / SPOOL, self._seen):
            self._seen = after
            if isinstance(event, Start | End):
                self._ended = self._drain or isinstance(event, End)

    def _leave(self) -> int:
        """Out of time: say what is left and, where possible, that the run was stopped."""
        if self._failures == 0 and not self._ended:
            try:
                self.writer.close("KILLED")
            except TrackingError as e:
                _log.warning("%s; the run stays RUNNING until the next start", e)
            return 0
        left = (self._run_dir / SPOOL).stat().st_size - self.writer.offset
        if left:
            _log.warning("%d bytes of the spool wait; send them with: python -m workers.tracker --run %s --drain", left, self._run_dir)
        return 1 if left else 0

    def _log_system(self) -> None:
        self._next_system = time.monotonic() + SYSTEM_S
        values = {
            "system/cpu_percent": psutil.cpu_percent(),
            "system/memory_percent": psutil.virtual_memory().percent,
            "system/disk_free_gib": shutil.disk_usage(self._run_dir).free / 2**30,
        }
        # Through the spool like everything else, so that an outage of the store loses none.
        try:
            self._spool.metrics(self.writer.last_step, values)
        except TrackingError as e:  # a full disk; what the spool holds can still be sent, and there may be room in a while
            _log.warning("%s; system metrics are left out", e)


def _lookup(config: Config, dotted: str) -> object:
    section, _, key = dotted.partition(".")
    return getattr(getattr(config, section), key)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m workers.tracker", description="Send the spool of a run to MLflow.")
    parser.add_argument("--run", type=Path, required=True, help="folder of the run")
    parser.add_argument("--drain", action="store_true", help="send what the spool holds, then exit")
    arguments = parser.parse_args(argv)
    logs.begin("tracker", RunDir(arguments.run))
    stop = threading.Event()

    def on_signal(number: int, frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    try:
        if not (arguments.run / "config.yaml").is_file():
            raise UsageError(f"{arguments.run} holds no config.yaml; --run takes the folder of a run")
        try:
            config = load_config([str(arguments.run / "config.yaml")])
        except ConfigError as e:
            raise UsageError(f"{arguments.run / 'config.yaml'}: {e}") from e
        return Tracker(arguments.run, config, arguments.drain, stop).run()
    except RunDeletedError as e:
        _log.warning("%s", e)
        return 0  # no error, after which it would be started again, and make the run again
    except PydreamingError as e:
        _log.error("error: %s", e)
        return e.exit_code


if __name__ == "__main__":
    sys.exit(main())
