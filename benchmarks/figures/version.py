"""Which version of the code has made something: figures of different versions are told apart."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
CODE = ("pydreaming", "workers", "benchmarks/figures")  # what stores, trainings and figures are made by
UNKNOWN = "unknown"


@functools.cache  # of the files as they are when a process begins, and not of what somebody writes while it works
def version() -> str:
    """Of the program's own files."""
    digest = hashlib.sha256()
    for path in sorted(path for folder in CODE for path in (ROOT / folder).rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:8]


def sign(folder: Path) -> None:
    """Write beside the checkpoints of `folder` that this version trains them."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "trained_by").write_text(f"{version()}\n", encoding="utf-8")


def signed(folder: Path) -> str:
    """The version that trained the checkpoints of `folder`; UNKNOWN for those from before it was written."""
    path = folder / "trained_by"
    return path.read_text(encoding="utf-8").strip() if path.is_file() else UNKNOWN
