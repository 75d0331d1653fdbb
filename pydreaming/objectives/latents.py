"""What objectives with latents share: the KL terms over teacher-forced unrolls, and a detached readout.

                      rssm                                         belief
    own terms on      the state [h_t, z_t]                         the trunk c_t, and each unrolled belief s_t
    KL terms on       prior and posterior of the sequence          prior and posterior of each unroll
    readout on        the state [h_t, z_t]                         each unrolled belief

With the belief dynamics the trunk c_t has heard e_t already, so a loss on [c_t, z_t] would ask nothing of z_t; an unrolled belief knows
e_t through z_t alone, so there it does. Imagination runs through beliefs, and the same heads read imagined states.
"""

from __future__ import annotations

import dataclasses
from abc import abstractmethod

from torch import Tensor, nn
from torch.nn import functional

from pydreaming.config import ObjectiveConfig
from pydreaming.models.distributions import balanced_kl
from pydreaming.models.state import Heard, Observed, State, Unroll
from pydreaming.models.world_model import WorldModelNet
from pydreaming.objectives.base import Losses, Objective, Parts, TensorBatch, Term, masked_mean
from pydreaming.objectives.contrast import Contrast


class LatentObjective(Objective):
    """An objective that trains the latents by KL and by terms of its own on each unroll (`unroll_terms`)."""

    def __init__(self, config: ObjectiveConfig, model: WorldModelNet) -> None:
        super().__init__(config, model)
        self.detach = model.config.detach_latents and model.config.dynamics == "belief"

    @abstractmethod
    def unroll_terms(self, unroll: Unroll, observed: Observed, key: Tensor, batch: TensorBatch, valid: Tensor) -> Parts:
        """The objective's own terms on one unroll, with names and weights as if it were the only one.

        Args:
          key: (B, T, P) what predictions of tokens are compared with. valid: (B, T) bool, where the unroll and the batch hold.
        """

    def latent_terms(self, model: WorldModelNet, observed: Observed, key: Tensor, batch: TensorBatch) -> Parts:
        """Terms of the latents, on the sequences that were observed, a batch's first; none at `latent_scale` 0.

        Args:
          key: (B, T, P) of all sequences.
        Returns:
          Parts: `rep`, and by unroll j = 1, 2, ... `dyn_<j>` and what `unroll_terms` gives, each name with `_<j>`.
        """
        c = self.config
        if c.latent_scale == 0:
            return Parts()
        rows = len(observed.embed)
        key, batch = key[:rows], batch.rows(rows)
        if self.detach:
            observed, key = dataclasses.replace(observed, embed=observed.embed.detach()), key.detach()
        unrolls = model.dynamics.unrolls(observed, c.unrolls)
        scale = c.latent_scale / len(unrolls)
        result = Parts()
        for j, unroll in enumerate(unrolls, start=1):
            valid = unroll.valid & batch.mask
            dyn, rep = balanced_kl(observed.post.logits, unroll.prior_logits, c.free_nats, observed.post.latents.kl_sides)
            result.terms[f"dyn_{j}"] = Term(dyn, valid, scale * c.kl_dyn)
            if j == 1:
                result.terms["rep"] = Term(rep, valid, c.latent_scale * c.kl_rep)
            own = self.unroll_terms(unroll, observed, key, batch, valid)
            for name, term in own.terms.items():
                result.terms[f"{name}_{j}"] = dataclasses.replace(term, weight=scale * term.weight)
            result.metrics.update({f"{name}_{j}": value for name, value in own.metrics.items()})
        return result

    def consistency(self, unroll: Unroll, valid: Tensor) -> dict[str, Term]:
        """What holds a belief to the trunk's state, so that imagination may start from the trunk; nothing where they are the same."""
        if unroll.target is None:
            return {}
        return {"consistency": Term(_disagreement(unroll.state, unroll.target), valid, self.config.consistency)}


