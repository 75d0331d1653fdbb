"""A checkpoint out of MLflow: what `runs:/<run id>`, `models:/<name>/<version>` and `models:/<name>@<alias>` stand for."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from pydreaming.errors import TrackingError, redact
from pydreaming.tracking.store import default_store

DEFAULT_URI = "sqlite:///runs/mlflow.db"  # where launch.py puts the store unless it is told otherwise
MODEL_FOLDER = "model"  # the exported model among the artifacts of a registered one
_FOLDER = "checkpoint"  # among the run's artifacts
_SUMS, _WEIGHTS, _CARD = "SHA256SUMS", "model.safetensors", "README.md"
_STATES = ("state.json", "config.json")  # a checkpoint has the former, an exported model the latter
_RUN = re.compile(r"runs:/([0-9A-Za-z_-]{1,64})(?:/([\w./-]*))?")
_MODEL = re.compile(r"models:/([^/@:]{1,200})(?:/(\d{1,9})|@([\w.-]{1,200}))")


class _Place(NamedTuple):
    """A folder among artifacts: names of the files in it, and how to download one into a folder."""

    names: set[str]
    download: Callable[[str, Path], str]


def fetch_checkpoint(uri: str, tracking_uri: str, destination: Path) -> Path:
    """Download a model: weights, settings and model card, without the optimiser.

    Args:
      uri: `runs:/<run id>` or `runs:/<run id>/<artifact folder>` (the folder is "checkpoint" unless given), or a registered model as
        `models:/<name>/<version>` or `models:/<name>@<alias>`.
      tracking_uri: MLflow store or server; empty: MLFLOW_TRACKING_URI, else `sqlite:///runs/mlflow.db`.
      destination: an existing, empty folder to put it in.
    Returns:
      The folder `destination/checkpoint`, with model.safetensors, SHA256SUMS and state.json or config.json.
    Raises:
      TrackingError: no such run or model, no checkpoint among its artifacts, or the store cannot be used.
    """
    run, model = _RUN.fullmatch(uri), _MODEL.fullmatch(uri)
    if ".." in uri or not (run or model):
        raise TrackingError(f"'{uri}' is not of the form runs:/<run id>, models:/<name>/<version> or models:/<name>@<alias>")
    address = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI", "") or DEFAULT_URI
    if address.startswith("sqlite:///") and not Path(address.removeprefix("sqlite:///")).is_file():
        raise TrackingError(f"{uri}: there is no MLflow store at {address}; name it with --tracking or MLFLOW_TRACKING_URI")
    call = partial(_call, uri, address)
    with default_store(address):
        client = call(lambda: _client(address))
        place = _of_run(call, client, uri, run) if run else _of_model(call, client, uri, address, model)
        state = next(name for name in _STATES if name in place.names)
        target = destination / _FOLDER
        target.mkdir()
        for name in (_WEIGHTS, state, _SUMS, *({_CARD} & place.names)):
            # Where below the destination a file ends up differs between artifact stores; only the answer tells.
            local = call(partial(place.download, name, destination))
            Path(local).replace(target / name)
    return target


def _of_run(call: Callable[..., Any], client: Any, uri: str, match: re.Match[str]) -> _Place:
    run_id, folder = match[1], (match[2] or _FOLDER).strip("/")
    call(lambda: client.get_run(run_id))
    names = {Path(entry.path).name for entry in call(lambda: client.list_artifacts(run_id, folder))}
    if missing := _missing(names):
        raise TrackingError(f"{uri}: run {run_id} has no '{folder}/{missing}' among its artifacts (did it write a checkpoint yet?)")
    return _Place(names, lambda name, into: str(client.download_artifacts(run_id, f"{folder}/{name}", str(into))))


def _of_model(call: Callable[..., Any], client: Any, uri: str, address: str, match: re.Match[str] | None) -> _Place:
    assert match is not None
    name, version, alias = match[1], match[2], match[3]
    found = call(lambda: client.get_model_version_by_alias(name, alias) if alias else client.get_model_version(name, version))
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    where = {"tracking_uri": address, "registry_uri": address}
    files = call(lambda: get_artifact_repository(f"models:/{name}/{found.version}", **where))
    folder = f"artifacts/{MODEL_FOLDER}"
    names = {Path(entry.path).name for entry in call(lambda: files.list_artifacts(folder))}
    if missing := _missing(names):
        raise TrackingError(f"{uri}: version {found.version} has no {folder}/{missing}; it was not made by pydreaming publish")
    return _Place(names, lambda file, into: str(files.download_artifacts(f"{folder}/{file}", str(into))))


def _missing(names: set[str]) -> str:
    """What a model lacks to be loaded; empty when nothing."""
    lacks = [name for name in (_SUMS, _WEIGHTS) if name not in names]
    return (lacks or ([] if names & set(_STATES) else [_STATES[0]]) or [""])[0]


def _client(address: str) -> Any:
    import mlflow

    return mlflow.MlflowClient(tracking_uri=address, registry_uri=address)


def _call(uri: str, address: str, request: Callable[[], Any]) -> Any:
    try:
        return request()
    # MLflow lets errors of SQLAlchemy, requests and its plug-ins through; all of them mean that the checkpoint cannot be had.
    except Exception as e:
        text = " ".join(str(e).split()) or type(e).__name__
        raise TrackingError(f"{uri} cannot be fetched from {redact(address)}: {text[:240]}") from e
