"""Errors that a user can act on.

Every error raised for a user's mistake or a broken input derives from `PydreamingError`; its text is one line that names the file,
key or address and says what to do. `launch.py` and the `pydreaming` command print that line and exit with `exit_code`; anything else
that escapes is a bug and shows its traceback.
"""

from __future__ import annotations

import re


class PydreamingError(Exception):
    """Base of all errors with a message meant for the user. `exit_code` is what the process returns."""

    exit_code = 1

    def __str__(self) -> str:
        # Messages name files, and a file may be called anything: no name writes lines of its own into a log, or steers a terminal.
        return "".join(ch if ch.isprintable() else " " for ch in super().__str__())


class UsageError(PydreamingError):
    """The command was used wrongly (exit code 2)."""

    exit_code = 2


class ConfigError(UsageError):
    """A configuration key, type or range is wrong."""


class SourceError(PydreamingError):
    """A data set, manifest or catalogue cannot be used as a whole."""


class DecodeError(PydreamingError):
    """One audio file cannot be decoded. Carries the path and the cause for the quarantine list."""

    def __init__(self, path: str, cause: str) -> None:
        super().__init__(f"{path}: {cause}")
        self.path = path
        self.cause = cause


class ReplayError(PydreamingError):
    """A replay store or one of its files is missing, damaged or made with other settings."""


class DamagedError(ReplayError):
    """One file of a replay store does not hold what was written. Carries its name and the cause, for the list of damaged files."""

    def __init__(self, name: str, cause: str) -> None:
        super().__init__(f"{name}: {cause}")
        self.name = name
        self.cause = cause


class UnreachableError(ReplayError):
    """A replay store does not answer now, and may do so later."""


class CheckpointError(PydreamingError):
    """A checkpoint is missing, damaged or made with other settings."""


class TransportError(PydreamingError):
    """A peer cannot be reached, or an address or key is refused."""


class TrackingError(PydreamingError):
    """The MLflow store or server cannot be used."""


def redact(uri: str) -> str:
    """`uri`, or a text with addresses in it, without user names and passwords, for messages and files."""
    return re.sub(r"(?<=://)[^/@\s]*@", "", uri)
