"""Contrastive predictive coding: a trunk (`model.core`) over embeddings that tells the tokens ahead from others, and no latents.

The peer to beat: what a world model's features have to be worth more than at the same seconds.

Source: arXiv 1807.03748, InfoNCE (eq. 4). Approximations: cosine similarities over a temperature, and linear heads that also read the
actions, stand in for its log-bilinear scores, so that only the latents differ from `dreaming_v2`.

The latents get no training: posterior, prior and belief update stay as they were initialised, so imagination is meaningless and training
logs no figures of the code. `predict` and `target` exist all the same (a readout of the trunk on detached features), so that every
evaluation runs; its open-loop rows show what an untrained prior gives.
"""

from __future__ import annotations

from torch import Tensor, nn

from pydreaming.errors import ConfigError
from pydreaming.models.state import Heard
from pydreaming.models.world_model import WorldModelNet
from pydreaming.objectives.base import Ahead, Losses, TensorBatch, linear_heads, read_ahead
from pydreaming.objectives.latents import ReadoutObjective


class CPC(ReadoutObjective):
    """k-step contrast on the trunk; `model.dynamics: belief` only, since the rssm's recurrence reads its latents."""

    trains_latents = False

    def build(self, model: WorldModelNet) -> None:
        """Raises ConfigError for dynamics without a trunk of their own."""
        if model.config.dynamics != "belief":
            raise ConfigError(f"objective.name 'cpc' needs model.dynamics 'belief': the trunk of '{model.config.dynamics}' reads latents")
        self.project = nn.Linear(model.config.embed, model.config.embed)
        self.ahead, self.ahead_weights = linear_heads(self.config, model)

    def forward(self, model: WorldModelNet, batch: TensorBatch, noise: Tensor) -> Losses:
        """Losses of one batch; `noise` (B, T, S, K) draws samples that no loss reads."""
        heard, observed = self.observe(model, batch, noise)
        key = self.project(heard.embed)
        parts = self.ahead_terms(self.ahead, self.ahead_weights, 1, heard.context, key, heard.action, batch)
        parts |= self.readout(heard.context, heard.embed, batch, batch.mask)
        return Losses(parts.terms, observed, parts.metrics)

    def ahead_of(self, observed: Heard) -> Ahead:
        """What the k-step heads expect along a rollout."""
        return read_ahead(self.ahead, 1, observed, self.project(observed.embed))
