"""Where things lie in a run's folder, and how small files there are replaced."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec
import yaml

from pydreaming.config import Config, config_from_dict
from pydreaming.errors import ConfigError


class CoordinatorFile(msgspec.Struct, forbid_unknown_fields=True):
    """RUN/coordinator.json: where the coordinator listens, or (`error` not empty) why it could not start."""

    address: str
    pid: int
    error: str = ""
    exit_code: int = 0


class RunDir:
    """Paths in a run's folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.yaml"
        self.catalogue = path / "catalogue"
        self.stats = path / "stats.json"
        self.quarantine = path / "quarantine.jsonl"
        self.logs = path / "logs"
        self.coordinator = path / "coordinator.json"
        self.coordinator_state = path / "coordinator_state.json"

    def replay(self, config: Config) -> Path:
        """The replay store: `replay.dir`, or the run's own."""
        return Path(config.replay.dir).expanduser().absolute() if config.replay.dir else self.path.absolute() / "replay"

    def read_config(self) -> Config:
        """The run's resolved configuration. Raises ConfigError."""
        try:
            values = yaml.safe_load(self.config.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as e:
            raise ConfigError(f"no run in {self.path}: {self.config.name} cannot be read ({' '.join(str(e).split())})") from e
        if not isinstance(values, dict):
            raise ConfigError(f"{self.config} must hold sections of keys")
        return config_from_dict(values)

    def read_coordinator(self) -> CoordinatorFile | None:
        """What the coordinator has announced; None before it has, or when the file is damaged."""
        try:
            return msgspec.json.decode(self.coordinator.read_bytes(), type=CoordinatorFile)
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError):  # being started: the caller asks again until its time-out
            return None


def replace_json(path: Path, value: Any) -> None:
    """Write JSON so that a reader, or a crash, sees either the old file or the new one whole."""
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    with temporary.open("wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(value), indent=1))
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
