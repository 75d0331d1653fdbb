"""`pydreaming search`."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from pydreaming.analysis.names import PARTS, POOLINGS, SCENE
from pydreaming.cli import command
from pydreaming.cli.command import Command
from pydreaming.errors import UsageError

if TYPE_CHECKING:
    from pydreaming.analysis.vectors.search import Index


def _arguments(parser: argparse.ArgumentParser) -> None:
    command.add_model(parser)
    parser.add_argument("query", metavar="QUERY", help="audio file, part of one (talk.wav#t=1.5,3), or - for one on standard input")
    parser.add_argument("library", metavar="LIBRARY", nargs="*", help=f"where to search: {command.INPUT_HELP}")
    parser.add_argument("--out", default=command.STDOUT, help="table to write: .parquet, .npz or .csv; - prints CSV (default)")
    parser.add_argument("--page", metavar="FILE", help="also write a page with the sounds (.html), in one file that works offline")
    parser.add_argument("--top", type=command.natural, default=20, help="how many to find (default: 20)")
    parser.add_argument(
        "--index", metavar="FILE", help="the embedded library (.parquet): used where it is there, else made of LIBRARY and kept"
    )
    parser.add_argument("--per", choices=("clip", "moment"), help="find recordings or moments of them (default: clip)")
    parser.add_argument(
        "--moment", type=float, metavar="S", help="with --per moment: s of a moment, best near the query's length (default: 1)"
    )
    parser.add_argument("--part", choices=tuple(PARTS), help="part of the state to compare (default: deter); see embed --help")
    parser.add_argument(
        "--pooling", choices=tuple(POOLINGS), help="windows to one vector (default: evaluation for clips, mean for moments)"
    )
    command.add_running(parser)


def _run(options: argparse.Namespace) -> int:
    out = command.check_table(options.out)
    page = None if options.page is None else command.check_output(options.page, (".html",))
    if options.top == 0:
        raise UsageError("--top 0 finds nothing")
    if options.index is None and not options.library:
        raise UsageError("name a LIBRARY to search, or an --index of one")
    _check_query(options.query)
    kept = None if options.index is None else Path(options.index)
    if kept is None or not kept.exists():
        return _in_new_index(options, kept, out, page)
    if options.library:
        command.say(f"searching {kept}; LIBRARY is not read (remove the file to make it anew)")
    model = command.load(options)
    from pydreaming.analysis.vectors.search import open_index

    index = open_index(model, kept)
    _check_same(options, index)
    _find(options, index, out, page)
    return 0


def _in_new_index(options: argparse.Namespace, kept: Path | None, out: Path, page: Path | None) -> int:
    if kept is not None:
        command.check_output(str(kept), (".parquet",))
        if not options.library:
            raise UsageError(f"there is no index at {kept}; name a LIBRARY to make it of")
    if options.moment is not None and options.per != "moment":
        raise UsageError("--moment is for --per moment, not clip")
    if options.pooling is not None and options.part == SCENE:
        raise UsageError("--pooling does nothing with --part scene; leave it out")
    model = command.load(options)
    recordings = command.recordings(options.library, command.control_columns(model))
    from pydreaming.analysis.vectors import search

    failed = command.Failures()
    with tempfile.TemporaryDirectory(prefix="pydreaming-") as scratch:
        path = kept or Path(scratch) / "index.parquet"
        how = (options.per or "clip", command.given(options.moment, 1.0), options.part or search.PART)
        index = search.write_index(model, recordings, path, *how, options.pooling or "", failed, command.progress)
        if index is not None:
            if kept is not None:
                command.say(f"wrote {kept}: the library, embedded")
            _find(options, index, out, page)
    if index is None:
        command.complain("no file of the library could be read; nothing was written")
        return 1
    return command.count(failed.count, len(recordings))


def _find(options: argparse.Namespace, index: Index, out: Path, page: Path | None) -> None:
    from pydreaming.analysis.inputs import STDIN, Source
    from pydreaming.analysis.vectors.search import search, write_hits
    from pydreaming.analysis.vectors.search_page import write_search_page
    from pydreaming.audio.decode import read_stdin

    query: Source = options.query if options.query != STDIN else read_stdin(channels=index.embedder.model.channels)
    hits = search(index, query, options.top)
    about = {"query": options.query, **index.embedder.about}
    command.deliver(out, lambda path: write_hits(path, hits, about))
    if str(out) != command.STDOUT:
        command.say(f"wrote {out}: {len(hits)} hits")
    if page is not None:
        name = "standard input" if options.query == STDIN else ""
        again = [] if options.index else [*options.library, "--per", index.embedder.per]
        write_search_page(page, index, query, hits, lambda error: command.complain(str(error)), name, again)
        command.say(f"wrote {page}")


def _check_query(query: str) -> None:
    """Refuse what is not audio before hours go into a library. Raises DecodeError."""
    from pydreaming.analysis.inputs import STDIN, named_file, open_source

    if query != STDIN:
        with open_source(named_file(query), "mix"):
            pass


def _check_same(options: argparse.Namespace, index: Index) -> None:
    """Refuse an index of other settings than were asked for, naming both."""
    for option, asked, has in (
        ("--per", options.per, index.embedder.per),
        ("--moment", options.moment, index.embedder.moment_s),
        ("--part", options.part, index.embedder.part),
        ("--pooling", options.pooling, index.embedder.pooling),
    ):
        if asked is not None and asked != has:
            raise UsageError(f"{index.path} was made with {option} {has}, not {asked}; leave the option out, or name another --index")
    if options.moment is not None and index.embedder.per != "moment":
        raise UsageError(f"--moment is for --per moment; {index.path} has a row per {index.embedder.per}")


COMMAND = Command(
    "search",
    "find the sounds of a library that are nearest to a query, and listen to them",
    "Write one row per hit, nearest first.\n\n"
    "columns:\n"
    "  rank, score      1 for the nearest; score: cosine of the two vectors, what the whole library has in common taken out of both:\n"
    "                   near 1 nearly the same, near 0 nothing in common. Of fewer than 20 rows nothing is taken out.\n"
    "  source           path of the recording\n"
    "  start_s, end_s   s from the start of the recording\n"
    "  query_start_s    per moment: the moment of the query that it is near to (a longer query has several)\n"
    "  label, speaker   as the library's folder or manifest has them, empty where unknown\n\n"
    "Moments are --moment seconds long, hopped by half; each is heard by itself like a clip, and one that overlaps a nearer one is left\n"
    "out. What overlaps the query itself is left out too, so the query may be part of the library. A query may be a part of a file, as\n"
    "the columns name it: talk.wav#t=START,END.\n\n"
    "--index keeps the embedded library, so that 100 hours are embedded once; with the default model it has 8 kB a clip, 1 kB a moment.\n"
    "A table of `pydreaming embed --per clip` or `--per moment` (.parquet) will do as well. An index made by another model is refused.\n\n"
    "The --page shows the query and the first 30 hits with a player each (5 s at most).\n\n"
    "example:\n  pydreaming search runs/my-run owl.wav ~/forest --per moment --index forest.parquet --out hits.csv --page hits.html\n"
    "  pydreaming search runs/my-run night.wav#t=61.5,63 --index forest.parquet",
    _arguments,
    _run,
)
