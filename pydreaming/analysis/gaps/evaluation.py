"""How good filled gaps are: gaps are made in recordings that are whole, and fills compared with what was there.

    mean, best, sample        of the weighted particles (see `inpaint`): their mean, the likeliest, and one drawn by weight
    prior_mean, prior_sample  of as many rollouts that do not know what follows
    linear                    each mel band goes in a straight line from the last frame before the gap to the first after it
    copy                      the last window before the gap again and again

Errors are over the windows that a gap touches. Log-mel error: mean squared error per normalised value. Embedding distance: 1 - cosine of
fill and truth, each window through the encoder, in the objective's comparison space; mean over the windows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pydreaming.analysis.gaps.inpaint import Fill, Gap, fill_gaps, find_gaps
from pydreaming.analysis.inputs import Recording, Source, name_of
from pydreaming.analysis.requirements import require_latents
from pydreaming.analysis.world_model import WorldModel
from pydreaming.audio.tokens import Frames
from pydreaming.config import FeatureConfig
from pydreaming.errors import UsageError
from pydreaming.evaluation.bootstrap import TAILS, resampled_sums
from pydreaming.replay.tables import write_table

METHODS = ("mean", "best", "sample", "prior_mean", "prior_sample", "linear", "copy")


@dataclass(frozen=True)
class Score:
    """A mean over clips with its bootstrap interval: mean, low, high."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} ({self.low:.3f} to {self.high:.3f})"


@dataclass
class InpaintingTest:
    """Rows of a test, gathered recording by recording.

    Args:
      gap_s: length of the gap, one in each recording, at a random place with a whole window before it and `look` after it.
      particles, look: see `inpaint`. seed: of places, rollouts and bootstrap.
    Raises:
      UsageError: a model that cannot imagine, or numbers that make no sense.
    """

    model: WorldModel
    gap_s: float = 0.2
    particles: int = 256
    look: int = 4
    seed: int = 0
    skipped: int = 0  # recordings too short for the gap
    _rows: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        require_latents(self.model, "it has nothing to imagine with")
        for holds, message in (
            (0 < self.gap_s < 60, f"the gap must be above 0 s and below 60 s, got {self.gap_s}"),
            (self.particles >= 2, f"particles must be at least 2, got {self.particles}"),
            (self.look >= 1, f"look must be at least 1 window, got {self.look}"),
        ):
            if not holds:
                raise UsageError(message)
        self._random = np.random.default_rng(self.seed)

    def __len__(self) -> int:
        """Clips so far."""
        return len(self._rows) // len(METHODS)

    def add(self, source: Source) -> None:
        """Test one recording; one that is too short is counted in `skipped`. Raises DecodeError."""
        tokens = self.model.tokens(source).values
        gap = place_gap(len(tokens), self.gap_s, self.look, self.model.features, self._random)
        if gap is None:
            self.skipped += 1
            return
        seed = int(self._random.integers(1 << 31))
        fill, prior = (
            fill_gaps(self.model, heard, [gap], self.particles, self.look, 2, seed, self.model.told(source))[0]
            for heard in (tokens, tokens[: gap.stop])
        )
        truth = tokens[gap.first : gap.stop]
        for method, values in _fills(fill, prior, self.model.features).items():
            error = float(np.square(values - truth).mean())
            row = {"source": name_of(source), "gap_begin_s": gap.begin_s, "gap_end_s": gap.end_s, "windows": len(gap)}
            row |= {"effective": fill.effective, "method": method, "mel_error": error}
            self._rows.append(row | {"embedding_distance": embedding_distance(self.model, values, truth)})

    def scores(self, column: str) -> dict[str, Score]:
        """Mean of `mel_error` or `embedding_distance` over clips, by method; 95 % percentile bootstrap over clips. Raises UsageError."""
        return {method: self._interval(values) for method, values in self._columns(column).items()}

    def differences(self, column: str, method: str = "mean") -> dict[str, Score]:
        """The same of `method` minus each other one, clip by clip: below zero, `method` is better."""
        values = self._columns(column)
        return {other: self._interval(values[method] - values[other]) for other in METHODS if other != method}

    def write(self, path: Path) -> None:
        """One row a clip and method. Raises UsageError, ReplayError."""
        self._columns("mel_error")
        columns = {name: np.array([row[name] for row in self._rows]) for name in self._rows[0]}
        about = {"what": "pydreaming inpainting test, one row per clip and method", "particles": self.particles, "look": self.look}
        write_table(path, columns, about | {"seed": self.seed, "model_step": int(self.model.state.counters["step"])})

    def _columns(self, column: str) -> dict[str, npt.NDArray[np.float64]]:
        if not self._rows:
            raise UsageError(f"no recording is long enough for a gap of {self.gap_s:g} s with a window before it and {self.look} after it")
        return {method: np.array([row[column] for row in self._rows if row["method"] == method]) for method in METHODS}

    def _interval(self, values: npt.NDArray[np.float64]) -> Score:
        means = resampled_sums(values[:, None], np.random.default_rng(self.seed))[:, 0] / len(values)
        low, high = np.quantile(means, TAILS)
        return Score(float(values.mean()), float(low), float(high))


