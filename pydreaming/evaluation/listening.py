"""A model's states for whole clips: each heard alone, from the initial state, many at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pydreaming.evaluation.pooling import Array
from pydreaming.models.state import Observed
from pydreaming.models.world_model import WorldModelNet

MAX_PADDED_TOKENS = 20_000  # tokens in one batch, padding included


@dataclass(frozen=True)
class Heard:
    """A batch of B clips padded to T tokens.

    Attributes:
      rows: indices of the clips in the list they came from. mask: (B, T) bool, False on padding. observed: posterior rollout.
    """

    rows: list[int]
    mask: Tensor
    observed: Observed

    def split(self, values: Tensor) -> Iterator[tuple[int, Array]]:
        """(index of the clip, its own steps) of values (B, T, ...), as float32."""
        array = values.float().cpu().numpy()
        for row, (i, length) in enumerate(zip(self.rows, self.mask.sum(1).tolist(), strict=True)):
            yield i, array[row, :length]


@torch.no_grad()
def listen(model: WorldModelNet, tokens: Sequence[Array], actions: Sequence[Array] | None = None) -> Iterator[Heard]:
    """Posterior rollouts (modes) over clips (T_i, D) with actions (T_i, A), zeros where None; clips of similar length go together."""
    for rows in _batches([len(clip) for clip in tokens]):
        longest = max(len(tokens[i]) for i in rows)
        # Clips are padded behind their end; the model is causal, so padding cannot reach what is read.
        x = torch.zeros(len(rows), longest, model.token_dim)
        action = torch.zeros(len(rows), longest, model.action_dim)
        mask = torch.zeros(len(rows), longest, dtype=torch.bool)
        for row, i in enumerate(rows):
            x[row, : len(tokens[i])] = torch.from_numpy(tokens[i])
            mask[row, : len(tokens[i])] = True
            if actions is not None:
                action[row, : len(actions[i])] = torch.from_numpy(actions[i])
        first = torch.zeros(len(rows), longest, dtype=torch.bool)
        first[:, 0] = True
        observed = model.observe(x.to(model.device), action.to(model.device), first.to(model.device))
        yield Heard(rows, mask.to(model.device), observed)


def _batches(lengths: list[int]) -> Iterator[list[int]]:
    """Rows of similar length together, at most MAX_PADDED_TOKENS in a batch; clips without a token are left out."""
    batch: list[int] = []
    for i in sorted((i for i, length in enumerate(lengths) if length), key=lengths.__getitem__):
        if batch and (len(batch) + 1) * lengths[i] > MAX_PADDED_TOKENS:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch
