"""MLflow, spoken to: the one file that imports it. Every call is bounded in time and fails with a `TrackingError` of one line.

MLflow is imported on first use, because it reads the environment while it is imported (telemetry is on unless it is told otherwise
before), takes a second, and is wanted by the tracker process only.
"""

from __future__ import annotations

import fcntl
import os
import re
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from pydreaming.errors import PydreamingError, TrackingError, redact
from pydreaming.tracking.names import MAX_NAME, image_key

MAX_BATCH = 1000  # metrics in one request, MLflow's limit
_MAX_TAGS = 100  # params and tags in one request, MLflow's limit
_MAX_VALUE = 5000  # characters of a param or tag value; MLflow's own limits are 6,000 and 8,000
_SQLITE = "sqlite:///"
_SQLITE_MAGIC = b"SQLite format 3\x00"


class RefusedError(TrackingError):
    """MLflow will never take this request; sending it again is useless."""


class Point(NamedTuple):
    """One value of one metric, under its display name."""

    name: str
    value: float
    timestamp_ms: int
    step: int


class RunState(NamedTuple):
    """What the store knows of a run."""

    run_id: str
    active: bool
    params: dict[str, str]
    tags: dict[str, str]


def resolve_uri(uri: str, run_dir: Path) -> str:
    """The tracking address of a run, always explicit: MLflow's own default would pick up a `./mlruns` left in the working directory and
    fail on it. Empty: the sqlite store beside the run; a relative sqlite path is made absolute.

    Raises:
      TrackingError: the address is neither a server nor an sqlite file. (Any other database would keep artifacts in the working directory
        of whoever came first; a server in front of it does not.)
    """
    if re.match(r"https?://[^/]", uri):
        return uri
    if uri and not (uri.startswith(_SQLITE) and uri != _SQLITE):
        raise TrackingError(f"tracking.uri '{redact(uri)}' is neither http(s)://host:port nor sqlite:///path/mlflow.db")
    return f"{_SQLITE}{Path(uri.removeprefix(_SQLITE)).resolve() if uri else run_dir.resolve().parent / 'mlflow.db'}"


