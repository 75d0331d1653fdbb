"""A folder for files in the making, on this host's disk, that goes with its process, however that ends.

NAME.lock   made first, and locked; the system lets go of it when the process ends, even by SIGKILL
NAME/       made then. Whoever makes the next such folder removes those whose lock nobody holds.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from pydreaming.errors import ReplayError

_PREFIX, _LOCK = "pydreaming-staging-", ".lock"


class Staging:
    """A new `folder` below the system's one for temporary files.

    Raises:
      ReplayError: it cannot be made.
    """

    def __init__(self) -> None:
        try:
            self._handle, self._lock = _new_lock()
            self.folder = self._lock.with_suffix("")
            self.folder.mkdir(mode=0o700)
            _sweep()
        except OSError as e:
            raise ReplayError(f"cannot make a folder for unfinished files in {tempfile.gettempdir()}: {e.strerror}") from e

    def close(self) -> None:
        """Remove the folder."""
        _remove(self._lock)
        os.close(self._handle)


def _new_lock() -> tuple[int, Path]:
    """A lock file that nobody else has had, held."""
    while True:
        handle, name = tempfile.mkstemp(prefix=_PREFIX, suffix=_LOCK)
        fcntl.flock(handle, fcntl.LOCK_EX)  # somebody who sweeps may hold it for a moment, and then removes it
        if Path(name).exists():
            return handle, Path(name)
        os.close(handle)


def _sweep() -> None:
    """Remove the folders of processes that have ended."""
    for lock in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*{_LOCK}"):
        try:
            handle = os.open(lock, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)  # anybody may put a pipe there, which waits for its writer
        except OSError:  # gone, or another user's
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove(lock)
        except BlockingIOError:  # its process lives
            continue
        finally:
            os.close(handle)


def _remove(lock: Path) -> None:
    shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
    with suppress(OSError):
        lock.unlink(missing_ok=True)
