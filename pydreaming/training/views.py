"""Views of a batch that are drawn anew for every step: what the model shall not rely on is taken out of a share of the clips.

A *centred* clip has its own mean per mel band taken out: level, microphone and a good part of the speaker are gone, what changes stays.
A model that has heard clips both ways can be asked both ways (`evaluation.features`), which is what lets digits of speakers be told whom it
never heard (docs/experiments.md). It is cepstral mean normalisation (Atal 1974, JASA 55, section III) before the cosine transform.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from pydreaming.objectives import TensorBatch


def centre_clips(batch: TensorBatch, n_mels: int, share: float, generator: torch.Generator) -> TensorBatch:
    """The batch with a random `share` of its clips centred; a clip is what lies between two resets of one sequence.

    Args:
      batch: tokens (B, T, token_frames * n_mels). n_mels: bands of a frame.
      generator: on the batch's device; one number is drawn per step whatever the share, so that the share changes nothing else.
    Returns:
      The same batch with other tokens; padding keeps its zeros.
    """
    B, T = batch.mask.shape
    # (B, T) number of each step's clip in the batch; at most B * T clips.
    clip = batch.is_first.long().cumsum(1) + torch.arange(B, device=batch.mask.device).unsqueeze(1) * (T + 1)
    drawn = torch.rand(B * (T + 1) + 1, device=batch.mask.device, generator=generator)
    chosen = (drawn[clip] < share) & batch.mask
    mean = clip_means(batch.tokens, clip, batch.mask, n_mels)
    centred = (batch.tokens.unflatten(-1, (-1, n_mels)) - mean.unsqueeze(2)).flatten(2)
    return dataclasses.replace(batch, tokens=torch.where(chosen.unsqueeze(-1), centred, batch.tokens))


def clip_means(tokens: Tensor, clip: Tensor, mask: Tensor, n_mels: int) -> Tensor:
    """Mean per band over the clip that each step belongs to.

    Args:
      tokens: (B, T, token_frames * n_mels). clip: (B, T) int64 numbers below B * (T + 1) + 1. mask: (B, T) bool, False on padding.
    Returns:
      (B, T, n_mels); anything on padding.
    """
    B, T = mask.shape
    bands = tokens.unflatten(-1, (-1, n_mels)).mean(2)  # (B, T, n_mels)
    weight = mask.to(bands.dtype)
    total = bands.new_zeros(B * (T + 1) + 1, n_mels).index_add_(0, clip.flatten(), (bands * weight.unsqueeze(-1)).flatten(0, 1))
    count = weight.new_zeros(B * (T + 1) + 1).index_add_(0, clip.flatten(), weight.flatten())
    means: Tensor = (total / count.clamp_min(1).unsqueeze(1))[clip]
    return means
