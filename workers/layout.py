"""Where things lie in a run's folder, and how small files there are replaced."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from pydreaming.analysis.run_folder import RunFolder
from pydreaming.config import Config
from pydreaming.errors import UsageError
from pydreaming.replay.store import Patience, Store, open_store


class CoordinatorFile(msgspec.Struct, forbid_unknown_fields=True):
    """RUN/coordinator.json: where the coordinator listens, or (`error` not empty) why it could not start."""

    address: str
    pid: int
    error: str = ""
    exit_code: int = 0


class RunDir(RunFolder):
    """A run's folder with what its processes leave for one another."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.coordinator = path / "coordinator.json"
        self.coordinator_state = path / "coordinator_state.json"

    def open_replay(self, config: Config, meanwhile: Callable[[], None] = lambda: None) -> Store:
        """The replay store for who reads it: with copies on this host, where it is distant. `meanwhile`: see Patience."""
        r = config.replay
        cache = Path(r.cache).expanduser() if r.cache else self.path / "replay-cache"
        return open_store(self.replay(config), cache, int(r.cache_gb * 1e9), Patience(r.patience_s, meanwhile))

    def read_coordinator(self) -> CoordinatorFile | None:
        """What the coordinator has announced; None before it has, or when the file is damaged."""
        try:
            return msgspec.json.decode(self.coordinator.read_bytes(), type=CoordinatorFile)
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError):  # being started: the caller asks again until its time-out
            return None


@contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Make a run's folder where it is missing, and keep other launches out of it meanwhile.

    Raises UsageError: another launch is at work in it, or it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("w")
    except OSError as e:
        raise UsageError(f"cannot write to {folder}: {e.strerror}; choose another --run.dir") from e
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the system lets go of it however this process ends
        except BlockingIOError as e:
            raise UsageError(f"{folder} is at work: another launch.py on this host runs it") from e
        except OSError as e:
            raise UsageError(f"{folder} lies where files cannot be locked ({e.strerror}); choose another --run.dir") from e
        yield


def replace_json(path: Path, value: Any) -> None:
    """Write JSON so that a reader, or a crash, sees either the old file or the new one whole. Raises OSError: the disk is full, say."""
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(value), indent=1))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
