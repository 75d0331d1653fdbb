"""Puts exported models into MLflow's model registry, with an alias, where `models:/<name>@<alias>` finds them."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, NamedTuple

from pydreaming.errors import UsageError
from pydreaming.tracking.pyfunc import mlflow_model
from pydreaming.tracking.store import Store, default_store

_NAME = re.compile(r"[^/:@\"'\s]{1,200}")
_ALIAS = re.compile(r"(?!v?\d+$|latest$)[\w.-]{1,200}", re.ASCII | re.IGNORECASE)  # MLflow reserves v1, v2, ... and latest


class Published(NamedTuple):
    """A registered version: its name, number, alias ("" for none), and the MLflow run that it belongs to ("" for none)."""

    name: str
    version: int
    alias: str
    run_id: str

    @property
    def uri(self) -> str:
        """What loads it, by alias where it has one."""
        return f"models:/{self.name}@{self.alias}" if self.alias else f"models:/{self.name}/{self.version}"


def check_names(name: str, alias: str) -> None:
    """Refuse names that `models:/` could not name. Raises UsageError."""
    if not _NAME.fullmatch(name):
        raise UsageError(f"'{name}' cannot name a model: no slash, colon, @, quote or space")
    if alias and not _ALIAS.fullmatch(alias):
        raise UsageError(f"'{alias}' cannot be an alias: letters, digits, '.', '-' and '_', and neither 'latest' nor a number")


def register(
    folder: Path, card: str, example: bytes, name: str, alias: str, uri: str, experiment: str, run_id: str = "", step: int = 0
) -> Published:
    """Log an exported model and register it as a new version of `name`.

    Args:
      folder: exported model. card: Markdown shown beside the version. example: a short audio file.
      alias: to point to the new version; empty: none. uri: tracking address, as `store.resolve_uri` gives it.
      experiment: where the model is shown. run_id: MLflow run that made it; one that this store does not have is left out.
      step: of training.
    Raises:
      UsageError: a name or an alias that cannot be. TrackingError: the store cannot be used.
    """
    check_names(name, alias)
    os.environ["MLFLOW_UV_AUTO_DETECT"] = "false"  # requirements are ours, not those of a uv.lock in the working folder
    store = Store(uri)
    experiment_id = store.experiment(experiment)
    if run_id and store.run(run_id) is None:
        run_id = ""
    with store.calling() as (mlflow, client), default_store(uri):
        logged = client.create_logged_model(experiment_id, name, source_run_id=run_id or None, tags={"pydreaming.step": str(step)})
        about = mlflow.models.Model(
            artifact_path=logged.artifact_location, model_uuid=logged.model_id, model_id=logged.model_id, run_id=run_id or None
        )
        try:
            with mlflow_model(folder, example, about) as made:
                client.log_model_artifacts(logged.model_id, str(made))
        except BaseException:
            client.finalize_logged_model(logged.model_id, "FAILED")
            raise
        client.finalize_logged_model(logged.model_id, "READY")
        version = _version(mlflow, client, name, logged, run_id, card)
        if alias:
            client.set_registered_model_alias(name, alias, version)
    return Published(name, int(version), alias, run_id)


def _version(mlflow: Any, client: Any, name: str, logged: Any, run_id: str, card: str) -> str:
    try:
        client.create_registered_model(name)
    except mlflow.MlflowException as e:
        if e.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    about = {"run_id": run_id or None, "model_id": logged.model_id, "description": card}
    return str(client.create_model_version(name, f"models:/{logged.model_id}", **about).version)
