"""Common Voice: `<release>/<language>/clips/*.mp3` with `train.tsv`, `dev.tsv`, `test.tsv` and more, by language.

source.path is a release, a language, or one tsv. The official splits are read where there is a train.tsv, with dev and test held out;
else validated.tsv or the next best; else the clips without metadata. Splits change with every release.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from pydreaming.audio.sources import walk
from pydreaming.audio.sources.item import AudioItem, make_item
from pydreaming.audio.sources.manifest import Below, header, split_hints, table
from pydreaming.config import SourceConfig
from pydreaming.errors import SourceError

OFFICIAL = ("train", "dev", "test")
# Without train.tsv: the first of these that is there; validated.tsv holds the rows of dev and test as well.
OTHERWISE = ("validated", "other", "invalidated", "test", "dev")


def matches(path: Path) -> bool:
    """A tsv with client_id and path; or a folder, or folder of folders, with clips/ and such a tsv, or in a release's name."""
    if path.is_file():
        return _is_table(path)
    return any(
        any(_is_table(language / name) for name in walk.files(language)) or "cv-corpus" in language.resolve().as_posix()
        for language in _languages(path)
    )


def items(config: SourceConfig, root: Path, columns: Sequence[str]) -> Iterator[AudioItem]:
    """Labels: text, speaker (client_id) and the further columns."""
    path = Path(config.path)
    if path.is_file():
        yield from _rows(path, Below(root, path.parent / "clips"), columns, None)
        return
    languages = _languages(path)
    if not languages:
        raise SourceError(f"{path}: no folder clips/ in it or in its folders; is it a Common Voice release or language?")
    for language in languages:
        clips = language / "clips"
        tables = _tables(language)
        for name, hint in split_hints(tables).items():
            yield from _rows(language / f"{name}.tsv", Below(root, clips), columns, hint)
        if not tables:
            prefix = walk.prefix_of(clips, root)
            for file in walk.audio_files(clips):
                yield make_item(prefix + file, {}, columns)


def _rows(file: Path, below: Below, columns: Sequence[str], held_out: bool | None) -> Iterator[AudioItem]:
    for where, row in table(file, ["path"], delimiter="\t", quoted=False):
        yield make_item(below(row.pop("path")), row, columns, where, held_out=held_out)


def _languages(path: Path) -> list[Path]:
    if (path / "clips").is_dir():
        return [path]
    return [path / name for name in walk.folders(path) if (path / name / "clips").is_dir()]


def _tables(language: Path) -> list[str]:
    there = [name.removesuffix(".tsv") for name in walk.files(language) if name.endswith(".tsv")]
    if "train" in there:
        return [name for name in OFFICIAL if name in there]
    return [name for name in OTHERWISE if name in there][:1]


def _is_table(path: Path) -> bool:
    return path.suffix == ".tsv" and {"client_id", "path"} <= set(header(path, "\t"))
