"""What the dynamics pass around.

Shape legend: B sequences, T steps, E embedding, D deterministic width, S groups, K classes, A action width, C context width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class State:
    """State of the world model at each step.

    Attributes:
      deter: (..., D) deterministic part.
      stoch: (..., S, K) one-hot discrete part.
      logits: (..., S, K) log-probabilities the discrete part was drawn from.
    """

    deter: Tensor
    stoch: Tensor
    logits: Tensor

    @property
    def feat(self) -> Tensor:
        """(..., D + S * K): deter and stoch side by side."""
        return torch.cat([self.deter, self.stoch.flatten(-2).to(self.deter.dtype)], -1)

    def at(self, *index: int | slice | Tensor | None) -> State:
        """The same index applied to every part, e.g. `state.at(slice(None), -1)` for the last step."""
        return State(self.deter[index], self.stoch[index], self.logits[index])

    def repeat(self, times: int) -> State:
        """Each row `times` times in succession: (B, ...) -> (B * times, ...)."""
        return State(*(x.repeat_interleave(times, 0) for x in (self.deter, self.stoch, self.logits)))

    def detach(self) -> State:
        """The same values without gradient."""
        return State(self.deter.detach(), self.stoch.detach(), self.logits.detach())


def stack_states(states: list[State]) -> State:
    """States of successive steps (B, ...) -> (B, T, ...)."""
    return State(*(torch.stack([getattr(s, part) for s in states], 1) for part in ("deter", "stoch", "logits")))


@dataclass(frozen=True)
class Observed:
    """Result of a posterior rollout.

    Attributes:
      embed: (B, T, E) embeddings of the tokens.
      action: (B, T, A) actions, zero at resets; a_t leads from t - 1 to t.
      is_first: (B, T) bool.
      post: posterior state at each step.
      prior_logits: (B, T, S, K) log-probabilities of the prior at each step.
      context: (B, T, C) what the multi-step heads read: all that is known at t.
      previous: (B, T, D) deterministic state before each step, zero at resets.
      carry: (B, ...) state after the last step, for the next chunk.
    """

    embed: Tensor
    action: Tensor
    is_first: Tensor
    post: State
    prior_logits: Tensor
    context: Tensor
    previous: Tensor
    carry: State

    def rows(self, count: int) -> Observed:
        """The first `count` sequences."""
        s = slice(count)
        tensors = (self.embed[s], self.action[s], self.is_first[s], self.post.at(s), self.prior_logits[s], self.context[s])
        return Observed(*tensors, self.previous[s], self.carry.at(s))


@dataclass(frozen=True)
class Unroll:
    """One teacher-forced step of the latents, compared with what was observed.

    Attributes:
      prior_logits: (B, T, S, K) prior at t from a state that has been unrolled up to t - 1.
      state: (B, T, C) context-like state at t after taking in the posterior's sample.
      target: (B, T, C) the trunk's context that `state` should agree with; None where they are the same thing.
      valid: (B, T) bool; False where the unroll would cross a reset.
    """

    prior_logits: Tensor
    state: Tensor
    target: Tensor | None
    valid: Tensor
