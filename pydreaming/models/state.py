"""What the dynamics pass around.

Shape legend: B sequences, T steps, E embedding, D deterministic width, A action width, C context width; S variables of the latent state,
P parameters of each, K values in a sample of each (categorical: P = K classes; see `latents`); W slots of M values in a memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pydreaming.models.latents import CATEGORICAL, Latents


@dataclass(frozen=True)
class State:
    """State of the world model at each step.

    Attributes:
      deter: (..., D) deterministic part.
      stoch: (..., S, K) sample of the latents, one-hot where they are categorical.
      logits: (..., S, P) parameters of the distribution it was drawn from; log-probabilities where it is categorical.
      memory: (..., M, W) what an attending core keeps of the last W steps, newest last, zeros where empty; None where nothing is needed.
      latents: the family of distributions that `logits` belong to.
    """

    deter: Tensor
    stoch: Tensor
    logits: Tensor
    memory: Tensor | None = None
    latents: Latents = CATEGORICAL

    @property
    def feat(self) -> Tensor:
        """(..., D + S * K): deter and stoch side by side."""
        return torch.cat([self.deter, self.stoch.flatten(-2).to(self.deter.dtype)], -1)

    @property
    def mean(self) -> Tensor:
        """(..., S * K): what `stoch` is on average, which says more than one sample; probabilities where it is categorical."""
        return self.latents.mean(self.logits).flatten(-2)

    def map(self, change: Callable[[Tensor], Tensor]) -> State:
        """The same change made to every tensor."""
        memory = None if self.memory is None else change(self.memory)
        return State(change(self.deter), change(self.stoch), change(self.logits), memory, self.latents)

    def at(self, *index: int | slice | Tensor | None) -> State:
        """The same index applied to every part, e.g. `state.at(slice(None), -1)` for the last step."""
        return self.map(lambda x: x[index])

    def repeat(self, times: int) -> State:
        """Each row `times` times in succession: (B, ...) -> (B * times, ...)."""
        return self.map(lambda x: x.repeat_interleave(times, 0))

    def detach(self) -> State:
        """The same values without gradient."""
        return self.map(lambda x: x.detach())


def stack_states(states: list[State], line: Sequence[Tensor] = ()) -> State:
    """States of successive steps (B, ...) -> (B, T, ...).

    Args:
      line: the memory before them (B, M, W) and the newest slot of each (B, M, 1), where there are memories. Those of `states` are not
        read: to hold every step's memory until the end would take W times the room.
    """
    deter, stoch, logits = (torch.stack([getattr(state, name) for state in states], 1) for name in ("deter", "stoch", "logits"))
    memory = sliding(torch.cat([*line], -1).transpose(1, 2)[:, 1:], line[0].shape[-1]) if line else None
    return State(deter, stoch, logits, memory, states[0].latents)


def join_states(parts: list[State]) -> State:
    """States of successive stretches (B, T_i, ...) -> (B, sum T_i, ...)."""
    deter, stoch, logits = (torch.cat([getattr(part, name) for part in parts], 1) for name in ("deter", "stoch", "logits"))
    memories = [part.memory for part in parts if part.memory is not None]
    if len(memories) < len(parts):
        return State(deter, stoch, logits, None, parts[0].latents)
    first = memories[0][:, 0].transpose(1, 2)  # (B, W, M), the newest slot is the first step itself
    slots = torch.cat([first[:, :-1], *(memory[..., -1] for memory in memories)], 1)
    return State(deter, stoch, logits, sliding(slots, first.shape[1]), parts[0].latents)


def sliding(slots: Tensor, width: int) -> Tensor:
    """Memories of successive steps: (B, width - 1 + T, M) slots in order -> (B, T, M, width).

    They are views of the slots: T memories take the room of T + width - 1 slots, not of T * width.
    """
    return slots.unfold(1, width, 1)


@dataclass(frozen=True)
class Heard:
    """What is known at each step of what was heard.

    Attributes:
      embed: (B, T, E) embeddings of the tokens.
      action: (B, T, A) actions, zero at resets; a_t leads from t - 1 to t.
      is_first: (B, T) bool.
      context: (B, T, C) what the multi-step heads read: all that is known at t.
      previous: (B, T, D) deterministic state before each step, zero at resets.
    """

    embed: Tensor
    action: Tensor
    is_first: Tensor
    context: Tensor
    previous: Tensor

    def rows(self, count: int) -> Heard:
        """The first `count` sequences."""
        s = slice(count)
        return Heard(self.embed[s], self.action[s], self.is_first[s], self.context[s], self.previous[s])


@dataclass(frozen=True)
class Observed(Heard):
    """Result of a posterior rollout.

    Attributes:
      post: posterior state at each step.
      prior_logits: (B, T, S, P) parameters of the prior at each step, of the family `post.latents`.
      carry: (B, ...) state after the last step with its memory, for the next chunk.
    """

    post: State
    prior_logits: Tensor
    carry: State

    def rows(self, count: int) -> Observed:
        """The first `count` sequences."""
        s = slice(count)
        known = (self.embed[s], self.action[s], self.is_first[s], self.context[s], self.previous[s])
        return Observed(*known, self.post.at(s), self.prior_logits[s], self.carry.at(s))

    def steps(self, count: int) -> Observed:
        """The first `count` steps, where no memory is kept (the core is recurrent): the next chunk then goes on after them."""
        s = (slice(None), slice(count))
        known = (self.embed[s], self.action[s], self.is_first[s], self.context[s], self.previous[s])
        return Observed(*known, self.post.at(*s), self.prior_logits[s], self.post.at(slice(None), count - 1))

    def kl(self) -> Tensor:
        """KL(posterior || prior) at each step: (B, T) nats."""
        return self.post.latents.kl(self.post.logits, self.prior_logits)


@dataclass(frozen=True)
class Unroll:
    """One teacher-forced step of the latents, compared with what was observed.

    Attributes:
      prior_logits: (B, T, S, P) prior at t from a state that has been unrolled up to t - 1.
      state: (B, T, C) context-like state at t after taking in the posterior's sample.
      target: (B, T, C) the trunk's context that `state` should agree with; None where they are the same thing.
      valid: (B, T) bool; False where the unroll would cross a reset.
    """

    prior_logits: Tensor
    state: Tensor
    target: Tensor | None
    valid: Tensor
