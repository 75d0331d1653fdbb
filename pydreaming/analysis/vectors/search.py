"""Search by sound: the clips or moments of a library that are nearest to a query.

    nearness    cosine of the two vectors, the library's mean taken out of both: what all its sounds have in common says nothing
    moments     stretches of the library, each heard by itself like a clip, so that what went before does not count

A library is embedded once, into an index: a Parquet table of `pydreaming embed`. It is read block by block, twice (for its mean, then for
the scores), so it may be larger than memory; 28 bytes are kept for each of its rows.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pydreaming.analysis.inputs import STDIN, Failed, Recording, Source, find_recordings, name_of, named_file
from pydreaming.analysis.requirements import require_same_model
from pydreaming.analysis.vectors.embed import Progress, write_embeddings
from pydreaming.analysis.vectors.embedder import Embedder
from pydreaming.analysis.vectors.pooling import Vectors
from pydreaming.analysis.world_model import WorldModel
from pydreaming.errors import UsageError
from pydreaming.replay.tables import read_about, read_blocks, write_table

PART = "deter"  # of an index unless asked for otherwise: finds as well as `feat`, at half its width
POOLING = {"clip": "evaluation", "moment": "mean"}  # likewise: in moments, which begin anywhere, thirds gain nothing
MAX_QUERY_S = 60.0  # of a query in an index of moments: each of its moments is compared
LEAST_ROWS = 20  # of a library whose mean is taken out: of fewer it says as much about the sounds as about what they share


@dataclass(frozen=True)
class Hit:
    """A clip or moment of the library.

    Attributes:
      rank: 1 for the nearest. score: cosine, -1 to 1. source: path, as in tables of embeddings. start_s, end_s: seconds in `source`.
      query_start_s: the moment of the query that it is near to, seconds; 0 for clips. label, speaker: "" where unknown.
    """

    rank: int
    score: float
    source: str
    start_s: float
    end_s: float
    query_start_s: float
    label: str
    speaker: str


@dataclass(frozen=True)
class Index:
    """An embedded library at `path`, and how its rows were made."""

    path: Path
    embedder: Embedder


def write_index(
    model: WorldModel,
    library: Sequence[str | Path | Recording],
    path: Path,
    per: str = "clip",
    moment_s: float = 1.0,
    part: str = PART,
    pooling: str = "",
    failed: Failed | None = None,
    progress: Progress = iter,
) -> Index | None:
    """Embed a library for `search`; None when nothing of it could be read.

    Args:
      library: recordings, files, folders, manifests. path: ends in .parquet. per: clip or moment. pooling: empty: POOLING of it.
      failed, progress: see `write_embeddings`.
    Raises:
      UsageError: another ending, or see `Embedder`.
    """
    if per not in POOLING or Path(path).suffix != ".parquet":
        raise UsageError(f"an index is a .parquet of clips or moments, not {path} of {per}s")
    embedder = Embedder(model, per, part, pooling or POOLING[per], moment_s)
    sources: Iterable[Recording] = (r for s in library for r in ([s] if isinstance(s, Recording) else find_recordings([s])))
    return Index(path, embedder) if write_embeddings(path, embedder, list(sources), failed, progress) else None


def open_index(model: WorldModel, path: Path) -> Index:
    """An index that was written before, for the model that it was made by.

    Raises:
      ReplayError: missing or damaged. UsageError: no table of embeddings per clip or moment, without scenes, or made by another model.
    """
    about = read_about(path)
    if not {"fingerprint", "per", "part", "pooling", "moment_s"} <= about.keys():
        raise UsageError(f"{path} is no index; pydreaming embed and search --index write one")
    if about.get("without_scene"):
        raise UsageError(f"{path} was written by pydreaming embed --without-scene, and a query has its scene; embed once more")
    embedder = Embedder(model, about["per"], about["part"], *_pooling_of(path, about), seed=about.get("seed"))
    require_same_model(model, about["fingerprint"], f"{path}")
    return Index(path, embedder)


def search(index: Index, query: Source, top: int = 20) -> list[Hit]:
    """The `top` nearest clips or moments of the library, nearest first.

    What overlaps the query itself is left out where the library holds the query's file, and so is a moment that overlaps a nearer one.

    Args:
      query: path, part of a file (`a.wav#t=1.5,3`), "-" or (samples, sample_rate).
    Raises:
      DecodeError, UsageError: the query cannot be read, or has more than MAX_QUERY_S seconds of moments. ReplayError: the index.
    """
    vectors, starts = query_vectors(index.embedder, query)
    mean = _mean(index.path, vectors.shape[1])
    wanted = _unit(vectors - mean)
    rows = _Candidates(_Extent.of(query))
    times = ("start_s", "end_s") if index.embedder.per == "moment" else ("covered_s",)
    for block in read_blocks(index.path, ("source", "label", "speaker", *times, "embedding")):
        cosines = _unit(block["embedding"] - mean) @ wanted.T  # (n, moments of the query)
        rows.add(block, cosines.max(1), cosines.argmax(1))
    return rows.best(top, starts)


def query_vectors(embedder: Embedder, query: Source) -> tuple[Vectors, npt.NDArray[np.float64]]:
    """What is compared with an index: one vector, or with moments one for each of the query's, (Q, D); and their starts (Q,) in seconds."""
    model = embedder.model
    if embedder.per == "clip":
        return embedder.vector(query)[0][None], np.zeros(1)
    most = MAX_QUERY_S * model.features.sample_rate / model.features.token_stride_samples
    moments: list[tuple[int, Any]] = []
    for first, tokens in embedder.cut(model.stream_tokens(query)):
        if first + len(tokens) > most:
            raise UsageError(f"{name_of(query)}: a query for moments has at most {MAX_QUERY_S:g} s; name a part of it: FILE#t=10,12")
        moments.append((first, tokens))
    starts = np.array([first for first, _ in moments]) * model.features.token_stride_samples / model.features.sample_rate
    return embedder.vectors([tokens for _, tokens in moments], [model.told(query)] * len(moments)), starts


