"""What keeps tokens apart without reconstruction: InfoNCE over the tokens of a batch, and redundancy reduction over its features.

Source of InfoNCE: arXiv 1807.03748 (CPC), eq. 4, with cosine similarities over a temperature as in arXiv 2002.05709, eq. 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from pydreaming.models.ranks import ALONE, Ranks

SAME = 8  # in units of `token_id`: half a stride of tokens, up to which two windows share more than half of their audio


@dataclass(frozen=True)
class Contrast:
    """Result of `info_nce`.

    Attributes:
      loss: (B, T) nats. correct: (B, T) accuracy@1, between 0 and 1 (a tie is shared). chance: (B, T) of guessing right.
      valid: (B, T) bool.
    """

    loss: Tensor
    correct: Tensor
    chance: Tensor
    valid: Tensor


@dataclass(frozen=True)
class Rivals:
    """Which tokens of a batch are negatives of which positive; N = B * T flat steps, M = N, or those of all ranks, the own ones first.

    Attributes:
      barred: (N, M) float32, row i for a query whose positive is i: 0 where the column is a candidate, -inf where it is not.
      chance: (N,) of guessing right by positive.
    """

    barred: Tensor
    chance: Tensor


def same_audio(token_id: Tensor, others: Tensor) -> Tensor:
    """Which tokens are of the same audio as others, by their `token_id` (N,) and (M,): (N, M) bool."""
    least = token_id.unsqueeze(1) - SAME
    return (others >= least) & (others <= least + 2 * SAME)


def find_rivals(token_id: Tensor, mask: Tensor, *, within_sequence: bool, ranks: Ranks = ALONE) -> Rivals:
    """Rivals of each token, arguments as in `info_nce`; right for queries that lie in the sequence of their positive."""
    B, T = mask.shape
    ranks = ALONE if within_sequence else ranks
    ids = token_id.flatten()
    banned = same_audio(ids, ranks.gather(ids)) | ~ranks.gather(mask.flatten())
    if within_sequence:
        sequence = torch.arange(B * T, device=mask.device) // T
        banned |= sequence.unsqueeze(1) != sequence
    banned.fill_diagonal_(False)
    barred = torch.zeros(banned.shape, device=mask.device).masked_fill_(banned, -torch.inf)
    return Rivals(barred, barred.exp().sum(-1).reciprocal())


def reaches(is_first: Tensor, mask: Tensor, steps: int) -> Tensor:
    """Where t and t + steps both exist and no reset lies between: (B, T) bool twice -> (B, T) bool, False in the last `steps` columns."""
    T = is_first.shape[1]
    result = torch.zeros_like(mask)
    if steps >= T:
        return result
    clip = is_first.long().cumsum(1)
    result[:, : T - steps] = (clip[:, : T - steps] == clip[:, steps:]) & mask[:, : T - steps] & mask[:, steps:]
    return result


def info_nce(
    query: Tensor,
    key: Tensor,
    token_id: Tensor,
    valid: Tensor,
    mask: Tensor,
    *,
    steps: int,
    temperature: float,
    within_sequence: bool = False,
    ranks: Ranks = ALONE,
) -> Contrast:
    """Tell the token `steps` ahead from every other token.

    Args:
      query: (B, T, P) predictions made at t. key: (B, T, P) tokens. Both are brought to unit length here.
      token_id: (B, T) int64; keys that are the same audio as the positive (see `same_audio`) are no negatives.
      valid: (B, T) bool, where a prediction at t counts (see `reaches`).
      mask: (B, T) bool; padding is no negative.
      steps: how far ahead the positive lies; 0 is the same step.
      temperature: of the cosine logits.
      within_sequence: take negatives from the same sequence only.
      ranks: processes whose tokens are negatives, too.
    Returns:
      Contrast; with identical features everywhere the loss is ln N, N the number of candidates.
    """
    B, T, _ = query.shape
    ranks = ALONE if within_sequence else ranks
    position = torch.arange(B * T, device=query.device)
    positive = (position + steps).clamp_max(B * T - 1)  # also among the tokens of all ranks (M): the own ones come first
    ids = token_id.flatten()
    banned = ~ranks.gather(mask.flatten()).unsqueeze(0) | same_audio(ids[positive], ranks.gather(ids))
    if within_sequence:
        banned = banned | (position.unsqueeze(1) // T != position.unsqueeze(0) // T)
    banned.scatter_(1, positive.unsqueeze(1), False)
    # float32: at a temperature of 0.07 the logits span +-14, and bfloat16 would keep two digits of them. Autocast would take it for the
    # product even of float32 vectors. What is banned is added to the product, not filled in after it: no copies, forwards and backwards.
    with torch.autocast(query.device.type, enabled=False):
        q = functional.normalize(query.float(), dim=-1).flatten(0, 1)
        k = ranks.gather(functional.normalize(key.float(), dim=-1).flatten(0, 1))
        allowed = torch.zeros(banned.shape, device=q.device).masked_fill_(banned, -torch.inf)
        logits = torch.addmm(allowed, q, k.t(), alpha=1 / temperature)  # (BT, M)
    loss = functional.cross_entropy(logits, positive, reduction="none").reshape(B, T)
    # Found where no rival is likelier; ties share it, so that features that are all the same stand at chance.
    scores = logits.detach()
    own = scores.gather(1, positive.unsqueeze(1))
    correct = ((own >= scores.amax(-1, keepdim=True)).squeeze(1) / (scores >= own).sum(-1)).reshape(B, T)
    chance = (~banned).sum(-1).reciprocal().reshape(B, T)
    # Predictions that do not count may have no finite logit beside their own; keep them out of the sum, not merely weighted by zero.
    return Contrast(loss.where(valid, 0.0), correct, chance, valid)


def redundancy(x: Tensor, target: Tensor, valid: Tensor, off_diagonal: float, ranks: Ranks = ALONE) -> Tensor:
    """Barlow Twins' loss: each feature agrees with its own target feature and with no other.

    Args:
      x, target: (B, T, E); each feature is standardised here over the valid steps, in float32.
      valid: (B, T) bool.
      off_diagonal: weight of the features' correlations with others.
      ranks: processes over whose steps together the correlations are taken; each then returns the same figure.
    Returns:
      () sum (C_ii - 1)^2 + off_diagonal * sum_{i != j} C_ij^2 with C = x^T target / N over the N valid steps.
    Source: arXiv 2103.03230, as R2-Dreamer uses it (arXiv 2603.18202).
    """
    with torch.autocast(x.device.type, enabled=False):
        count = ranks.total(valid.sum()).clamp_min(1)
        a, b = (_standardise(v.float(), valid.unsqueeze(-1), count, ranks).flatten(0, 1) for v in (x, target))
        correlation = ranks.sum(a.t() @ b) / count  # (E, E)
    diagonal = correlation.diagonal()
    others = correlation.square().sum() - diagonal.square().sum()
    return (diagonal - 1).square().sum() + off_diagonal * others


def _standardise(x: Tensor, valid: Tensor, count: Tensor, ranks: Ranks) -> Tensor:
    """(B, T, E) with mean 0 and variance 1 over the valid steps; 0 elsewhere, whatever was there."""
    x = x.where(valid, 0.0)
    centred = (x - ranks.sum(x.sum((0, 1))) / count).where(valid, 0.0)
    return centred * (ranks.sum(centred.square().sum((0, 1))) / count + 1e-5).rsqrt()  # a feature that never varies stays 0
