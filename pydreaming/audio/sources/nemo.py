"""NeMo manifests: one JSON object per line with `audio_filepath`, and `duration`, `text`, `offset`, `speaker`, `label` where known.

source.path is a manifest, or a folder of them (train and dev or test manifests are then an official split).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from pydreaming.audio.sources import walk
from pydreaming.audio.sources.item import AudioItem, make_item, number
from pydreaming.audio.sources.manifest import Below, head, lines, split_hints
from pydreaming.config import SourceConfig
from pydreaming.errors import SourceError

SUFFIXES = (".json", ".jsonl")


def matches(path: Path) -> bool:
    """A manifest, or a folder that holds one."""
    return next(_manifests(path), None) is not None


def items(config: SourceConfig, root: Path, columns: Sequence[str]) -> Iterator[AudioItem]:
    """One item per row; paths are relative to the manifest's folder.

    A row with an `offset` is a segment of `duration` seconds; without one, `duration` describes the file, and the whole file is read.
    """
    path = Path(config.path)
    manifests = [path] if path.is_file() else list(_manifests(path))
    if not manifests:
        raise SourceError(f"{path}: no manifest (.json or .jsonl with audio_filepath) in it")
    hints = split_hints(manifest.stem for manifest in manifests)
    for manifest in manifests:
        below = Below(root, manifest.parent)
        for line, text in lines(manifest):
            if text.strip():
                yield _item(text, f"{manifest}, line {line}", below, columns, hints[manifest.stem])


def _item(text: str, where: str, below: Below, columns: Sequence[str], held_out: bool | None) -> AudioItem:
    try:
        row = msgspec.json.decode(text, type=dict[str, Any])
    except msgspec.DecodeError as e:
        raise SourceError(f"{where}: not a JSON object ({e})") from e
    path = row.pop("audio_filepath", None)
    if not isinstance(path, str) or not path.strip():
        raise SourceError(f"{where}: no 'audio_filepath'")
    controls = {name: row[name] for name in columns if name in row}
    offset, duration = (_seconds(row, name, where) for name in ("offset", "duration"))
    labels = {name: value for name, value in row.items() if name not in ("offset", "duration")}
    return make_item(
        below(path),
        labels | controls,
        columns,
        where,
        offset_s=offset or 0.0,
        duration_s=None if offset is None else duration,
        held_out=held_out,
    )


def _seconds(row: dict[str, Any], name: str, where: str) -> float | None:
    if row.get(name) is None:
        return None
    seconds = number(row[name])
    if seconds is None or seconds < 0 or (name == "duration" and seconds == 0):
        raise SourceError(f"{where}: '{name}' is {row[name]!r}, not a number of seconds")
    return seconds


def _manifests(path: Path) -> Iterator[Path]:
    files = [path] if path.is_file() else [path / name for name in walk.files(path)]
    return (name for name in files if name.suffix in SUFFIXES and _is_row(head(name).lstrip().partition("\n")[0]))


def _is_row(line: str) -> bool:
    return line.startswith("{") and '"audio_filepath"' in line
