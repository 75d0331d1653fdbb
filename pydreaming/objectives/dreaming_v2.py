"""DreamingV2 for audio: contrastive prediction with categorical latents and no reconstruction.

The published objective (arXiv 2203.00494, which puts the categorical latents of arXiv 2010.02193 into Dreaming, arXiv 2007.14535, eq. 11)
sums, over k = 0..K, an InfoNCE term between the latent state k steps ahead and its observation, and a KL term between the posterior and a
prior unrolled k steps by an independent linear dynamics. No public implementation is known; this is an approximation:

- k >= 1 contrast: *linear heads* f_k from the context at t and the actions up to t + k, against targets of the token at t + k.
- k = 0 contrast and KL: on the latents, from `unrolls` teacher-forced steps of the dynamics; with the belief dynamics each unrolled
  state is also held to the trunk's state (`consistency`), which is what lets imagination start from the trunk.
- With `model.detach_latents` the second group gives no gradient to encoder and trunk.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from pydreaming.config import ObjectiveConfig
from pydreaming.models.distributions import balanced_kl
from pydreaming.models.state import Observed, State
from pydreaming.models.world_model import WorldModelNet
from pydreaming.objectives.base import Losses, Objective, TensorBatch, Term
from pydreaming.objectives.contrast import Contrast, info_nce, reaches


class DreamingV2(Objective):
    """k-step contrast on the context, same-step contrast and KL on the latents."""

    def __init__(self, config: ObjectiveConfig, model: WorldModelNet) -> None:
        super().__init__(config, model)
        context, embed, action = model.dynamics.context_dim, model.config.embed, model.action_dim
        self.detach = model.config.detach_latents and model.config.dynamics == "belief"
        self.project = nn.Linear(embed, embed)
        self.ahead = nn.ModuleList(nn.Linear(context + k * action, embed) for k in range(1, config.horizon + 1))
        self.now = nn.Linear(context, embed)
        decay = [config.horizon_decay**k for k in range(config.horizon)]
        self.ahead_weights = [d / sum(decay) for d in decay]

    def forward(self, model: WorldModelNet, batch: TensorBatch, noise: Tensor) -> Losses:
        """Losses of one batch; `noise` (B, T, S, K) drives the posterior's samples."""
        observed = model.observe(batch.tokens, batch.action, batch.is_first, noise=noise)
        terms: dict[str, Term] = {}
        metrics: dict[str, Tensor] = {}
        key = self.project(observed.embed)
        for k, weight in enumerate(self.ahead_weights, start=1):
            contrast = self._ahead(k, observed.context, key, observed.action, batch)
            terms[f"ahead_{k}"] = Term(contrast.loss, contrast.valid, weight)
            metrics[f"nce_accuracy_k{k}"] = _mean(contrast.correct, contrast.valid)
            if k == 1:
                metrics["chance"] = _mean(contrast.chance, contrast.valid)
        if self.config.latent_scale > 0:
            latent_terms, latent_metrics = self._latents(model, observed, key, batch)
            terms |= latent_terms
            metrics |= latent_metrics
        return Losses(terms, observed, metrics)

    def predict(self, state: State) -> Tensor:
        """(..., P) unit vectors: where the state's own token is expected."""
        context = state.deter if self.now.in_features == state.deter.shape[-1] else state.feat
        return functional.normalize(self.now(context).float(), dim=-1)

    def target(self, embed: Tensor) -> Tensor:
        """(..., E) -> (..., P) unit vectors. Same-step contrast compares with the embedding itself."""
        return functional.normalize(embed.float(), dim=-1)

    def _ahead(self, k: int, context: Tensor, key: Tensor, action: Tensor, batch: TensorBatch) -> Contrast:
        query = self.ahead[k - 1](torch.cat([context, *_future_actions(action, k)], -1))
        return self._nce(query, key, batch, reaches(batch.is_first, batch.mask, k), k)

    def _latents(
        self, model: WorldModelNet, observed: Observed, key: Tensor, batch: TensorBatch
    ) -> tuple[dict[str, Term], dict[str, Tensor]]:
        """Terms of the latents, on a share of the sequences (rows of a batch are in random order)."""
        c = self.config
        rows = max(1, round(c.latent_streams * batch.mask.shape[0]))
        observed, key, batch = observed.rows(rows), key[:rows], _rows(batch, rows)
        embed = observed.embed.detach() if self.detach else observed.embed
        key = key.detach() if self.detach else key
        unrolls = model.dynamics.unrolls(observed, c.unrolls)
        scale = c.latent_scale / len(unrolls)
        terms: dict[str, Term] = {}
        metrics: dict[str, Tensor] = {}
        for j, unroll in enumerate(unrolls, start=1):
            valid = unroll.valid & batch.mask
            dyn, rep = balanced_kl(observed.post.logits, unroll.prior_logits, c.free_nats)
            terms[f"dyn_{j}"] = Term(dyn, valid, scale * c.kl_dyn)
            if j == 1:
                terms["rep"] = Term(rep, valid, c.latent_scale * c.kl_rep)
            now = self._nce(self.now(unroll.state), embed, batch, valid, 0)
            terms[f"same_step_{j}"] = Term(now.loss, now.valid, scale * c.same_step)
            metrics[f"nce_accuracy_same_{j}"] = _mean(now.correct, now.valid)
            if unroll.target is not None:
                terms[f"consistency_{j}"] = Term(_disagreement(unroll.state, unroll.target), valid, scale * c.consistency)
                following = self._ahead(1, unroll.state, key, observed.action, batch)
                terms[f"next_step_{j}"] = Term(following.loss, following.valid & valid, scale * c.next_step)
        return terms, metrics

    def _nce(self, query: Tensor, key: Tensor, batch: TensorBatch, valid: Tensor, steps: int) -> Contrast:
        return info_nce(
            query,
            key,
            batch.token_id,
            valid,
            batch.mask,
            steps=steps,
            temperature=self.config.temperature,
            within_sequence=self.config.negatives == "sequence",
        )


def _future_actions(action: Tensor, k: int) -> list[Tensor]:
    """The k actions after each step, (B, T, A) each; zeros past the end, where no prediction counts."""
    padded = functional.pad(action, (0, 0, 0, k))
    T = action.shape[1]
    return [padded[:, j : j + T] for j in range(1, k + 1)]


def _disagreement(state: Tensor, target: Tensor) -> Tensor:
    """1 - cosine plus mean squared error: (B, T, C) twice -> (B, T)."""
    cosine = functional.cosine_similarity(state.float(), target.float(), dim=-1)
    return 1 - cosine + (state - target).float().square().mean(-1)


def _mean(values: Tensor, valid: Tensor) -> Tensor:
    return (values * valid).sum().detach() / valid.sum().clamp_min(1)


def _rows(batch: TensorBatch, rows: int) -> TensorBatch:
    return TensorBatch(batch.tokens[:rows], batch.is_first[:rows], batch.action[:rows], batch.token_id[:rows], batch.mask[:rows])
