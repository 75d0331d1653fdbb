"""Hugging Face AudioFolder: metadata.csv with a file_name column beside the audio, in the folder or in each of its split folders."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from pydreaming.audio.sources import walk
from pydreaming.audio.sources.item import AudioItem, make_item
from pydreaming.audio.sources.manifest import Below, Lookup, header, is_subset, split_hints, table
from pydreaming.config import SourceConfig
from pydreaming.errors import SourceError

NAME = "metadata.csv"


def matches(path: Path) -> bool:
    """A csv, or a folder with a metadata.csv (in itself or in a folder of it), that has a file_name column."""
    if path.is_file():
        return path.suffix == ".csv" and "file_name" in header(path)
    return any("file_name" in header(table) for table in _tables(path))


def items(config: SourceConfig, root: Path, columns: Sequence[str]) -> Iterator[AudioItem]:
    """Every row, then the audio files that no row names, since unlabelled sound is learned from as well.

    Where train/ and test/ have a metadata.csv each, they are the official split.
    """
    path = Path(config.path)
    tables = [path] if path.is_file() else _tables(path)
    if not tables:
        raise SourceError(f"{path}: no metadata.csv in it or in its folders")
    hints = split_hints(table.parent.name for table in tables)
    with Lookup() as listed:
        for file in tables:
            below = Below(root, file.parent)
            for where, row in table(file, ["file_name"]):
                item_path = below(row.pop("file_name"))
                listed.add(item_path)
                yield make_item(item_path, row, columns, where, held_out=hints[file.parent.name])
        if path.is_dir():
            prefix = walk.prefix_of(path, root)
            for name in walk.audio_files(path):
                if prefix + name not in listed:
                    held_out = hints.get(name.partition("/")[0])
                    yield make_item(prefix + name, {}, columns, f"{prefix}{name}, which has no row in {NAME}", held_out=held_out)


def _tables(path: Path) -> list[Path]:
    own = path / NAME
    if own.is_file():
        return [own]
    nested = (path / folder / NAME for folder in walk.folders(path) if is_subset(folder))
    return [file for file in nested if "file_name" in header(file)]
