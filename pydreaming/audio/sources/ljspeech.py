"""LJSpeech: `wavs/*.wav` and `metadata.csv`, lines of `id|text|normalised text` without a header."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from pydreaming.audio.sources import walk
from pydreaming.audio.sources.item import AudioItem, make_item
from pydreaming.audio.sources.manifest import Lookup, head, lines
from pydreaming.config import SourceConfig
from pydreaming.errors import SourceError

LINDA_JOHNSON = re.compile(r"LJ\d{3}-\d{4}")  # the one reader of the original; other corpora use the layout for any number of readers


def matches(path: Path) -> bool:
    """A folder wavs/ beside a metadata.csv whose first line is `id|text` or more, and no other columns."""
    first = head(path / "metadata.csv").partition("\n")[0]
    return (path / "wavs").is_dir() and "|" in first and "," not in first.partition("|")[0]


def items(config: SourceConfig, root: Path, columns: Sequence[str]) -> Iterator[AudioItem]:
    """The rows in their order, with the normalised text where there is one, then the wavs that have no row."""
    path = Path(config.path)
    prefix = walk.prefix_of(path, root) + "wavs/"
    with Lookup() as listed:
        for number, line in lines(path / "metadata.csv"):
            if not line.strip():
                continue
            where = f"{path / 'metadata.csv'}, line {number}"
            name, *texts = line.split("|")
            if not name.strip() or not texts:
                raise SourceError(f"{where}: expected 'id|text|normalised text', found '{line[:60]}'")
            file = f"{name.strip()}.wav"
            listed.add(file)
            yield make_item(prefix + file, {"text": texts[-1].strip() or texts[0]} | _speaker(name), columns, where)
        for file in walk.audio_files(path / "wavs"):
            if file not in listed:
                yield make_item(prefix + file, _speaker(file), columns)


def _speaker(name: str) -> dict[str, str]:
    return {"speaker": "LJ"} if LINDA_JOHNSON.match(name) else {}
