"""What a search found as one page to listen to: the query, and an excerpt of each hit, in a single file."""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from pydreaming.analysis.inputs import Recording, Source, name_of, named_file, open_source
from pydreaming.analysis.reports.page import Attachment, Report, Table, write_report
from pydreaming.analysis.vectors.search import Hit, Index
from pydreaming.audio.decode import Samples
from pydreaming.audio.encode import write_wav
from pydreaming.audio.resample import Resampler
from pydreaming.errors import DecodeError

EXCERPT_S = 5.0  # s of a sound at most
EXCERPT_RATE = 48_000  # Hz at most: browsers play no more
SOUNDS = 30  # hits with a player at most: a page of 30 sounds of 5 s has 20 MB


def write_search_page(
    path: Path,
    index: Index,
    query: Source,
    hits: Sequence[Hit],
    failed: Callable[[DecodeError], None],
    name: str = "",
    library: Sequence[str] = (),
) -> Path:
    """Write the page (.html), whole or not at all.

    Args:
      query: a path, part of a file or (samples, sample_rate). failed: called for each hit whose sound cannot be read; it then has none.
      name: what to call the query; empty: its file's name. library: for the command to go on with, where the index is not kept.
    Raises:
      DecodeError: the query cannot be read. PydreamingError: the page cannot be written.
    """
    embedder, name = index.embedder, name or Path(name_of(query)).name
    model = embedder.model
    with tempfile.TemporaryDirectory(prefix="pydreaming-") as scratch:
        folder = Path(scratch)
        sounds = [Attachment("The query", name, _excerpt(folder / "query.wav", query, model.channels))]
        for hit in hits[:SOUNDS]:
            try:
                sound = _excerpt(folder / f"{hit.rank}.wav", part_of(hit), model.channels)
            except DecodeError as e:
                failed(e)
                continue
            sounds.append(Attachment(f"{hit.rank}. {hit.score:.2f}", _caption(hit), sound))
        report = Report(
            f"Sounds like {name}",
            f"The {len(hits)} nearest {embedder.per}s of the library, by {model.label}",
            audio=sounds,
            notes=_notes(embedder.per, len(hits)),
            tables=[_table(hits)] if hits else [],
            next_commands=_next(index, hits, library),
        )
        return write_report(path, report)


def part_of(hit: Hit) -> Recording:
    """The hit as a source that can be read: the part of its file, named as tables name it."""
    recording = named_file(hit.source)
    begin, end = (recording.item.offset_s + seconds for seconds in (hit.start_s, hit.end_s))
    return named_file(f"{recording.item.path}#t={begin:.10g},{end:.10g}") if hit.start_s or recording.item.offset_s else recording


def _excerpt(path: Path, source: Source, channels: str) -> Path:
    """The beginning of a source as a WAV."""
    with open_source(source, channels) as (chunks, rate):
        kept: list[Samples] = []
        for chunk in Resampler(rate, min(rate, EXCERPT_RATE)).stream(chunks):
            kept.append(chunk)
            if sum(map(len, kept)) >= EXCERPT_S * min(rate, EXCERPT_RATE):
                break
    write_wav(path, np.concatenate(kept)[: round(EXCERPT_S * min(rate, EXCERPT_RATE))], min(rate, EXCERPT_RATE))
    return path


def _caption(hit: Hit) -> str:
    known = [text for text in (hit.label, hit.speaker) if text]
    when = f" at {hit.start_s:.2f} s" if hit.start_s else ""
    length = hit.end_s - hit.start_s
    cut = f" (first {EXCERPT_S:g} s of {length:.1f} s)" if length > EXCERPT_S else ""
    return ", ".join([f"{Path(hit.source).name}{when}{cut}", *known])


def _table(hits: Sequence[Hit]) -> Table:
    caption = "score: cosine, 1 at most; start_s and end_s: s from the start of the recording"
    columns = ("rank", "score", "source", "start_s", "end_s", "label", "speaker")
    return Table("Nearest first", caption, columns, [[getattr(hit, name) for name in columns] for hit in hits])


def _notes(per: str, found: int) -> list[str]:
    if not found:
        return ["Nothing was found: the library holds nothing but the query itself."]
    heard = "Each moment was heard by itself. " if per == "moment" else ""
    return [
        f"{heard}A score is the cosine of two vectors of the model's state, what all of the library shares taken out of both: near 1 is"
        " nearly the same sound, near 0 has nothing in common. Compare scores within a page, not across libraries.",
        "Near means near to this model, which learned without labels: the same word, voice, microphone or level may each bring sounds"
        " near.",
    ]


def _next(index: Index, hits: Sequence[Hit], library: Sequence[str]) -> list[tuple[str, str]]:
    if not hits:
        return []
    where = library or ["--index", str(index.path)]
    words = ["pydreaming", "search", "MODEL", part_of(hits[0]).name, *where, "--page", "more.html"]
    return [("More like the first of them:", shlex.join(words))]