def prepare_environment() -> None:
    """Settings that MLflow reads from the environment: no telemetry, short time-outs, no retries of its own (the writer retries)."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"  # only this literal turns it off
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")


@contextmanager
def default_store(uri: str) -> Iterator[None]:
    """Make a store the process's own meanwhile: MLflow looks `models:/` up there, whatever address its client was given."""
    prepare_environment()
    mlflow: Any = _import_mlflow()
    variable = os.environ.get("MLFLOW_TRACKING_URI")
    before = mlflow.get_tracking_uri() if mlflow.is_tracking_uri_set() else None
    mlflow.set_tracking_uri(uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(None if before == variable else before)
        if variable is not None:  # MLflow sets and unsets it as well
            os.environ["MLFLOW_TRACKING_URI"] = variable


class Store:
    """A tracking store: a local sqlite file or a server, at an address as `resolve_uri` gives it.

    Raises (constructor and all methods):
      TrackingError: the store cannot be used now; a later attempt may succeed.
      RefusedError: the request itself is wrong for good.
    """

    def __init__(self, uri: str) -> None:
        prepare_environment()
        self.uri = uri
        self._artifact_root: Path | None = None
        with self._calling():
            self._mlflow = _import_mlflow()
            if uri.startswith(_SQLITE):
                database = Path(uri.removeprefix(_SQLITE).partition("?")[0])  # SQLAlchemy's options may follow
                self._artifact_root = database.parent / "artifacts"
                _check_sqlite(database)
                # MLflow's migrations race when several processes open a fresh file at once; the lock makes the first one do it.
                with _locked(database.with_name(f".{database.name}.lock")):
                    self._make_sqlite(database)
                    self._client = self._mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)
                    self._client.search_experiments(max_results=1)
            else:
                self._client = self._mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)

    def _make_sqlite(self, database: Path) -> None:
        """Make a fresh store aside and rename it: a file in which MLflow was killed during its first migrations, which take seconds, is
        refused by it for ever after."""
        if database.exists() and database.stat().st_size:
            return
        for left_over in database.parent.glob(f".{database.name}.tmp-*"):
            left_over.unlink()
        fresh = database.with_name(f".{database.name}.tmp-{os.getpid()}")
        self._mlflow.MlflowClient(tracking_uri=f"{_SQLITE}{fresh}").search_experiments(max_results=1)
        fresh.replace(database)

    def experiment(self, name: str) -> str:
        """Id of the experiment, created where missing: artifacts beside a sqlite store, through the server otherwise."""
        with self._calling():
            found = self._client.get_experiment_by_name(name)
            if found is None:
                # Created without a location in a sqlite store, artifacts would go to ./mlruns of whoever came first.
                location = None if self._artifact_root is None else str(self._artifact_root)
                try:
                    return str(self._client.create_experiment(name, artifact_location=location))
                except self._mlflow.MlflowException as e:
                    found = self._client.get_experiment_by_name(name)  # another process was faster
                    if found is None:
                        raise TrackingError(f"cannot create experiment '{name}': {_one_line(e)}") from e
        if found.lifecycle_stage != "active":
            raise TrackingError(f"MLflow experiment '{name}' is deleted; restore it in MLflow or set tracking.experiment")
        return str(found.experiment_id)

    def experiment_tag(self, experiment_id: str, name: str) -> str:
        """Value of a tag of an experiment, empty where it is not set."""
        with self._calling():
            return str(self._client.get_experiment(experiment_id).tags.get(name, ""))

    def set_experiment_tag(self, experiment_id: str, name: str, value: str) -> None:
        """Set a tag of an experiment."""
        with self._calling():
            self._client.set_experiment_tag(experiment_id, name, value)

    def create_run(self, experiment_id: str, name: str, tags: Mapping[str, str]) -> str:
        """Create a run and return its id."""
        with self._calling():
            return str(self._client.create_run(experiment_id, run_name=name, tags=dict(tags)).info.run_id)

    def run(self, run_id: str) -> RunState | None:
        """State of a run; None where the store does not have it."""
        with self._calling():
            try:
                return _run_state(self._client.get_run(run_id))
            except self._mlflow.MlflowException as e:
                if e.error_code == "RESOURCE_DOES_NOT_EXIST":
                    return None
                raise

    def find_runs(self, experiment_id: str, filter_string: str) -> list[RunState]:
        """Active runs of an experiment that match an MLflow filter; the newest thousand at most."""
        with self._calling():
            return [_run_state(run) for run in self._client.search_runs([experiment_id], filter_string, max_results=1000)]

    def set_status(self, run_id: str, status: str) -> None:
        """RUNNING, or one of the final states, which also sets the end time."""
        with self._calling():
            if status == "RUNNING":
                self._client.update_run(run_id, status=status)
            else:
                self._client.set_terminated(run_id, status)

    def points(self, run_id: str, points: Sequence[Point]) -> None:
        """Log at most MAX_BATCH points with their own timestamps; the same points sent again change nothing."""
        with self._calling():
            metrics = [self._mlflow.entities.Metric(*point) for point in points]
            self._client.log_batch(run_id, metrics=metrics, synchronous=True)

    def params(self, run_id: str, values: Mapping[str, str]) -> None:
        """Log params. MLflow's params are immutable: a value that changed since (on resume) is logged as the tag `resumed.<name>`."""
        with self._calling():
            known = self._client.get_run(run_id).data.params
            wanted = {name[:MAX_NAME]: value[:_MAX_VALUE] for name, value in values.items()}
            fresh = {name: value for name, value in wanted.items() if name not in known}
            for some in _chunks(list(fresh.items()), _MAX_TAGS):
                params = [self._mlflow.entities.Param(name, value) for name, value in some]
                self._client.log_batch(run_id, params=params, synchronous=True)
        self.tags(run_id, {f"resumed.{name}": wanted[name] for name in known.keys() & wanted.keys() if known[name] != wanted[name]})

    def tags(self, run_id: str, values: Mapping[str, str]) -> None:
        """Set tags of a run."""
        with self._calling():
            for some in _chunks(list(values.items()), _MAX_TAGS):
                tags = [self._mlflow.entities.RunTag(name[:MAX_NAME], value[:_MAX_VALUE]) for name, value in some]
                self._client.log_batch(run_id, tags=tags, synchronous=True)

    def text(self, run_id: str, name: str, text: str) -> None:
        """Log a text artifact at path `name`."""
        with self._calling():
            self._client.log_text(run_id, text, name)

    def artifact(self, run_id: str, path: Path, folder: str) -> None:
        """Log a file or a folder below `folder`. Raises RefusedError where the file is gone."""
        _check_exists(path)
        with self._calling():
            if path.is_dir():
                self._client.log_artifacts(run_id, str(path), folder or None)
            else:
                self._client.log_artifact(run_id, str(path), folder or None)

    def image(self, run_id: str, path: Path, key: str, step: int, timestamp_ms: int) -> None:
        """Log one picture of an image series as MLflow's `log_image` does, but under a name that depends on nothing but its place in
        the series, so that sending it again replaces it instead of showing it twice. Raises RefusedError where the file is gone.
        """
        _check_exists(path)
        key = image_key(key)
        identity = uuid.uuid5(uuid.NAMESPACE_OID, f"{run_id}/{key}/{step}/{timestamp_ms}")
        stem = f"{key.replace('/', '~')}+step+{step}+timestamp+{timestamp_ms}+{identity}"
        with self._calling(), tempfile.TemporaryDirectory(prefix="pydreaming-image-") as folder:
            picture = self._open_image(path)
            picture.save(Path(folder) / f"{stem}.png")
            thumbnail = self._mlflow.tracking.multimedia.compress_image_size(picture)
            thumbnail.save(Path(folder) / f"{stem}+compressed.webp")
            self._client.log_artifacts(run_id, folder, "images")
            self._client.set_tag(run_id, "mlflow.loggedImages", "true")

    @contextmanager
    def calling(self) -> Iterator[tuple[ModuleType, Any]]:
        """MLflow and its client, for requests that have no method here; what goes wrong inside is a TrackingError."""
        with self._calling():
            yield self._mlflow, self._client

    def _open_image(self, path: Path) -> Any:
        try:
            picture = self._mlflow.Image(str(path)).to_pil()
            picture.load()  # a truncated file shows itself here
        except OSError as e:
            raise RefusedError(f"{path}: not a picture: {_one_line(e)}") from e
        return picture

    @contextmanager
    def _calling(self) -> Iterator[None]:
        try:
            yield
        except PydreamingError:
            raise
        # MLflow lets errors of SQLAlchemy, requests, botocore and of its plug-ins through; none of them may lose points or stop the
        # tracker, and each is raised again as the one error that the writer answers by keeping the points and trying later.
        except Exception as e:
            message = f"MLflow store {redact(self.uri)}: {_one_line(e)}"
            if getattr(e, "error_code", "") == "INVALID_PARAMETER_VALUE":
                raise RefusedError(message) from e
            raise TrackingError(message) from e


