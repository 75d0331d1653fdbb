"""Runs the processes of one host: starts them in order, starts dead ones again, and ends all of them together.

    coordinator ---> workers, learner, tracker ---> (the learner ends, or a signal comes) ---> learner, workers, coordinator, tracker

A role that dies or hangs is started again; the learner goes on from its last checkpoint where a signal killed it (the system's, when memory
is short, say), and ends the run where it ends by itself.
Children end with the supervisor even when it is killed (see children). A second signal kills at once.
"""

from __future__ import annotations

import logging
import math
import signal
import socket
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from types import FrameType
from typing import Literal

from pydreaming.config import Config
from pydreaming.errors import PydreamingError, UsageError
from pydreaming.tracking.live import COLLECTION, FOLDER
from workers.children import LESS, MAX_ERRORS, Child, describe_exit
from workers.layout import RunDir

log = logging.getLogger("supervisor")

Role = Literal["coordinator", "worker", "learner", "tracker"]
ALL: frozenset[Role] = frozenset({"coordinator", "worker", "learner", "tracker"})
LEARNER_HOST: frozenset[Role] = frozenset({"coordinator", "learner", "tracker"})
WORKER_HOST: frozenset[Role] = frozenset({"worker"})

POLL_S = 0.1
ANNOUNCE_S = 20.0  # s between two lines about one wait
LEARNER_END_S = 30.0  # s for its last checkpoint: of a large model, on a slow disk, on a busy host; a second signal does not wait
OTHERS_END_S = 5.0
HUNG_TTLS = 2.0  # times of a lease without a sign of life after which a worker is replaced: its lease is lost by then
HUNG_COORDINATOR_S = 20.0  # s at least for the coordinator, whose sign of life is its status file
TRACKER_END_S = 40.0  # s for the rest of the spool to reach the tracking server; where nothing does, the tracker itself gives up before