def shuffled(recordings: Sequence[Recording], seed: int) -> list[Recording]:
    """In a random order that the seed gives."""
    return [recordings[i] for i in np.random.default_rng(seed).permutation(len(recordings))]


def place_gap(windows: int, gap_s: float, look: int, features: FeatureConfig, random: np.random.Generator) -> Gap | None:
    """A gap at a random place in a recording of so many windows, with a whole one before it and `look` after it; None without room."""
    rate, stride, span = features.sample_rate, features.token_stride_samples, features.token_span_samples
    last = (windows - look) * stride / rate - gap_s
    if last < span / rate:
        return None
    begin_s = float(random.uniform(span / rate, last))
    duration_s = ((windows - 1) * stride + span) / rate
    return find_gaps([(begin_s, begin_s + gap_s)], duration_s, features, "a gap")[0]


def linear_fill(before: Frames, after: Frames, count: int, features: FeatureConfig) -> Frames:
    """Windows (count, token_dim) in a straight line, band by band, from the last frame of `before` to the first of `after`."""
    width, hop = features.token_frames, features.token_hop
    left, right = width - 1, (count + 1) * hop  # frames, counted from the first of `before`
    known, following = before.reshape(width, -1), after.reshape(width, -1)
    share = np.clip((np.arange(right + width) - left) / max(1, right - left), 0, 1)[:, None]
    frames = (1 - share) * known[-1] + share * following[0]
    frames[:width], frames[right:] = known, following  # where windows overlap, those of the gap share frames with them
    cut = (np.arange(1, count + 1) * hop)[:, None] + np.arange(width)
    line: Frames = frames[cut].astype(np.float32).reshape(count, -1)
    return line


@torch.inference_mode()
def embedding_distance(model: WorldModel, a: Frames, b: Frames) -> float:
    """Mean of 1 - cosine over windows (n, token_dim) of two recordings, as the encoder sees each."""
    x, y = (model.objective.target(model.net.encoder(torch.from_numpy(tokens).to(model.device))) for tokens in (a, b))
    return float(1 - (x * y).sum(-1).mean())


def _fills(fill: Fill, prior: Fill, features: FeatureConfig) -> dict[str, Frames]:
    n = len(fill.gap)
    assert fill.after is not None  # place_gap leaves windows behind the gap
    return {
        "mean": fill.mean,
        "best": fill.samples[0],
        "sample": fill.samples[1],
        "prior_mean": prior.mean,
        "prior_sample": prior.samples[1],
        "linear": linear_fill(fill.before, fill.after, n, features),
        "copy": np.repeat(fill.before[None], n, 0),
    }
