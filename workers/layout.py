"""Where things lie in a run's folder, and how small files there are replaced."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from pydreaming.analysis.run_folder import RunFolder
from pydreaming.config import Config
from pydreaming.errors import UsageError
from pydreaming.replay.store import Patience, Store, open_store
from pydreaming.tracking.live import FOLDER

LAUNCH = "launch.py"
PREDECESSOR_S = 30.0  # s in which a process of an earlier session ends
_LOCK_POLL_S = 0.1


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
        self.learner_alive = path / FOLDER / "learner.alive"

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


@contextlib.contextmanager
def hold(folder: Path, role: str = LAUNCH, wait_s: float = 0.0) -> Iterator[None]:
    """Keep other processes of this role out of a run's folder meanwhile; a launch makes it where it is missing.

    Args:
      wait_s: s to wait for one that is there. A learner whose supervisor was killed still writes its last checkpoint, for instance.
    Raises UsageError: another one is at work in it, or it cannot be written.
    """
    try:
        if role == LAUNCH:
            folder.mkdir(parents=True, exist_ok=True)
        file = (folder / f".{role}.lock").open("a+")
    except OSError as e:
        raise UsageError(f"cannot write to {folder}: {e.strerror}; choose another --run.dir") from e
    deadline = time.monotonic() + wait_s
    with file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the system lets go of it however this process ends
                break
            except BlockingIOError as e:
                if time.monotonic() > deadline:
                    file.seek(0)
                    raise UsageError(f"{folder} is at work: another {role} on this host runs it (pid {file.read(20).strip()})") from e
                time.sleep(_LOCK_POLL_S)
            except OSError as e:
                raise UsageError(f"{folder} lies where files cannot be locked ({e.strerror}); choose another --run.dir") from e
        with contextlib.suppress(OSError):  # a full disk; the number is for messages only
            file.truncate(0)
            os.write(file.fileno(), b"%d\n" % os.getpid())
        yield


def tidy_json(paths: Iterable[Path]) -> None:
    """Remove what killed processes have left of `replace_json`, for files that no living process writes."""
    for path in paths:
        for torn in path.parent.glob(f"{path.name}.tmp-*"):
            torn.unlink(missing_ok=True)


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
