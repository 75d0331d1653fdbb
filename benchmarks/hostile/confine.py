"""A process that may take only so much memory, start nothing, unpickle nothing, and write only where it is allowed to.

Python reports what it does (PEP 578); what is not allowed is noted and stopped. Loading code by the import system stays possible, as
libraries import lazily.
"""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

FORBIDDEN = frozenset(
    {
        "os.system", "os.exec", "os.spawn", "os.posix_spawn", "os.fork", "os.forkpty", "subprocess.Popen", "pty.spawn",
        "pickle.find_class", "ctypes.dlopen", "code.__new__", "os.symlink", "os.link", "os.chmod", "os.chown",
    }
)  # fmt: skip
# Places among an event's arguments: of the paths, and of the open folders that these are relative to.
_CHANGES = {"os.remove": {0: 1}, "os.rmdir": {0: 1}, "os.mkdir": {0: 2}, "os.rename": {0: 2, 1: 3}, "os.truncate": {0: -1}}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class ConfinedError(RuntimeError):
    """What was tried."""


class FellError(RuntimeError):
    """A process did not withstand its input."""


class Confinement:
    """What this process has tried since `begin`, in `tried`; `canary`: a file that nobody has a reason to open."""

    def __init__(self, writable: Sequence[Path], canary: Path | None = None) -> None:
        self._writable = tuple(str(path.resolve()) for path in (*writable, Path("/dev/null")))
        self._canary = str(canary.resolve()) if canary else ""
        self.tried: list[str] = []

    def begin(self) -> None:
        """From now on, for ever: an audit hook cannot be taken back."""
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in FORBIDDEN:
            self._stop(f"{event} {arguments!r:.200}")
        elif event == "open":
            self._open(*arguments)
        elif event in _CHANGES:
            for path, folder in _CHANGES[event].items():
                self._require_writable(event, arguments[path], arguments[folder] if folder > 0 else -1)

    def _open(self, path: object, mode: object, flags: object) -> None:
        if not isinstance(path, str | bytes | os.PathLike):
            return  # a file that is open already
        if self._canary and os.path.realpath(os.fsdecode(path)) == self._canary:
            self._stop(f"opened {self._canary}")
        if isinstance(flags, int) and flags & _WRITING:
            self._require_writable("open", path)

    def _require_writable(self, event: str, path: object, folder: int = -1) -> None:
        if not isinstance(path, str | bytes | os.PathLike):
            return
        base = Path(f"/proc/self/fd/{folder}").readlink() if folder >= 0 else Path()
        real = os.path.realpath(base / os.fsdecode(path))
        if not any(real == allowed or real.startswith(f"{allowed}{os.sep}") for allowed in self._writable):
            self._stop(f"{event} {real}")

    def _stop(self, what: str) -> None:
        self.tried.append(what)
        raise ConfinedError(what)


def limit_memory(more: int) -> None:
    """Let this process map at most `more` bytes beyond what it has mapped now: beyond it, an allocation is a MemoryError."""
    with Path("/proc/self/statm").open() as file:
        mapped = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + more, mapped + more))


def peak_rss() -> int:
    """The most memory that this process has had, in bytes (getrusage also counts its parent's, from before exec)."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
