"""The table of layouts: which there are, in which order `auto` asks them, and the one way to read a source."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import msgspec

from pydreaming.audio.sources import (
    audiofolder,
    common_voice,
    esc50,
    fairseq,
    folder,
    fsdd,
    kaldi,
    librispeech,
    ljspeech,
    nemo,
    speech_commands,
)
from pydreaming.audio.sources.item import AudioItem
from pydreaming.config import SourceConfig
from pydreaming.errors import SourceError


class Layout(Protocol):
    """What a layout's module offers."""

    def matches(self, path: Path) -> bool:
        """Whether `path` has this layout, from a few of its files; never raises for what it cannot read."""

    def items(self, config: SourceConfig, root: Path, columns: Sequence[str]) -> Iterator[AudioItem]:
        """The recordings, in a deterministic order."""


# The order in which `auto` asks, the most particular first; `folder` matches any folder.
LAYOUTS: dict[str, Layout] = {
    "esc50": esc50,
    "fsdd": fsdd,
    "librispeech": librispeech,
    "speech_commands": speech_commands,
    "ljspeech": ljspeech,
    "common_voice": common_voice,
    "kaldi": kaldi,
    "audiofolder": audiofolder,
    "nemo": nemo,
    "fairseq": fairseq,
    "folder": folder,
}
# What those layouts look for that take other audio as well, without labels, speakers and official split.
PATTERNS = {
    "esc50": "meta/esc50.csv or <class>/<fold>-<id>-<take>.ogg",
    "fsdd": "<digit>_<speaker>_<index>.wav",
    "librispeech": "<subset>/<speaker>/<chapter>/<speaker>-<chapter>-<utterance>.flac",
    "speech_commands": "<word>/<speaker>_nohash_<n>.wav",
    "common_voice": "train.tsv or validated.tsv",
}


def iter_source(config: SourceConfig, columns: Sequence[str] = ()) -> Iterator[AudioItem]:
    """Stream the recordings of a source, in a deterministic order and with index -1.

    Rows that name a missing file, or one outside the source root, are listed like any other: the decoder reports them.

    Args:
      config: what to read; kind `auto` tells the layout from the files.
      columns: numeric columns to take as controls.
    Raises:
      SourceError: nothing at source.path, or a manifest is broken; the message names file and line.
    """
    layout = LAYOUTS[layout_of(config)]
    items = layout.items(config, source_root(config), columns)
    return (msgspec.structs.replace(item, labels={}) for item in items) if config.labels == "none" else items


def layout_of(config: SourceConfig) -> str:
    """The kind of a source: as given, or for `auto` as its files and the wish for labels tell. Raises SourceError."""
    path = _existing(config)
    if config.kind != "auto":
        return config.kind
    if config.labels in ("folders", "metadata") and path.is_dir():
        return "folder"
    kind = next((kind for kind, layout in LAYOUTS.items() if layout.matches(path)), None)
    if kind is None:
        raise SourceError(f"{path} is neither audio nor a known manifest; set source.kind ({', '.join(LAYOUTS)})")
    return kind


def misfit(config: SourceConfig) -> str:
    """What to tell a user whose `source.kind` finds no file that it knows anything of; empty where it does. Raises SourceError."""
    pattern = PATTERNS.get(config.kind)
    if pattern is None or LAYOUTS[config.kind].matches(_existing(config)):
        return ""
    item = None
    for item in LAYOUTS[config.kind].items(config, source_root(config), ()):
        if item.group != f"recording:{item.path}":
            return ""
    if item is None:  # of a source that grows, nothing may be there yet
        return ""
    return (
        f"source.kind is '{config.kind}', but nothing in {config.path} is named {pattern}: it is read as plain audio, without labels "
        f"and official split; pydreaming inspect {shlex.quote(config.path)} says what it is"
    )


def source_root(config: SourceConfig) -> Path:
    """The folder that every file of the source must lie in, and that items' paths are relative to. Raises SourceError."""
    path = _existing(config)
    root = Path(config.root) if config.root else path if path.is_dir() else path.parent
    if not root.is_dir():
        raise SourceError(f"source.root {root} is not a folder")
    return root


def _existing(config: SourceConfig) -> Path:
    if not config.path:
        raise SourceError("source.path is not set: give a folder with audio, or a manifest")
    path = Path(config.path)
    try:
        there = path.exists()
    except OSError as e:  # a folder above it that may not be entered
        raise SourceError(f"source.path {path} cannot be read ({e.strerror})") from e
    if not there:
        fetch = f"; python -m pydreaming.audio.sources.fsdd_download {path} fetches it" if config.kind == "fsdd" else ""
        raise SourceError(f"source.path {path} does not exist{fetch}")
    return path
