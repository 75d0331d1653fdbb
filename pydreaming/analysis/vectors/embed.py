"""Embeddings: one vector for each recording, moment or window.

A recording is processed from the initial state, and short ones side by side with others of nearby length (`WorldModel.observe_clips`), so
a row depends on its own recording only: alone and among others it is the same to 1e-5.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pydreaming.analysis.inputs import STDIN, Failed, Recording, Source, named_file
from pydreaming.analysis.rollout import CHUNK_TOKENS, token_times
from pydreaming.analysis.vectors.embedder import Embedder
from pydreaming.analysis.vectors.pooling import Vectors
from pydreaming.analysis.world_model import WorldModel
from pydreaming.audio.decode import read_stdin
from pydreaming.audio.tokens import Frames
from pydreaming.errors import DecodeError, UsageError
from pydreaming.replay.tables import TableWriter, write_table

HELD_TOKENS = 16_384  # of short recordings, before they are sorted by length and run
LABELS = ("label", "speaker")  # columns of every table; for the rest of what is known only one row a recording has room
TAKEN = ("source", "windows", "covered_s", "window", "start_s", "centre_s", "end_s", "embedding", "metadata", "file", "allow_pickle")

Columns = dict[str, Any]
Progress = Callable[[list[Recording]], Iterable[Recording]]


@dataclass(frozen=True)
class WindowEmbeddings:
    """Embeddings of T windows: values (T, D) float32; start_s and centre_s (T,) seconds from the start of the recording."""

    values: Vectors
    start_s: npt.NDArray[np.float64]
    centre_s: npt.NDArray[np.float64]


def embed_windows(model: WorldModel, source: Source, part: str = "feat", seed: int | None = None) -> WindowEmbeddings:
    """Embeddings of all windows of a recording with their times.

    Args:
      source: path, "-" or (samples, sample_rate). part: see PARTS. seed: of the latents' samples; None takes modes.
    """
    embedder = Embedder(model, "window", part, seed=seed)
    values = np.concatenate(list(embedder.windows(model.stream_tokens(source), model.told(source))))
    return WindowEmbeddings(values, *token_times(len(values), model.features))


def embed_clip(model: WorldModel, source: Source, part: str = "feat", pooling: str = "mean", seed: int | None = None) -> Vectors:
    """One vector for a whole recording of any length: (width of `pooling`,) float32. Raises DecodeError, UsageError."""
    return Embedder(model, "clip", part, pooling, seed=seed).vector(source)[0]


@dataclass
class EmbeddingTable:
    """Embeddings of many recordings in memory: `columns` as `pydreaming embed --help` has them, `about` where they come from."""

    columns: Columns
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return len(self.columns["embedding"]) if self.columns else 0

    def write(self, path: Path) -> None:
        """Write .parquet, .npz or .csv. Raises UsageError for another ending or without rows."""
        if not self.rows:
            raise UsageError("there is no row to write")
        write_table(path, self.columns, self.about)


def embed(
    model: WorldModel,
    sources: Iterable[str | Path | Recording],
    per: str = "clip",
    part: str = "feat",
    pooling: str = "mean",
    moment_s: float = 1.0,
    seed: int | None = None,
    failed: Failed | None = None,
) -> EmbeddingTable:
    """Embed many recordings, in their order; see `write_embeddings` for more than memory holds.

    Args:
      sources: paths or recordings (see `inputs.find_recordings` for folders and manifests) or "-".
      per, part, pooling, moment_s, seed: see `Embedder`.
      failed: called with the error of each unreadable file, which is then left out (of a recording of more than CHUNK_TOKENS windows that
        breaks off, rows per moment or window before the fault stay); None raises it.
    Raises:
      UsageError: see `Embedder`. DecodeError: see `failed`.
    """
    embedder = Embedder(model, per, part, pooling, moment_s, seed)
    blocks = list(embed_blocks(embedder, sources, failed))
    columns = {name: np.concatenate([np.asarray(block[name]) for block in blocks]) for name in blocks[0]} if blocks else {}
    return EmbeddingTable(columns, embedder.about)


def write_embeddings(
    path: Path, embedder: Embedder, sources: Iterable[str | Path | Recording], failed: Failed | None = None, progress: Progress = iter
) -> int:
    """Embed into a table that may be larger than memory (.parquet or .csv; an .npz is held); returns the number of rows.

    The table appears complete, or not at all; without a row none is made.

    Args:
      failed: see `embed`. progress: passes the recordings on and may show how far it is.
    """
    with TableWriter(path, embedder.about) as table:
        for block in embed_blocks(embedder, sources, failed, progress):
            table.append(block)
        return table.rows


def embed_blocks(
    embedder: Embedder, sources: Iterable[str | Path | Recording], failed: Failed | None = None, progress: Progress = iter
) -> Iterator[Columns]:
    """Rows of all recordings in their order, as columns of a table, some at a time; see `embed` and `write_embeddings`."""
    recordings = [source if isinstance(source, Recording) else named_file(source) for source in sources]
    rows = _Rows(embedder, _label_columns(recordings if embedder.per == "clip" else ()))
    held: list[_Piece] = []
    tokens = 0
    for recording in progress(recordings):
        try:
            for found in _read(embedder, recording):
                if isinstance(found, _Piece):
                    held.append(found)
                    tokens += len(found.tokens)
                # A long recording costs more than is lost where short ones before and after it cannot share a batch.
                if held and (tokens >= HELD_TOKENS or isinstance(found, _Long)):
                    yield rows.of(held)
                    held, tokens = [], 0
                if isinstance(found, _Long):
                    yield from rows.of_long(found)
        except DecodeError as e:
            if failed is None:
                raise
            failed(e)
    if held:
        yield rows.of(held)


class _Piece(NamedTuple):
    """Windows to be run whole: of a short recording, or of a moment that begins at window `first` of one."""

    recording: Recording
    first: int
    tokens: Frames


class _Long(NamedTuple):
    """A recording of more than CHUNK_TOKENS windows: where to read it (again), and its tokens this time."""

    recording: Recording
    source: Source
    parts: Iterable[Frames]


def _read(embedder: Embedder, recording: Recording) -> Iterator[_Piece | _Long]:
    """What a recording consists of. Of a short one that cannot be read to its end, nothing."""
    model = embedder.model
    source: Source = read_stdin(channels=model.channels) if recording.name == STDIN else recording  # a pipe is read only once
    parts = model.stream_tokens(source)
    head: list[Frames] = []
    for part in parts:
        head.append(part)
        if sum(map(len, head)) > CHUNK_TOKENS:
            break
    if embedder.per == "moment":
        yield from (_Piece(recording, first, tokens) for first, tokens in embedder.cut(itertools.chain(head, parts)))
    elif sum(map(len, head)) > CHUNK_TOKENS:
        yield _Long(recording, source, itertools.chain(head, parts))
    else:
        yield _Piece(recording, 0, np.concatenate(head))


class _Rows(NamedTuple):
    """Makes columns of a table. `labels`: name of each label column, and the key of `Recording.labels` in it."""

    embedder: Embedder
    labels: dict[str, str]

    def of(self, pieces: Sequence[_Piece]) -> Columns:
        """Rows of pieces that are run side by side."""
        clips = [piece.tokens for piece in pieces]
        told = [self.embedder.model.told(piece.recording) for piece in pieces]
        if self.embedder.per == "window":
            found = dict(self.embedder.windows_of(clips, told))
            blocks = [self._windows(piece.recording, 0, found[i]) for i, piece in enumerate(pieces)]
            return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}
        counts, vectors = np.array([len(clip) for clip in clips]), self.embedder.vectors(clips, told)
        recordings = [piece.recording for piece in pieces]
        if self.embedder.per == "clip":
            return self._clips(recordings, counts, vectors)
        first, f = np.array([piece.first for piece in pieces]), self.embedder.model.features
        begin = first * f.token_stride_samples / f.sample_rate
        return self._known(recordings) | {"start_s": begin, "end_s": self._end_s(first + counts - 1), "embedding": vectors}

    def of_long(self, long: _Long) -> Iterator[Columns]:
        """Rows per clip or per window of a recording that is run alone, chunk by chunk."""
        if self.embedder.per == "clip":
            vector, count = self.embedder.vector(long.source, long.parts)
            yield self._clips([long.recording], np.array([count]), vector[None])
            return
        first = 0
        for values in self.embedder.windows(long.parts, self.embedder.model.told(long.recording)):
            yield self._windows(long.recording, first, values)
            first += len(values)

    def _clips(self, recordings: list[Recording], counts: npt.NDArray[Any], vectors: Vectors) -> Columns:
        return self._known(recordings) | {"windows": counts, "covered_s": self._end_s(counts - 1), "embedding": vectors}

    def _windows(self, recording: Recording, first: int, values: Vectors) -> Columns:
        window = np.arange(first, first + len(values))
        start, centre = token_times(len(values), self.embedder.model.features, first)
        known = {name: np.repeat(column, len(values)) for name, column in self._known([recording]).items()}
        return known | {"window": window, "start_s": start, "centre_s": centre, "embedding": values}

    def _known(self, recordings: list[Recording]) -> Columns:
        labels = {name: np.array([r.labels.get(key, "") for r in recordings]) for name, key in self.labels.items()}
        return {"source": np.array([r.name for r in recordings])} | labels

    def _end_s(self, windows: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        f = self.embedder.model.features
        return (windows * f.token_stride_samples + f.token_span_samples) / f.sample_rate


def _label_columns(recordings: Iterable[Recording]) -> dict[str, str]:
    """Column -> key of `Recording.labels`: LABELS always, and what else any of the recordings has."""
    keys = dict.fromkeys([*LABELS, *(key for recording in recordings for key in recording.labels)])
    return {f"metadata_{key}" if key in TAKEN else key: key for key in keys}
