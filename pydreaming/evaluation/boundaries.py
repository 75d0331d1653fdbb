"""Where one clip ends and the next begins, found by a model that is not told.

Clips are joined into one stream (`join_clips`) that the model hears without `is_first`. A curve with one value per window scores a
beginning there, its peaks are picked, and they count where a true one lies within TOLERANCE windows. How peaks are picked (how far apart,
and the share of windows they may come from) is chosen on joined *training* clips, by the same search for every row:

    restart        how much better the windows from here on are foreseen by one who begins afresh here than by one who goes on, in nats of
                   KL(posterior || prior) over RESTART windows: a likelihood-ratio test for a change, in the world model's own terms
    surprise       KL(posterior || prior)
    expectation    mean of 1 - cosine of the next tokens and what the k-step heads expected of them one window ago
    spectral flux  largest difference of adjacent log-mel frames in the window (RMS over bands), which needs no model
    random         noise

Each clip loses a random part of its first token, so that joins lie anywhere in a window. Joined at the edges of windows, the difference of
the two frames at the edge alone gives the joins away (F1 .91 on FSDD): a property of the test, not of sound.

`restart` and `expectation` hear windows after the one they score: this is segmentation of recordings, not detection without delay.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from numpy.lib.stride_tricks import sliding_window_view

from pydreaming.audio.tokens import cut_tokens, join_tokens
from pydreaming.config import FeatureConfig
from pydreaming.evaluation.listening import listen
from pydreaming.evaluation.pooling import Array
from pydreaming.models.world_model import WorldModelNet
from pydreaming.objectives import Objective

TOLERANCE = 1  # windows
RESTART = 6  # windows that are foreseen from a supposed beginning; 4 to 8 did alike on FSDD's training clips
LEAST_CLIPS = 20
MAX_CLIPS = 600  # joined into one stream
MAX_WINDOWS = 100  # of a clip; longer ones give their beginnings
MAX_STREAM = 8000  # windows of a stream, about
APART = (1, 2, 3, 4, 5)  # windows between peaks, at least
SHARES = tuple(round(0.02 * step, 2) for step in range(1, 51))  # of the windows, those of highest score, that peaks may come from

Scores = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Stream:
    """Clips joined end to end: tokens (T, D), and the sorted windows in which a clip after the first begins."""

    tokens: Array
    begins: Indices


@dataclass(frozen=True)
class Picker:
    """How peaks are picked: at least `apart` windows from a higher value, among the `share` of windows of highest score."""

    apart: int
    share: float

    def __call__(self, score: Scores) -> Indices:
        """Windows of the peaks of (T,) scores, in order; of a plateau only the first is one."""
        padded = np.pad(score, self.apart, constant_values=-np.inf)
        windows = sliding_window_view(padded, 2 * self.apart + 1)
        return np.flatnonzero((windows.argmax(1) == self.apart) & (score >= np.quantile(score, 1 - self.share)))


@dataclass(frozen=True)
class Detection:
    """F1 of one score on the held-out stream, and on the training stream that `picker` was chosen on."""

    f1: float
    f1_training: float
    picker: Picker


@dataclass(frozen=True)
class Boundaries:
    """Detections by score, of `begins` true beginnings among `windows` windows."""

    rows: dict[str, Detection]
    begins: int
    windows: int


def utterance_boundaries(
    model: WorldModelNet,
    objective: Objective,
    features: FeatureConfig,
    training: Sequence[Array],
    held_out: Sequence[Array],
    action: Array,
    seed: int,
) -> Boundaries | str:
    """Figures on joined held-out clips, or a sentence that says why there are none.

    Args:
      training, held_out: tokens (T_i, D) of clips. action: (A,) of listening on. seed: of the order of the clips, and of `random`.
    """
    random = np.random.default_rng(seed)
    streams = []
    for clips in (training, held_out):
        chosen = [clips[i][:MAX_WINDOWS] for i in random.permutation(len(clips)) if len(clips[i]) > 1][:MAX_CLIPS]
        chosen = [clip for clip, end in zip(chosen, np.cumsum([len(clip) for clip in chosen]), strict=True) if end <= MAX_STREAM]
        if len(chosen) < LEAST_CLIPS:
            return (
                f"No utterance boundaries: {len(training)} training and {len(held_out)} held-out clips"
                f" (at least {LEAST_CLIPS} of two windows or more each)."
            )
        streams.append(join_clips(chosen, features, random))
    train, test = ((s, boundary_scores(model, objective, features, s.tokens, action, random)) for s in streams)
    rows = {}
    for name, score in train[1].items():
        f1_training, picker = choose_picker(score, train[0].begins)
        rows[name] = Detection(f1(picker(test[1][name]), test[0].begins), f1_training, picker)
    return Boundaries(rows, len(test[0].begins), len(test[0].tokens))


def join_clips(clips: Sequence[Array], features: FeatureConfig, random: np.random.Generator) -> Stream:
    """Clips (T_i, D), two tokens or more, as one stream; each loses 0 to token_frames - 1 frames at its start."""
    parts = [join_tokens(clip, features)[random.integers(features.token_frames) :] for clip in clips]
    tokens = np.concatenate(list(cut_tokens(parts, features)))
    starts = np.cumsum([len(part) for part in parts])[:-1]
    begins = ((starts - features.token_frames) // features.token_hop + 1).clip(0)  # the first token that holds a frame of the new clip
    return Stream(tokens, np.unique(begins[begins < len(tokens)]))


@torch.no_grad()
def boundary_scores(
    model: WorldModelNet, objective: Objective, features: FeatureConfig, tokens: Array, action: Array, random: np.random.Generator
) -> dict[str, Scores]:
    """Curves (T,) by name over tokens (T, D), as this module's text has them; those that an objective cannot give are left out."""
    T = len(tokens)
    (whole,) = listen(model, [tokens], [np.tile(action, (T, 1))])
    scores: dict[str, Scores] = {}
    if objective.trains_latents:
        scores["surprise"] = whole.observed.kl()[0].double().cpu().numpy()
        scores["restart"] = restart(model, scores["surprise"], tokens, action)
    ahead = objective.ahead_of(whole.observed)
    if ahead is not None:
        total, count = np.zeros(T), np.zeros(T)
        for k in ahead.expected:
            mismatch = ahead.mismatch(k)[0].double().cpu().numpy()  # of the expectation made at 0, 1, ...
            total[1 : 1 + len(mismatch)] += mismatch[: T - 1]
            count[1 : 1 + len(mismatch)] += 1
        scores["expectation"] = total / np.maximum(count, 1)
    return scores | {"spectral flux": _flux(tokens, features), "random": random.standard_normal(T)}


