"""Views of a batch: what the model shall not rely on is taken out of a share of the sequences.

A *centred* clip has its own mean per mel band taken out: level, microphone and a good part of the speaker are gone, what changes stays.
A model that has heard clips both ways can be asked both ways (`evaluation.features`), which is what lets digits of speakers be told whom it
never heard (docs/experiments.md). It is cepstral mean normalisation (Atal 1974, JASA 55, section III) before the cosine transform.

The mean is of the whole clip, so the windows heard of a centred clip say what those to come must add up to: near its end predictions ahead
have an easier task than sound sets (of pure noise, one window ahead is found .24 of the time instead of .002). Accuracies in training hold
that; the latents, and every figure of imagining, are of sequences as they are. With the mean of the sequence's other clips in its place one
training was no better (docs/experiments.md).
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from pydreaming.objectives import TensorBatch


def centre_sequences(batch: TensorBatch, n_mels: int, share: float) -> TensorBatch:
    """The batch with the clips of its last sequences centred; a clip is what lies between two resets of one sequence.

    The rows of a batch are in random order, so nothing is drawn here. Latents are trained on the first rows (`objective.latent_streams`):
    as long as both shares fit beside each other, what is imagined is learnt from recordings as they are.

    Args:
      batch: tokens (B, T, token_frames * n_mels). n_mels: bands of a frame. share: of the sequences that are centred.
    Returns:
      The same batch with other tokens, and with the recorded ones beside them; padding keeps its zeros.
    """
    B = batch.mask.shape[0]
    rows = slice(B - int(share * B), B)  # rounded down: of an odd batch half and half must not share a row
    tokens, mask = batch.tokens[rows], batch.mask[rows]
    centred = tokens.unflatten(-1, (-1, n_mels)) - clip_means(tokens, batch.is_first[rows], mask, n_mels).unsqueeze(2)
    changed = torch.where(mask.unsqueeze(-1), centred.flatten(2), tokens)
    return dataclasses.replace(batch, tokens=torch.cat([batch.tokens[: rows.start], changed]), recorded=batch.as_recorded)


def clip_means(tokens: Tensor, is_first: Tensor, mask: Tensor, n_mels: int) -> Tensor:
    """Mean per band over the clip that each step belongs to.

    Args:
      tokens: (B, T, token_frames * n_mels). is_first, mask: (B, T) bool; padding (mask False) counts in no mean.
    Returns:
      (B, T, n_mels); anything on padding.
    """
    B, T = mask.shape
    # (B, T) a number for each clip: at most T in a sequence, and one for steps before any reset.
    clip = is_first.long().cumsum(1) + torch.arange(B, device=mask.device).unsqueeze(1) * (T + 1)
    bands = tokens.unflatten(-1, (-1, n_mels)).mean(2) * mask.unsqueeze(-1)
    total = bands.new_zeros(B * (T + 1), n_mels).index_add_(0, clip.flatten(), bands.flatten(0, 1))
    count = bands.new_zeros(B * (T + 1)).index_add_(0, clip.flatten(), mask.flatten().to(bands.dtype))
    means: Tensor = (total / count.clamp_min(1).unsqueeze(1))[clip]
    return means
