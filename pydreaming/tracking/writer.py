"""Carries the events of a spool to MLflow, in order, each exactly once, however often the store goes away in between.

The cursor (byte offset into the spool) moves on only after the store has taken what lies before it. What was sent but not yet noted is
sent again after a crash; MLflow ignores points it already has, and all other requests replace what they wrote.
"""

from __future__ import annotations

import logging
import math
import os
import socket
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import msgspec
import psutil

from pydreaming.errors import TrackingError, redact
from pydreaming.tracking import spool as events
from pydreaming.tracking.names import display_name, image_key
from pydreaming.tracking.spool import SPOOL, read_events
from pydreaming.tracking.store import MAX_BATCH, Point, RefusedError, Store
from pydreaming.tracking.views import MAX_TAG, VIEW_TAG, dashboard, dashboard_content

CURSOR = "tracking/cursor.json"
RUN_FILE = "mlflow_run.json"

_KEY, _HOST, _PID, _BORN = "pydreaming.key", "pydreaming.host", "pydreaming.pid", "pydreaming.pid_started"
_MAX_ATTEMPTS = 5  # for one artifact, while the store itself answers
_File = TypeVar("_File", bound=msgspec.Struct)
_log = logging.getLogger(__name__)


class RunFile(msgspec.Struct):
    """RUN/mlflow_run.json: which MLflow run this is. `key` finds the run when the answer that named its id was lost."""

    uri: str
    experiment: str
    key: str
    experiment_id: str = ""
    run_id: str = ""


class Cursor(msgspec.Struct):
    """RUN/tracking/cursor.json: how much of the spool the run `run_id` has.

    `status` is the state that the events so far say, `peaks` the last step drawn of each metric. A resumed session steps back to its
    checkpoint and passes through steps that are drawn already; `redo` holds the peaks of that moment, and points up to them are left
    out, or the lines would zig-zag. `images` are the image series of the run.
    """

    run_id: str = ""
    offset: int = 0
    peaks: dict[str, int] = {}
    redo: dict[str, int] = {}
    images: list[str] = []
    status: str = "RUNNING"


class RunDeletedError(TrackingError):
    """Somebody deleted the run in MLflow; its tracker has nothing left to do."""


