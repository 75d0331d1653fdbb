"""DreamerV2's world model: reconstruct the token from the state, and pull prior and posterior together.

Source: arXiv 2010.02193, the image term and the balanced KL of its world-model loss (algorithm 2 for the balance). Approximations:

- The balance is `kl_dyn` and `kl_rep` (the paper's 0.8 is 0.8 and 0.2), with free nats per step as in DreamerV3 and 1 % unimix.
- Reward and discount terms have no counterpart: there is no reward.
- With the belief dynamics the trunk reconstructs for the encoder's sake and each unrolled belief for the latents' (see `latents`).

The decoder here is the objective's own and trains the model; the probe decoder of the model still reads detached features.
"""

from __future__ import annotations

from torch import Tensor

from pydreaming.models.layers import mlp
from pydreaming.models.state import Heard
from pydreaming.models.world_model import WorldModelNet
from pydreaming.objectives.base import Parts, TensorBatch, Term
from pydreaming.objectives.latents import ReadoutObjective


class DreamerV2(ReadoutObjective):
    """Reconstruction and balanced KL."""

    latents: str | None = "categorical"

    def build(self, model: WorldModelNet) -> None:
        """A perceptron of the probe decoder's width."""
        self.decoder = mlp([self.context_dim, model.config.decoder_hidden, model.token_dim])

    def state_terms(self, states: Tensor, heard: Heard, key: Tensor, batch: TensorBatch, valid: Tensor) -> Parts:
        """`reconstruction`: -log N(token; decoded, 1) without its constant, nats per token."""
        error = (self.decoder(states).float() - batch.tokens).square().sum(-1) / 2
        return Parts({"reconstruction": Term(error.where(valid, 0.0), valid, 1.0)})
