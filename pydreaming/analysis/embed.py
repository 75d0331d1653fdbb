"""Embeddings: one vector per window with its time, or one per recording.

Every recording is processed alone from the initial state, so a row depends on its own recording only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pydreaming.analysis.inputs import Recording, Source, named_file
from pydreaming.analysis.names import PARTS, POOLINGS
from pydreaming.analysis.world_model import WorldModel, token_times
from pydreaming.audio.tokens import Frames
from pydreaming.errors import DecodeError, UsageError
from pydreaming.evaluation.pooling import thirds_and_std
from pydreaming.models.state import Observed
from pydreaming.replay.tables import write_table

Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True)
class WindowEmbeddings:
    """Embeddings of T windows: values (T, D) float32; start_s and centre_s (T,) seconds from the start of the recording."""

    values: Vectors
    start_s: npt.NDArray[np.float64]
    centre_s: npt.NDArray[np.float64]


def take_part(observed: Observed, part: str) -> Tensor:
    """One part of a posterior rollout: (B, T, D). See PARTS. Raises UsageError."""
    if part == "embed":
        return observed.embed
    if part == "deter":
        return observed.post.deter
    if part == "stoch":
        return observed.post.mean
    if part == "code":
        return observed.post.stoch.flatten(-2)
    if part == "feat":
        return torch.cat([observed.post.deter, observed.post.mean], -1)
    raise UsageError(f"there is no part '{part}'; there are {', '.join(PARTS)}")


def embed_stream(model: WorldModel, source: Source, part: str = "feat", seed: int | None = None) -> Iterator[Vectors]:
    """Embeddings (t, D) float32 of a recording, chunk by chunk. Raises DecodeError, UsageError."""
    for _, observed in model.observe_stream(model.stream_tokens(source), seed):
        yield cast(Vectors, take_part(observed, part)[0].float().cpu().numpy())


def embed_windows(model: WorldModel, source: Source, part: str = "feat", seed: int | None = None) -> WindowEmbeddings:
    """Embeddings of all windows of a recording with their times.

    Args:
      source: path, "-" or (samples, sample_rate). part: see PARTS. seed: of the latents' samples; None takes modes.
    """
    values = np.concatenate(list(embed_stream(model, source, part, seed)))
    return WindowEmbeddings(values, *token_times(len(values), model.features))


def embed_clip(model: WorldModel, source: Source, part: str = "feat", pooling: str = "mean", seed: int | None = None) -> Vectors:
    """One vector for a whole recording: (width of `pooling`,) float32. `mean` and `mean_std_max` need no memory for its length."""
    return pool(embed_stream(model, source, part, seed), pooling)[0]


def embed_clip_tokens(model: WorldModel, tokens: Frames, part: str = "feat", pooling: str = "mean") -> Vectors:
    """`embed_clip` of tokens (T, token_dim) that are there already, T >= 1."""
    chunks = (cast(Vectors, take_part(heard, part)[0].float().cpu().numpy()) for _, heard in model.observe_stream([tokens]))
    return pool(chunks, pooling)[0]


def pool(chunks: Iterable[Vectors], pooling: str) -> tuple[Vectors, int]:
    """Chunks (t, D) to one vector, and the number of windows in it. Raises UsageError for an unknown pooling."""
    if pooling == "thirds":
        values = np.concatenate(list(chunks))
        return thirds_and_std(values), len(values)
    if pooling not in POOLINGS:
        raise UsageError(f"there is no pooling '{pooling}'; there are {', '.join(POOLINGS)}")
    moments = _Moments()
    for chunk in chunks:
        moments.add(chunk)
    parts = [moments.mean] if pooling == "mean" else [moments.mean, moments.std, moments.largest]
    return np.concatenate(parts).astype(np.float32), moments.count


@dataclass
class _Moments:
    """Running mean, spread and maximum over rows, in float64 (Chan's update: no cancellation, whatever the mean)."""

    count: int = 0
    mean: npt.NDArray[Any] = field(default_factory=lambda: np.zeros(1))
    square: npt.NDArray[Any] = field(default_factory=lambda: np.zeros(1))  # sum of squared distances from the mean
    largest: npt.NDArray[Any] = field(default_factory=lambda: np.full(1, -np.inf))

    @property
    def std(self) -> npt.NDArray[Any]:
        deviation: npt.NDArray[Any] = np.sqrt(self.square / max(1, self.count))
        return deviation

    def add(self, rows: Vectors) -> None:
        wide = rows.astype(np.float64)
        n, mean = len(wide), wide.mean(0)
        shift, total = mean - self.mean, self.count + n
        self.square = self.square + np.square(wide - mean).sum(0) + shift * shift * (self.count * n / total)
        self.mean = self.mean + shift * (n / total)
        self.largest = np.maximum(self.largest, wide.max(0))
        self.count = total


@dataclass
class EmbeddingTable:
    """Rows for a file, gathered recording by recording.

    Args:
      per: `clip` (one row a recording) or `window` (one row a window).
      part, pooling, seed: as for `embed_windows` and `embed_clip`.
    """

    model: WorldModel
    per: str = "clip"
    part: str = "feat"
    pooling: str = "mean"
    seed: int | None = None
    _rows: list[dict[str, Any]] = field(default_factory=list)

    @property
    def rows(self) -> int:
        """Rows so far."""
        return sum(len(block["embedding"]) for block in self._rows)

    def add(self, source: Recording) -> None:
        """Embed one recording. Nothing is added when it fails (DecodeError, UsageError)."""
        if self.per == "window":
            windows = embed_windows(self.model, source, self.part, self.seed)
            T = len(windows.values)
            times = {"start_s": windows.start_s, "centre_s": windows.centre_s}
            self._rows.append({"source": [source.name] * T, "window": np.arange(T), **times, "embedding": windows.values})
        else:
            vector, T = pool(embed_stream(self.model, source, self.part, self.seed), self.pooling)
            f = self.model.features
            seconds = ((T - 1) * f.token_stride_samples + f.token_span_samples) / f.sample_rate
            self._rows.append({"source": [source.name], "windows": [T], "covered_s": [seconds], "embedding": vector[None]})

    def write(self, path: Path) -> None:
        """Write .parquet, .npz or .csv. Raises UsageError for another ending or without rows."""
        if not self._rows:
            raise UsageError("there is no row to write")
        columns = {key: np.concatenate([np.asarray(block[key]) for block in self._rows]) for key in self._rows[0]}
        about = {
            "what": f"pydreaming embeddings, one row per {self.per}",
            "part": self.part,
            "pooling": self.pooling if self.per == "clip" else "none",
            "sample_rate_hz": self.model.features.sample_rate,
            "model_step": int(self.model.state.counters["step"]),
        }
        write_table(path, columns, about)


def embed(
    model: WorldModel,
    sources: Iterable[str | Path | Recording],
    per: str = "clip",
    part: str = "feat",
    pooling: str = "mean",
    seed: int | None = None,
    failed: Callable[[str, str], None] | None = None,
) -> EmbeddingTable:
    """Embed many recordings.

    Args:
      sources: paths or recordings (see `inputs.find_recordings` for folders and manifests) or "-".
      failed: called with path and cause of each unreadable file, which is then left out; None raises its DecodeError.
    """
    table = EmbeddingTable(model, per, part, pooling, seed)
    for source in sources:
        try:
            table.add(source if isinstance(source, Recording) else named_file(source))
        except DecodeError as e:
            if failed is None:
                raise
            failed(e.path, e.cause)
    return table
