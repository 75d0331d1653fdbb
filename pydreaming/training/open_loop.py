"""Open-loop prediction: imagine without listening, then compare with what came.

A model may have a low loss and still be no world model, if its prior says nothing about what follows. These figures say how much it does.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pydreaming.models.state import Observed, State
from pydreaming.models.world_model import WorldModelNet
from pydreaming.objectives.base import TensorBatch
from pydreaming.objectives.contrast import reaches


@dataclass(frozen=True)
class Rollouts:
    """Imagined futures of B sequences from one starting step.

    Attributes:
      start: the step t they start from. states: (B, R, N, ...) R samples of N steps. valid: (B, N) bool, step t + n lies in the same clip.
    """

    start: int
    states: State
    valid: Tensor


@torch.no_grad()
def rollouts(
    model: WorldModelNet, observed: Observed, mask: Tensor, start: int, steps: int, samples: int, generator: torch.Generator | None = None
) -> Rollouts:
    """Imagine `steps` steps from the posterior state at `start`, `samples` times, under the actions that really followed.

    Args:
      observed: posterior rollout of (B, T) tokens. mask: (B, T) bool.
    Raises:
      ValueError: start + steps reaches past the sequence.
    """
    B, T = mask.shape
    if start + steps >= T:
        raise ValueError(f"{steps} steps from {start} reach past a sequence of {T}")
    state = observed.post.at(slice(None), start).repeat(samples)
    actions = observed.action[:, start + 1 : start + 1 + steps].repeat_interleave(samples, 0)
    imagined = model.imagine(state, actions, model.noise(B * samples, steps, generator))
    valid = torch.stack([reaches(observed.is_first, mask, n)[:, start] for n in range(1, steps + 1)], 1)
    return Rollouts(start, imagined.map(lambda x: x.unflatten(0, (B, samples))), valid)


def gain(observed: Observed, mask: Tensor, futures: Rollouts) -> Tensor:
    """Open-loop gain: KL(q_{t+k} || marginal) - KL(q_{t+k} || p_open-loop), in nats.

    Returns:
      (B, N) for k = 1..N; at most zero on average means that the rollout knows no more than the marginal. Mask with `futures.valid`.
      With Gaussian latents marginal and open-loop mixture are Gaussians of the same moments, an approximation (see `models.latents`).
    """
    steps = futures.valid.shape[1]
    latents = observed.post.latents
    post = observed.post.logits[:, futures.start + 1 : futures.start + 1 + steps]
    unigram = latents.marginal(observed.post.logits, mask)
    return latents.kl(post, unigram.expand_as(post)) - latents.kl(post, latents.mixture(futures.states.logits))


@torch.no_grad()
def gain_on_batch(model: WorldModelNet, observed: Observed, batch: TensorBatch, steps: int, samples: int = 4) -> dict[int, float]:
    """Mean open-loop gain at k = 1, 2, 4, 8, ... <= steps, from one third of the way into a training batch."""
    T = batch.mask.shape[1]
    steps = min(steps, max(1, T - 2))
    start = min(T // 3, T - 1 - steps)
    futures = rollouts(model, observed, batch.mask, start, steps, samples)
    nats = gain(observed, batch.mask, futures)
    result = {}
    k = 1
    while k <= steps:
        valid = futures.valid[:, k - 1]
        if bool(valid.any()):
            result[k] = float(nats[:, k - 1][valid].mean())
        k *= 2
    return result
