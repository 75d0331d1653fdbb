"""Kaldi data folders: `wav.scp`, and `segments`, `utt2spk`, `text` where they are there.

Paths in wav.scp are relative to the source root. A piped command ("sph2pipe ... |") is refused and never run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from pydreaming.audio.sources.item import AudioItem, make_item, number
from pydreaming.audio.sources.manifest import Below, Lookup, lines
from pydreaming.config import SourceConfig
from pydreaming.errors import SourceError


def matches(path: Path) -> bool:
    """A folder with wav.scp, or a wav.scp."""
    return path.name == "wav.scp" if path.is_file() else (path / "wav.scp").is_file()


def items(config: SourceConfig, root: Path, columns: Sequence[str]) -> Iterator[AudioItem]:
    """One item per segment, or per recording where there are no segments; the speaker is utt2spk's, unless each has its own."""
    path = Path(config.path)
    folder = path.parent if path.is_file() else path
    below = Below(root, root)
    with Lookup(_pairs(folder / "utt2spk")) as speakers, Lookup(_pairs(folder / "text")) as texts:

        def item(key: str, file: str, where: str, offset_s: float = 0.0, duration_s: float | None = None) -> AudioItem:
            speaker = speakers.get(key)
            row = {"speaker": speaker if speaker and speaker != key else "", "text": texts.get(key) or ""}
            return make_item(below(file), row, columns, where, offset_s=offset_s, duration_s=duration_s)

        if not (folder / "segments").is_file():
            for where, key, file in _recordings(folder / "wav.scp"):
                yield item(key, file, where)
            return
        with Lookup((key, file) for _, key, file in _recordings(folder / "wav.scp")) as recordings:
            for where, key, recording, offset_s, duration_s in _segments(folder / "segments"):
                found = recordings.get(recording)
                if found is None:
                    raise SourceError(f"{where}: recording '{recording}' is not in wav.scp")
                yield item(key, found, where, offset_s, duration_s)


def _recordings(path: Path) -> Iterator[tuple[str, str, str]]:
    """(where, recording, path) of wav.scp."""
    for where, key, file in _fields(path):
        if file.endswith("|") or file.startswith("|"):
            raise SourceError(f"{where}: '{file[:80]}' is a command; commands are not run, write the audio to files first")
        if not file or file == "-":
            raise SourceError(f"{where}: no path for recording '{key}'")
        yield where, key, file


def _segments(path: Path) -> Iterator[tuple[str, str, str, float, float | None]]:
    """(where, utterance, recording, start in seconds, length in seconds or None) of segments; an end of -1 is the recording's end."""
    for where, key, rest in _fields(path):
        fields = rest.split()
        start, end = (number(field) for field in fields[1:3]) if len(fields) == 3 else (None, None)
        if start is None or end is None or start < 0 or (end <= start and end != -1):
            raise SourceError(f"{where}: expected '<utterance> <recording> <start> <end>' in seconds, found '{key} {rest[:60]}'")
        yield where, key, fields[0], start, None if end == -1 else end - start


def _pairs(path: Path) -> Iterator[tuple[str, str]]:
    """(key, value) of a side table; nothing where there is none."""
    if path.is_file():
        yield from ((key, value) for _, key, value in _fields(path))


def _fields(path: Path) -> Iterator[tuple[str, str, str]]:
    """(where, first field, rest) of each line that is not blank."""
    for number_, line in lines(path):
        if line.strip():
            key, *rest = line.split(maxsplit=1)
            yield f"{path}, line {number_}", key, rest[0].strip() if rest else ""
