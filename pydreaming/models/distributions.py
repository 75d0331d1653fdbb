"""Groups of categorical variables: mixing with the uniform, straight-through samples, KL divergences.

Shapes: `...` any leading axes, S groups, K classes. All arithmetic is float32 whatever the autocast state (float64 where that is given);
quantities are in nats.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pydreaming.models.by_hand import by_hand, kl_both_sides


def log_probabilities(logits: Tensor, unimix: float) -> Tensor:
    """Log-probabilities of softmax(logits) mixed with the uniform distribution.

    Args:
      logits: (..., S, K), any finite values.
      unimix: share u of the uniform; every class keeps at least u / K.
    Returns:
      (..., S, K) float32, or float64 where that is given.
    Source: arXiv 2301.04104, "Robust predictions" (1 % unimix).
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if unimix > 0:
        probabilities = (1 - unimix) * logits.softmax(-1) + unimix / logits.shape[-1]
        return probabilities.log()
    return logits.log_softmax(-1)


def gumbel(shape: torch.Size | tuple[int, ...], device: torch.device, generator: torch.Generator | None = None) -> Tensor:
    """Standard Gumbel noise: argmax(log p + noise) is a sample of p. Returns `shape` float32, finite."""
    # Twice a logarithm of uniform numbers takes a third of the time of drawing exponential ones.
    uniform = torch.rand(shape, device=device, generator=generator).clamp_min_(1e-30)
    return -(-uniform.log_()).log_()


def straight_through(log_probs: Tensor, noise: Tensor | None) -> Tensor:
    """One-hot sample whose gradient is that of the probabilities.

    Args:
      log_probs: (..., S, K) from `log_probabilities`.
      noise: Gumbel noise of the same shape; None takes the mode.
    Returns:
      (..., S, K); the forward value is exactly one-hot, d(sample)/d(logits) = d(probs)/d(logits).
    Source: arXiv 2010.02193, algorithm 1.
    """
    scores = log_probs if noise is None else log_probs + noise
    hard = torch.zeros_like(log_probs).scatter_(-1, scores.argmax(-1, keepdim=True), 1.0)
    if not log_probs.requires_grad:
        return hard
    probs = log_probs.exp()
    # (probs - probs.detach()) is exactly zero in the forward pass, so the sum stays exactly one-hot.
    return hard + (probs - probs.detach())


def kl_divergence(log_q: Tensor, log_p: Tensor) -> Tensor:
    """KL(q || p) summed over the groups: (..., S, K) twice -> (...) in nats."""
    return (log_q.exp() * (log_q - log_p)).sum((-2, -1))


def entropy(log_probs: Tensor) -> Tensor:
    """Entropy summed over the groups: (..., S, K) -> (...) in nats."""
    return -(log_probs.exp() * log_probs).sum((-2, -1))


def mixture(log_probs: Tensor) -> Tensor:
    """Log of the mean distribution over the samples, group by group: (B, R, N, S, K) -> (B, N, S, K)."""
    return torch.logsumexp(log_probs, 1) - torch.log(torch.tensor(float(log_probs.shape[1]), device=log_probs.device))


def marginal(log_post: Tensor, mask: Tensor) -> Tensor:
    """Log of the posterior's mean over all valid steps, group by group: (B, T, S, K), (B, T) -> (S, K)."""
    weight = mask.float() / mask.sum().clamp_min(1)
    return (log_post.exp() * weight[..., None, None]).sum((0, 1)).clamp_min(1e-8).log()


def kl_sides(log_q: Tensor, log_p: Tensor) -> tuple[Tensor, Tensor]:
    """KL(sg q || p) and KL(q || sg p), equal in value: (..., S, K) twice -> (...) twice."""
    if by_hand(log_q):
        return kl_both_sides(log_q, log_p)
    return kl_divergence(log_q.detach(), log_p), kl_divergence(log_q, log_p.detach())


def balanced_kl(
    post: Tensor, prior: Tensor, free_nats: float, sides: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] = kl_sides
) -> tuple[Tensor, Tensor]:
    """The two sides of KL balancing, each at least `free_nats` per step (no gradient below).

    Args:
      post, prior: (..., S, K), or the parameters of another family of distributions with its `kl_sides` (see `latents`).
    Returns:
      dyn (...): max(free, KL(sg post || prior)), trains the prior; rep (...): max(free, KL(post || sg prior)), trains the posterior.
    Source: arXiv 2010.02193, algorithm 2; per-step free nats as in arXiv 2301.04104, eq. 5.
    """
    dyn, rep = sides(post, prior)
    return dyn.clamp_min(free_nats), rep.clamp_min(free_nats)