class ReadoutObjective(LatentObjective):
    """An objective whose own terms are given by `state_terms`, and whose comparison space is a readout that trains nothing else.

    The readout is two linear maps, of the context and of the embedding, trained by same-step InfoNCE on detached features. It gives
    `predict` and `target`, and with them open-loop retrieval, to losses that have no contrastive space of their own.
    """

    def __init__(self, config: ObjectiveConfig, model: WorldModelNet) -> None:
        super().__init__(config, model)
        self.build(model)
        embed = model.config.embed
        self.readout_state, self.readout_token = nn.Linear(self.context_dim, embed), nn.Linear(embed, embed)

    @abstractmethod
    def build(self, model: WorldModelNet) -> None:
        """Make the objective's own heads."""

    def state_terms(self, states: Tensor, heard: Heard, key: Tensor, batch: TensorBatch, valid: Tensor) -> Parts:
        """The objective's own terms; none unless it says so.

        Args:
          states: (B, T, C) `heard.context`, or the beliefs of an unroll. key: (B, T, P) from `key`.
          valid: (B, T) bool, where `states` hold.
        """
        return Parts()

    def belief_terms(self, states: Tensor, heard: Heard, key: Tensor, batch: TensorBatch, valid: Tensor) -> Parts:
        """The own terms on an unrolled belief, arguments as in `state_terms`; the same unless an objective asks less of beliefs."""
        return self.state_terms(states, heard, key, batch, valid)

    def key(self, embed: Tensor) -> Tensor:
        """(B, T, E) -> (B, T, P) what predictions of tokens are compared with; here the embedding, without gradient."""
        return embed.detach()

    def forward(self, model: WorldModelNet, batch: TensorBatch, noise: Tensor) -> Losses:
        """Losses of one batch; `noise` (B, T, S, K) drives the posterior's samples."""
        heard, observed = self.observe(model, batch, noise)
        key = self.key(heard.embed)
        parts = self.state_terms(heard.context, heard, key, batch, batch.mask)
        parts |= self.latent_terms(model, observed, key, batch)
        return Losses(parts.terms, observed, parts.metrics)

    def predict(self, state: State) -> Tensor:
        """(..., P) unit vectors: where the state's own token is expected."""
        return functional.normalize(self.readout_state(self.context(state)).float(), dim=-1)

    def target(self, embed: Tensor) -> Tensor:
        """(..., E) -> (..., P) unit vectors."""
        return functional.normalize(self.readout_token(embed).float(), dim=-1)

    def unroll_terms(self, unroll: Unroll, observed: Observed, key: Tensor, batch: TensorBatch, valid: Tensor) -> Parts:
        """Readout; and for beliefs, which `forward` has not seen, the objective's own terms and consistency."""
        parts = self.readout(unroll.state, observed.embed, batch, valid)
        if unroll.target is None:
            return parts
        own = self.belief_terms(unroll.state, observed, key, batch, valid)
        return Parts(parts.terms | own.terms | self.consistency(unroll, valid), parts.metrics)

    def readout(self, states: Tensor, embed: Tensor, batch: TensorBatch, valid: Tensor) -> Parts:
        """The readout's own loss: (B, T, C) and (B, T, E), both detached here."""
        found = self.nce(self.readout_state(states.detach()), self.readout_token(embed.detach()), batch, valid, 0)
        return Parts({"readout": Term(found.loss, found.valid, 1.0)}, same_step_accuracy(found))


def same_step_accuracy(found: Contrast) -> dict[str, Tensor]:
    """The metric `nce_accuracy_same` of a same-step contrast."""
    return {"nce_accuracy_same": masked_mean(found.correct, found.valid)}


def _disagreement(state: Tensor, target: Tensor) -> Tensor:
    """1 - cosine plus mean squared error: (B, T, C) twice -> (B, T)."""
    cosine = functional.cosine_similarity(state.float(), target.float(), dim=-1)
    return 1 - cosine + (state - target).float().square().mean(-1)
