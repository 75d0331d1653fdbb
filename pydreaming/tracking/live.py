"""How a run is doing right now: small files that its processes replace every few seconds, and that anyone who sees its folder may read.

    RUN/status/collection.json    by the coordinator
    RUN/status/learner.json       by the learner

No socket is asked, so that a run can be looked at from any host that sees its folder, with MLflow away, and after it has died.
"""

from __future__ import annotations

import logging
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import msgspec

from pydreaming.errors import PydreamingError

log = logging.getLogger(__name__)

FOLDER = "status"
COLLECTION, LEARNER = "collection.json", "learner.json"
Phase = Literal["training", "waiting", "evaluating", "finished", "stopped"]
ENDS = ("finished", "stopped")
MAX_ROWS = 40  # workers that are shown one by one
LATE_S = 15.0  # s after a sign of life was due that a process is still taken to be alive


class WorkerNow(msgspec.Struct, frozen=True):
    """One worker: seconds since its last message, its lease (-1: none), and rates over the last half minute.

    `age_s` is the time since it joined (over reconnections), `clips` what its process has read since it began.
    """

    name: str
    host: str
    silent_s: float
    lease: int
    clips_per_s: float
    audio_per_s: float
    age_s: float = 0.0
    clips: int = 0


class CollectionNow(msgspec.Struct, frozen=True):
    """The coordinator's view.

    `time` is s since the epoch; it writes again within `due_s`. `leases` are in hands now; `capacity_tokens` is what the store may hold,
    `recordings` what the present pass covers, `recordings_done` those of them that are done, unreadable ones included (0 where a run of an
    earlier version did not say), `began` when this coordinator did (0 likewise); the rest as in `workers.protocol.Status`.
    """

    time: float
    due_s: float
    pid: int
    address: str
    phase: str
    written_tokens: int
    stored_tokens: int
    files: int
    unreadable: int
    leases: int
    passes_done: int
    pass_share: float
    exhausted: bool
    dropped_messages: int
    workers: list[WorkerNow]
    capacity_tokens: int = 0
    recordings_done: int = 0
    recordings: int = 0
    began: float = 0.0


class LearnerNow(msgspec.Struct, frozen=True):
    """The learner's view. `time` and `due_s` as above.

    `progress` is the share of the run that is done; `wait_share` the share of time in which it waited for data; `replay_ratio` how often
    each collected token was trained on (0 where that is not known); `checkpoint` the newest, "" for none, written at `checkpoint_time`.
    """

    time: float
    due_s: float
    pid: int
    phase: Phase
    step: int
    progress: float
    seconds: float
    steps_per_s: float
    wait_share: float
    loss: float
    replay_ratio: float
    checkpoint: str
    checkpoint_time: float = 0.0
    trained_tokens: int = 0
    tokens_per_s: float = 0.0
    non_finite_steps: int = 0


View = TypeVar("View", CollectionNow, LearnerNow)


@dataclass(frozen=True)
class RunNow:
    """What is known of a run: None where a process has not said anything yet.

    `quarantined` counts lines of its quarantine list, `quarantined_of_evaluation` those of the list of the recordings it is evaluated on.
    """

    path: Path
    collection: CollectionNow | None
    learner: LearnerNow | None
    quarantined: int
    quarantined_of_evaluation: int = 0

    @property
    def last_heard(self) -> float:
        """Time of the last sign of life, s since the epoch; 0 for none."""
        return max((view.time for view in (self.collection, self.learner) if view is not None), default=0.0)

    def alive(self, now: float) -> bool:
        """Whether the run goes on: it has not ended, and one of its processes has shown itself in time."""
        return not self.ended and (heard_in_time(self.collection, now) or heard_in_time(self.learner, now))

    @property
    def ended(self) -> bool:
        """Whether the learner has said so, and no coordinator has begun again since."""
        if self.learner is None or self.learner.phase not in ENDS:
            return False
        if self.collection is None:
            return True
        if not self.collection.began:
            return self.collection.time < self.learner.time + LATE_S
        # It goes on showing itself for as long as MLflow takes to get the rest, so its last sign of life says nothing.
        return self.collection.began < self.learner.time


def heard_in_time(view: CollectionNow | LearnerNow | None, now: float) -> bool:
    """Whether a process has shown itself since it was due."""
    return view is not None and now - view.time < view.due_s + LATE_S


def publish(run: Path, view: CollectionNow | LearnerNow) -> None:
    """Replace the file of one process. A disk that refuses is logged: nobody's work depends on this file."""
    path = run / FOLDER / (COLLECTION if isinstance(view, CollectionNow) else LEARNER)
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        path.parent.mkdir(exist_ok=True)
        temporary.write_bytes(msgspec.json.encode(view))
        temporary.replace(path)
    except OSError as e:
        log.warning("the status file %s cannot be written: %s", path, e.strerror or e)


def read_run(run: Path) -> RunNow:
    """What a run's processes last said. Raises PydreamingError: no run there."""
    if not (run / "config.yaml").is_file():
        raise PydreamingError(f"no run at {run}: name a folder that launch.py has made, such as runs/my-run")
    lists = (run / "quarantine.jsonl", run / "eval_set/quarantine.jsonl")
    lines = (path.read_bytes().count(b"\n") if path.is_file() else 0 for path in lists)
    return RunNow(run, _read(run, COLLECTION, CollectionNow), _read(run, LEARNER, LearnerNow), *lines)


