"""One child process of the supervisor: how it is started, that it never outlives its parent, and how often it is started again."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from workers.logs import event_of

NICE = 15  # of workers: the learner and the user's own programs come first; a learner that waits for data leaves the processor to them
LESS = 5  # of what only tells: MLflow takes as long to load as a worker does
FIRST_DELAY_S, MAX_DELAY_S = 0.5, 10.0
HEALTHY_S = 30.0  # a process that lived so long starts again without delay
MAX_ERRORS = 5  # exits with an error in a row after which a process is given up
# How long a thread that waits spins before it sleeps: about .1 ms. Sleeping at once halved a learner's speed on one virtual
# machine (docs/performance.md); spinning for long takes processors from the other roles.
SPINS = "20000"
_PR_SET_PDEATHSIG = 1
_ROOT = Path(__file__).resolve().parent.parent


@dataclass
class Backoff:
    """How long to wait before a process that died is started again."""

    deaths: int = 0
    errors: int = 0

    def died(self, code: int, lived_s: float) -> float | None:
        """Seconds to wait; None to give up: it ends with an error (not by a signal) again and again."""
        if lived_s >= HEALTHY_S:
            self.deaths = self.errors = 0
        self.deaths += 1
        self.errors = self.errors + 1 if code > 0 else 0
        if self.errors >= MAX_ERRORS:
            return None
        return float(min(MAX_DELAY_S, FIRST_DELAY_S * 2 ** (self.deaths - 1)))


@dataclass
class Child:
    """A role's process.

    name: of the role. arguments: after the interpreter. log: file for its output, None for the console's.
    threads: of numerical libraries; 0: as many as they like.
    alive: file that it touches as a sign of life, None when it gives none.
    orphaned: signal that it gets when this process dies, however that happens; SIGKILL for a role that may hang and holds nothing.
    niceness: that it has from its beginning, so that what it loads keeps no other from starting. A worker has none: one that is started
      again beside a busy learner has to load with what that leaves.
    """

    name: str
    arguments: Sequence[str]
    log: Path | None
    threads: int = 0
    alive: Path | None = None
    orphaned: signal.Signals = signal.SIGTERM
    niceness: int = 0
    backoff: Backoff = field(default_factory=Backoff)
    process: subprocess.Popen[bytes] | None = None
    given_up: bool = False
    finished: bool = False
    _started: float = 0.0
    _group: int = 0
    _due: float | None = None
    _sign: int | None = None
    _signed: float | None = None

    def start(self) -> None:
        """Start the process."""
        self._started, self._due = time.monotonic(), None
        self._sign, self._signed = self._read_sign(), None
        output = self.log.open("ab") if self.log else None
        try:
            self.process = subprocess.Popen(
                [sys.executable, *self.arguments],
                env=role_environment(os.environ, self.threads),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                # Ctrl-C is the supervisor's, which ends its children in order. No session of their own: Linux shares the processors between
                # sessions first (autogroup), and the workers' niceness would count for nothing.
                process_group=0,
                preexec_fn=_before(self.orphaned, self.niceness),  # safe, as the supervisor has a single thread
            )
            self._group = self.process.pid
        finally:
            if output is not None:
                output.close()

    def poll(self) -> int | None:
        """The exit code, once, when the process has ended since the last call; otherwise None."""
        code = None if self.process is None else self.process.poll()
        if code is not None:
            self.process = None
        return code

    def silent_s(self) -> float:
        """Seconds without a sign of life, by this process's own clock; 0 while it starts, or has ended."""
        now, sign = time.monotonic(), self._read_sign()
        if self.process is not None and sign != self._sign:
            self._sign, self._signed = sign, now
        return 0.0 if self.process is None or self._signed is None else now - self._signed

    def _read_sign(self) -> int | None:
        try:
            return None if self.alive is None else self.alive.stat().st_mtime_ns
        except OSError:  # not made yet
            return None

    def plan_restart(self, code: int) -> float | None:
        """After an exit: s until `restart_due` starts it again, or None when it is given up."""
        delay = self.backoff.died(code, time.monotonic() - self._started)
        self.given_up = delay is None
        self._due = None if delay is None else time.monotonic() + delay
        return delay

    def restart_due(self) -> bool:
        """Start it again when its delay is over. Returns whether it was."""
        if self._due is None or time.monotonic() < self._due:
            return False
        self.start()
        return True

    def signal(self, number: signal.Signals) -> None:
        """Send the process a signal, if it runs; SIGKILL goes to whatever it has started, too."""
        self._due = None
        if self.process is None or self.process.poll() is not None:
            return
        if number == signal.SIGKILL:
            os.killpg(self.process.pid, number)
        else:
            self.process.send_signal(number)

    def kill_hung(self) -> None:
        """SIGKILL for one that is silent. It may take a while to go: only another sign of life makes it silent again."""
        self._signed = None
        self._sign = self._read_sign()
        self.signal(signal.SIGKILL)

    def kill_leftovers(self) -> None:
        """After its death: end what it had started, which would otherwise go on beside its successor's."""
        with contextlib.suppress(ProcessLookupError, PermissionError):  # nothing is left; another user's has the number now
            os.killpg(self._group, signal.SIGKILL)

    def last_words(self) -> str:
        """The last event of its log for a message."""
        if self.log is None or not self.log.is_file():
            return ""
        with self.log.open("rb") as file:
            file.seek(max(0, self.log.stat().st_size - 4096))
            lines = file.read().decode(errors="replace").strip().splitlines()
        line = event_of(lines[-1]) if lines else ""
        return line.partition("error: ")[2] or line


def describe_exit(code: int) -> str:
    """An exit code in words."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


def role_environment(base: Mapping[str, str], threads: int) -> dict[str, str]:
    """The environment of a role of `threads` threads, 0 for as many as it likes."""
    environment = dict(base)
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(_ROOT), base.get("PYTHONPATH")]))
    environment["PYTHONUNBUFFERED"] = "1"
    if threads:
        environment.update(dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads)))
    elif "OMP_WAIT_POLICY" not in base:
        environment.setdefault("GOMP_SPINCOUNT", SPINS)
    return environment


def _before(orphaned: signal.Signals, niceness: int) -> Callable[[], None]:
    """What the child does first: be nice, and ask Linux for a signal when the supervisor dies, however that happens."""
    # Looked up before the fork.
    prctl = ctypes.CDLL(None, use_errno=True).prctl if sys.platform.startswith("linux") else None
    parent = os.getpid()

    def prepare() -> None:
        os.nice(niceness)
        if prctl is not None:
            prctl(_PR_SET_PDEATHSIG, int(orphaned), 0, 0, 0)
            if os.getppid() != parent:  # it died in between
                os._exit(1)

    return prepare