class RunError(PydreamingError):
    """The run cannot go on; the message is the failing role's own."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class Supervisor:
    """The processes of a run on this host.

    Args:
      run_dir: the run's folder with its config.yaml (not needed for WORKER_HOST, where only logs go there).
      config: of the run.
      roles: ALL, LEARNER_HOST or WORKER_HOST. With ALL and workers.count 0 there is neither coordinator nor worker: the learner
        trains from a finished store.
      resume: passed on to the learner.
      say: takes one line for the user.
    """

    def __init__(
        self, run_dir: Path, config: Config, roles: Collection[Role] = ALL, resume: bool = False, say: Callable[[str], None] = log.info
    ) -> None:
        self._run, self._config, self._say = RunDir(run_dir), config, say
        self._remote = "coordinator" not in roles
        offline = "worker" in roles and not config.workers.count and not self._remote
        count = config.workers.count if "worker" in roles else 0
        if self._remote and not count:
            raise UsageError("workers.count is 0: this host would run nothing")
        run = ["--run", str(run_dir)]
        self._coordinator = None if self._remote or offline else self._child("coordinator", run, threads=1)
        if self._coordinator is not None:
            self._coordinator.alive = run_dir / FOLDER / COLLECTION
            self._coordinator.orphaned = signal.SIGHUP  # the run has not ended: workers of other hosts wait until it is gone on with
        self._workers = [self._worker(i) for i in range(count)]
        learner = "learners" if config.training.processes > 1 else "learner"
        self._learner = self._child(learner, run, log=False, name="learner") if "learner" in roles else None
        if self._learner is not None:
            self._learner.alive = self._run.learner_alive
        self._learner_deaths, self._reached = 0, ""  # since the newest checkpoint, and its name
        if resume:
            self._resume_learner()
        self._tracker = self._child("tracker", run, niceness=LESS) if "tracker" in roles else None
        self._exporter = self._child("exporter", run, niceness=LESS) if "tracker" in roles and config.tracking.prometheus else None
        self._signals = 0
        self._learner_done = False  # it has ended by itself, and said so in the spool

    def run(self) -> int:
        """Run until the learner ends (without one: until the workers do), or a signal.

        Returns: the learner's exit code; 0 or 1 without a learner.
        Raises RunError: the coordinator cannot work, or every worker has failed. UsageError: logs cannot be written.
        """
        try:
            for folder in (self._run.logs, self._run.path / FOLDER):
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise UsageError(f"cannot write to {self._run.logs}: {e.strerror}; choose another --run.dir") from e
        before = {number: signal.signal(number, self._on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            if not self._remote:
                self._run.coordinator.unlink(missing_ok=True)
            if self._coordinator is not None:
                self._coordinator.start()
                self._await_coordinator()
            for child in self._children():
                if child is not self._coordinator and not self._signals:
                    child.start()
            code = self._watch()
            if self._learner_done and code == 0 and self._tracker is not None:  # told by the spool, it ends when all is sent
                self._wait_for([self._tracker], TRACKER_END_S)  # asked to end below, it says what is left
            return code
        finally:
            self._end()
            for number, handler in before.items():
                signal.signal(number, handler)

    # -- running ------------------------------------------------------------------------------------------------------------------------

    def _await_coordinator(self) -> None:
        """Until it listens. Raises RunError with its error."""
        begun = announced = time.monotonic()
        self._say("waiting for the coordinator to list the recordings ...")
        while not self._signals:
            there = self._run.read_coordinator()
            if there is not None and not there.error:
                return
            self._check_coordinator()
            if time.monotonic() - announced > ANNOUNCE_S:
                announced = time.monotonic()
                self._say(f"still waiting for the coordinator ({announced - begun:.0f} s)")
            time.sleep(POLL_S)

    def _watch(self) -> int:
        while not self._signals:
            time.sleep(POLL_S)
            self._replace_hung()
            self._check_coordinator()
            for worker in self._workers:
                self._check(worker)
            for child in (self._tracker, self._exporter):
                if child is not None:
                    self._check(child)
            if self._learner is None:
                if self._workers and all(w.finished or w.given_up for w in self._workers):
                    return 1 if any(w.given_up for w in self._workers) else 0
            elif (code := self._check_learner(self._learner)) is not None:
                return code
            if self._workers and all(w.given_up for w in self._workers):
                raise RunError(f"every worker has failed: {self._workers[0].last_words()}")
        self._say("ending ...")
        return self._end_learner()

    def _replace_hung(self) -> None:
        """Kill processes that hang, in a decoder, in a driver, or on a disk that does not answer; their checks then start them again."""
        for child in filter(None, (self._coordinator, *self._workers, self._learner)):
            if (silent := child.silent_s()) > self._patience_s(child):
                self._say(f"{child.name} has shown no sign of life for {silent:.0f} s and is killed")
                child.kill_hung()

    def _patience_s(self, child: Child) -> float:
        """How long it may be silent."""
        if child is self._learner:
            return self._config.training.hung_s or math.inf
        leases = HUNG_TTLS * self._config.workers.lease_ttl_s
        return max(leases, HUNG_COORDINATOR_S) if child is self._coordinator else leases

    def _check(self, child: Child) -> None:
        """Take note of an exit; start the process again when that is due."""
        if child.restart_due():
            self._say(f"{child.name} is started again")
        code = child.poll()
        if code is None:
            return
        if code == 0:
            child.finished = True
            return
        delay = child.plan_restart(code)
        then = "it is given up" if delay is None else f"to be started again in {delay:.1f} s"
        cause = f": {child.last_words()}" if code > 0 else ""
        self._say(f"{child.name} has ended ({describe_exit(code)}{cause}), {then}; see {child.log}")

    def _check_learner(self, learner: Child) -> int | None:
        """The code to end with, once the learner has ended by itself or is killed again and again without getting any further."""
        if learner.restart_due():
            self._say("the learner is started again")
        code = learner.poll()
        if code is None:
            return None
        learner.kill_leftovers()
        if code >= 0:
            self._learner_done = True
            return code
        newest = max((path.name for path in self._run.checkpoints.glob("step-*")), default="")
        self._learner_deaths = 1 if newest > self._reached else self._learner_deaths + 1
        self._reached = newest
        if self._learner_deaths >= MAX_ERRORS:
            self._say(f"the learner has ended {self._learner_deaths} times ({describe_exit(code)}) without a further checkpoint: given up")
            return 128 - code
        self._resume_learner()
        learner.plan_restart(code)
        self._say(f"the learner has ended ({describe_exit(code)}) and will go on from {newest or 'the beginning'}")
        return None

    def _resume_learner(self) -> None:
        if self._learner is not None and "--resume" not in self._learner.arguments:
            self._learner.arguments = [*self._learner.arguments, "--resume"]

    def _check_coordinator(self) -> None:
        if self._coordinator is None:
            return
        if self._coordinator.restart_due():
            self._say("the coordinator is started again")
        code = self._coordinator.poll()
        if code is None:
            return
        said = self._run.read_coordinator()
        if said is not None and said.error:
            raise RunError(said.error, said.exit_code)
        self._run.coordinator.unlink(missing_ok=True)
        if self._coordinator.plan_restart(code) is None:
            raise RunError(f"the coordinator fails again and again: {self._coordinator.last_words()}")
        self._say(f"the coordinator has ended ({describe_exit(code)}) and will be started again; see {self._coordinator.log}")

    # -- ending -------------------------------------------------------------------------------------------------------------------------

    def _end_learner(self) -> int:
        """End the learner, and the workers beside it; the learner's exit code."""
        for child in [*filter(None, [self._learner]), *self._workers]:
            child.signal(signal.SIGTERM)
        if self._learner is None or self._learner.process is None:
            return 0
        process = self._learner.process
        self._reap([self._learner], LEARNER_END_S)
        code = process.wait()
        self._learner_done = code >= 0
        if code == -signal.SIGTERM:  # it was still starting and did not listen to signals yet: nothing is lost
            return 0
        return code if code >= 0 else 128 - code

    def _end(self) -> None:
        """End whatever still runs, in the order in which nobody is left waiting."""
        self._end_learner()
        self._reap(self._workers, OTHERS_END_S)
        last = [child for child in (self._coordinator, self._tracker, self._exporter) if child is not None]
        for child in last:
            child.signal(signal.SIGTERM)
        self._reap(last, 2 * OTHERS_END_S)

    def _reap(self, children: Sequence[Child], seconds: float) -> None:
        """Wait until they have ended; kill them after `seconds`, or at a second signal."""
        for child in self._wait_for(children, seconds):
            self._say(f"{child.name} does not end and is killed")
            child.signal(signal.SIGKILL)
            if child.process is not None:
                child.process.wait()

    def _wait_for(self, children: Sequence[Child], seconds: float) -> list[Child]:
        """Wait until they have ended; returns those that have not after `seconds`, or at a second signal."""
        begun = announced = time.monotonic()
        signals = self._signals
        while running := [c for c in children if c.process is not None and c.process.poll() is None]:
            now = time.monotonic()
            if now - begun > seconds or self._signals > max(1, signals):
                return running
            if now - announced > 3.0:
                announced = now
                self._say(f"waiting for {', '.join(c.name for c in running)} to end ...")
            time.sleep(POLL_S / 2)
        return []

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._signals += 1

    # -- the processes ------------------------------------------------------------------------------------------------------------------

    def _children(self) -> list[Child]:
        return [c for c in (self._coordinator, *self._workers, self._tracker, self._exporter, self._learner) if c is not None]

    def _child(self, role: str, arguments: Sequence[str], log: bool = True, threads: int = 0, name: str = "", niceness: int = 0) -> Child:
        name = name or role
        output = self._run.logs / f"{name}.log" if log else None
        return Child(name, ["-m", f"workers.{role}", *arguments], output, threads, niceness=niceness)

    def _worker(self, number: int) -> Child:
        c = self._config
        name = f"worker-{number}"
        arguments = ["--name", f"{_host_name()}-{number}"]
        if self._remote:
            arguments += ["--address", c.coordinator.address]
            arguments += ["--root", c.source.root] if c.source.root else []
            arguments += ["--replay", c.replay.dir] if c.replay.dir else []
        else:
            arguments += ["--run", str(self._run.path)]
        arguments += ["--keys", c.coordinator.keys] if c.coordinator.keys else []
        arguments += ["--logs", c.tracking.logs]
        alive = self._run.path / FOLDER / f"{name}.alive"
        child = self._child("audio_worker", [*arguments, "--alive", str(alive)], threads=1, name=name)
        child.alive = alive
        # One that hangs in a decoder answers no SIGTERM. What it has in hand is done again by another, as after any other death.
        child.orphaned = signal.SIGKILL
        return child


def _host_name() -> str:
    """This host's name, as far as it may stand in a peer's name."""
    kept = "".join(ch if ch.isascii() and (ch.isalnum() or ch in "-._") else "-" for ch in socket.gethostname()).lstrip("-._")
    return kept[:100] or "host"