def _import_mlflow() -> ModuleType:
    import mlflow
    import mlflow.tracking.multimedia

    return mlflow


def _run_state(run: Any) -> RunState:
    return RunState(run.info.run_id, run.info.lifecycle_stage == "active", dict(run.data.params), dict(run.data.tags))


def _check_exists(path: Path) -> None:
    if not path.exists():
        raise RefusedError(f"{path}: gone before it could be logged")


def _check_sqlite(database: Path) -> None:
    """Refuse a file that is not a database before MLflow tries to open it for minutes."""
    try:
        database.parent.mkdir(parents=True, exist_ok=True)
        with database.open("rb") as file:
            magic = file.read(len(_SQLITE_MAGIC))
    except FileNotFoundError:
        return
    except OSError as e:
        raise TrackingError(f"{database}: {e.strerror}") from e
    if magic and magic != _SQLITE_MAGIC:
        raise TrackingError(f"{database} is not an sqlite database; move it away or set tracking.uri")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock between processes; the kernel frees it when its holder dies."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _chunks(items: list[tuple[str, str]], size: int) -> Iterator[list[tuple[str, str]]]:
    for first in range(0, len(items), size):
        yield items[first : first + size]


def _one_line(error: Exception) -> str:
    text = redact(" ".join(str(error).split())) or type(error).__name__
    if "Invalid Host header" in text:
        return "the server refuses the host name of tracking.uri (403 Invalid Host header); start it with --allowed-hosts"
    if "Caused by " in text:  # urllib3 wraps what happened in what it tried; the former matters
        text = f"no usable answer: {text.rpartition('Caused by ')[2]}"
    return text if len(text) <= 240 else f"{text[:240]}..."