def write_hits(path: Path, hits: Sequence[Hit], about: dict[str, Any] | None = None) -> None:
    """One row a hit, with the fields of `Hit` as columns. Raises UsageError for another ending than .parquet, .csv or .npz."""
    names = list(Hit.__dataclass_fields__)
    columns = {name: np.array([getattr(hit, name) for hit in hits]) for name in names}
    write_table(path, columns, {**(about or {}), "what": "pydreaming search, one row per hit, nearest first"})


@dataclass(frozen=True)
class _Extent:
    """A stretch of a file, to tell whether two overlap. file: "" where it is none."""

    file: str
    start_s: float
    end_s: float

    @classmethod
    def of(cls, source: Source) -> _Extent:
        recording = named_file(source) if isinstance(source, str | Path) else source
        if not isinstance(recording, Recording) or recording.name == STDIN:
            return cls("", 0.0, 0.0)
        item = recording.item
        file = item.path if recording.root is None else recording.root / item.path
        end = np.inf if item.duration_s is None else item.offset_s + item.duration_s
        return cls(os.path.realpath(file), item.offset_s, end)


class _Candidates:
    """Rows of a library with their scores; those that overlap the query are passed over."""

    def __init__(self, query: _Extent) -> None:
        self._query = query
        self._numbers: dict[str, int] = {}  # of sources
        self._known: list[tuple[str, str, str, _Extent]] = []  # source, label, speaker, where it is
        self._parts: list[tuple[npt.NDArray[Any], ...]] = []

    def add(self, block: dict[str, npt.NDArray[Any]], scores: npt.NDArray[Any], moments: npt.NDArray[Any]) -> None:
        """More rows: their scores (n,), and which moment of the query gave them (n,)."""
        start = block.get("start_s", np.zeros(len(scores)))
        end = block.get("end_s", block.get("covered_s"))
        assert end is not None
        number = np.array([self._number(*row) for row in zip(block["source"], block["label"], block["speaker"], strict=True)])
        scores = np.where(self._is_query(number, start, end), -np.inf, scores)
        self._parts.append((scores.astype(np.float32), number.astype(np.int32), start, end, moments.astype(np.int32)))

    def best(self, top: int, query_starts: npt.NDArray[np.float64]) -> list[Hit]:
        """The nearest, without what overlaps a nearer one of the same source."""
        scores, number, start, end, moments = (np.concatenate(columns) for columns in zip(*self._parts, strict=True))
        hits: list[Hit] = []
        taken: dict[int, list[int]] = {}
        for row in np.argsort(-scores, kind="stable"):
            if len(hits) == top or scores[row] == -np.inf:
                break
            beside = taken.setdefault(int(number[row]), [])
            if any(start[row] < end[other] and start[other] < end[row] for other in beside):
                continue
            beside.append(row)
            source, label, speaker, _ = self._known[number[row]]
            begin, last, in_query = (round(float(x), 6) for x in (start[row], end[row], query_starts[moments[row]]))
            hits.append(Hit(len(hits) + 1, float(scores[row]), source, begin, last, in_query, label, speaker))
        return hits

    def _number(self, source: str, label: str, speaker: str) -> int:
        found = self._numbers.setdefault(source, len(self._known))
        if found == len(self._known):
            self._known.append((str(source), str(label), str(speaker), _Extent.of(source)))
        return found

    def _is_query(self, number: npt.NDArray[Any], start: npt.NDArray[Any], end: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        query = self._query
        same = np.array([bool(query.file) and place.file == query.file for *_, place in self._known])[number]
        begin = np.array([place.start_s for *_, place in self._known])[number]
        overlap: npt.NDArray[np.bool_] = same & (begin + start < query.end_s) & (query.start_s < begin + end)
        return overlap


def _pooling_of(path: Path, about: dict[str, Any]) -> tuple[str, float]:
    if about["per"] == "window":
        raise UsageError(f"{path} has a row per window; an index has one per clip or moment")
    return about["pooling"], about["moment_s"] or 1.0


def _mean(path: Path, width: int) -> npt.NDArray[np.float32]:
    """Mean of the library's vectors (width,), zeros where there are too few. Raises UsageError for vectors of another width."""
    total, rows = np.zeros(width), 0
    for block in read_blocks(path, ("embedding",)):
        if block["embedding"].shape[1] != width:
            raise UsageError(f"{path} has vectors of {block['embedding'].shape[1]} values, the query has {width}; make it anew")
        total += block["embedding"].sum(0, dtype=np.float64)
        rows += len(block["embedding"])
    mean: npt.NDArray[np.float32] = (total / rows if rows >= LEAST_ROWS else np.zeros(width)).astype(np.float32)
    return mean


def _unit(vectors: Vectors) -> Vectors:
    unit: Vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12).astype(np.float32)
    return unit
