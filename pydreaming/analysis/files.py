"""Writing results whole or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from pydreaming.errors import PydreamingError


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside `path` that takes its place when the block ends well; folders are made.

    Raises:
      PydreamingError: the place cannot be written.
    """
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.replace(path)
    except OSError as e:
        raise PydreamingError(f"cannot write {path}: {e.strerror or e}") from e
    finally:
        with contextlib.suppress(OSError):  # it is not there, or its folder is none: then nothing is left to remove
            temporary.unlink()


def numbered(path: Path, count: int, suffix: str = "") -> list[Path]:
    """Names for `count` files of one kind: `a.wav` for one, `a-1.wav`, `a-2.wav`, ... for more; with a suffix `a-<suffix>-1.wav`, ..."""
    stem = f"{path.stem}-{suffix}" if suffix else path.stem
    return [path.with_name(f"{stem}{path.suffix}" if count == 1 else f"{stem}-{k}{path.suffix}") for k in range(1, count + 1)]
