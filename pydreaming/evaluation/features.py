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
CENTRED = ", centred"  # behind a part's name: of the clip without its mean per band
# The clip vector: what the row `world model` is probed on.
CLIP_PARTS, CLIP_POOLING = ("deter", "stoch", "deter" + CENTRED, "stoch" + CENTRED), "thirds_std"
MAX_PADDED_TOKENS = 20_000  # tokens in one batch, padding included


@dataclass(frozen=True)
class ClipBatch:
    """Clips side by side, padded behind their ends: tokens (B, T, D), action (B, T, A), is_first, mask (B, T)."""

    tokens: Tensor
    action: Tensor
    is_first: Tensor
    mask: Tensor


@torch.no_grad()
def clip_features(
    model: WorldModelNet, tokens: Sequence[Array], actions: Sequence[Array], pooling: str = CLIP_POOLING, centred_bands: int = 0
) -> dict[str, Array]:
    """Pooled features of each clip by part.

    `stoch` is the posterior's mean (probabilities where it is categorical), which carries more than its one sample; `feat` is deter and
    stoch side by side. `join_parts` puts together others.

    Args:
      pooling: see `pooling.POOLINGS`.
      centred_bands: n_mels, to hear each clip a second time without its mean per band, as a model that was trained so (`augment.centre`)
        can; parts of that view have CENTRED behind their names. It needs the whole clip, so it is for clips, not for streams. 0: not.
    Returns:
      part -> (N, 4 D_part) with the default pooling.
    """
    features = _pooled_parts(model, tokens, actions, pooling)
    if centred_bands:
        centred = [_centred(clip, centred_bands) for clip in tokens]
        features |= {part + CENTRED: values for part, values in _pooled_parts(model, centred, actions, pooling).items()}
    return features


def join_parts(features: Mapping[str, Array], parts: Sequence[str] = CLIP_PARTS) -> Array:
    """Those of the parts that there are, side by side: (N, sum of their widths). The default gives the clip vector."""
    return np.concatenate([features[part] for part in parts if part in features], 1)


def centred_bands(config: Config) -> int:
    """What `clip_features` shall be given for a model of this configuration."""
    return config.features.n_mels if config.augment.centre else 0


def _pooled_parts(model: WorldModelNet, tokens: Sequence[Array], actions: Sequence[Array], pooling: str) -> dict[str, Array]:
    parts: dict[str, list[Array | None]] = {part: [None] * len(tokens) for part in PARTS}
    for rows in similar_lengths([len(clip) for clip in tokens]):
        # The model is causal, so padding cannot reach what is read.
        batch = pad_clips(tokens, actions, rows, model.device)
        observed = model.observe(batch.tokens, batch.action, batch.is_first)
        values = {
            "deter": observed.post.deter,
            "stoch": observed.post.mean,
            "embed": observed.embed,
        }
        for part, value in values.items():
            array = value.float().cpu().numpy()
            for row, i in enumerate(rows):
                parts[part][i] = array[row, : len(tokens[i])]
    pooled = {part: pool_clips([clip for clip in clips if clip is not None], pooling) for part, clips in parts.items()}
    return pooled | {"feat": join_parts(pooled, ("deter", "stoch"))}


def _centred(clip: Array, n_mels: int) -> Array:
    """(T, D) without its mean per band; see `training.views`."""
    frames = clip.reshape(len(clip), -1, n_mels)
    centred: Array = (frames - frames.mean((0, 1))).reshape(clip.shape)
    return centred


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
