"""A model's states for whole clips: each heard alone, from the initial state, many at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
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


@dataclass(frozen=True)
class ClipBatch:
    """Clips side by side, padded behind their ends: tokens (B, T, D), action (B, T, A), is_first, mask (B, T)."""

    tokens: Tensor
    action: Tensor
    is_first: Tensor
    mask: Tensor


@torch.no_grad()
def listen(
    model: WorldModelNet,
    tokens: Sequence[Array],
    actions: Sequence[Array] | None = None,
    noise: Callable[[int], Tensor] | None = None,
) -> Iterator[Heard]:
    """Posterior rollouts over clips (T_i, D); clips of similar length go together.

    Clips are padded behind their ends: the model is causal, so padding cannot reach what is read. Clips without a token are left out.

    Args:
      actions: (T_i, A) of each clip; zeros where None.
      noise: the latents' noise of so many steps, (1, T, S, K), the same for every clip; modes where None.
    """
    for rows in similar_lengths([len(clip) for clip in tokens]):
        batch = pad_clips(tokens, actions, rows, model.device, model.action_dim)
        drawn = None if noise is None else noise(batch.mask.shape[1]).to(model.device).expand(len(rows), -1, -1, -1)
        yield Heard(rows, batch.mask, model.observe(batch.tokens, batch.action, batch.is_first, None, drawn))


def pad_clips(
    tokens: Sequence[Array], actions: Sequence[Array] | None, rows: Sequence[int], device: torch.device, action_dim: int
) -> ClipBatch:
    """Some of the clips (T_i, D) as one batch, as long as the longest of them; actions (T_i, A), zeros where None."""
    lengths = torch.tensor([len(tokens[i]) for i in rows])
    longest = int(lengths.max())
    x = torch.zeros(len(rows), longest, tokens[0].shape[1])
    action = torch.zeros(len(rows), longest, action_dim)
    for row, i in enumerate(rows):
        x[row, : len(tokens[i])] = torch.from_numpy(tokens[i])
        if actions is not None:
            action[row, : len(actions[i])] = torch.from_numpy(actions[i])
    steps = torch.arange(longest).unsqueeze(0)
    is_first, mask = (steps == 0).expand(len(rows), longest), steps < lengths.unsqueeze(1)
    return ClipBatch(x.to(device), action.to(device), is_first.to(device), mask.to(device))


def similar_lengths(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Rows of similar length together, at most MAX_PADDED_TOKENS in a batch; those of length 0 are left out."""
    batch: list[int] = []
    for i in sorted((i for i, length in enumerate(lengths) if length), key=lengths.__getitem__):
        if batch and (len(batch) + 1) * lengths[i] > MAX_PADDED_TOKENS:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch
