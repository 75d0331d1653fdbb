"""R2-Dreamer: the state agrees with the embedding feature by feature, and features are kept from repeating one another.

    x1 = Linear(s_t), x2 = sg(e_t), both standardised over the batch;  C = x1^T x2 / N
    L = 0.05 * [sum_i (C_ii - 1)^2 + 5e-4 * sum_{i != j} C_ij^2] + KL

Source: arXiv 2603.18202 (redundancy reduction from Barlow Twins, arXiv 2103.03230). Approximations: KL weights are this project's `kl_dyn`,
`kl_rep` and `free_nats`; steps of padding are left out of the statistics; with the belief dynamics s_t is the trunk's state for the
encoder's sake and each unrolled belief for the latents' (see `latents`).
"""

from __future__ import annotations

from torch import Tensor, nn

from pydreaming.models.state import Heard
from pydreaming.models.world_model import WorldModelNet
from pydreaming.objectives.base import Parts, TensorBatch, Term
from pydreaming.objectives.contrast import redundancy
from pydreaming.objectives.latents import ReadoutObjective

SCALE = 0.05  # of the whole term
OFF_DIAGONAL = 5e-4  # of the correlations between different features


class Barlow(ReadoutObjective):
    """Redundancy reduction between state and embedding, and KL."""

    def build(self, model: WorldModelNet) -> None:
        """One linear map from the state to the embedding's width."""
        self.project = nn.Linear(self.context_dim, model.config.embed)

    def state_terms(self, states: Tensor, heard: Heard, key: Tensor, batch: TensorBatch, valid: Tensor) -> Parts:
        """`barlow`: a figure of the whole batch, the same at each of its steps."""
        loss = redundancy(self.project(states), key, valid, OFF_DIAGONAL, batch.ranks)
        return Parts({"barlow": Term(loss.expand(valid.shape), valid, SCALE)})
