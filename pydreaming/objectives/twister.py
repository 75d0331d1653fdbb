"""TWISTER: action-conditioned contrastive prediction, near steps before far ones.

    L = sum_{k=0..9} 0.75^k * InfoNCE(MLP_k(s_t, a_{t+1..t+k}), Linear(e_{t+k})) + KL

Source: Burchi and Timofte, "Learning transformer-based world models with contrastive predictive coding" (arXiv 2503.04416). Targets
come through the same encoder, with gradient. Approximations:

- The paper's core is a transformer; here it is whichever `model.core` names (`rssm` with `posterior: token` is nearest to the paper).
- No second, augmented view: targets are the batch's own tokens (workers augment a recording as a whole).
- Its horizon and weights are constants; `objective.horizon` and `horizon_decay` are not read.
- With the belief dynamics s_t is the trunk's state for the encoder's sake, and each unrolled belief for the latents' (see `latents`); of
  beliefs only k = 0 and 1 are asked: they are held to the trunk already, and ten contrasts for each unroll would cost most of the time.
"""

from __future__ import annotations

import dataclasses

from torch import Tensor, nn

from pydreaming.models.layers import mlp
from pydreaming.models.state import Heard
from pydreaming.models.world_model import WorldModelNet
from pydreaming.objectives.base import Ahead, Parts, TensorBatch, read_ahead
from pydreaming.objectives.latents import ReadoutObjective

STEPS = 10  # k = 0..9
DECAY = 0.75


class Twister(ReadoutObjective):
    """k-step contrast for k = 0..9 on the states, and KL."""

    def build(self, model: WorldModelNet) -> None:
        """A perceptron for each k, and the projection of the targets."""
        embed, hidden = model.config.embed, model.config.hidden
        self.project = nn.Linear(embed, embed)
        self.ahead = nn.ModuleList(mlp([self.context_dim + k * model.action_dim, hidden, embed]) for k in range(STEPS))
        self.weights = [DECAY**k for k in range(STEPS)]

    def key(self, embed: Tensor) -> Tensor:
        """(B, T, E) -> (B, T, E) projected targets, with gradient."""
        projected: Tensor = self.project(embed)
        return projected

    def ahead_of(self, observed: Heard) -> Ahead:
        """What the k-step heads expect along a rollout."""
        return read_ahead(self.ahead, 0, observed, self.project(observed.embed))

    def state_terms(self, states: Tensor, heard: Heard, key: Tensor, batch: TensorBatch, valid: Tensor) -> Parts:
        """`ahead_0` to `ahead_9`; those past the sequence's end count nowhere."""
        return self._steps(STEPS, states, heard, key, batch, valid)

    def belief_terms(self, states: Tensor, heard: Heard, key: Tensor, batch: TensorBatch, valid: Tensor) -> Parts:
        """`ahead_0` and `ahead_1`."""
        return self._steps(2, states, heard, key, batch, valid)

    def _steps(self, count: int, states: Tensor, heard: Heard, key: Tensor, batch: TensorBatch, valid: Tensor) -> Parts:
        parts = self.ahead_terms(self.ahead[:count], self.weights[:count], 0, states, key, heard.action, batch)
        return Parts({name: dataclasses.replace(t, valid=t.valid & valid) for name, t in parts.terms.items()}, parts.metrics)
