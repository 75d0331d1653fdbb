"""ESC-50 (`audio/`, `meta/esc50.csv`) and ESC-10's own layout (`<class folder>/{fold}-{freesound id}-{take}.ogg`).

Fold 5 is held out. The group is the freesound recording that a clip was cut from.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from pydreaming.audio.sources import walk
from pydreaming.audio.sources.item import AudioItem, make_item
from pydreaming.audio.sources.manifest import Below, table
from pydreaming.config import SourceConfig

CLIP = re.compile(r"(?P<fold>\d)-(?P<source>\d+)-(?P<take>[A-Z])\.(ogg|wav|flac)")
CLASS_FOLDER = re.compile(r"\d+ - (?P<label>.+)")  # "010 - Fire crackling"
HELD_OUT_FOLD = "5"


def matches(path: Path) -> bool:
    """Either layout; of ESC-10, every folder must hold clips, and only clips."""
    if (path / "meta" / "esc50.csv").is_file():
        return True
    clips = ([name for name in walk.files(path / folder) if walk.is_audio(name)] for folder in walk.folders(path))
    some = False
    for names in clips:
        some = True
        if not names or not all(CLIP.fullmatch(name) for name in names):
            return False
    return some


def items(config: SourceConfig, root: Path, columns: Sequence[str]) -> Iterator[AudioItem]:
    """Label: the category."""
    path = Path(config.path)
    meta = path / "meta" / "esc50.csv"
    yield from _esc50(meta, Below(root, path / "audio"), columns) if meta.is_file() else _esc10(path, root, columns)


def _esc50(meta: Path, below: Below, columns: Sequence[str]) -> Iterator[AudioItem]:
    for where, row in table(meta, ["filename", "fold", "category", "src_file"]):
        held_out = row["fold"].strip() == HELD_OUT_FOLD
        path, group = below(row.pop("filename")), f"recording:{row['src_file'].strip()}"
        yield make_item(path, row, columns, where, group=group, held_out=held_out)


def _esc10(path: Path, root: Path, columns: Sequence[str]) -> Iterator[AudioItem]:
    prefix = walk.prefix_of(path, root)
    for file in walk.audio_files(path):
        *parents, name = file.split("/")
        clip = CLIP.fullmatch(name)
        if clip is None or not parents:
            yield make_item(prefix + file, {}, columns, held_out=False)
            continue
        numbered = CLASS_FOLDER.fullmatch(parents[-1])
        row = {"label": numbered["label"] if numbered else parents[-1], "fold": clip["fold"], "take": clip["take"]}
        group = f"recording:{clip['source']}"
        yield make_item(prefix + file, row, columns, group=group, held_out=clip["fold"] == HELD_OUT_FOLD)
