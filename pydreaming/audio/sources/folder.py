"""Any folder of audio, or a single audio file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from pydreaming.audio.sources import audiofolder, walk
from pydreaming.audio.sources.item import AudioItem, make_item
from pydreaming.config import SourceConfig


def matches(path: Path) -> bool:
    """Anything that is a folder, or an audio file by its suffix."""
    return path.is_dir() or walk.is_audio(path.name)


def items(config: SourceConfig, root: Path, columns: Sequence[str]) -> Iterator[AudioItem]:
    """The audio files below `source.path`, labelled as `source.labels` says.

    auto takes metadata.csv where it has a file_name column, else the folders' names where every file lies exactly one level below
    source.path in at least two folders, else no labels.
    """
    path = Path(config.path)
    if path.is_file():
        yield make_item(walk.prefix_of(path.parent, root) + path.name, {}, columns)
        return
    if config.labels == "metadata" or (config.labels == "auto" and audiofolder.matches(path)):
        yield from audiofolder.items(config, root, columns)
        return
    prefix = walk.prefix_of(path, root)
    labelled = config.labels == "folders" or (config.labels == "auto" and _folders_are_classes(path))
    for file in walk.audio_files(path):
        *parents, _ = file.split("/")
        yield make_item(prefix + file, {"label": parents[-1]} if labelled and parents else {}, columns)


def _folders_are_classes(path: Path) -> bool:
    first, several = None, False
    for file in walk.audio_files(path):
        parents = file.split("/")[:-1]
        if len(parents) != 1:
            return False
        first = first or parents[0]
        several = several or parents[0] != first
    return several
