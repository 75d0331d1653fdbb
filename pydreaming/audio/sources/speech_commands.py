"""Speech Commands: `<word>/<speaker>_nohash_<n>.wav`, `validation_list.txt`, `testing_list.txt`, `_background_noise_/`.

Both lists are held out. The background noise has no label and is learned from like any other sound.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from pydreaming.audio.sources import walk
from pydreaming.audio.sources.item import AudioItem, make_item
from pydreaming.audio.sources.manifest import Lookup, lines
from pydreaming.config import SourceConfig

LISTS = ("validation_list.txt", "testing_list.txt")
UTTERANCE = re.compile(r"(?P<word>[^/]+)/(?P<speaker>[^/]+)_nohash_\d+\.wav")
BACKGROUND = "_background_noise_/"


def matches(path: Path) -> bool:
    """A folder with folders in which every audio file is `<speaker>_nohash_<n>.wav`, the background noise aside."""
    words = [name for name in walk.folders(path) if f"{name}/" != BACKGROUND]
    audio = (f"{word}/{name}" for word in words for name in walk.files(path / word) if walk.is_audio(name))
    first = next(audio, None)
    return first is not None and all(UTTERANCE.fullmatch(name) for name in (first, *audio))


def items(config: SourceConfig, root: Path, columns: Sequence[str]) -> Iterator[AudioItem]:
    """Labels: the word and the speaker. Files that a list names and that are not there come last, to be reported as missing."""
    path = Path(config.path)
    prefix = walk.prefix_of(path, root)
    lists = [path / name for name in LISTS if (path / name).is_file()]
    with Lookup((line.strip(), "") for listing in lists for _, line in lines(listing)) as held_out, Lookup() as seen:
        for file in walk.audio_files(path):
            seen.add(file)
            yield make_item(prefix + file, _row(file), columns, held_out=file in held_out if lists else None)
        for name in (line.strip() for listing in lists for _, line in lines(listing)):
            if name and name not in seen:
                yield make_item(prefix + name, _row(name), columns, held_out=True)


def _row(file: str) -> dict[str, str]:
    utterance = UTTERANCE.fullmatch(file)
    if utterance:
        return {"label": utterance["word"], "speaker": utterance["speaker"]}
    word, slash, _ = file.rpartition("/")
    return {"label": word} if slash and not file.startswith(BACKGROUND) else {}