def describe(run: RunNow, now: float | None = None) -> list[str]:
    """Lines for people."""
    now = time.time() if now is None else now
    lines = [f"{run.path.name}: {_state(run, now)}"]
    if (learner := run.learner) is not None:
        refused = f" · {learner.non_finite_steps} steps refused" if learner.non_finite_steps else ""
        speed = f"{learner.steps_per_s:.1f} steps/s · loss {learner.loss:.3f}{refused}"
        doing = f"step {learner.step}, {learner.progress:.0%} of the run · {speed}"
        lines.append(f"learner     {doing} · waits for data {learner.wait_share:.1%} of the time · {_ago(now - learner.time)}")
        lines.append(f"checkpoint  {_checkpoint(learner, now)}")
    if (c := run.collection) is not None:
        of = f" ({_count(c.recordings_done)} of {_count(c.recordings)} recordings)" if c.recordings else ""
        share = "all passes done" if c.exhausted else f"pass {c.passes_done + 1}, {c.pass_share:.0%} done{of}"
        doing = "measuring statistics" if c.phase == "measure" else share
        written = f"{c.leases} leases in hand · {_count(c.written_tokens)} tokens written"
        lines.append(f"collection  {doing} · {written} · {_ago(now - c.time)}")
        ratio = f" · each trained on {learner.replay_ratio:.1f} times" if learner is not None and learner.replay_ratio else ""
        fill = f" · {c.stored_tokens / c.capacity_tokens:.0%} of replay.capacity_tokens" if c.capacity_tokens else ""
        lines.append(f"replay      {_count(c.stored_tokens)} tokens in {_count(c.files)} files{fill}{ratio}")
        count = run.quarantined_of_evaluation
        also = f", {count} of the evaluation (eval_set/quarantine.jsonl)" if count else ""
        lines.append(f"refused     {c.unreadable} recordings unreadable (quarantine.jsonl){also} · {c.dropped_messages} messages dropped")
        # Rates and leases of a run that goes on no more are nobody's.
        lines += _workers(c.workers) if run.alive(now) else [f"workers     {len(c.workers)} when last heard of"]
    return lines


def as_json(run: RunNow, now: float | None = None) -> str:
    """The same for programs: run, alive, silent_s, collection, learner, quarantined, quarantined_of_evaluation."""
    now = time.time() if now is None else now
    silent = now - run.last_heard if run.last_heard else None
    content = {"run": str(run.path), "alive": run.alive(now), "silent_s": silent, "quarantined": run.quarantined}
    content["quarantined_of_evaluation"] = run.quarantined_of_evaluation
    return msgspec.json.format(msgspec.json.encode(content | {"collection": run.collection, "learner": run.learner}), indent=2).decode()


def _state(run: RunNow, now: float) -> str:
    if not run.last_heard:
        return "nothing has been heard of it yet"
    if run.ended and run.learner is not None:
        return f"{run.learner.phase} {_ago(now - run.learner.time)}"
    if not run.alive(now):
        return f"not running; last heard of {_ago(now - run.last_heard)}"
    if run.learner is None:
        return "collecting"
    if not heard_in_time(run.learner, now):
        return "running, but its learner is silent"
    return "waiting for workers" if run.learner.phase == "waiting" else run.learner.phase


def _workers(workers: list[WorkerNow]) -> list[str]:
    if not workers:
        return ["workers     none connected"]
    shown = sorted(workers, key=lambda w: w.silent_s, reverse=True)[:MAX_ROWS]
    width = max(len(worker.name) for worker in shown)
    rows = [
        f"  {w.name:<{width}}  {w.clips_per_s:8.1f} recordings/s {w.audio_per_s:8.0f} x real time  "
        f"{'idle' if w.lease < 0 else 'at work'}, heard of {_ago(w.silent_s)}, joined {_ago(w.age_s)}"
        for w in sorted(shown, key=lambda w: (w.host, w.name))
    ]
    total = f"{sum(w.clips_per_s for w in workers):.1f} recordings/s, {sum(w.audio_per_s for w in workers):.0f} x real time"
    rest = [f"  ... and {len(workers) - MAX_ROWS} that were heard of later (--json has all)"] if len(workers) > MAX_ROWS else []
    return [f"workers     {len(workers)} · {total}", *rows, *rest]


def _checkpoint(learner: LearnerNow, now: float) -> str:
    if not learner.checkpoint:
        return "none yet"
    age = f", {_ago(now - learner.checkpoint_time)}" if learner.checkpoint_time else ""
    return f"{Path(learner.checkpoint).name}{age}"


def _count(number: int) -> str:
    return f"{number:,}".replace(",", " ")


def _ago(seconds: float) -> str:
    for limit, size, unit in ((120.0, 1.0, "s"), (7200.0, 60.0, "min"), (172_800.0, 3600.0, "h")):
        if seconds < limit:
            return f"{max(0.0, seconds) / size:.0f} {unit} ago"
    return f"{seconds / 86_400:.0f} days ago"


def _read(run: Path, name: str, kind: type[View]) -> View | None:
    path = run / FOLDER / name
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as e:
        raise PydreamingError(f"{path} cannot be read: {e}") from e
