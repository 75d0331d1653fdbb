"""What the discrete code costs and how much of it is used.

The code of a window is S symbols, one of each group: the posterior's modes. Bits per second, all as sums over the groups, as if they were
independent (the entropy of their joint code cannot be estimated from less than millions of windows, and is at most this):

    bitrate                entropy of each symbol, not deduplicated: every window sends every symbol (as arXiv 1904.11469, for one group)
    bitrate_deduplicated   a symbol is sent only when it differs from the one before; how long it lasts is not counted
    bitrate_predicted      -log2 prior(symbol): what a receiver with the same world model needs, who predicts before he hears
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pydreaming.evaluation.listening import listen
from pydreaming.evaluation.pooling import Array
from pydreaming.models.world_model import WorldModelNet

LEAST_WINDOWS = 100  # fewer say nothing about frequencies of 16 classes

Symbols = npt.NDArray[np.int64]


@dataclass(frozen=True)
class CodeStatistics:
    """Bits per second as in this module's text; `perplexity` (S,) of each group, of `classes`; over `windows` windows."""

    bitrate: float
    bitrate_deduplicated: float
    bitrate_predicted: float
    perplexity: list[float]
    classes: int
    windows: int


def code_statistics(model: WorldModelNet, tokens: Sequence[Array], actions: Sequence[Array], token_s: float) -> CodeStatistics | str:
    """Statistics over clips (T_i, D), or a sentence that says why there are none.

    Args:
      token_s: seconds between the starts of adjacent windows.
    """
    if not model.dynamics.latents.discrete:
        return "No bitrate of the code: the latents are not discrete."
    windows = sum(len(clip) for clip in tokens)
    if windows < LEAST_WINDOWS:
        return f"No bitrate of the code: {windows} windows are too few (at least {LEAST_WINDOWS})."
    every: list[Symbols] = []
    kept: list[list[Symbols]] = []
    nats = 0.0
    for heard in listen(model, tokens, actions):
        modes = heard.observed.post.logits.argmax(-1)
        cost = -heard.observed.prior_logits.gather(-1, modes.unsqueeze(-1)).squeeze(-1).sum(-1)
        nats += float(cost[heard.mask].double().sum())
        for _, values in heard.split(modes):
            symbols = values.astype(np.int64)
            every.append(symbols)
            kept.append([group[np.diff(group, prepend=-1) != 0] for group in symbols.T])
    entropies = np.array([_entropy(group) for group in np.concatenate(every).T])
    changes = [np.concatenate(group) for group in zip(*kept, strict=True)]
    seconds = windows * token_s
    return CodeStatistics(
        bitrate=float(entropies.sum()) / token_s,
        bitrate_deduplicated=sum(len(group) * _entropy(group) for group in changes) / seconds,
        bitrate_predicted=nats / math.log(2) / seconds,
        perplexity=(2.0**entropies).tolist(),
        classes=model.config.classes,
        windows=windows,
    )


def _entropy(symbols: Symbols) -> float:
    """Bits per symbol."""
    share = np.unique(symbols, return_counts=True)[1] / len(symbols)
    return float(-(share * np.log2(share)).sum())
