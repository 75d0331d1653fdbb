"""The scene term: the end of a clip is recognised by its beginning among those of other clips.

Only what both parts share helps: the voice, the microphone, the room, and some of what is said. It is SimCLR (arXiv 2002.05709, eq. 1)
with two parts of a clip in the place of two augmentations, as COLA has it for audio (arXiv 2010.10915, section 2), on statistics of frames
in the place of spectrograms. As there, the vector in front of the projection is what is used afterwards, and as there parts are drawn at
random: a clip that is always cut in its middle is learnt by heart (docs/experiments.md). Of a long recording every stretch in the batch
counts as a clip of its own, so that a change of speaker within it can be learnt as well as one between recordings.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from pydreaming.models.by_hand import by_hand
from pydreaming.models.scene import SceneEncoder
from pydreaming.objectives.base import Parts, TensorBatch, Term, masked_mean
from pydreaming.objectives.contrast import SAME

LEAST = 4  # tokens of a clip that is cut in two
TEMPERATURE = 1.0  # with .1 the vector keeps much of what is said (docs/experiments.md)


def scene_terms(encoder: SceneEncoder, head: nn.Module, batch: TensorBatch, noise: Tensor, weight: float) -> Parts:
    """Term `scene` (S,), a value for each clip that is long enough, and metric `scene_accuracy`; S = B * T clips, the most that there may
    be, where shapes may not depend on values.

    Nothing where all sequences are of one source: what is asked for is to tell sources apart, of which a batch of one has no example.

    Args:
      head: (..., width) -> (..., P). batch: all of it is heard as recorded, whatever a view has made of it for the trunk.
      noise: (B, T, S, K) of the latents; it also says where clips are cut, so that one draw decides all of a step.
    """
    if not batch.mixed:
        return Parts()
    clip, second, length = cut_clips(batch.is_first, batch.mask, any_places(noise))
    extent, valid = extents(clip, batch.token_id, batch.mask), length >= LEAST
    counts = batch.mask & valid[clip]
    if by_hand(noise) and batch.ranks.size == 1:  # other ranks have other clips, and exchange as many
        clip, extent, valid = (valid.cumsum(0) - 1)[clip], extent[valid], valid[valid]
    S = len(valid)
    if not S:
        return Parts()
    owner = torch.where(counts, clip + second * S, 2 * S).flatten()  # the rest has a place of its own
    vectors = encoder(batch.as_recorded.flatten(0, 1), owner, 2 * S + 1)[: 2 * S]
    first, later = functional.normalize(head(vectors).float(), dim=-1).split(S)
    every = batch.ranks.gather(extent.where(valid.unsqueeze(1), -1))  # the clips of all ranks, the own ones first
    own = torch.eye(S, len(every), dtype=torch.bool, device=every.device)
    barred = ~own & (share_audio(extent, every) | (every[:, 1] < 0))  # the same clip is no negative
    answer = torch.arange(S, device=every.device)

    def recognise(query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        scores = (query @ batch.ranks.gather(key).t() / TEMPERATURE).masked_fill(barred, -torch.inf)
        return functional.cross_entropy(scores, answer, reduction="none"), (scores.argmax(1) == answer).float()

    with torch.autocast(first.device.type, enabled=False):  # in bfloat16 clips that are much alike would tie
        loss, correct = recognise(first, later)
        back, _ = recognise(later, first)
    return Parts({"scene": Term((loss + back) / 2, valid, weight)}, {"scene_accuracy": masked_mean(correct, valid)})


def extents(clip: Tensor, token_id: Tensor, mask: Tensor) -> Tensor:
    """Least and largest `token_id` of each clip: (B, T) three times, as of `cut_clips` and `TensorBatch` -> (B * T, 2); (anything, -1) of
    clips that are not there."""
    ids, clip, none = token_id.flatten(), clip.flatten(), torch.iinfo(token_id.dtype).max
    begin = torch.full_like(ids, none).scatter_reduce(0, clip, ids.masked_fill(~mask.flatten(), none), "amin")
    return torch.stack([begin, torch.full_like(ids, -1).scatter_reduce(0, clip, ids, "amax")], 1)


def share_audio(extent: Tensor, others: Tensor) -> Tensor:
    """Which clips have windows of the same audio as others: (S, 2) and (M, 2) of `extents` -> (S, M) bool.

    Their ends need not be equal: one sequence breaks off where another goes on, and each pass over a recording cuts its windows elsewhere.
    """
    begin, end = extent.unsqueeze(1).unbind(-1)
    return (begin <= others[:, 1] + SAME) & (end >= others[:, 0] - SAME)


def any_places(noise: Tensor) -> Tensor:
    """Noise (B, T, S, K), independent and of one distribution, whichever -> (B, T), one of S * K equally likely values from 0 up to 1."""
    flat = noise.flatten(2)
    return flat.argmax(-1) / flat.shape[-1]


def cut_clips(is_first: Tensor, mask: Tensor, place: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Where the clips of a batch lie, and on which side of its clip's cut a step is.

    Args:
      is_first, mask: (B, T) bool; a sequence begins with a reset, and padding lies at its end.
      place: (B, T) from 0 up to 1, at the first step of a clip: how far on it is cut, between its first quarter and its last.
    Returns:
      clip (B, T) int64, its number, below B * T; second (B, T) int64, 1 behind the cut; length (B * T,) int64, tokens of each clip.
    """
    B, T = mask.shape
    row = torch.arange(B, device=mask.device).unsqueeze(1) * T
    clip = row + (is_first.long().cumsum(1) - 1).clamp_min(0)
    length = torch.zeros(B * T, dtype=torch.long, device=mask.device).index_add_(0, clip.flatten(), mask.long().flatten())
    step = torch.arange(B * T, device=mask.device).reshape(B, T)
    begin = torch.full((B * T,), B * T - 1, device=mask.device).scatter_reduce(0, clip.flatten(), step.flatten(), "amin")
    least = (length // 4).clamp_min(1)
    cut = begin + least + (place.flatten()[begin] * (length - 2 * least + 1)).long()
    return clip, (step >= cut[clip]).long(), length
