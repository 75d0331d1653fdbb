"""How tokens become vectors: a part of the model's state, for each window or pooled over a clip."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pydreaming.analysis.inputs import Source
from pydreaming.analysis.names import PARTS, PER, POOLINGS, SCENE
from pydreaming.analysis.rollout import CHUNK_TOKENS
from pydreaming.analysis.vectors.pooling import IN_THIRDS, Moments, Vectors, pool
from pydreaming.analysis.world_model import WorldModel
from pydreaming.audio.tokens import Frames
from pydreaming.errors import UsageError
from pydreaming.evaluation.features import centred_bands, centred_clip, hears_scenes, scene_vectors
from pydreaming.models.scene import stretch_ends
from pydreaming.models.state import Observed

Action = npt.NDArray[np.float32]


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


@dataclass(frozen=True)
class Embedder:
    """A model with what is asked of it.

    Args:
      per, part, pooling: see `names`. moment_s: seconds of a moment, with per "moment".
      seed: of the latents' samples; None takes modes.
    Raises:
      UsageError: no such per, part or pooling, or a moment of a length that makes no sense.
    """

    model: WorldModel
    per: str = "clip"
    part: str = "feat"
    pooling: str = "mean"
    moment_s: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        for kind, name, known in (("row per", self.per, PER), ("part", self.part, PARTS), ("pooling", self.pooling, POOLINGS)):
            if name not in known:
                raise UsageError(f"there is no {kind} '{name}'; there are {', '.join(known)}")
        if self.part == SCENE and self.per == "window":
            raise UsageError("a scene is of clips and moments, not of windows")
        if self.part == SCENE and not hears_scenes(self.model.config):
            raise UsageError("this model has no scenes; objective dreaming_v2 with model.scene above 0 trains them")
        f = self.model.features
        least, most = (samples / f.sample_rate for samples in (f.token_span_samples, CHUNK_TOKENS * f.token_stride_samples))
        if self.per == "moment" and not least <= self.moment_s <= most:
            raise UsageError(f"a moment of {self.moment_s:g} s makes no sense; this model takes {least:g} to {most:g} s")

    @property
    def about(self) -> dict[str, Any]:
        """Where rows come from, for a table's metadata."""
        return {
            "what": f"pydreaming embeddings, one row per {self.per}",
            "per": self.per,
            "part": self.part,
            "pooling": self.pooling if self.per != "window" and self.part != SCENE else "none",
            "moment_s": self.moment_s if self.per == "moment" else 0.0,
            "seed": self.seed,
            "sample_rate_hz": self.model.features.sample_rate,
            "model": self.model.label,
            "model_step": int(self.model.state.counters["step"]),
            "fingerprint": self.model.fingerprint,
        }

    def windows(self, parts: Iterable[Frames], action: Action | None = None) -> Iterator[Vectors]:
        """One vector for each window of a recording's tokens, chunk by chunk: (t, D). `action` (A,): see `WorldModel.told`."""
        for _, observed in self.model.observe_stream(parts, self.seed, action):
            yield cast(Vectors, take_part(observed, self.part)[0].float().cpu().numpy())

    def windows_of(self, clips: Sequence[Frames], actions: Sequence[Action] | None = None) -> Iterator[tuple[int, Vectors]]:
        """The same for short clips (T_i, token_dim) that are run side by side: index of the clip and (T_i, D), in any order."""
        for heard in self.model.observe_clips(clips, self.seed, actions):
            yield from heard.split(take_part(heard.observed, self.part))

    def vector(self, source: Source, parts: Iterable[Frames] | None = None) -> tuple[Vectors, int]:
        """One vector for a recording of any length, (width of the pooling,), and the number of its windows.

        What needs to know the whole recording beforehand reads it once more for that, so that nothing has to be kept.

        Args:
          parts: tokens of the source, where they are at hand.
        """
        parts, told = self.model.stream_tokens(source) if parts is None else parts, self.model.told(source)
        if self.part == SCENE:
            windows = self._measure(parts)[0]
            return self._scene(self.model.stream_tokens(source), windows), windows
        if self.pooling not in IN_THIRDS:
            return pool(self.windows(parts, told), self.pooling)
        windows, level = self._measure(parts)
        views: list[Iterable[Frames]] = [self.model.stream_tokens(source)]
        if self._bands:
            views.append(part - np.tile(level, part.shape[1] // self._bands) for part in self.model.stream_tokens(source))
        return np.concatenate([self._one(self.windows(view, told), windows) for view in views]), windows

    def vectors(self, clips: Sequence[Frames], actions: Sequence[Action] | None = None) -> Vectors:
        """One vector for each of some short clips (T_i, token_dim): (N, width of the pooling). `actions`: (A,) of each."""
        if self.part == SCENE:
            return scene_vectors(self.model.net, clips)
        views = [clips]
        if self._bands:
            views.append([centred_clip(clip, self._bands) for clip in clips])
        return np.concatenate([self._side_by_side(view, actions) for view in views], 1)

    def cut(self, parts: Iterable[Frames]) -> Iterator[tuple[int, Frames]]:
        """Moments of a recording's tokens: first window, and tokens (t, token_dim). They begin half a moment apart; the last one ends
        where the recording does."""
        f = self.model.features
        width = round((self.moment_s * f.sample_rate - f.token_span_samples) / f.token_stride_samples) + 1
        hop = -(-width // 2)
        line, first = np.empty((0, f.token_dim), np.float32), 0
        for part in parts:
            line = np.concatenate([line, part])
            while len(line) >= width + hop:
                yield first, line[:width]
                line, first = line[hop:], first + hop
        yield first, line[:width]
        if len(line) > width:
            yield first + len(line) - width, line[-width:]

    @property
    def _bands(self) -> int:
        """n_mels where each clip is heard a second time without its mean per band, else 0."""
        return centred_bands(self.model.config) if self.pooling == "evaluation" else 0

    def _measure(self, parts: Iterable[Frames]) -> tuple[int, Vectors]:
        """Number of windows, and the mean of each mel band (n_mels,)."""
        bands, windows = Moments(), 0
        for part in parts:
            windows += len(part)
            bands.add(part.reshape(-1, self.model.features.n_mels))
        return windows, bands.mean.astype(np.float32)

    def _scene(self, parts: Iterable[Frames], windows: int) -> Vectors:
        """The scene of a recording of so many windows, stretch by stretch."""
        ends, total = stretch_ends(windows), np.zeros(self.model.config.model.scene)
        line, begin = np.empty((0, self.model.features.token_dim), np.float32), 0
        for part in parts:
            line = np.concatenate([line, part])
            while ends and len(line) >= ends[0] - begin:
                count, begin = ends[0] - begin, ends.pop(0)
                total += scene_vectors(self.model.net, [line[:count]])[0] / len(stretch_ends(windows))
                line = line[count:]
        return total.astype(np.float32)

    def _side_by_side(self, clips: Sequence[Frames], actions: Sequence[Action] | None) -> Vectors:
        found = {i: self._one([values], len(values)) for i, values in self.windows_of(clips, actions)}
        return np.stack([found[i] for i in range(len(clips))])

    def _one(self, chunks: Iterable[Vectors], windows: int) -> Vectors:
        """One view's vector; the evaluation pools the two parts of `feat` one after the other."""
        vector = pool(chunks, self.pooling, windows)[0]
        if self.pooling != "evaluation" or self.part != "feat":
            return vector
        rows, deter = vector.reshape(4, -1), self.model.config.model.deter
        return np.concatenate([rows[:, :deter].reshape(-1), rows[:, deter:].reshape(-1)])
