"""Dreamer-CDP: what is known before the token predicts the direction of its embedding.

    L = -cos(sg(u_t), MLP(h_t)) + KL        u_t the embedding, h_t the deterministic state before z_t

Source: arXiv 2603.07083; its ablation is that KL alone collapses. Approximations:

- u_t comes from this project's encoder without a head of its own; KL weights are `kl_dyn`, `kl_rep` and `free_nats`.
- The prediction's weight is this project's (`SCALE`): at 1 the KL wins on a toy world with the rssm dynamics, and the code collapses.
- First steps of clips predict nothing: h_t knows nothing there.
- The belief dynamics have no h_t that follows a_t without x_t: MLP([c_{t-1}, a_t]) takes its place, and the same on each unrolled belief
  for the latents' sake (see `latents`).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from pydreaming.models.layers import mlp
from pydreaming.models.state import Heard
from pydreaming.models.world_model import WorldModelNet
from pydreaming.objectives.base import Parts, TensorBatch, Term, future_actions
from pydreaming.objectives.contrast import reaches
from pydreaming.objectives.latents import ReadoutObjective

SCALE = 10.0  # of the prediction


class CDP(ReadoutObjective):
    """Negative cosine between predicted and real embedding, and KL."""

    def build(self, model: WorldModelNet) -> None:
        """A perceptron from what is known before the token."""
        self.rssm = model.config.dynamics == "rssm"
        self.deter = model.config.deter
        known = self.deter if self.rssm else self.context_dim + model.action_dim
        self.predictor = mlp([known, model.config.hidden, model.config.embed])

    def state_terms(self, states: Tensor, heard: Heard, key: Tensor, batch: TensorBatch, valid: Tensor) -> Parts:
        """`prediction`: -cosine, between -1 and 1; at the predicted step with the rssm, at the one before with the belief dynamics."""
        if self.rssm:
            known, valid = states[..., : self.deter], valid & ~batch.is_first
        else:
            known = torch.cat([states, *future_actions(heard.action, 1)], -1)
            key, valid = key.roll(-1, 1), valid & reaches(batch.is_first, batch.mask, 1)
        cosine = functional.cosine_similarity(self.predictor(known).float(), key.float(), dim=-1)
        return Parts({"prediction": Term((-cosine).where(valid, 0.0), valid, SCALE)})
