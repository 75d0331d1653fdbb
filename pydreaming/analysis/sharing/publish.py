"""From a trained model to one that others find: a version in MLflow's registry, with its model card."""

from __future__ import annotations

import math
import os
import tempfile
from pathlib import Path

import msgspec
import numpy as np

from pydreaming.analysis.run_folder import RunFolder
from pydreaming.analysis.world_model import WorldModel
from pydreaming.audio.encode import write_wav
from pydreaming.errors import TrackingError, UsageError, redact
from pydreaming.tracking.fetch import DEFAULT_URI
from pydreaming.tracking.registry import Published, check_names, register
from pydreaming.tracking.store import Store, resolve_uri
from pydreaming.tracking.writer import RUN_FILE, RunFile

EXPERIMENT = "pydreaming"  # of models that come without the settings of a run
EXAMPLE_S = 0.25  # of the input example: enough for a window or more of any model


def publish(model: WorldModel, name: str, alias: str = "", tracking_uri: str = "", card: str = "") -> Published:
    """Register a model in MLflow: `models:/<name>@<alias>` then loads it, and `mlflow models serve` serves it.

    Args:
      model: it is attached to the MLflow run that trained it, where it lies in that run's folder and the store has the run.
      name: of the registered model; a new version is added where it is there.
      alias: to point to the new version, such as "champion"; empty: none.
      tracking_uri: MLflow store or server; empty: MLFLOW_TRACKING_URI, else the run's own, else `sqlite:///runs/mlflow.db`.
      card: Markdown; empty: the card it came with, else `pydreaming.analysis.reports.card.model_card`.
    Raises:
      UsageError: a name or an alias that cannot be. TrackingError: the store cannot be used.
    """
    check_names(name, alias)
    run = None if model.origin is None else RunFolder.of_checkpoint(model.origin)
    uri = _address(tracking_uri, run)
    experiment = EXPERIMENT if run is None else run.read_config().tracking.experiment
    with tempfile.TemporaryDirectory(prefix="pydreaming-export-") as scratch:
        folder = model.save(Path(scratch) / "model", card)
        example = _example(Path(scratch) / "example.wav", model.features.sample_rate, model.features.token_span_samples)
        text = (folder / "README.md").read_text(encoding="utf-8")
        run_id = "" if run is None else _run_id(run, uri)
        return register(folder, _without_front(text), example, name, alias, uri, experiment, run_id, int(model.state.counters["step"]))


def log_page(model: WorldModel, page: Path, tracking_uri: str = "") -> str:
    """Put a page among the artifacts of the run that trained a model, below reports/; returns the MLflow run's id.

    Raises:
      UsageError: the model lies in no run's folder. TrackingError: the store cannot be used, or does not have the run.
    """
    run = None if model.origin is None else RunFolder.of_checkpoint(model.origin)
    if run is None:
        raise UsageError("the model lies in no run's folder, so there is no MLflow run to log to")
    uri = _address(tracking_uri, run)
    run_id = _run_id(run, uri)
    store = Store(uri)
    if not run_id or store.run(run_id) is None:
        raise TrackingError(f"{redact(uri)} does not have the run of {run.path}")
    store.artifact(run_id, page, "reports")
    return run_id


def _address(given: str, run: RunFolder | None) -> str:
    given = given or os.environ.get("MLFLOW_TRACKING_URI", "")
    return resolve_uri(given or DEFAULT_URI, Path()) if given or run is None else resolve_uri(run.read_config().tracking.uri, run.path)


def _run_id(run: RunFolder, uri: str) -> str:
    """The run's MLflow run in the store at `uri`; empty where it has none there."""
    try:
        known = msgspec.json.decode((run.path / RUN_FILE).read_bytes(), type=RunFile)
    except FileNotFoundError:
        return ""
    except (OSError, msgspec.MsgspecError) as e:
        raise TrackingError(f"{run.path / RUN_FILE} cannot be read: {e}") from e
    return known.run_id if known.uri == redact(uri) else ""


def _example(path: Path, sample_rate: int, least: int) -> bytes:
    """A short tone as an audio file."""
    time = np.arange(max(least, math.ceil(EXAMPLE_S * sample_rate))) / sample_rate
    write_wav(path, 0.3 * np.sin(2 * np.pi * 440 * time), sample_rate)
    return path.read_bytes()


def _without_front(card: str) -> str:
    """The card without the front matter of the Hugging Face Hub, which MLflow would show as text."""
    return card.partition("\n---\n")[2].lstrip() if card.startswith("---\n") else card
