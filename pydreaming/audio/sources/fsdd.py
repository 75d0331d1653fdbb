"""Free Spoken Digit Dataset: `recordings/{digit}_{speaker}_{index}.wav`; the official test split is index 0 to 4.

The bundled digits have the same names, as flac and without the folder.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from pydreaming.audio.sources import walk
from pydreaming.audio.sources.item import AudioItem, make_item
from pydreaming.config import SourceConfig

NAME = re.compile(r"(?P<digit>\d)_(?P<speaker>[^_]+)_(?P<index>\d+)\.(wav|flac)", re.IGNORECASE)
TEST_INDEXES = 5


def matches(path: Path) -> bool:
    """A folder, or its folder recordings/, in which every audio file has such a name."""
    audio = [name for name in walk.files(_recordings(path)) if walk.is_audio(name)]
    return bool(audio) and all(NAME.fullmatch(name) for name in audio)


def items(config: SourceConfig, root: Path, columns: Sequence[str]) -> Iterator[AudioItem]:
    """Label: the digit. Files of other names are kept without one."""
    folder = _recordings(Path(config.path))
    prefix = walk.prefix_of(folder, root)
    for file in walk.audio_files(folder):
        name = NAME.fullmatch(file)
        row = {"label": name["digit"], "speaker": name["speaker"]} if name else {}
        yield make_item(prefix + file, row, columns, held_out=name is not None and int(name["index"]) < TEST_INDEXES)


def _recordings(path: Path) -> Path:
    return path / "recordings" if (path / "recordings").is_dir() else path
