"""Faults of a running system, at random but repeatable: what is broken, how it shows that it has come back, and what it cost.

A fault strikes one role. It has survived when that role works again: the same process or another one, further than before.
"""

from __future__ import annotations

import json
import random
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

Role = str  # worker-0, worker-1, learner, coordinator, tracker, mlflow, launch.py
KILL, STOP = signal.SIGKILL, signal.SIGSTOP


@dataclass(frozen=True)
class Kind:
    """One sort of fault. moment: that is waited for, at most a few seconds ("file", "checkpoint"). weight: how often it is drawn."""

    name: str
    role: Role
    number: signal.Signals
    weight: int = 1
    moment: str = ""


KINDS = (
    Kind("worker killed in mid-file", "worker", KILL, 3, "file"),
    Kind("worker stopped in mid-file", "worker", STOP, 3, "file"),
    Kind("learner killed", "learner", KILL, 2),
    Kind("learner killed in mid-checkpoint", "learner", KILL, 2, "checkpoint"),
    Kind("learner stopped", "learner", STOP, 1),
    Kind("coordinator killed", "coordinator", KILL, 2),
    Kind("coordinator stopped", "coordinator", STOP, 1),
    Kind("tracker killed", "tracker", KILL, 1),
    Kind("tracker stopped", "tracker", STOP, 1),
    Kind("MLflow killed", "mlflow", KILL, 2),
    Kind("MLflow stopped", "mlflow", STOP, 1),
    Kind("launch.py killed, then --resume", "launch.py", KILL, 2),
)


@dataclass
class Fault:
    """One that happened. Times in s since the beginning; `mark` is the role's last sign of work, `until` when a stopped process goes on."""

    kind: Kind
    at: float
    pids: list[int]
    mark: float
    until: float = 0.0
    survived_after: float | None = None
    role: Role = ""  # that was struck
    resumed: bool = False


@dataclass
class Usage:
    """File descriptors and anonymous memory (MB) of one process over its life, a sample every few seconds."""

    role: Role
    descriptors: list[int] = field(default_factory=list)
    memory_mb: list[float] = field(default_factory=list)


def draw(rng: random.Random, kinds: Sequence[Kind] = KINDS) -> Kind:
    """The next fault."""
    return rng.choices(kinds, [kind.weight for kind in kinds])[0]


def role_of(process: psutil.Process) -> Role | None:
    """What a process of a run is, from its command line."""
    try:
        words = process.cmdline()
    except psutil.Error:
        return None
    if "workers.audio_worker" in words:
        return f"worker-{words[words.index('--name') + 1].rpartition('-')[2]}"
    return next((role for role in ("learner", "coordinator", "tracker") if f"workers.{role}" in words), None)


def family(supervisor: int) -> dict[Role, psutil.Process]:
    """The roles' processes below a launch.py; empty when that is gone."""
    try:
        children = psutil.Process(supervisor).children()
    except psutil.Error:
        return {}
    return {role: child for child in children if (role := role_of(child)) is not None}


def sample(usage: dict[int, Usage], roles: dict[Role, psutil.Process]) -> None:
    """Note what each process uses now."""
    for role, process in roles.items():
        try:
            descriptors, memory = process.num_fds(), anonymous_mb(process.pid)
        except (psutil.Error, OSError):  # it has just ended
            continue
        own = usage.setdefault(process.pid, Usage(role))
        own.descriptors.append(descriptors)
        own.memory_mb.append(memory)


def anonymous_mb(pid: int) -> float:
    """Memory that is the process's own: mapped replay files, which the system takes back when it likes, are not."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Anonymous:"):
            return int(line.split()[1]) / 1024
    raise OSError(f"no smaps_rollup for {pid}")


def growth(own: Usage, settled: int) -> tuple[float, float, float, float]:
    """Descriptors and MB (early, late): medians of three samples, the first ones after `settled` samples of warming up."""

    def ends(values: Sequence[float]) -> tuple[float, float]:
        return sorted(values[settled : settled + 3])[1], sorted(values[-3:])[1]

    return (*ends(own.descriptors), *ends(own.memory_mb))


def table(faults: Sequence[Fault]) -> list[str]:
    """The faults by kind, as lines of Markdown."""
    rows = ["| fault | injected | survived | lost | slowest return (s) |", "|---|---|---|---|---|"]
    for kind in KINDS:
        own = [fault for fault in faults if fault.kind == kind]
        back = [fault.survived_after for fault in own if fault.survived_after is not None]
        slowest = f"{max(back):.1f}" if back else "-"
        rows.append(f"| {kind.name} | {len(own)} | {len(back)} | {len(own) - len(back)} | {slowest} |")
    return rows


def as_json(faults: Sequence[Fault], usage: dict[int, Usage], settled: int, **facts: object) -> str:
    """Everything, for a file."""
    kinds = [
        {"fault": k.name, "injected": len(own), "survived": len([f for f in own if f.survived_after is not None])}
        for k, own in ((k, [f for f in faults if f.kind == k]) for k in KINDS)
    ]
    events = [
        {"fault": f.kind.name, "at_s": round(f.at, 2), "stopped_s": round(max(0.0, f.until - f.at), 2), "back_after_s": f.survived_after}
        for f in faults
    ]
    processes = [
        {"role": own.role, "pid": pid, "samples": len(own.descriptors), **dict(zip(_USAGE, growth(own, settled), strict=True))}
        for pid, own in usage.items()
        if len(own.descriptors) >= settled + 6
    ]
    return json.dumps({**facts, "kinds": kinds, "faults": events, "processes": processes}, indent=1)


_USAGE = ("descriptors_before", "descriptors_after", "memory_mb_before", "memory_mb_after")


def wait_until(what: Callable[[], object], seconds: float, poll_s: float = 0.05) -> bool:
    """Whether it came true in time."""
    end = time.monotonic() + seconds
    while not what():
        if time.monotonic() > end:
            return False
        time.sleep(poll_s)
    return True
