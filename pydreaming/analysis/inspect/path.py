"""Look at whatever a path holds: audio, a replay store, a checkpoint or a run."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydreaming.analysis.inputs import Recording
from pydreaming.analysis.inspect.audio import AudioReport, inspect_audio
from pydreaming.analysis.inspect.model import CheckpointReport, RunReport, inspect_checkpoint, inspect_run
from pydreaming.analysis.inspect.store import StoreReport, inspect_store
from pydreaming.analysis.names import MEASURED
from pydreaming.errors import ReplayError, UsageError
from pydreaming.replay.address import is_distant
from pydreaming.replay.names import SUFFIX
from pydreaming.replay.tables import read_about

AUDIO, STORE, CHECKPOINT, RUN = "audio", "store", "checkpoint", "run"
Report = AudioReport | StoreReport | CheckpointReport | RunReport
Progress = Callable[[Iterable[Any], str], Iterable[Any]]


@dataclass(frozen=True)
class Inspection:
    """What was found at a path: its `kind` (audio, store, checkpoint, run), the report, and readable recordings of the sample, of audio."""

    kind: str
    report: Report
    recordings: list[Recording]

    @property
    def broken(self) -> int:
        """How many files, checkpoints or parts cannot be used."""
        report = self.report
        if isinstance(report, AudioReport):
            return len(report.unreadable)
        if isinstance(report, StoreReport):
            return len(report.damaged)
        if isinstance(report, CheckpointReport):
            return int(not report.intact)
        store = len(report.store.damaged) if report.store else 0
        return store + len(report.problems) + sum(not checkpoint.intact for checkpoint in report.checkpoints)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {"kind": self.kind, "broken": self.broken, **asdict(self.report)}


def inspect_path(path: str | Path, measure: int | None = MEASURED, seed: int = 0, progress: Progress | None = None) -> Inspection:
    """Look at a path; see `inspect_audio`, `inspect_store`, `inspect_checkpoint` and `inspect_run` for arguments and errors.

    Raises:
      UsageError: nothing there, or nothing that this program knows.
    """
    if is_distant(path):
        return Inspection(STORE, inspect_store(path, progress), [])
    path = Path(path)
    if not path.exists():
        raise UsageError(f"nothing at {path}")
    kind = kind_of(path)
    if kind == CHECKPOINT:
        return Inspection(kind, inspect_checkpoint(path), [])
    if kind == RUN:
        return Inspection(kind, inspect_run(path, progress), [])
    if kind == STORE:
        return Inspection(kind, inspect_store(path, progress), [])
    if what := _table(path):
        raise UsageError(f"{path} is a table, no recording: {what}")
    try:
        return Inspection(kind, *inspect_audio(path, measure, seed, progress))
    except UsageError as e:
        if table := next(filter(None, map(_table, sorted(path.glob(f"*{SUFFIX}")))), ""):
            raise UsageError(f"{e}; it has the table {table}") from e
        raise


def kind_of(path: Path) -> str:
    """What a path is, from the names of what it holds."""
    if (path / "state.json").is_file() or (path / "model.safetensors").is_file():
        return CHECKPOINT
    if any((path / name).is_dir() for name in ("checkpoints", "replay")) or any(path.glob("step-*/state.json")):
        return RUN
    return STORE if path.is_dir() and not all(map(_table, path.glob(f"*{SUFFIX}"))) else AUDIO


def _table(path: Path) -> str:
    """Name of a Parquet table that a command of this program has written, with what it is; empty for any other path."""
    try:
        what = read_about(path).get("what", "") if path.suffix == SUFFIX and path.is_file() else ""
    except (ReplayError, ValueError):  # damaged, or what another program says of its table is no JSON
        return ""
    return f"{path.name} ({what})" if str(what).startswith("pydreaming ") else ""
