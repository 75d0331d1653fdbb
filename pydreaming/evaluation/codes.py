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
from typing import Any

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
    counter = CodeCounter(model.config.groups, model.config.classes)
    for heard in listen(model, tokens, actions):
        modes = heard.observed.post.logits.argmax(-1)
        cost = -heard.observed.prior_logits.gather(-1, modes.unsqueeze(-1)).squeeze(-1).sum(-1)
        for (_, symbols), (_, nats) in zip(heard.split(modes), heard.split(cost), strict=True):
            counter.add(symbols.astype(np.int64), nats, begins=True)
    return counter.statistics(token_s)


class CodeCounter:
    """Counts the codes of clips, as they are heard. `used` (S, K): how often each of the K classes of each of the S groups was."""

    def __init__(self, groups: int, classes: int) -> None:
        self.windows = 0
        self.used = np.zeros((groups, classes), dtype=np.int64)
        self._changed = np.zeros((groups, classes), dtype=np.int64)
        self._nats = 0.0
        self._last = np.full((1, groups), -1, dtype=np.int64)

    def add(self, symbols: Symbols, nats: Array, begins: bool) -> None:
        """Count windows.

        Args:
          symbols: (T, S) of successive windows. nats: (T,) -log prior(symbols), summed over the groups.
          begins: whether a clip begins here; else the windows follow those of the last call.
        """
        before = np.concatenate([np.full_like(self._last, -1) if begins else self._last, symbols[:-1]])
        self._last = symbols[-1:]
        group = np.broadcast_to(np.arange(len(self.used)), symbols.shape)
        changed = symbols != before
        np.add.at(self.used, (group, symbols), 1)
        np.add.at(self._changed, (group[changed], symbols[changed]), 1)
        self._nats += float(nats.astype(np.float64).sum())
        self.windows += len(symbols)

    def merge(self, other: CodeCounter) -> None:
        """Add what another counted."""
        self.used += other.used
        self._changed += other._changed
        self._nats += other._nats
        self.windows += other.windows

    def statistics(self, token_s: float) -> CodeStatistics:
        """Of all that was counted. Raises ValueError when nothing was."""
        if not self.windows:
            raise ValueError("no window was counted")
        entropies = [entropy(group) for group in self.used]
        seconds = self.windows * token_s
        return CodeStatistics(
            bitrate=sum(entropies) / token_s,
            bitrate_deduplicated=sum(int(group.sum()) * entropy(group) for group in self._changed) / seconds,
            bitrate_predicted=self._nats / math.log(2) / seconds,
            perplexity=[2.0**bits for bits in entropies],
            classes=self.used.shape[1],
            windows=self.windows,
        )


def entropy(counts: npt.NDArray[Any]) -> float:
    """Bits per symbol of (K,) counts or weights, at least one of them above zero."""
    share = counts[counts > 0] / counts.sum()
    return float(-(share * np.log2(share)).sum())
