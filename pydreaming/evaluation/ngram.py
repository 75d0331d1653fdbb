"""What counting can foresee: n-grams over a model's own discrete codes, as a baseline for its imagination.

For each number of steps ahead k and each group by itself (an approximation: groups are not independent), the distribution of the code at
t + k given the last code (bigram) or the last two (trigram) is counted on training clips and backed off to the shorter history:

    p(w | h) = (c(h, w) + T(h) p(w | h')) / (n(h) + T(h))         n(h) occurrences of h, T(h) classes seen after it; h' is h less its oldest

Histories are modes of the posterior; counts c are of its probabilities, which is what the prediction is judged against. Counting at lag k
itself is at least as good as iterating one-step counts.

Source of the back-off: Witten and Bell, "The zero-frequency problem" (1991), method C, in its interpolated form.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pydreaming.evaluation.listening import listen
from pydreaming.evaluation.pooling import Array
from pydreaming.models.world_model import WorldModelNet

ORDERS = {"bigram": 1, "trigram": 2}  # codes of history


class CodeNgrams:
    """Counts over clips (T_i, D) with actions (T_i, A). Raises ValueError when no clip has a window.

    Args:
      steps: numbers of steps ahead.
    """

    def __init__(self, model: WorldModelNet, tokens: Sequence[Array], actions: Sequence[Array], steps: Sequence[int]) -> None:
        S, K = model.config.groups, model.config.classes
        self.classes = K
        self._unigram = torch.zeros(S, K, device=model.device)
        # Rows of a table are (group, history); histories are numbers to the base K.
        self._soft = {(k, n): torch.zeros(S * K**n, K, device=model.device) for k in steps for n in ORDERS.values()}
        self._seen = {key: torch.zeros_like(table) for key, table in self._soft.items()}
        for heard in listen(model, tokens, actions):
            log_post = heard.observed.post.logits
            self._count(log_post.exp(), log_post.argmax(-1), heard.mask)
        if not float(self._unigram.sum()):
            raise ValueError("n-grams need at least one window")

    def unigram(self) -> Tensor:
        """(S, K) log-probabilities without any history."""
        return (self._unigram + 1e-8).div(self._unigram.sum(-1, keepdim=True)).log()

    def predict(self, k: int, last: Tensor, before: Tensor | None = None) -> Tensor:
        """The code k steps after `last`: log-probabilities (B, S, K) from modes (B, S), and from those one step earlier for a trigram."""
        S = last.shape[-1]
        row = torch.arange(S, device=last.device) * self.classes + last
        bigram = self._backed_off(k, 1, row, self.unigram().exp().expand(*last.shape, -1))
        if before is None:
            return bigram.log()
        row = (torch.arange(S, device=last.device) * self.classes + before) * self.classes + last
        return self._backed_off(k, 2, row, bigram).log()

    def _backed_off(self, k: int, n: int, row: Tensor, shorter: Tensor) -> Tensor:
        counts, kinds = self._soft[k, n][row], (self._seen[k, n][row] > 0).sum(-1, keepdim=True)
        total = counts.sum(-1, keepdim=True) + kinds
        return torch.where(total > 0, (counts + kinds * shorter) / total.clamp_min(1e-8), shorter)

    def _count(self, post: Tensor, mode: Tensor, mask: Tensor) -> None:
        """Add (B, T, S, K) probabilities, (B, T, S) modes of clips that begin at step 0."""
        self._unigram += post[mask].sum(0)
        S, K = post.shape[2:]
        group = torch.arange(S, device=post.device)
        for (k, n), soft in self._soft.items():
            oldest = n - 1
            T = mask.shape[1] - k - oldest  # histories that end at oldest .. oldest + T - 1
            if T < 1:
                continue
            row = group
            for age in range(oldest, -1, -1):
                row = row * K + mode[:, oldest - age : oldest - age + T]
            valid = mask[:, oldest + k :]  # a clip is one piece, so what lies before its window lies inside it
            row = row[valid].flatten()
            soft.index_add_(0, row, post[:, oldest + k :][valid].flatten(0, 1))
            self._seen[k, n].index_put_((row, mode[:, oldest + k :][valid].flatten()), torch.ones((), device=post.device), accumulate=True)
