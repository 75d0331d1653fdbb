"""Features of whole clips from a world model, without any effect of one clip on another."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from pydreaming.config import Config
from pydreaming.evaluation.pooling import Array, pool_clips
from pydreaming.models.world_model import WorldModelNet

PARTS = ("deter", "stoch", "embed")
MAX_PADDED_TOKENS = 20_000  # tokens in one batch, padding included


@torch.no_grad()
def clip_features(model: WorldModelNet, tokens: list[Array], actions: list[Array]) -> dict[str, Array]:
    """Pooled features of each clip by part.

    `stoch` is the posterior's mean (probabilities where it is categorical), which carries more than its one sample; `feat` is deter and
    stoch side by side.

    Returns:
      part -> (N, 4 D_part), see `pooling.thirds_and_std`.
    """
    parts: dict[str, list[Array | None]] = {part: [None] * len(tokens) for part in PARTS}
    for rows in _batches([len(clip) for clip in tokens]):
        longest = max(len(tokens[i]) for i in rows)
        # Clips are padded behind their end; the model is causal, so padding cannot reach what is read.
        x = torch.zeros(len(rows), longest, model.token_dim)
        action = torch.zeros(len(rows), longest, model.action_dim)
        for row, i in enumerate(rows):
            x[row, : len(tokens[i])] = torch.from_numpy(tokens[i])
            action[row, : len(actions[i])] = torch.from_numpy(actions[i])
        first = torch.zeros(len(rows), longest, dtype=torch.bool)
        first[:, 0] = True
        observed = model.observe(x.to(model.device), action.to(model.device), first.to(model.device))
        values = {
            "deter": observed.post.deter,
            "stoch": observed.post.mean,
            "embed": observed.embed,
        }
        for part, value in values.items():
            array = value.float().cpu().numpy()
            for row, i in enumerate(rows):
                parts[part][i] = array[row, : len(tokens[i])]
    pooled = {part: pool_clips([clip for clip in clips if clip is not None]) for part, clips in parts.items()}
    pooled["feat"] = np.concatenate([pooled["deter"], pooled["stoch"]], 1)
    return pooled


def untrained_like(config: Config, token_dim: int, action_dim: int, device: torch.device) -> WorldModelNet:
    """The same networks with their first weights: what the architecture alone gives."""
    torch.manual_seed(config.run.seed + 1000)
    return WorldModelNet(config.model, token_dim, action_dim).to(device).eval()


def _batches(lengths: list[int]) -> Iterator[list[int]]:
    """Rows of similar length together, at most MAX_PADDED_TOKENS in a batch."""
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and (len(batch) + 1) * lengths[i] > MAX_PADDED_TOKENS:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch
