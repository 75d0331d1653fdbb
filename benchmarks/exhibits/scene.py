"""One entry of the gallery: commands, what they print, a picture or a page, and what is seen there."""

from __future__ import annotations

import csv
import io
import shlex
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.exhibits.recordings import Recordings
from pydreaming import cli
from pydreaming.errors import PydreamingError

PROGRAM = "pydreaming"
FIGURES = 3  # significant digits of a number in a table
WIDTH = 120  # characters in a line of prose


@dataclass(frozen=True)
class Excerpt:
    """The first rows of a table that a command wrote: file, columns, number of rows, and which rows."""

    table: str
    columns: tuple[str, ...]
    rows: int = 10
    where: Callable[[dict[str, str]], bool] = lambda row: True


@dataclass(frozen=True)
class Scene:
    """One entry.

    Attributes:
      name: of the picture in the gallery, without its ending.
      title: the question that the command answers.
      lines: the commands as a user types them.
      seen: what is seen, in a sentence or two that hold for any model.
      picture: what the commands made: a .png, or an .html of which a photograph is taken; empty for none.
      height: of the photograph, px.
      printed: how many printed lines are quoted at most.
      excerpts: of the tables that were written.
      found: a sentence made of the tables that were written, or empty.
    """

    name: str
    title: str
    lines: tuple[str, ...]
    seen: str
    picture: str = ""
    height: int = 1100
    printed: int = 40
    excerpts: tuple[Excerpt, ...] = field(default=())
    found: Callable[[Recordings], str] = lambda recordings: ""


def perform(scene: Scene) -> str:
    """Run the scene's commands in the working directory; returns what they printed. Raises PydreamingError where one fails."""
    output = io.StringIO()
    for line in scene.lines:
        sys.stderr.write(f"$ {line}\n")
        with redirect_stdout(output), redirect_stderr(output):
            code = cli.main(arguments(line))
        if code:
            raise PydreamingError(f"exit code {code} of {line}\n{output.getvalue()}")
    return output.getvalue()


def arguments(line: str) -> list[str]:
    """A command line as the arguments of `cli.main`. Raises ValueError where it is not a line of this program."""
    program, *words = shlex.split(line)
    if program != PROGRAM:
        raise ValueError(f"{line}: not a command of {PROGRAM}")
    return words


def read_rows(table: str | Path) -> list[dict[str, str]]:
    """The rows of a CSV table of ours, without the comments at its top."""
    with Path(table).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(line for line in file if not line.startswith("#")))


def markdown(scene: Scene, printed: str, picture: str, found: str) -> Iterator[str]:
    """The lines of an entry; `picture` is its address, or empty."""
    yield f"## {scene.title}\n"
    yield from ("```console", *(f"$ {line}" for line in scene.lines))
    output = [line.rstrip() for line in printed.splitlines() if line.strip()]
    yield from output[: scene.printed]
    if len(output) > scene.printed:
        yield f"... {len(output) - scene.printed} more lines"
    yield "```\n"
    if picture:
        yield f"![{scene.title}]({picture})\n"
    yield textwrap.fill(" ".join(filter(None, (scene.seen, found))), WIDTH, break_long_words=False, break_on_hyphens=False) + "\n"
    for excerpt in scene.excerpts:
        yield from _table(excerpt)


def _table(excerpt: Excerpt) -> Iterator[str]:
    rows = [row for row in read_rows(excerpt.table) if excerpt.where(row)]
    yield f"`{excerpt.table}`" + (f", the first {excerpt.rows} of {len(rows)} such rows:\n" if len(rows) > excerpt.rows else ":\n")
    yield f"| {' | '.join(excerpt.columns)} |"
    yield "|---" * len(excerpt.columns) + "|"
    for row in rows[: excerpt.rows]:
        yield f"| {' | '.join(_cell(row[column]) for column in excerpt.columns)} |"
    yield ""


def _cell(text: str) -> str:
    """A number in few digits; of a path what stands below the working directory."""
    try:
        value = float(text)
    except ValueError:
        path = Path(text)
        return str(path.relative_to(Path.cwd())) if path.is_absolute() and path.is_relative_to(Path.cwd()) else text
    return text if text.isdecimal() else f"{value:.{FIGURES}g}"
