"""A checkpoint out of MLflow: what `runs:/<run id>` stands for."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from pydreaming.errors import TrackingError
from pydreaming.tracking.store import prepare_environment, redact

SCHEME = "runs:/"
DEFAULT_URI = "sqlite:///runs/mlflow.db"  # where launch.py puts the store unless it is told otherwise
_FOLDER = "checkpoint"  # among the run's artifacts
_NEEDED = ("SHA256SUMS", "state.json", "model.safetensors")  # the optimiser's moments are of no use here, and three times the size
_URI = re.compile(r"runs:/([0-9A-Za-z_-]{1,64})(?:/([\w./-]*))?")


def fetch_checkpoint(uri: str, tracking_uri: str, destination: Path) -> Path:
    """Download the checkpoint of a run: weights and state, without the optimiser.

    Args:
      uri: `runs:/<run id>` or `runs:/<run id>/<artifact folder>`; the folder is "checkpoint" unless given.
      tracking_uri: MLflow store or server; empty: MLFLOW_TRACKING_URI, else `sqlite:///runs/mlflow.db`.
      destination: an existing, empty folder to put it in.
    Returns:
      The folder `destination/checkpoint`, with model.safetensors and state.json.
    Raises:
      TrackingError: no such run, no checkpoint among its artifacts, or the store cannot be used.
    """
    match = _URI.fullmatch(uri)
    if match is None or ".." in uri:
        raise TrackingError(f"'{uri}' is not of the form runs:/<run id>")
    run_id, folder = match[1], (match[2] or _FOLDER).strip("/")
    address = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI", "") or DEFAULT_URI
    if address.startswith("sqlite:///") and not Path(address.removeprefix("sqlite:///")).is_file():
        raise TrackingError(f"{uri}: there is no MLflow store at {address}; name it with --tracking or MLFLOW_TRACKING_URI")
    client = _call(uri, address, lambda: _client(address))
    _call(uri, address, lambda: client.get_run(run_id))
    names = {Path(entry.path).name for entry in _call(uri, address, lambda: client.list_artifacts(run_id, folder))}
    missing = [name for name in _NEEDED if name not in names]
    if missing:
        raise TrackingError(f"{uri}: run {run_id} has no '{folder}/{missing[0]}' among its artifacts (did it write a checkpoint yet?)")
    target = destination / _FOLDER
    target.mkdir()
    for name in _NEEDED:
        # Where below the destination a file ends up differs between artifact stores; only the answer tells.
        local = _call(uri, address, partial(client.download_artifacts, run_id, f"{folder}/{name}", str(destination)))
        Path(local).replace(target / name)
    return target


def _client(address: str) -> Any:
    prepare_environment()
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    import mlflow  # reads the environment when imported, and takes a second

    return mlflow.MlflowClient(tracking_uri=address)


def _call(uri: str, address: str, request: Callable[[], Any]) -> Any:
    try:
        return request()
    # MLflow lets errors of SQLAlchemy, requests and its plug-ins through; all of them mean that the checkpoint cannot be had.
    except Exception as e:
        text = " ".join(str(e).split()) or type(e).__name__
        raise TrackingError(f"{uri} cannot be fetched from {redact(address)}: {text[:240]}") from e
