"""Five minutes of random faults on a real run: launch.py with every role, real speech, a real MLflow server.

    PYDREAMING_CHAOS_SECONDS=300 PYDREAMING_CHAOS_SEED=0 PYDREAMING_CHAOS_REPORT=chaos.json make chaos

The seed decides what is broken, when and for how long. Afterwards: every token of every finished pass is stored once, with the bits that
an undisturbed process writes; no half-written file is to be seen; MLflow holds each metric once; losses go on from checkpoints; no
process that lived through it uses more memory or files than before.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest
from faults import KILL, STOP, Fault, Kind, Role, Usage, as_json, draw, family, growth, sample, table, wait_until

from pydreaming.errors import PydreamingError
from pydreaming.replay.index import ReplayIndex
from pydreaming.tracking.names import display_name
from pydreaming.tracking.spool import SPOOL, Metrics, Start, read_events
from pydreaming.tracking.store import prepare_environment
from pydreaming.training.checkpoint import list_checkpoints, verify
from workers.layout import RunDir
from workers.serial import collect
from workers.ui import start_server, stop_server

ROOT = Path(__file__).resolve().parents[2]
SECONDS = float(os.environ.get("PYDREAMING_CHAOS_SECONDS", "300"))
SEED = int(os.environ.get("PYDREAMING_CHAOS_SEED", "0"))
pytestmark = [pytest.mark.chaos, pytest.mark.timeout(SECONDS + 900)]

SAMPLE_S, SETTLED = 2.0, 5  # s between two looks at memory and files; looks at a process's youth that do not count
RETURN_S = 240.0  # s in which a role has to work again; a busy host starts Python slowly
TTL_S = 12.0  # s; a host that is busy with other things may leave a worker without the processor for seconds
LONGEST_STOP_S = 20.0  # beyond a lease's time to live, so that work is taken from who was stopped
SETTINGS = (
    "--workers.count", "2", "--workers.passes", "0", "--workers.lease_items", "32", "--workers.lease_ttl_s", str(TTL_S),
    "--workers.beat_s", "0.2", "--source.max_files", "240", "--source.held_out", "0", "--replay.replay_ratio", "1",
    "--replay.slack_tokens", "20000", "--replay.shard_episodes", "8", "--training.steps", "1000000000", "--training.checkpoint_s", "3",
    "--training.log_s", "0.5", "--tracking.flush_s", "0.5", "--augment.shift", "0",  # all passes are alike
)  # fmt: skip


class System:
    """A run with all its processes, and the MLflow server beside it."""

    def __init__(self, folder: Path, source: Path) -> None:
        self.run = RunDir(folder / "run")
        self._folder, self._source = folder, source
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self.server = start_server(folder, self.port)
        self.console = folder / "console.log"
        self._launch: subprocess.Popen[bytes] | None = None
        self.begin()

    def begin(self) -> None:
        """Start launch.py, or go on with its run."""
        if self._launch is not None:
            self._launch.wait()
        new = ("--configs", "defaults", "fsdd", "debug", "--source.path", str(self._source), "--run.dir", str(self._folder))
        begun = self.run.config.exists()
        where = ("--resume", str(self.run.path)) if begun else (*new, "--run.name", "run", "--tracking.uri", self.uri, *SETTINGS)
        with self.console.open("ab") as output:
            self._launch = subprocess.Popen([sys.executable, str(ROOT / "launch.py"), *where], stdout=output, stderr=output, cwd=ROOT)

    def serve(self) -> None:
        """Start MLflow again; it takes its time."""
        with contextlib.suppress(PydreamingError):  # a process of the dead server still has the port: the caller tries again
            self.server = start_server(self._folder, self.port)

    @property
    def pid(self) -> int:
        assert self._launch is not None
        return self._launch.pid

    def ended(self) -> int | None:
        """The exit code of launch.py, None while it runs."""
        assert self._launch is not None
        return self._launch.poll()

    def roles(self) -> dict[Role, psutil.Process]:
        """Who is there now, stopped ones too."""
        there = family(self.pid)
        if self.ended() is None:
            there["launch.py"] = psutil.Process(self.pid)
        if self.server.poll() is None:
            there["mlflow"] = psutil.Process(self.server.pid)
        return there

    def mark(self, role: Role) -> float:
        """When a role last showed that it works (s since the epoch, by its files); 0: not yet."""
        try:
            if role == "learner":
                sign = self.run.path / "status/learner.json"
                return sign.stat().st_mtime if json.loads(sign.read_text())["pid"] == self.roles()["learner"].pid else 0.0
            if role == "tracker":
                return (self.run.path / "tracking/cursor.json").stat().st_mtime
            if role == "coordinator":
                return (self.run.path / "status/collection.json").stat().st_mtime
            if role.startswith("worker"):
                return (self.run.path / f"status/{role}.alive").stat().st_mtime
        except (OSError, ValueError, KeyError):  # not there yet
            return 0.0
        return 0.0

    def tail(self) -> str:
        with self.console.open("rb") as file:
            file.seek(max(0, self.console.stat().st_size - 20_000))
            return file.read().decode(errors="replace")

    def healthy(self, fault: Fault) -> bool:
        """Whether the role that the fault struck works again."""
        role, there = fault.role, self.roles()
        if fault.kind.role == "mlflow":
            return self.server.poll() is None and serves(self.port)
        if fault.kind.role == "launch.py":
            whole = self.pid not in fault.pids and {"learner", "coordinator", "tracker", "worker-0", "worker-1"} <= there.keys()
            return whole and self.mark("learner") > fault.mark
        if role not in there or (fault.kind.number == KILL and there[role].pid in fault.pids):
            return False
        return self.mark(role) > fault.mark

    def close(self) -> None:
        """Nothing outlives the test."""
        for process in [*family(self.pid).values()]:
            with_children = [*process.children(recursive=True), process]
            for one in with_children:
                one.kill()
        assert self._launch is not None
        self._launch.kill()
        self._launch.wait()
        stop_server(self.server)


def serves(port: int) -> bool:
    import urllib.error
    import urllib.request

    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2.0) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


class Chaos:
    """Breaks a system for a while, and watches it come back."""

    def __init__(self, system: System, rng: random.Random) -> None:
        self.system, self._rng, self._begin = system, rng, time.monotonic()
        self.faults: list[Fault] = []
        self.usage: dict[int, Usage] = {}
        self._sampled = 0.0
        self._starting: threading.Thread | None = None

    @property
    def now(self) -> float:
        return time.monotonic() - self._begin

    def strike_for(self, seconds: float) -> None:
        """One fault after the other, at random moments."""
        next_at = self.now + 2.0
        while self.now < seconds:
            self.watch()
            if self.now >= next_at:
                self._strike(draw(self._rng))
                next_at = self.now + self._rng.uniform(3.0, 9.0)
            time.sleep(0.1)

    def settle(self, seconds: float) -> None:
        """Until every role works again."""
        wait_until(lambda: self.watch() == 0, seconds, 0.2)

    def watch(self) -> int:
        """Let stopped processes go on, note who is back and what everybody uses; how many are not back yet."""
        for fault in self.faults:
            if fault.until and fault.until <= self.now and not fault.resumed:
                fault.resumed = True
                signal_all(fault.pids, signal.SIGCONT)
        self._start_again()
        open_faults = [fault for fault in self.faults if fault.survived_after is None and fault.until <= self.now]
        for fault in open_faults:
            if self.system.healthy(fault):
                fault.survived_after = round(self.now - max(fault.at, fault.until), 2)
        if self.now - self._sampled > SAMPLE_S:
            self._sampled = self.now
            stopped = {pid for fault in self.faults if fault.until > self.now for pid in fault.pids}
            sample(self.usage, {role: p for role, p in self.system.roles().items() if p.pid not in stopped and self._works(role, p)})
        return sum(fault.survived_after is None for fault in self.faults)

    def _works(self, role: Role, process: psutil.Process) -> bool:
        """Whether the process has begun to work; what it uses before does not tell."""
        if role == "mlflow":
            return False  # not ours
        try:
            return role == "launch.py" or self.system.mark(role) > process.create_time()
        except psutil.Error:
            return False

    def _start_again(self) -> None:
        """What a person or a service manager does: start MLflow and launch.py again."""
        if self.system.server.poll() is not None and not (self._starting and self._starting.is_alive()):
            self._starting = threading.Thread(target=self.system.serve, daemon=True)
            self._starting.start()
        if self.system.ended() == -KILL:
            self.system.begin()

    def _strike(self, kind: Kind) -> None:
        if kind.role == "launch.py":
            self.settle(60.0)
        there = self.system.roles()
        alive = [role for role in sorted(there) if role.rstrip("-01") == kind.role or role == kind.role]
        busy = {fault.role for fault in self.faults if fault.survived_after is None}
        free = [role for role in alive if role not in busy]
        if not free or (kind.role == "launch.py" and busy):
            return
        role = self._rng.choice(free)
        stopped_s = self._rng.uniform(0.5, LONGEST_STOP_S) if kind.number == STOP else 0.0
        await_moment(kind.moment, self.system, there[role].pid)
        pids = [there[role].pid]
        if kind.role == "mlflow":
            pids += [child.pid for child in there[role].children(recursive=True)]
        mark = self.system.mark("learner" if kind.role == "launch.py" else role)
        signal_all(pids, kind.number)
        at = self.now
        self.faults.append(Fault(kind, at, pids, mark, at + stopped_s if stopped_s else 0.0, role=role))


def await_moment(moment: str, system: System, pid: int) -> None:
    """Until the process is in the middle of a file, or of a checkpoint; at most a few seconds, as there may be nothing to write now."""
    if moment == "file":
        wait_until(lambda: list(system.run.replay(system.run.read_config()).glob(f"*.tmp-{pid}")), 3.0, 0.002)
    elif moment == "checkpoint":
        wait_until(lambda: list(system.run.checkpoints.glob(".step-*.tmp")), 6.0, 0.001)


def signal_all(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


# -- what must hold afterwards ----------------------------------------------------------------------------------------------------------


def stored(replay: Path) -> Iterator[tuple[int, tuple[str, int], bytes]]:
    """(pass, (recording, start sample), bits of the token) of every stored token."""
    for file in sorted(replay.glob("*.parquet")):
        columns = pq.read_table(file, columns=["source", "start_sample", "obs"]).to_pydict()
        for source, start, obs in zip(*columns.values(), strict=True):
            yield int(file.name[1:6]), (source, start), obs


def check_tokens(system: System, folder: Path) -> int:
    """Every token of every finished pass once, with the right bits, and nothing else; the number of finished passes."""
    config = system.run.read_config()
    reference = RunDir(folder / "reference")
    reference.path.mkdir()
    text = system.run.config.read_text().replace("passes: 0", "passes: 1").replace("replay_ratio: 1.0", "replay_ratio: 0.0")
    reference.config.write_text(text)
    reference.stats.write_bytes(system.run.stats.read_bytes())
    collect(reference, reference.read_config())
    expected = {token: obs for _, token, obs in stored(reference.replay(reference.read_config()))}
    seen: Counter[int] = Counter()
    twice: set[tuple[int, tuple[str, int]]] = set()
    for epoch, token, obs in stored(system.run.replay(config)):
        assert (epoch, token) not in twice, f"{token} of pass {epoch + 1} is stored twice"
        twice.add((epoch, token))
        assert expected[token] == obs
        seen[epoch] += 1
    state = json.loads(system.run.coordinator_state.read_text())
    for epoch in range(state["passes_done"]):
        assert seen[epoch] == len(expected), f"{len(expected) - seen[epoch]} tokens of pass {epoch + 1} are lost"
    assert state["written_tokens"] == sum(state["files"].values()) == sum(seen.values())
    return int(state["passes_done"])


def check_files(system: System) -> None:
    """Nothing half-written, nothing left over, nothing taken for unreadable."""
    index = ReplayIndex(system.run.replay(system.run.read_config()))
    index.refresh()
    assert index.damaged == {}
    assert [str(p) for p in system.run.path.rglob("*") if ".tmp" in p.name or p.name.startswith(".step-")] == []
    assert not system.run.quarantine.exists(), system.run.quarantine.read_text()
    for checkpoint in list_checkpoints(system.run.checkpoints):
        verify(checkpoint)
    said = system.console.read_text()
    assert "Traceback" not in said + "".join(log.read_text() for log in system.run.logs.glob("*.log")), said[-3000:]
    assert [line for line in said.splitlines() if line.startswith("error: ")] == []


def check_metrics(system: System) -> int:
    """MLflow has each point of the spool once; points that a resumed session draws again are left out. Returns their number."""
    prepare_environment()
    import mlflow

    expected: list[tuple[int, float]] = []
    redo = peak = -1
    for record in read_events(system.run.path / SPOOL):
        assert record.event is not None
        if isinstance(record.event, Start):
            redo = peak
        elif isinstance(record.event, Metrics) and "learning/loss" in record.event.values and record.event.step > redo:
            expected.append((record.event.step, record.event.values["learning/loss"]))
            peak = max(peak, record.event.step)
    client = mlflow.MlflowClient(tracking_uri=system.uri)
    run_id = json.loads((system.run.path / "mlflow_run.json").read_text())["run_id"]
    history = [(p.step, p.value) for p in client.get_metric_history(run_id, display_name("learning/loss"))]
    assert sorted(history) == sorted(expected)
    return len(expected)


def steps_lost(system: System) -> list[int]:
    """Of each session but the first: steps that the one before had logged beyond the checkpoint it goes on from."""
    lost, last = list[int](), 0
    for record in read_events(system.run.path / SPOOL):
        if isinstance(record.event, Start):
            if last:
                lost.append(max(0, last - record.event.step))
        elif isinstance(record.event, Metrics) and "learning/loss" in record.event.values:
            last = record.event.step
    return lost


def check_usage(usage: dict[int, Usage]) -> None:
    """Whoever lived long enough to tell uses no more than it did."""
    for own in usage.values():
        if len(own.descriptors) < SETTLED + 6:
            continue
        descriptors, later, memory, later_mb = growth(own, SETTLED)
        assert later <= descriptors + 4, f"{own.role}: {descriptors} file descriptors, then {later}"
        assert later_mb <= 1.15 * memory + 25, f"{own.role}: {memory:.0f} MB, then {later_mb:.0f}"


def test_random_faults(data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    system = System(tmp_path, data_dir / "fsdd")
    try:
        assert wait_until(lambda: list_checkpoints(system.run.checkpoints), 300.0), system.tail()
        chaos = Chaos(system, random.Random(SEED))
        chaos.strike_for(SECONDS)
        chaos.settle(RETURN_S)
        os.kill(system.pid, signal.SIGINT)
        assert wait_until(lambda: system.ended() is not None, 120.0), system.tail()
        assert system.ended() == 0, system.tail()
        drain = [sys.executable, "-m", "workers.tracker", "--run", str(system.run.path), "--drain"]
        subprocess.run(drain, check=True, timeout=240, cwd=ROOT)
        facts = {"seed": SEED, "seconds": SECONDS, "steps_lost": steps_lost(system)}
        report = Path(os.environ.get("PYDREAMING_CHAOS_REPORT", tmp_path / "chaos.json"))
        report.write_text(as_json(chaos.faults, chaos.usage, SETTLED, **facts))
        lines = [*table(chaos.faults), "", f"Seed {SEED}, {SECONDS:.0f} s. Steps done again at each resumption: {facts['steps_lost']}."]
        report.with_suffix(".md").write_text("\n".join(lines) + "\n")
        with capsys.disabled():
            print("", *lines, sep="\n")
        check_files(system)
        passes, points = check_tokens(system, tmp_path), check_metrics(system)
        assert [fault for fault in chaos.faults if fault.survived_after is None] == []
        check_usage(chaos.usage)
        with capsys.disabled():
            print(f"{passes} whole passes, every token once; {points} points of the loss in MLflow, each once; report in {report}")
        assert SECONDS < 60 or passes > 0
    finally:
        system.close()
