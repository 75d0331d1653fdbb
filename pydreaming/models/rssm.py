"""Recurrent state-space model in the manner of DreamerV2, or of PlaNet with Gaussian latents.

    posterior: filter                         posterior: token
    h_t = GRU(h_{t-1}, [z_{t-1}, a_t])        z_t ~ q(z_t | x_t)            all z first,
    z_t ~ q(z_t | h_t, x_t)                   h_t = GRU(h_{t-1}, [z_{t-1}, a_t])   then one fused GRU,
    prior: p(z_t | h_t)                       prior: p(z_t | h_t)                  or a transformer over [z_{t-1}, a_t]

a_t leads from t - 1 to t; a reset at t clears h, z and a before the step. The priors of a sequence are computed in one batch after the
loop (as pydreamer does), so the loop holds only what is sequential.

Source: arXiv 2010.02193, section 2, eq. 1 (Gaussian: arXiv 1811.04551, eq. 4); the token posterior and the transformer as in TransDreamer
(arXiv 2202.09481) and STORM (arXiv 2310.09615).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from pydreaming.config import ModelConfig
from pydreaming.models.by_hand import by_hand
from pydreaming.models.dynamics import Dynamics
from pydreaming.models.filter_by_hand import FilterWeights, filter_rollout
from pydreaming.models.layers import mlp, shift_right
from pydreaming.models.state import Observed, State, Unroll, stack_states


class RSSM(Dynamics):
    """DreamerV2's dynamics; `posterior` is `filter` (reads the past) or `token` (reads the token alone, trains in parallel)."""

    def __init__(self, config: ModelConfig, action_dim: int) -> None:
        super().__init__(config)
        self.context_dim = self.feat_dim
        self.inputs = mlp([self.latent + action_dim, config.hidden, config.hidden])
        self.build_core(config.hidden)
        seen = config.embed + (config.deter if config.posterior == "filter" else 0)
        self.post = mlp([seen, config.hidden, self.scores])
        self.prior = mlp([config.deter, config.hidden, self.scores])

    def observe(self, embed: Tensor, action: Tensor, is_first: Tensor, carry: State, noise: Tensor | None) -> Observed:
        """Posterior rollout; see `Dynamics`."""
        action = action * (~is_first).unsqueeze(-1).to(action.dtype)
        if self.config.posterior == "token":
            post = self._token_posterior(embed, action, is_first, carry, noise)
        else:
            post = self._filter_posterior(embed, action, is_first, carry, noise)
        prior_logits = self.logits(self.prior(post.deter))
        previous = shift_right(post.deter, carry.deter, is_first)
        return Observed(embed, action, is_first, post.feat, previous, post, prior_logits, post.at(slice(None), -1))

    def imagine(self, state: State, actions: Tensor, noise: Tensor | None, temperature: float = 1.0) -> State:
        """Prior rollout; see `Dynamics`."""
        states, line = [], [] if state.memory is None else [state.memory]
        for n in range(actions.shape[1]):
            deter, memory = self.core.step(self._inputs(state.stoch, actions[:, n]), state.deter, state.memory)
            logits = self.logits(self.prior(deter))
            stoch = self.latents.sample(logits, None if noise is None else noise[:, n], temperature)
            state = State(deter, stoch, logits, memory, self.latents)
            states.append(replace(state, memory=None))
            if memory is not None:
                line.append(memory[..., -1:].clone())
        return stack_states(states, line)

    def unrolls(self, observed: Observed, count: int) -> list[Unroll]:
        """The sequence itself: its states already are teacher-forced by posterior samples, so there is one unroll whatever `count`."""
        del count
        valid = torch.ones_like(observed.is_first)
        return [Unroll(observed.prior_logits, observed.context, None, valid)]

    def _token_posterior(self, embed: Tensor, action: Tensor, is_first: Tensor, carry: State, noise: Tensor | None) -> State:
        logits = self.logits(self.post(embed))
        stoch = self.latents.sample(logits, noise)
        x = self._inputs(shift_right(stoch, carry.stoch, is_first), action)
        deter, memory = self.core.run(x, is_first, carry.deter, carry.memory)
        return State(deter, stoch, logits, memory, self.latents)

    def _filter_posterior(self, embed: Tensor, action: Tensor, is_first: Tensor, carry: State, noise: Tensor | None) -> State:
        if by_hand(embed) and self.latents.discrete and torch.is_grad_enabled():  # it keeps all that a backward pass needs
            return self._filter_by_hand(embed, action, is_first, carry, noise)
        state, states = carry, []
        for t in range(embed.shape[1]):
            keep = (~is_first[:, t]).to(embed.dtype)
            x = self._inputs(state.stoch * keep[:, None, None], action[:, t])
            deter, _ = self.core.step(x, state.deter * keep[:, None], None)
            logits = self.logits(self.post(torch.cat([embed[:, t], deter], -1)))
            state = State(deter, self.latents.sample(logits, None if noise is None else noise[:, t]), logits, None, self.latents)
            states.append(state)
        return stack_states(states)

    def _filter_by_hand(self, embed: Tensor, action: Tensor, is_first: Tensor, carry: State, noise: Tensor | None) -> State:
        """The same as the loop; what does not need the step before it is computed for all steps at once."""
        parts: tuple[list[Any], list[Any]] = (list(self.inputs), list(self.post))
        (first, norm_in, _, second), (seen, norm_post, _, scores) = parts
        by_stoch, by_action = first.weight.split([self.latent, action.shape[-1]], 1)
        by_embed, by_deter = seen.weight.split([embed.shape[-1], self.config.deter], 1)
        weights = FilterWeights(
            by_stoch,
            tuple(norm_in.parameters()),
            tuple(second.parameters()),
            tuple(self.core.parameters()),
            by_deter,
            tuple(norm_post.parameters()),
            tuple(scores.parameters()),
        )
        drive = functional.linear(action.transpose(0, 1), by_action, first.bias)
        token = functional.linear(embed.transpose(0, 1), by_embed, seen.bias)
        keep = (~is_first).t().to(embed.dtype)
        steps = None if noise is None else noise.transpose(0, 1)
        rollout = filter_rollout(drive, token, keep, steps, carry.deter, carry.stoch, self.config.unimix, weights)
        deter, logits, stoch = (x.transpose(0, 1).contiguous() for x in rollout)
        return State(deter, stoch, logits, None, self.latents)

    def _inputs(self, stoch: Tensor, action: Tensor) -> Tensor:
        """What the core reads: (..., S, K) and (..., A) -> (..., hidden)."""
        x: Tensor = self.inputs(torch.cat([stoch.flatten(-2), action], -1))
        return x