def choose_picker(score: Scores, begins: Indices) -> tuple[float, Picker]:
    """The best F1 over APART and SHARES, and how it was reached."""
    pickers = [Picker(apart, share) for apart in APART for share in SHARES]
    found = [f1(picker(score), begins) for picker in pickers]
    best = int(np.argmax(found))
    return found[best], pickers[best]


def f1(found: Indices, true: Indices, tolerance: float = TOLERANCE) -> float:
    """Harmonic mean of precision and recall; sorted positions match one to one where they differ by at most `tolerance`."""
    hits = at = 0
    for position in found:
        while at < len(true) and true[at] < position - tolerance:
            at += 1
        if at < len(true) and true[at] <= position + tolerance:
            hits += 1
            at += 1
    return 2 * hits / (len(found) + len(true)) if len(found) + len(true) else 0.0


def restart(model: WorldModelNet, going_on: Scores, tokens: Array, action: Array, count: int | None = None) -> Scores:
    """Sum over RESTART windows of the surprise of one who went on, less that of one who begins afresh at each window.

    Args:
      going_on: (T,) nats of tokens (T, D). action: (A,) of listening on.
      count: of the windows from the first on that are scored; None: all.
    Returns:
      (count,) nats; where fewer than RESTART windows follow, the sum is over those.
    """
    windows = [tokens[t : t + RESTART] for t in range(len(tokens) if count is None else count)]
    scores = np.zeros(len(windows))
    for heard in listen(model, windows, [np.tile(action, (len(window), 1)) for window in windows]):
        for t, afresh in heard.split(heard.observed.kl()):
            scores[t] = going_on[t : t + RESTART].sum() - afresh.sum(dtype=np.float64)
    return scores


def _flux(tokens: Array, features: FeatureConfig) -> Scores:
    """(T,) largest RMS difference of a frame of the token from the frame before it."""
    frames = join_tokens(tokens, features).astype(np.float64)
    change = np.sqrt(np.square(np.diff(frames, axis=0, prepend=frames[:1])).mean(1))
    largest: Scores = sliding_window_view(change, features.token_frames)[:: features.token_hop].max(1)
    return largest
