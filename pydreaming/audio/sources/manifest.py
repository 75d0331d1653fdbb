"""Reading manifests: lines and tables whose errors name the file and the line, lookups that live on disk, paths kept below the root."""

from __future__ import annotations

import csv
import posixpath
import re
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Self

from pydreaming.audio.sources import walk
from pydreaming.errors import SourceError

LINE_LIMIT = 1 << 20  # bytes; a longer line means that the file is no manifest, and is not read into memory
HEAD_BYTES = 1 << 16
TRAINING_NAME = re.compile(r"(train|training)([-_.].*)?", re.IGNORECASE)
HELD_OUT_NAME = re.compile(r"(dev|test|testing|valid|validation|eval)([-_.].*)?", re.IGNORECASE)


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """(line number from 1, text without its end) of a UTF-8 file, streamed. Raises SourceError with file and line."""
    try:
        with path.open("rb") as file:
            number = 0
            while line := file.readline(LINE_LIMIT):
                number += 1
                if len(line) == LINE_LIMIT:
                    raise SourceError(f"{path}, line {number}: longer than {LINE_LIMIT} bytes; not a manifest")
                try:
                    text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError as e:
                    raise SourceError(f"{path}, line {number}: not UTF-8 ({e.reason} at byte {e.start})") from e
                yield number, text.rstrip("\r\n")
    except OSError as e:
        raise SourceError(f"{path}: cannot be read ({e.strerror or e})") from e


def table(path: Path, needs: Sequence[str], *, delimiter: str = ",", quoted: bool = True) -> Iterator[tuple[str, dict[str, str]]]:
    """("<file>, line <n>", row by column name) of a table with a header line, streamed.

    Args:
      needs: columns that must be in the header, and not empty in any row.
      quoted: whether fields may stand in double quotes (csv); tab-separated releases do not quote.
    Raises:
      SourceError: a column is missing or empty, a row has too many fields, not UTF-8; the message names file and line.
    """
    text = (f"{line}\n" for _, line in lines(path))
    reader = csv.reader(text, delimiter=delimiter, quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE, strict=quoted)
    try:
        header = [name.strip() for name in next(reader, [])]
        for name in needs:
            if name not in header:
                raise SourceError(f"{path}, line 1: no column '{name}' (columns: {', '.join(header) or 'none'})")
        for fields in reader:
            where = f"{path}, line {reader.line_num}"
            if not fields:
                continue
            if len(fields) > len(header):
                raise SourceError(f"{where}: {len(fields)} fields, but the header names {len(header)}")
            row = dict(zip(header, fields, strict=False))
            for name in needs:
                if not row.get(name, "").strip():
                    raise SourceError(f"{where}: column '{name}' is empty")
            yield where, row
    except csv.Error as e:
        raise SourceError(f"{path}, line {reader.line_num}: {e}") from e


def head(path: Path) -> str:
    """The first 64 KiB of a file as text, for sniffing: never raises, and is empty for what cannot be read."""
    try:
        if not path.is_file():
            return ""
        with path.open("rb") as file:
            return file.read(HEAD_BYTES).decode("utf-8-sig", errors="replace")
    except OSError:  # sniffing only: what cannot be read matches no layout
        return ""


def header(path: Path, delimiter: str = ",") -> list[str]:
    """Column names in the first line of a table, for sniffing; never raises."""
    return [name.strip().strip('"') for name in head(path).partition("\n")[0].rstrip("\r").split(delimiter)]


class Below:
    """Turns a manifest's paths into POSIX paths relative to `root`; relative ones are taken from the folder `base`.

    A path that leads elsewhere (absolute, or by "..") is returned as it stands: the item is listed, and the decoder refuses it with that
    path in the quarantine list, so that one bad row does not stop a run. The same holds for files that are not there.
    """

    def __init__(self, root: Path, base: Path) -> None:
        self._roots = [f"{start.as_posix().rstrip('/')}/" for start in (root.absolute(), root.resolve())]
        inside = base.resolve().is_relative_to(root.resolve())
        self._prefix = walk.prefix_of(base, root) if inside else ""

    def __call__(self, text: str) -> str:
        """The path relative to the root, or as it stands where it leads elsewhere."""
        text = text.strip()
        if text.startswith("/"):
            start = next((root for root in self._roots if text.startswith(root)), "")
            path = text.removeprefix(start)
        else:
            path = self._prefix + text
        # "lists/../wavs/a.wav" is inside; by name only, since the decoder follows links and has the last word.
        tidy = posixpath.normpath(path)
        return path if tidy.startswith("..") else tidy


def is_subset(name: str) -> bool:
    """Whether a name says that it is a part of a data set: train-clean-100, dev, test_manifest."""
    return (TRAINING_NAME.fullmatch(name) or HELD_OUT_NAME.fullmatch(name)) is not None


def split_hints(names: Iterable[str]) -> dict[str, bool | None]:
    """Whether each subset is held out, from names such as train-clean-100, dev-clean, valid.tsv.

    Only where there are subsets of both sorts: a test set on its own is data like any other, and None leaves it to the catalogue.
    """
    hints = {name: HELD_OUT_NAME.fullmatch(name) is not None for name in names}
    decided = len(set(hints.values())) == 2
    return {name: hint if decided else None for name, hint in hints.items()}


class Lookup:
    """A mapping from text to text that lives in a temporary file, for the side tables of manifests with millions of rows.

    SQLite keeps a database with an empty name in a private file, deleted when it is closed. The last value of a repeated key stands.
    """

    def __init__(self, rows: Iterable[tuple[str, str]] = ()) -> None:
        self._database = sqlite3.connect("")
        self._database.execute("CREATE TABLE rows (key BLOB PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID")
        self._database.executemany("INSERT OR REPLACE INTO rows VALUES (?, ?)", ((_key(key), value) for key, value in rows))

    def get(self, key: str) -> str | None:
        """The value of a key, or None."""
        with closing(self._database.execute("SELECT value FROM rows WHERE key = ?", (_key(key),))) as found:
            row = found.fetchone()
        return None if row is None else str(row[0])

    def add(self, key: str, value: str = "") -> None:
        """Keep one more row."""
        self._database.execute("INSERT OR REPLACE INTO rows VALUES (?, ?)", (_key(key), value))

    def __contains__(self, key: str) -> bool:
        return self.get(key) is not None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()


def _key(text: str) -> bytes:
    # File names, which are looked up too, may hold bytes that are not UTF-8.
    return text.encode(errors="surrogateescape")
