"""Discrete recurrent state-space model in the manner of DreamerV2.

    posterior: filter                         posterior: token
    h_t = GRU(h_{t-1}, [z_{t-1}, a_t])        z_t ~ q(z_t | x_t)            all z first,
    z_t ~ q(z_t | h_t, x_t)                   h_t = GRU(h_{t-1}, [z_{t-1}, a_t])   then one fused GRU
    prior: p(z_t | h_t)                       prior: p(z_t | h_t)

a_t leads from t - 1 to t; a reset at t clears h, z and a before the step. The priors of a sequence are computed in one batch after the
loop (as pydreamer does), so the loop holds only what is sequential.

Source: arXiv 2010.02193, section 2, eq. 1; the token posterior as in TransDreamer (arXiv 2202.09481) and STORM (arXiv 2310.09615).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pydreaming.config import ModelConfig
from pydreaming.models.distributions import straight_through
from pydreaming.models.dynamics import Dynamics
from pydreaming.models.layers import mlp, run_gru, shift_right
from pydreaming.models.state import Observed, State, Unroll, stack_states


class RSSM(Dynamics):
    """DreamerV2's dynamics; `posterior` is `filter` (reads the past) or `token` (reads the token alone, trains in parallel)."""

    def __init__(self, config: ModelConfig, action_dim: int) -> None:
        super().__init__(config, context_dim=config.deter + config.groups * config.classes)
        self.inputs = mlp([self.latent + action_dim, config.hidden, config.hidden])
        self.gru = nn.GRU(config.hidden, config.deter, batch_first=True)
        seen = config.embed + (config.deter if config.posterior == "filter" else 0)
        self.post = mlp([seen, config.hidden, self.latent])
        self.prior = mlp([config.deter, config.hidden, self.latent])

    def observe(self, embed: Tensor, action: Tensor, is_first: Tensor, carry: State, noise: Tensor | None) -> Observed:
        """Posterior rollout; see `Dynamics`."""
        action = action * (~is_first).unsqueeze(-1).to(action.dtype)
        if self.config.posterior == "token":
            post = self._token_posterior(embed, action, is_first, carry, noise)
        else:
            post = self._filter_posterior(embed, action, is_first, carry, noise)
        prior_logits = self.log_probs(self.prior(post.deter))
        previous = shift_right(post.deter, carry.deter, is_first)
        return Observed(embed, action, is_first, post, prior_logits, post.feat, previous, post.at(slice(None), -1))

    def imagine(self, state: State, actions: Tensor, noise: Tensor | None, temperature: float = 1.0) -> State:
        """Prior rollout; see `Dynamics`."""
        states = []
        for n in range(actions.shape[1]):
            deter = self._step(state.deter, state.stoch, actions[:, n])
            logits = self.log_probs(self.prior(deter))
            stoch = straight_through(logits / temperature, None if noise is None else noise[:, n])
            state = State(deter, stoch, logits)
            states.append(state)
        return stack_states(states)

    def unrolls(self, observed: Observed, count: int) -> list[Unroll]:
        """The sequence itself: its states already are teacher-forced by posterior samples, so there is one unroll whatever `count`."""
        del count
        valid = torch.ones_like(observed.is_first)
        return [Unroll(observed.prior_logits, observed.context, None, valid)]

    def _token_posterior(self, embed: Tensor, action: Tensor, is_first: Tensor, carry: State, noise: Tensor | None) -> State:
        logits = self.log_probs(self.post(embed))
        stoch = straight_through(logits, noise)
        previous = shift_right(stoch, carry.stoch, is_first)
        x = self.inputs(torch.cat([previous.flatten(-2), action], -1))
        return State(run_gru(self.gru, x, is_first, carry.deter), stoch, logits)

    def _filter_posterior(self, embed: Tensor, action: Tensor, is_first: Tensor, carry: State, noise: Tensor | None) -> State:
        state, states = carry, []
        for t in range(embed.shape[1]):
            keep = (~is_first[:, t]).to(embed.dtype)
            deter = self._step(state.deter * keep[:, None], state.stoch * keep[:, None, None], action[:, t])
            logits = self.log_probs(self.post(torch.cat([embed[:, t], deter], -1)))
            state = State(deter, straight_through(logits, None if noise is None else noise[:, t]), logits)
            states.append(state)
        return stack_states(states)

    def _step(self, deter: Tensor, stoch: Tensor, action: Tensor) -> Tensor:
        """One step of the recurrence with the fused GRU's own weights: (B, D), of deter's type also under autocast (see `run_gru`)."""
        x = self.inputs(torch.cat([stoch.flatten(-2), action], -1))
        # cuDNN takes no strided state, such as one step out of a sequence.
        after: Tensor = self.gru(x.unsqueeze(1), deter.unsqueeze(0).contiguous())[0].squeeze(1)
        return after.to(deter.dtype)
