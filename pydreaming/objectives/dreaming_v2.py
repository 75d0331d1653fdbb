"""DreamingV2 for audio: contrastive prediction with categorical latents and no reconstruction.

The published objective (arXiv 2203.00494, which puts the categorical latents of arXiv 2010.02193 into Dreaming, arXiv 2007.14535, eq. 11)
sums, over k = 0..K, an InfoNCE term between the latent state k steps ahead and its observation, and a KL term between the posterior and a
prior unrolled k steps by an independent linear dynamics. No public implementation is known; this is an approximation:

- k >= 1 contrast: *linear heads* f_k from the context at t and the actions up to t + k, against targets of the token at t + k.
- k = 0 contrast and KL: on the latents, from `unrolls` teacher-forced steps of the dynamics; with the belief dynamics each unrolled
  state is also held to the trunk's state (`consistency`), which is what lets imagination start from the trunk.
- `scene`, which the paper has not: see `objectives.scene`.
- With `model.detach_latents` the second group gives no gradient to encoder and trunk.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from pydreaming.config import ObjectiveConfig
from pydreaming.models.state import Heard, Observed, State, Unroll
from pydreaming.models.world_model import WorldModelNet
from pydreaming.objectives.base import Ahead, Losses, Parts, TensorBatch, Term, linear_heads, read_ahead
from pydreaming.objectives.latents import LatentObjective, same_step_accuracy
from pydreaming.objectives.scene import scene_terms


class DreamingV2(LatentObjective):
    """k-step contrast on the context, same-step contrast and KL on the latents."""

    latents: str | None = "categorical"
    trains_scene = True

    def __init__(self, config: ObjectiveConfig, model: WorldModelNet) -> None:
        super().__init__(config, model)
        embed = model.config.embed
        self.project = nn.Linear(embed, embed)
        self.ahead, self.ahead_weights = linear_heads(config, model)
        self.now = nn.Linear(self.context_dim, embed)
        self.scene = nn.Linear(model.config.scene, embed) if model.config.scene else None

    def forward(self, model: WorldModelNet, batch: TensorBatch, noise: Tensor) -> Losses:
        """Losses of one batch; `noise` (B, T, S, K) drives the posterior's samples."""
        heard, observed = self.observe(model, batch, noise)
        key = self.project(heard.embed)
        parts = self.ahead_terms(self.ahead, self.ahead_weights, 1, heard.context, key, heard.action, batch)
        parts |= self.latent_terms(model, observed, key, batch)
        if model.scene is not None and self.scene is not None:
            parts |= scene_terms(model.scene, self.scene, batch, noise, self.config.scene)
        return Losses(parts.terms, observed, parts.metrics)

    def ahead_of(self, observed: Heard) -> Ahead:
        """What the k-step heads expect along a rollout."""
        return read_ahead(self.ahead, 1, observed, self.project(observed.embed))

    def predict(self, state: State) -> Tensor:
        """(..., P) unit vectors: where the state's own token is expected."""
        return functional.normalize(self.now(self.context(state)).float(), dim=-1)

    def target(self, embed: Tensor) -> Tensor:
        """(..., E) -> (..., P) unit vectors. Same-step contrast compares with the embedding itself."""
        return functional.normalize(embed.float(), dim=-1)

    def unroll_terms(self, unroll: Unroll, observed: Observed, key: Tensor, batch: TensorBatch, valid: Tensor) -> Parts:
        """Same-step contrast; and for beliefs consistency with the trunk and next-step contrast."""
        now = self.nce(self.now(unroll.state), observed.embed, batch, valid, 0)
        terms = {"same_step": Term(now.loss, now.valid, self.config.same_step), **self.consistency(unroll, valid)}
        if unroll.target is not None:
            following = self.ahead_nce(self.ahead[0], 1, unroll.state, key, observed.action, batch)
            terms["next_step"] = Term(following.loss, following.valid & valid, self.config.next_step)
        return Parts(terms, same_step_accuracy(now))
