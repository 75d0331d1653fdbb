"""Where a model is: a checkpoint folder, an exported model, a run folder, an MLflow run or a registered MLflow model."""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydreaming.analysis.run_folder import RunFolder
from pydreaming.errors import CheckpointError
from pydreaming.training.checkpoint import HUB_CONFIG, STATE, latest_intact, list_checkpoints, verify_model

REMOTE = ("runs:/", "models:/")  # what MLflow is asked for
FORMS = "a checkpoint folder, an exported model, a run folder, runs:/<run id>, models:/<name>/<version> or models:/<name>@<alias>"


@contextmanager
def checkpoint_folder(source: str | Path, tracking_uri: str = "") -> Iterator[Path]:
    """A verified folder with a model's weights and settings; what was downloaded for it is removed afterwards.

    Args:
      source: one of FORMS; of a run folder the newest intact checkpoint is taken.
      tracking_uri: MLflow store for `runs:/` and `models:/`, see `pydreaming.tracking.fetch`.
    Raises:
      CheckpointError: nothing there, or damaged. TrackingError: it cannot be fetched.
    """
    if str(source).startswith(REMOTE):
        from pydreaming.tracking.fetch import fetch_checkpoint

        with tempfile.TemporaryDirectory(prefix="pydreaming-model-") as scratch:
            folder = fetch_checkpoint(str(source), tracking_uri, Path(scratch))
            verify_model(folder)
            yield folder
        return
    folder = _local(Path(source))
    verify_model(folder)
    yield folder


def name_of_run(checkpoint: Path | None) -> str:
    """Name of the folder of the run that a checkpoint folder lies in; empty for one that lies elsewhere."""
    run = None if checkpoint is None else RunFolder.of_checkpoint(checkpoint)
    return "" if run is None else run.path.name


def newest_run(runs: str | Path = "runs") -> Path:
    """The run, of those in a folder of runs, that has written a checkpoint last. Raises CheckpointError: none has."""
    trained = [folder for folder in Path(runs).glob("*/checkpoints") if any(folder.glob("step-*"))]
    if not trained:
        raise CheckpointError(f"no run in {Path(runs).resolve()} has a checkpoint yet; make demo trains a model")
    return max(trained, key=lambda folder: folder.stat().st_mtime).parent


def _local(path: Path) -> Path:
    if (path / STATE).is_file() or (path / HUB_CONFIG).is_file():
        return path
    if not path.is_dir():
        raise CheckpointError(f"no model at {path}: name {FORMS}")
    for folder in (path / "checkpoints", path):
        found = latest_intact(folder)
        if found is not None:
            return found
    damaged = [*list_checkpoints(path / "checkpoints"), *list_checkpoints(path)]
    if damaged:
        raise CheckpointError(f"none of the {len(damaged)} checkpoints in {path} is intact; the newest is {damaged[-1].name}")
    if RunFolder(path).config.is_file():
        raise CheckpointError(f"{path} has no checkpoint yet; how that run is doing says: pydreaming status {shlex.quote(str(path))}")
    raise CheckpointError(f"no model in {path}: name {FORMS}")
