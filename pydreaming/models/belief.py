"""A deterministic trunk with a belief beside it that is updated by samples.

    trunk       c_t = GRU(c_{t-1}, [e_t, a_t])            all that is known at t, from the tokens (or a transformer's output, see `cores`)
    posterior   P_t = softmax(W LN(e_t) + V c_{t-1})      (V only with posterior: filter; a normal distribution for Gaussian latents)
    prior       p(z_t | s_{t-1}, a_t)                     s is a trunk state or a belief
    update      s_t = U(s_{t-1}, z_t, a_t)                g, n = Linear([s, z, a]);  s + sigmoid(g) (tanh(n) - s)

Imagination starts from the trunk, s_t = c_t, and repeats: z ~ prior(s, a), s = U(s, z, a). Training unrolls U for a few teacher-forced
steps from every trunk state, so that a belief fed with samples stays where the trunk would be. With `detach_latents` the latents' losses
leave the trunk alone: KL terms and straight-through samples cost it a good part of what it learns (docs/experiments.md).

Compared with an RSSM the recurrence reads embeddings, not samples, so it trains in one fused call; the price is a second network U that
must learn to agree with it. The form is this project's own (its objective follows arXiv 2203.00494).
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from pydreaming.config import ModelConfig
from pydreaming.models.dynamics import Dynamics
from pydreaming.models.layers import shift_right
from pydreaming.models.state import Heard, Observed, State, Unroll, stack_states


class Belief(Dynamics):
    """Trunk, posterior and prior of the latents, and the belief update."""

    def __init__(self, config: ModelConfig, action_dim: int) -> None:
        super().__init__(config)
        self.build_core(config.embed + action_dim)
        self.post_token = nn.Sequential(nn.LayerNorm(config.embed), nn.Linear(config.embed, self.scores))
        self.post_past = nn.Linear(config.deter, self.scores, bias=False) if config.posterior == "filter" else None
        self.prior = nn.Linear(config.deter + action_dim, self.scores)
        self.update = nn.Linear(config.deter + self.latent + action_dim, 2 * config.deter)

    def observe(self, embed: Tensor, action: Tensor, is_first: Tensor, carry: State, noise: Tensor | None) -> Observed:
        """Posterior rollout; see `Dynamics`."""
        heard, memory = self._hear(embed, action, is_first, carry)
        return self._infer(heard, memory, noise)

    def observe_some(
        self, rows: int, embed: Tensor, action: Tensor, is_first: Tensor, carry: State, noise: Tensor | None
    ) -> tuple[Heard, Observed]:
        """The trunk hears all sequences, and the latents of the first `rows` are computed; see `Dynamics`."""
        heard, memory = self._hear(embed, action, is_first, carry)
        return heard, self._infer(heard.rows(rows), None if memory is None else memory[:rows], None if noise is None else noise[:rows])

    def imagine(self, state: State, actions: Tensor, noise: Tensor | None, temperature: float = 1.0) -> State:
        """Prior rollout; see `Dynamics`."""
        states = []
        for n in range(actions.shape[1]):
            logits = self._prior(state.deter, actions[:, n])
            stoch = self.latents.sample(logits, None if noise is None else noise[:, n], temperature)
            state = State(self._update(state.deter, stoch, actions[:, n]), stoch, logits, None, self.latents)
            states.append(state)
        return stack_states(states)

    def unrolls(self, observed: Observed, count: int) -> list[Unroll]:
        """`count` teacher-forced belief updates from every trunk state.

        Unroll j starts at c_{t-1-j} and takes in the posterior's samples up to t; all starting points run side by side.
        """
        state, valid = observed.previous, torch.ones_like(observed.is_first)
        by_state, driven = self._drive(observed.post.stoch, observed.action)  # the same in all unrolls
        target = observed.context.detach()
        result = []
        for j in range(count):
            logits = self._prior(state, observed.action) if j else observed.prior_logits  # from the trunk it is known already
            after = _follow(state, by_state, driven)
            result.append(Unroll(logits, after, target, valid))
            state = shift_right(after, torch.zeros_like(after[:, 0]), observed.is_first)
            # The belief at t - 1 exists only if t continues its clip and t - 1 was itself reached by a valid unroll.
            valid = shift_right(valid.unsqueeze(-1), torch.zeros_like(valid[:, :1]), observed.is_first).squeeze(-1)
        return result

    def _hear(self, embed: Tensor, action: Tensor, is_first: Tensor, carry: State) -> tuple[Heard, Tensor | None]:
        """The trunk, and its memory after each step where it has one."""
        action = action * (~is_first).unsqueeze(-1).to(action.dtype)
        deter, memory = self.core.run(torch.cat([embed, action], -1), is_first, carry.deter, carry.memory)
        previous = shift_right(deter, carry.deter, is_first)
        return Heard(embed, action, is_first, deter, previous.detach() if self.config.detach_latents else previous), memory

    def _infer(self, heard: Heard, memory: Tensor | None, noise: Tensor | None) -> Observed:
        """The latents of what the trunk has heard."""
        scores = self.post_token(heard.embed.detach() if self.config.detach_latents else heard.embed)
        if self.post_past is not None:
            scores = scores + self.post_past(heard.previous)
        logits = self.logits(scores)
        # Imagination needs beliefs only, so the memory is kept where the trunk goes on, and not beside every state.
        post = State(heard.context, self.latents.sample(logits, noise), logits, None, self.latents)
        carry = replace(post.at(slice(None), -1), memory=None if memory is None else memory[:, -1])
        prior = self._prior(heard.previous, heard.action)
        return Observed(heard.embed, heard.action, heard.is_first, heard.context, heard.previous, post, prior, carry)

    def _prior(self, deter: Tensor, action: Tensor) -> Tensor:
        return self.logits(self.prior(torch.cat([deter, action], -1)))

    def _update(self, deter: Tensor, stoch: Tensor, action: Tensor) -> Tensor:
        return _follow(deter, *self._drive(stoch, action))

    def _drive(self, stoch: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """`update` in two parts: its weights on the state, (2 D, D), and what it makes of sample and action, (..., 2 D)."""
        by_state, by_rest = self.update.weight.split([self.config.deter, self.latent + action.shape[-1]], 1)
        return by_state, functional.linear(torch.cat([stoch.flatten(-2), action], -1), by_rest, self.update.bias)


def _follow(deter: Tensor, by_state: Tensor, driven: Tensor) -> Tensor:
    """The state after one update, from the two parts that `_drive` gives: (..., D) -> (..., D)."""
    gate, new = (functional.linear(deter, by_state) + driven).chunk(2, -1)
    after: Tensor = deter + gate.sigmoid() * (new.tanh() - deter)
    return after