class SpoolWriter:
    """Sends the spool of the run in `run_dir` to the store at `uri`.

    Args:
      run_dir: folder of the run; holds the spool, the cursor and mlflow_run.json.
      uri: explicit MLflow tracking address, see `store.resolve_uri`.
      experiment: name of the MLflow experiment, created where missing.
      params: settings shown beside the run, about 15.
      texts: small files such as config.yaml to show among the artifacts, by name.
    """

    def __init__(
        self, run_dir: Path, uri: str, experiment: str, params: Mapping[str, str] | None = None, texts: Mapping[str, str] | None = None
    ) -> None:
        self.run_dir, self.uri, self.experiment = run_dir, uri, experiment
        self._params, self._texts = dict(params or {}), dict(texts or {})
        self._store: Store | None = None
        self._run = RunFile(redact(uri), experiment, "")
        self._cursor = _load(run_dir / CURSOR, Cursor) or Cursor()
        self._dashboard: tuple[set[str], set[str]] = (set(), set())
        self._attempts = 0

    @property
    def offset(self) -> int:
        """Bytes of the spool that the store has."""
        return self._cursor.offset

    @property
    def last_step(self) -> int:
        """Highest step sent so far."""
        return max(self._cursor.peaks.values(), default=0)

    def pump(self, deadline: float = math.inf) -> int:
        """Send what the spool holds beyond the cursor and return the number of events; stops between requests after `deadline`
        (seconds of time.monotonic).

        Raises:
          TrackingError: the store cannot be used now; nothing is lost, call again later.
          RunDeletedError: the run was deleted in MLflow.
        """
        try:
            return self._pump(self._connect(), deadline)
        except TrackingError:
            self._store = None  # the next attempt looks again at what is there
            raise

    def close(self, status: str) -> None:
        """Set the state of a run whose spool does not tell it (the tracker was told to stop). Raises TrackingError."""
        self._connect().set_status(self._run.run_id, status)

    def _pump(self, store: Store, deadline: float) -> int:
        sent, waiting, points = 0, 0, list[Point]()
        end = self._cursor.offset
        for event, after in read_events(self.run_dir / SPOOL, end):
            fresh = self._points(event) if isinstance(event, events.Metrics) else []
            if points and (not isinstance(event, events.Metrics) or len(points) + len(fresh) > MAX_BATCH):
                self._flush(store, points, end)
                sent, waiting, points = sent + waiting, 0, []
                if time.monotonic() > deadline:
                    return sent
            if isinstance(event, events.Metrics):
                points, waiting, end = points + fresh, waiting + 1, after
                continue
            if event is None:
                _log.warning("%s: the line before byte %d is damaged and was left out", self.run_dir / SPOOL, after)
            else:
                self._send(store, event)
            end = after
            self._advance(end)
            sent += 1
            if time.monotonic() > deadline:
                return sent
        if waiting:
            self._flush(store, points, end)
        self._show(store)
        return sent + waiting

    def _points(self, event: events.Metrics) -> list[Point]:
        named = ((display_name(name), value) for name, value in event.values.items())
        redo = self._cursor.redo
        return [Point(name, value, event.time, event.step) for name, value in named if event.step > redo.get(name, -1)]

    def _flush(self, store: Store, points: list[Point], end: int) -> None:
        for first in range(0, len(points), MAX_BATCH):
            self._send_points(store, points[first : first + MAX_BATCH])
        for point in points:
            self._cursor.peaks[point.name] = max(point.step, self._cursor.peaks.get(point.name, -1))
        self._advance(end)

    def _send_points(self, store: Store, points: list[Point]) -> None:
        try:
            store.points(self._run.run_id, points)
        except RefusedError as e:
            self._check_run(store)
            if len(points) == 1:
                _log.warning("%s; the point was left out", e)
                return
            half = len(points) // 2
            self._send_points(store, points[:half])
            self._send_points(store, points[half:])

    def _send(self, store: Store, event: events.AnyEvent) -> None:
        run_id = self._run.run_id
        try:
            match event:
                case events.Start():
                    store.set_status(run_id, "RUNNING")
                    self._cursor.status, self._cursor.redo = "RUNNING", dict(self._cursor.peaks)
                case events.Artifact(path=path, folder=folder):
                    store.artifact(run_id, Path(path), folder)
                case events.Image(path=path, key=key, step=step):
                    store.image(run_id, Path(path), key, step, event.time)
                    self._cursor.images = sorted({*self._cursor.images, image_key(key)})
                case events.End(status=status):
                    store.set_status(run_id, status)
                    self._cursor.status = status
        except RefusedError as e:
            self._check_run(store)
            _log.warning("%s; left out of the run", e)
        except TrackingError as e:
            if not isinstance(event, events.Artifact | events.Image) or store.run(run_id) is None:
                raise
            # The store answers, only this file does not go through; it must not hold up everything behind it for ever.
            self._attempts += 1
            if self._attempts < _MAX_ATTEMPTS:
                raise
            _log.warning("%s; left out of the run after %d attempts", e, self._attempts)

    def _check_run(self, store: Store) -> None:
        state = store.run(self._run.run_id)
        if state is None or not state.active:
            raise RunDeletedError(f"run {self._run.run_id} was deleted in MLflow; the tracker stops, the spool keeps all points")

    def _connect(self) -> Store:
        """Open the store and find, resume or create the run."""
        if self._store is not None:
            return self._store
        store = Store(self.uri)
        experiment_id = store.experiment(self.experiment)
        self._adopt_run(store, experiment_id)
        if self._cursor.run_id != self._run.run_id:
            # A new run, or a store that was wiped: it gets the whole history.
            self._cursor = Cursor(run_id=self._run.run_id)
        _reap_stale_runs(store, experiment_id, self._run.run_id)
        store.params(self._run.run_id, self._params)
        for name, text in self._texts.items():
            store.text(self._run.run_id, name, text)
        self._dashboard = dashboard_content(self._dashboard_tag(store))
        self._store = store
        return store

    def _adopt_run(self, store: Store, experiment_id: str) -> None:
        path = self.run_dir / RUN_FILE
        run = _load(path, RunFile)
        if run is None or (run.uri, run.experiment) != (redact(self.uri), self.experiment):
            run = RunFile(redact(self.uri), self.experiment, uuid.uuid4().hex)
        run.experiment_id = experiment_id
        _save(path, run)  # the key must be on disk before a run carries it
        tags = {**_process_tags(), _KEY: run.key, "mlflow.source.name": "pydreaming", "mlflow.source.type": "LOCAL"}
        known = store.find_runs(experiment_id, f"tags.`{_KEY}` = '{run.key}'")
        if known:
            run.run_id = known[0].run_id
            store.tags(run.run_id, tags)
            store.set_status(run.run_id, self._cursor.status)
        else:
            run.run_id = store.create_run(experiment_id, self.run_dir.resolve().name, tags)
        _save(path, run)
        self._run = run

    def _show(self, store: Store) -> None:
        """Keep the dashboard of the experiment complete: every metric and image series of all its runs."""
        metrics, images = set(self._cursor.peaks), set(self._cursor.images)
        if metrics <= self._dashboard[0] and images <= self._dashboard[1]:
            return
        now = dashboard_content(self._dashboard_tag(store))
        self._dashboard = (now[0] | metrics, now[1] | images)
        tag = dashboard(*self._dashboard)
        if len(tag) <= MAX_TAG:  # beyond it the last one that fits stays, and MLflow adds charts of its own for the rest
            store.set_experiment_tag(self._run.experiment_id, VIEW_TAG, tag)

    def _dashboard_tag(self, store: Store) -> str:
        tag = store.experiment_tag(self._run.experiment_id, VIEW_TAG)
        if not tag:  # links to the dashboard must work from the first second on
            tag = dashboard((), ())
            store.set_experiment_tag(self._run.experiment_id, VIEW_TAG, tag)
        return tag

    def _advance(self, offset: int) -> None:
        self._cursor.offset, self._attempts = offset, 0
        _save(self.run_dir / CURSOR, self._cursor)


