"""fairseq manifests: a tsv whose first line is a folder, then `<path below it><TAB><number of samples>`.

source.path is a tsv, or a folder of them (train.tsv and valid.tsv are then an official split).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from pydreaming.audio.sources import walk
from pydreaming.audio.sources.item import AudioItem, make_item
from pydreaming.audio.sources.manifest import Below, head, lines, split_hints
from pydreaming.config import SourceConfig
from pydreaming.errors import SourceError

ROW = re.compile(r"(?P<path>[^\t]+)\t\d+")


def matches(path: Path) -> bool:
    """A manifest, or a folder that holds one."""
    return next(_manifests(path), None) is not None


def items(config: SourceConfig, root: Path, columns: Sequence[str]) -> Iterator[AudioItem]:
    """One item per row. The first line's folder must be the source root or lie in it (relative: from the source root)."""
    path = Path(config.path)
    manifests = [path] if path.is_file() else list(_manifests(path))
    if not manifests:
        raise SourceError(f"{path}: no manifest (.tsv with a folder in its first line) in it")
    hints = split_hints(manifest.stem for manifest in manifests)
    for manifest in manifests:
        below: Below | None = None
        for number, line in lines(manifest):
            where = f"{manifest}, line {number}"
            if below is None:
                below = _start(line, where, root)
            elif line.strip():
                row = ROW.fullmatch(line)
                if row is None:
                    raise SourceError(f"{where}: expected '<path><TAB><number of samples>', found '{line[:60]}'")
                yield make_item(below(row["path"]), {}, columns, where, held_out=hints[manifest.stem])


def _start(line: str, where: str, root: Path) -> Below:
    try:
        base = (root / line.strip()).resolve()
    except (OSError, ValueError) as e:  # a NUL, a name too long
        raise SourceError(f"{where}: no name of a folder ({e})") from e
    if not base.is_relative_to(root.resolve()):
        raise SourceError(f"{where}: the folder {line.strip()} is not inside the source root {root}; set source.root")
    return Below(root, base)


def _manifests(path: Path) -> Iterator[Path]:
    files = [path] if path.is_file() else [path / name for name in walk.files(path)]
    return (name for name in files if name.suffix == ".tsv" and _looks_right(head(name).splitlines()[:2]))


def _looks_right(first: list[str]) -> bool:
    return len(first) == 2 and "\t" not in first[0] and bool(first[0].strip()) and ROW.fullmatch(first[1]) is not None
