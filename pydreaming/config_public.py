"""Which settings others see: workers, whoever looks at a run in MLflow, and strangers who are given a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydreaming.config import Config
from pydreaming.errors import redact

# What names this host, and what else is its owner's alone.
_PATHS = (("run", "dir"), ("source", "path"), ("source", "root"), ("replay", "dir"), ("replay", "cache"))
_ADDRESSES = (("coordinator", "address"), ("coordinator", "keys"), ("tracking", "uri"), ("tracking", "prometheus"))


def without_password(config: Config) -> dict[str, Any]:
    """The settings without the password that the address of a server may hold."""
    values = config.to_dict()
    values["tracking"]["uri"] = redact(config.tracking.uri)
    return values


def without_host(config: Config) -> dict[str, Any]:
    """The settings without addresses and people, and with names in the place of paths."""
    values = config.to_dict()
    for section, key in _PATHS:
        values[section][key] = Path(values[section][key].partition("?")[0]).name
    for section, key in _ADDRESSES:
        values[section][key] = ""
    values["source"]["held_out_speakers"] = []
    return values
