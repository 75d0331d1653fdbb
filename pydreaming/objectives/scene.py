"""The scene term: a clip's second half is recognised by its first among those of other clips.

Only what both halves share helps: the voice, the microphone, the room, and some of what is said. It is SimCLR (arXiv 2002.05709, eq. 1)
with halves of a clip in the place of two augmentations, as COLA has it for audio (arXiv 2010.10915, section 2), on statistics of frames
in the place of spectrograms. As there, the vector in front of the projection is what is used afterwards.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from pydreaming.models.scene import SceneEncoder
from pydreaming.objectives.base import Parts, TensorBatch, Term, masked_mean

LEAST = 4  # tokens of a clip that has halves
TEMPERATURE = 0.1


def scene_terms(encoder: SceneEncoder, head: nn.Module, batch: TensorBatch, weight: float) -> Parts:
    """Term `scene` (S,), one value for each of the S = B * T clips that there may be, and metric `scene_accuracy`.

    Nothing where all sequences are of one source: what is asked for is to tell sources apart, of which a batch of one has no example.

    Args:
      head: (..., width) -> (..., P). batch: of recordings as they are, not of centred ones.
    """
    if not batch.mixed:
        return Parts()
    B, T = batch.mask.shape
    S = B * T
    clip, second, length = halves(batch.is_first, batch.mask)
    owner = torch.where(batch.mask, clip + second * S, 2 * S).flatten()  # padding has a place of its own
    vectors = encoder(batch.tokens.flatten(0, 1), owner, 2 * S + 1)[: 2 * S]
    first, later = functional.normalize(head(vectors).float(), dim=-1).split(S)
    valid = length >= LEAST
    ids = batch.token_id.new_full((S,), -1).scatter_reduce(0, clip.flatten(), batch.token_id.flatten(), "amax")
    every = batch.ranks.gather(torch.where(valid, ids, -1))  # the clips of all ranks, the own ones first
    own = torch.eye(S, len(every), dtype=torch.bool, device=ids.device)
    barred = ~own & ((ids.unsqueeze(1) == every) | (every < 0))  # the same clip is no negative
    answer = torch.arange(S, device=ids.device)

    def recognise(query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        scores = (query @ batch.ranks.gather(key).t() / TEMPERATURE).masked_fill(barred, -torch.inf)
        return functional.cross_entropy(scores, answer, reduction="none"), (scores.argmax(1) == answer).float()

    loss, correct = recognise(first, later)
    back, _ = recognise(later, first)
    return Parts({"scene": Term((loss + back) / 2, valid, weight)}, {"scene_accuracy": masked_mean(correct, valid)})


def halves(is_first: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Where the clips of a batch lie, and which half of its clip a step is in.

    Args:
      is_first, mask: (B, T) bool; a sequence begins with a reset, and padding lies at its end.
    Returns:
      clip (B, T) int64, its number, below B * T; second (B, T) int64, 1 in the later half; length (B * T,) int64, tokens of each clip.
    """
    B, T = mask.shape
    row = torch.arange(B, device=mask.device).unsqueeze(1) * T
    clip = row + (is_first.long().cumsum(1) - 1).clamp_min(0)
    length = torch.zeros(B * T, dtype=torch.long, device=mask.device).index_add_(0, clip.flatten(), mask.long().flatten())
    steps = torch.arange(T, device=mask.device).expand(B, T)
    begin = torch.full((B * T,), T, device=mask.device).scatter_reduce(0, clip.flatten(), steps.flatten(), "amin")
    second = 2 * (steps - begin[clip]) >= length[clip]
    return clip, second.long(), length
