"""A folder for files in the making, on this host's disk, that goes with its process, however that ends."""

from __future__ import annotations

import fcntl
import shutil
import tempfile
from pathlib import Path
from typing import IO

from pydreaming.errors import ReplayError

_PREFIX = "pydreaming-staging-"
_LOCK = ".lock"


class Staging:
    """A new folder below the system's one for temporary files. The system lets go of its lock when the process ends, even by SIGKILL, and
    whoever makes the next such folder removes those that nobody holds.

    Raises:
      ReplayError: it cannot be made.
    """

    def __init__(self) -> None:
        try:
            self.folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
            self._lock = _hold(self.folder)
            _sweep()
        except OSError as e:
            raise ReplayError(f"cannot make a folder for unfinished files in {tempfile.gettempdir()}: {e.strerror}") from e

    def close(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)
        if self._lock is not None:
            self._lock.close()


def _hold(folder: Path) -> IO[bytes] | None:
    """The folder's lock, held as long as the file is open; None when another process has it."""
    file = (folder / _LOCK).open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


def _sweep() -> None:
    """Remove the folders of processes that have ended."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        if folder.is_symlink() or not (folder / _LOCK).is_file():  # somebody's trap, or a folder that is just being made
            continue
        try:
            lock = _hold(folder)
        except OSError:  # another user's
            continue
        if lock is not None:
            shutil.rmtree(folder, ignore_errors=True)
            lock.close()