def unsent(run_dir: Path) -> int:
    """Bytes of a run's spool that no store has yet."""
    cursor = _load(run_dir / CURSOR, Cursor) or Cursor()
    spool = run_dir / SPOOL
    return spool.stat().st_size - cursor.offset if spool.is_file() else 0


def _process_tags() -> dict[str, str]:
    me = psutil.Process()
    return {_HOST: socket.gethostname(), _PID: str(me.pid), _BORN: f"{me.create_time():.2f}"}


def _reap_stale_runs(store: Store, experiment_id: str, own: str) -> None:
    """End RUNNING runs whose tracker on this host is gone: a process that was killed cannot say so itself."""
    for run in store.find_runs(experiment_id, "attributes.status = 'RUNNING'"):
        if run.run_id == own or run.tags.get(_HOST) != socket.gethostname() or _alive(run.tags):
            continue
        store.set_status(run.run_id, "KILLED")
        _log.warning("run %s was left RUNNING by a process that is gone; it is KILLED now", run.tags.get("mlflow.runName", run.run_id))


def _alive(tags: Mapping[str, str]) -> bool:
    try:
        # A process id is used again some day; the start time tells its owners apart (clocks may be set in between).
        return abs(psutil.Process(int(tags[_PID])).create_time() - float(tags[_BORN])) < 60
    except (KeyError, ValueError, psutil.NoSuchProcess):
        return False
    except psutil.AccessDenied:
        return True


def _load(path: Path, kind: type[_File]) -> _File | None:
    """Read a small JSON file; None where it is missing or damaged (it can be made again)."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError:
        return None
    except msgspec.MsgspecError as e:
        _log.warning("%s is damaged (%s) and is made anew", path, e)
        return None


def _save(path: Path, content: msgspec.Struct) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    try:
        temporary.write_bytes(msgspec.json.encode(content))
        temporary.replace(path)
    except OSError as e:
        raise TrackingError(f"{path}: cannot write: {e.strerror}") from e
