"""LibriSpeech: `<subset>/<speaker>/<chapter>/<speaker>-<chapter>-<utterance>.flac` with `<speaker>-<chapter>.trans.txt`.

source.path is the folder LibriSpeech, the folder above it, or one subset. dev-* and test-* are held out where there is a train-* too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from pydreaming.audio.sources import walk
from pydreaming.audio.sources.item import AudioItem, make_item
from pydreaming.audio.sources.manifest import lines, split_hints
from pydreaming.config import SourceConfig

UTTERANCE = re.compile(r"(?P<speaker>\d+)-(?P<chapter>\d+)-\d+\.\w+")
SUBSET = re.compile(r"(train|dev|test)-[\w-]+")


def matches(path: Path) -> bool:
    """Whether the first speaker of a subset has a chapter with such an utterance."""
    candidates = [path] if SUBSET.fullmatch(path.name) else [_home(path) / name for name in _subsets(_home(path))]
    return any(_has_utterances(subset) for subset in candidates)


def items(config: SourceConfig, root: Path, columns: Sequence[str]) -> Iterator[AudioItem]:
    """Labels: speaker, and text where the chapter's transcript is there. Audio of other names is kept without."""
    home = _home(Path(config.path))
    prefix = walk.prefix_of(home, root)
    hints = split_hints(_subsets(home))
    chapter, texts = "", dict[str, str]()
    for file in walk.audio_files(home):
        folder, _, name = file.rpartition("/")
        utterance = UTTERANCE.fullmatch(name)
        row: dict[str, str] = {}
        if utterance:
            if folder != chapter:
                chapter, texts = folder, _transcripts(home / folder / f"{utterance['speaker']}-{utterance['chapter']}.trans.txt")
            row = {"speaker": utterance["speaker"], "text": texts.get(name.rpartition(".")[0], "")}
        yield make_item(prefix + file, row, columns, held_out=hints.get(file.partition("/")[0]))


def _home(path: Path) -> Path:
    return path / "LibriSpeech" if (path / "LibriSpeech").is_dir() else path


def _subsets(home: Path) -> list[str]:
    return [name for name in walk.folders(home) if SUBSET.fullmatch(name)]


def _has_utterances(subset: Path) -> bool:
    for speaker in walk.folders(subset)[:1]:
        for chapter in walk.folders(subset / speaker)[:1]:
            names = walk.files(subset / speaker / chapter)
            return any(UTTERANCE.fullmatch(name) and name.startswith(f"{speaker}-{chapter}-") for name in names if walk.is_audio(name))
    return False


def _transcripts(path: Path) -> dict[str, str]:
    """Text by utterance of one chapter; empty where there is no transcript."""
    if not path.is_file():
        return {}
    rows = (line.partition(" ") for _, line in lines(path))
    return {utterance: text for utterance, _, text in rows}
