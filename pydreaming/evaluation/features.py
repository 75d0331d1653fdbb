"""Features of whole clips from a world model, without any effect of one clip on another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pydreaming.config import Config
from pydreaming.evaluation.pooling import Array, pool_clips
from pydreaming.models.world_model import WorldModelNet

PARTS = ("deter", "stoch", "embed")
CLIP_PARTS, CLIP_POOLING = ("deter", "stoch"), "thirds_std"  # the clip vector: what the row `world model` is probed on
MAX_PADDED_TOKENS = 20_000  # tokens in one batch, padding included


@dataclass(frozen=True)
class ClipBatch:
    """Clips side by side, padded behind their ends: tokens (B, T, D), action (B, T, A), is_first, mask (B, T)."""

    tokens: Tensor
    action: Tensor
    is_first: Tensor
    mask: Tensor


@torch.no_grad()
def clip_features(model: WorldModelNet, tokens: Sequence[Array], actions: Sequence[Array], pooling: str = CLIP_POOLING) -> dict[str, Array]:
    """Pooled features of each clip by part.

    `stoch` is the posterior's probabilities, which carry more than its one sample; `feat` is deter and stoch side by side. `join_parts`
    puts together others.

    Args:
      pooling: see `pooling.POOLINGS`.
    Returns:
      part -> (N, 4 D_part) with the default pooling.
    """
    parts: dict[str, list[Array | None]] = {part: [None] * len(tokens) for part in PARTS}
    for rows in similar_lengths([len(clip) for clip in tokens]):
        # The model is causal, so padding cannot reach what is read.
        batch = pad_clips(tokens, actions, rows, model.device)
        observed = model.observe(batch.tokens, batch.action, batch.is_first)
        values = {
            "deter": observed.post.deter,
            "stoch": observed.post.logits.exp().flatten(-2),
            "embed": observed.embed,
        }
        for part, value in values.items():
            array = value.float().cpu().numpy()
            for row, i in enumerate(rows):
                parts[part][i] = array[row, : len(tokens[i])]
    pooled = {part: pool_clips([clip for clip in clips if clip is not None], pooling) for part, clips in parts.items()}
    return pooled | {"feat": join_parts(pooled, ("deter", "stoch"))}


def join_parts(features: Mapping[str, Array], parts: Sequence[str] = CLIP_PARTS) -> Array:
    """Parts side by side: (N, sum of their widths). The default gives the clip vector."""
    return np.concatenate([features[part] for part in parts], 1)


def untrained_like(config: Config, token_dim: int, action_dim: int, device: torch.device) -> WorldModelNet:
    """The same networks with their first weights: what the architecture alone gives."""
    torch.manual_seed(config.run.seed + 1000)
    return WorldModelNet(config.model, token_dim, action_dim).to(device).eval()


def pad_clips(tokens: Sequence[Array], actions: Sequence[Array], rows: Sequence[int], device: torch.device) -> ClipBatch:
    """Some of the clips as one batch, as long as the longest of them."""
    lengths = torch.tensor([len(tokens[i]) for i in rows])
    longest = int(lengths.max())
    x = torch.zeros(len(rows), longest, tokens[0].shape[1])
    action = torch.zeros(len(rows), longest, actions[0].shape[1])
    for row, i in enumerate(rows):
        x[row, : len(tokens[i])] = torch.from_numpy(tokens[i])
        action[row, : len(actions[i])] = torch.from_numpy(actions[i])
    steps = torch.arange(longest).unsqueeze(0)
    is_first, mask = (steps == 0).expand(len(rows), longest), steps < lengths.unsqueeze(1)
    return ClipBatch(x.to(device), action.to(device), is_first.to(device), mask.to(device))


def similar_lengths(lengths: list[int]) -> Iterator[list[int]]:
    """Rows of similar length together, at most MAX_PADDED_TOKENS in a batch."""
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and (len(batch) + 1) * lengths[i] > MAX_PADDED_TOKENS:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch
